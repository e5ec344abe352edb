//! The embedded authority (`--ca self`): a root that lies in a folder, for meshes without another.
//!
//! Every proxy that is given the same folder is of the same mesh. Whoever can read the folder can
//! call itself anyone: it has mode 0700, and the key 0600.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::BoxFuture;
use nix::fcntl::{Flock, FlockArg};
use rustls::pki_types::CertificateDer;

use super::{Authority, Failure, Signed};
use crate::clock;
use crate::tls::{self, Issuer, Request};
use crate::types::Identity;

/// Istio's names, so that its `cacerts` can be mounted here.
const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const ABOVE: &str = "cert-chain.pem";
const ROOTS: &str = "root-cert.pem";
const LOCK: &str = ".lock";
/// How long a root holds that is made here: ten years, as Istio's.
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far certificates are dated back, for nodes whose clocks are behind.
const BACK: Duration = Duration::from_secs(120);
/// The largest file that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// The embedded authority.
#[derive(Debug)]
pub struct Own {
    pub(super) issuer: Issuer,
    roots: Vec<CertificateDer<'static>>,
    folder: PathBuf,
    life: Duration,
}

/// Why a folder can't serve as an authority's. One line that names the file.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}", path = path.display())]
pub struct Unusable {
    path: PathBuf,
    problem: String,
}

impl Unusable {
    fn of(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        |error| Self {
            path: path.to_owned(),
            problem: error.to_string(),
        }
    }
}

impl Own {
    /// The authority of a folder: what its files say (`ca-cert.pem`, `ca-key.pem`; `cert-chain.pem`
    /// and `root-cert.pem` where it is not a root), or, where it has none of them, a new root for
    /// `domain`. Its certificates hold for `life`.
    ///
    /// # Errors
    /// Where a file is missing, can't be read or written, or is not what it should be.
    pub fn open(folder: &Path, domain: &str, life: Duration) -> Result<Self, Unusable> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(folder).map_err(Unusable::of(folder))?;
        let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
        // A folder that holds an authority already may be one that nobody can write to.
        if !certificate.exists() && !key.exists() {
            // Two proxies that start at once agree on one root: the second finds the first's.
            let lock = folder.join(LOCK);
            let file = private().open(&lock).map_err(Unusable::of(&lock))?;
            let held = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| Unusable::of(&lock)(errno.into()))?;
            if !certificate.exists() && !key.exists() {
                let from = clock::wall() - BACK;
                let root = Issuer::root(domain, from, from + ROOT_LIFE);
                let root = root.map_err(|error| Unusable {
                    path: folder.to_owned(),
                    problem: error.to_string(),
                })?;
                // The key first: where both are, both are whole.
                put(&key, root.key_pem().as_bytes())?;
                put(&certificate, root.certificate_pem().as_bytes())?;
                tracing::info!(folder = %folder.display(), "made a root for the mesh");
            }
            drop(held);
        }
        warn_of_readers(&key);
        let own = |error: tls::Error| Unusable {
            path: folder.to_owned(),
            problem: error.to_string(),
        };
        let text = read(&certificate)?;
        let issuer = Issuer::from_pem(
            &text,
            &zeroize::Zeroizing::new(read(&key)?),
            &optional(&folder.join(ABOVE))?,
        )
        .map_err(own)?;
        let mut roots = tls::certificates(&optional(&folder.join(ROOTS))?).map_err(own)?;
        if roots.is_empty() {
            roots.push(issuer.certificate().clone());
        }
        Ok(Self {
            issuer,
            roots,
            folder: folder.to_owned(),
            life,
        })
    }
}

impl Authority for Own {
    fn sign<'a>(
        &'a self,
        identity: &'a Identity,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Signed, Failure>> {
        let now = clock::wall();
        // Not for a moment beyond what was asked for, and not for nothing once the root has ended.
        let signed = if self.issuer.not_after() <= now {
            Err(Failure::Refused(
                "its own certificate has expired: put a new one in its folder and restart".into(),
            ))
        } else {
            let sign = self
                .issuer
                .sign(&request.der, identity, now - BACK, now + self.life);
            sign.map_err(Failure::from).map(|chain| Signed {
                chain,
                roots: self.roots.clone(),
            })
        };
        Box::pin(std::future::ready(signed))
    }

    fn name(&self) -> String {
        format!("embedded ({})", self.folder.display())
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

fn read(path: &Path) -> Result<String, Unusable> {
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

fn warn_of_readers(key: &Path) {
    if let Ok(metadata) = fs::metadata(key)
        && metadata.mode() & 0o077 != 0
    {
        let mode = metadata.mode() & 0o777;
        tracing::warn!(
            "{}: others can read the mesh's authority's key (mode {mode:o}); it should have mode 600",
            key.display()
        );
    }
}
