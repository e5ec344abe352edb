//! A file of roots, which is replaced while the process runs.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;

use super::certificates;
use super::folder::{Seen, Unusable, read, seen};

/// What a file of roots said when it was last read with success.
#[derive(Clone, Debug)]
pub struct Bundle {
    path: PathBuf,
    seen: Option<Seen>,
    roots: Vec<CertificateDer<'static>>,
}

impl Bundle {
    /// Reads a file.
    ///
    /// # Errors
    /// Where it can't be read, or has no certificate.
    pub fn open(path: &Path) -> Result<Self, Unusable> {
        let mut bundle = Self {
            path: path.to_owned(),
            seen: None,
            roots: Vec::new(),
        };
        bundle.read()?;
        Ok(bundle)
    }

    /// What it says.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Reads it again where it was replaced or written, and says whether it has other roots now.
    ///
    /// # Errors
    /// As [`Self::open`], once for each change; what was read before stays. No certificate is no
    /// answer: a file that is being written has none for a moment.
    pub fn look(&mut self) -> Result<bool, Unusable> {
        if seen(&self.path) == self.seen {
            return Ok(false);
        }
        self.read()
    }

    fn read(&mut self) -> Result<bool, Unusable> {
        let wrong = |problem: &dyn std::fmt::Display| Unusable::new(&self.path, problem);
        // Looked at before it is read: what is written meanwhile is seen the next time.
        self.seen = seen(&self.path);
        let roots = certificates(&read(&self.path)?).map_err(|error| wrong(&error))?;
        if roots.is_empty() {
            return Err(wrong(&"there is no certificate in it"));
        }
        let others = roots != self.roots;
        self.roots = roots;
        Ok(others)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::clock;
    use crate::tls::Issuer;

    #[test]
    fn a_file_is_read_again_whenever_it_has_changed_and_a_wrong_one_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("roots.pem");
        let now = clock::wall();
        let root = || Issuer::root("cluster.local", now, now + Duration::from_secs(60)).unwrap();
        let [one, two] = [root(), root()].map(|root| root.certificate_pem());
        let put = |text: &str| {
            fs::write(path.with_extension("new"), text).unwrap();
            fs::rename(path.with_extension("new"), &path).unwrap();
        };
        assert!(Bundle::open(&path).is_err(), "there is none");
        put(&one);
        let mut bundle = Bundle::open(&path).unwrap();
        for (name, text, expected, count) in [
            ("the same again", Some(one.clone()), Ok(false), 1),
            ("one more", Some(one.clone() + &two), Ok(true), 2),
            ("one less", Some(two.clone()), Ok(true), 1),
            ("none", Some(String::new()), Err("no certificate in it"), 1),
            ("gone", None, Err("No such file"), 1),
            ("nonsense", Some(one.replace('M', "!")), Err("PEM"), 1),
            ("back", Some(one + &two), Ok(true), 2),
        ] {
            match text {
                Some(text) => put(&text),
                None => fs::remove_file(&path).unwrap(),
            }
            let found = bundle.look().map_err(|error| error.to_string());
            match (&found, expected) {
                (Err(error), Err(expected)) => {
                    assert!(error.contains("roots.pem: "), "{name}: {error}");
                    assert!(error.contains(expected), "{name}: {error}");
                }
                (found, expected) => {
                    assert_eq!(found.as_ref().ok(), expected.ok().as_ref(), "{name}")
                }
            }
            assert_eq!(bundle.roots().len(), count, "{name}");
            assert!(matches!(bundle.look(), Ok(false)), "{name}: told once");
        }
    }
}
