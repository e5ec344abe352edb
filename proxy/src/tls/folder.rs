//! The folder in which an authority keeps its certificate and its key.
//!
//! Whoever can read it can call itself anyone in the mesh: it has mode 0700, and the key 0600.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use rustls::pki_types::CertificateDer;

use super::{Error, Issuer, certificates};
use crate::clock;

/// Istio's names, so that its `cacerts` can be mounted here.
const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const ABOVE: &str = "cert-chain.pem";
const ROOTS: &str = "root-cert.pem";
const LOCK: &str = ".lock";
/// How long a root holds that is made here: ten years, as Istio's.
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far certificates are dated back, for nodes whose clocks are behind.
pub const BACK: Duration = Duration::from_secs(120);
/// The largest file that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// What the files of an authority say.
#[derive(Debug)]
pub struct Folder {
    /// Who signs.
    pub issuer: Issuer,
    /// All roots of the mesh's trust domain: several while they are being replaced.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Why a folder can't serve as an authority's, or a file as one of roots. One line that names it.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}", path = path.display())]
pub struct Unusable {
    path: PathBuf,
    problem: String,
}

impl Unusable {
    pub(super) fn new(path: &Path, problem: impl ToString) -> Self {
        Self {
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }

    fn of(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        |error| Self::new(path, error)
    }
}

/// Tells whether the files of a folder have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint([Option<Seen>; 4]);

/// As of when a file was looked at: one that was replaced, or written, has another of these.
pub(super) type Seen = (u64, u64, i64, i64);

/// `None` where a file can't be looked at.
pub(super) fn seen(path: &Path) -> Option<Seen> {
    let one = fs::metadata(path).ok()?;
    Some((one.ino(), one.size(), one.mtime(), one.mtime_nsec()))
}

impl Fingerprint {
    /// As of now. A file that can't be looked at counts as none.
    pub fn of(folder: &Path) -> Self {
        Self([CERTIFICATE, KEY, ABOVE, ROOTS].map(|name| seen(&folder.join(name))))
    }
}

impl Folder {
    /// The authority of a folder: what its files say (`ca-cert.pem`, `ca-key.pem`; `cert-chain.pem`
    /// where it is not a root; `root-cert.pem` with all roots), or, where it has neither of the
    /// first, a new root for `domain`.
    ///
    /// # Errors
    /// Where a file is missing, can't be read or written, or is not what it should be.
    pub fn open(folder: &Path, domain: &str) -> Result<Self, Unusable> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(folder).map_err(Unusable::of(folder))?;
        let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
        // A folder that holds an authority already may be one that nobody can write to.
        if !certificate.exists() && !key.exists() {
            // Two processes that start at once agree on one root: the second finds the first's.
            let lock = folder.join(LOCK);
            let file = private().open(&lock).map_err(Unusable::of(&lock))?;
            let held = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| Unusable::of(&lock)(errno.into()))?;
            if !certificate.exists() && !key.exists() {
                let from = clock::wall() - BACK;
                let root = Issuer::root(domain, from, from + ROOT_LIFE);
                let root = root.map_err(|error| Unusable::new(folder, error))?;
                // The key first: where both are, both are whole.
                put(&key, root.key_pem().as_bytes())?;
                put(&certificate, root.certificate_pem().as_bytes())?;
                tracing::info!(folder = %folder.display(), "made a root for the mesh");
            }
            drop(held);
        }
        warn_of_readers(&key, "read the key of the mesh's authority", 0o600);
        warn_of_readers(
            folder,
            "look into the folder of the mesh's authority",
            0o700,
        );
        Self::read(folder)
    }

    /// What the files say now.
    ///
    /// # Errors
    /// As [`Self::open`], and where there is no authority yet.
    pub fn read(folder: &Path) -> Result<Self, Unusable> {
        let own = |error: Error| Unusable::new(folder, error);
        let issuer = Issuer::from_pem(
            &read(&folder.join(CERTIFICATE))?,
            &zeroize::Zeroizing::new(read(&folder.join(KEY))?),
            &optional(&folder.join(ABOVE))?,
        )
        .map_err(own)?;
        let mut roots = certificates(&optional(&folder.join(ROOTS))?).map_err(own)?;
        // What it signs itself must be accepted, whatever else is.
        if issuer.is_root() && !roots.contains(issuer.certificate()) {
            roots.push(issuer.certificate().clone());
        }
        if roots.is_empty() {
            let problem = "ca-cert.pem is not a root, so its root must be here";
            return Err(Unusable::new(&folder.join(ROOTS), problem));
        }
        Ok(Self { issuer, roots })
    }
}

/// For nobody but us.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
}

/// Writes a file in full, under another name first.
fn put(path: &Path, content: &[u8]) -> Result<(), Unusable> {
    let new = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = private().open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(Unusable::of(path))
}

pub(super) fn read(path: &Path) -> Result<String, Unusable> {
    let mut text = String::new();
    let file = File::open(path).map_err(Unusable::of(path))?;
    let mut file = file.take(LARGEST);
    file.read_to_string(&mut text).map_err(Unusable::of(path))?;
    Ok(text)
}

fn optional(path: &Path) -> Result<String, Unusable> {
    if path.exists() {
        read(path)
    } else {
        Ok(String::new())
    }
}

fn warn_of_readers(path: &Path, what: &str, wanted: u32) {
    if let Ok(metadata) = fs::metadata(path)
        && metadata.mode() & 0o077 != 0
    {
        let mode = metadata.mode() & 0o777;
        tracing::warn!(
            "{}: others can {what} (mode {mode:o}); it should have mode {wanted:o}",
            path.display()
        );
    }
}
