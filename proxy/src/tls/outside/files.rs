//! The files that settings name, made into a configuration of rustls.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use nix::fcntl::OFlag;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

use super::super::certificate::Facts;
use super::super::provider::{Clock, outside};
use super::verify::{Alternative, Servers, Vouched, revoked};
use crate::mesh::origination::{Files, Origination};

/// The largest file that is read, in bytes: what a system trusts has about 250 KiB.
const LARGEST: u64 = 4 << 20;

/// Where the authorities are kept that a system trusts, by distribution. The first that is there
/// counts.
const SYSTEM: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Which files may be read, and whom the system trusts.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Files must lie under one of these folders; anywhere where there is none.
    pub folders: Vec<PathBuf>,
    /// The authorities that are trusted where a rule names none; those of the system where there is
    /// none.
    pub system: Option<PathBuf>,
}

/// What files were made into.
#[derive(Debug)]
pub struct Loaded {
    /// For connections.
    pub config: Arc<ClientConfig>,
    /// The certificates that they show; empty for none.
    pub shown: Arc<[CertificateDer<'static>]>,
    /// When the first of them ends.
    pub until: Option<SystemTime>,
    servers: Arc<Servers>,
}

impl Loaded {
    /// Whether who may vouch for servers vouches for the one of an open connection, which has shown
    /// `chain` and was verified at `since`: whatever its name, and whether or not its certificate has
    /// ended since then.
    ///
    /// # Errors
    /// Why not.
    pub fn still_vouches(
        &self,
        chain: &[CertificateDer<'_>],
        since: SystemTime,
    ) -> Result<(), rustls::Error> {
        self.servers.vouched_for(chain, since)
    }
}

/// Tells whether files have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<Option<(u64, u64, i64, i64)>>);

impl Fingerprint {
    /// As of now. A file that can't be looked at counts as none.
    pub fn of(files: &Files, limits: &Limits) -> Self {
        let system = needs_system(files).then(|| limits.system()).flatten();
        let look = |path: &Path| {
            let one = fs::metadata(path).ok()?;
            Some((one.ino(), one.size(), one.mtime(), one.mtime_nsec()))
        };
        Self(
            files
                .paths()
                .chain(&system)
                .map(|path| look(path))
                .collect(),
        )
    }
}

fn needs_system(files: &Files) -> bool {
    files.roots.is_none() && !files.unverified
}

impl Limits {
    fn system(&self) -> Option<PathBuf> {
        let known = || SYSTEM.iter().map(PathBuf::from).find(|one| one.exists());
        self.system.clone().or_else(known)
    }

    /// The authorities that are trusted where nobody names others.
    ///
    /// # Errors
    /// Where there are none.
    pub fn system_roots(&self) -> Result<RootCertStore, String> {
        let path = self.system().ok_or(
            "the system has no list of authorities: name one by caCertificates or --tls-roots",
        )?;
        let wrong = |problem: String| format!("{}: {problem}", path.display());
        let mut roots = RootCertStore::empty();
        // One that can't be read is no reason to do without the others.
        let (added, _) =
            roots.add_parsable_certificates(certificates(&read(&path)?).map_err(wrong)?);
        if added == 0 {
            return Err(wrong("has no certificate that can be read".to_owned()));
        }
        Ok(roots)
    }

    /// Reads a file of a DestinationRule's.
    fn read(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
        let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
        if !self.folders.is_empty() {
            // Where links lead is what counts.
            let real = fs::canonicalize(path).map_err(wrong)?;
            let mut folders = self.folders.iter();
            let inside = folders.any(|folder| {
                fs::canonicalize(folder).is_ok_and(|folder| real.starts_with(folder))
            });
            if !inside {
                return Err(format!("{}: is not under --tls-files", path.display()));
            }
        }
        read(path)
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    // A pipe would never end, or never begin.
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let file: File = options.open(path).map_err(wrong)?;
    let metadata = file.metadata().map_err(wrong)?;
    if !metadata.is_file() {
        return Err(format!("{}: is no file", path.display()));
    }
    if metadata.len() > LARGEST {
        return Err(format!(
            "{}: is larger than {LARGEST} bytes",
            path.display()
        ));
    }
    // In one piece: a buffer that grows would leave parts of a key behind.
    let size = usize::try_from(metadata.len()).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(size.saturating_add(1)));
    file.take(LARGEST).read_to_end(&mut bytes).map_err(wrong)?;
    Ok(bytes)
}

/// Reads what the settings name.
///
/// # Errors
/// One line that names the file and what is wrong with it.
pub fn load(settings: &Origination, files: &Files, limits: &Limits) -> Result<Loaded, String> {
    let vouched = match files.unverified {
        true => None,
        false => Some(vouched(files, limits)?),
    };
    let servers = Arc::new(Servers {
        vouched,
        alternatives: settings.alternatives.iter().map(Alternative::new).collect(),
    });
    let config = ClientConfig::builder_with_details(Arc::clone(outside()), Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&servers) as _);
    let (mut shown, mut until) = (Arc::default(), None);
    let mut config = match &files.own {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let (own, end) = own(certificate, key, limits)?;
            (shown, until) = (own.cert.clone().into(), end);
            config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
        }
    };
    // A resumed session would keep a trust that was taken away, and a name that was checked once.
    config.resumption = Resumption::disabled();
    Ok(Loaded {
        config: Arc::new(config),
        shown,
        until,
        servers,
    })
}

fn vouched(files: &Files, limits: &Limits) -> Result<Vouched, String> {
    let mut roots = RootCertStore::empty();
    let mut pinned = Vec::new();
    match &files.roots {
        Some(path) => {
            let wrong = |problem: String| format!("{}: {problem}", path.display());
            pinned = certificates(&limits.read(path)?).map_err(wrong)?;
            for one in &pinned {
                let added = roots.add(one.clone());
                added.map_err(|error| wrong(error.to_string()))?;
            }
        }
        None => roots = limits.system_roots()?,
    }
    let revoked = match &files.revoked {
        None => Vec::new(),
        Some(path) => {
            let wrong = |problem: String| format!("{}: {problem}", path.display());
            let lists = revoked(&limits.read(path)?).map_err(wrong)?;
            if lists.is_empty() {
                return Err(wrong("has no list of revoked certificates".to_owned()));
            }
            lists
        }
    };
    Ok(Vouched {
        roots: Arc::new(roots),
        pinned,
        revoked,
    })
}

/// Certificates in PEM: one at least.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err("has no certificate in PEM".to_owned()),
        Ok(all) => Ok(all),
        Err(error) => Err(error.to_string()),
    }
}

/// What is shown, and when that ends.
fn own(
    certificate: &Path,
    key: &Path,
    limits: &Limits,
) -> Result<(CertifiedKey, Option<SystemTime>), String> {
    let wrong =
        |path: &Path, problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
    let chain = certificates(&limits.read(certificate)?);
    let chain = chain.map_err(|problem| wrong(certificate, &problem))?;
    let until = chain.first().and_then(|leaf| Facts::of(leaf));
    let until = until.map(|facts| facts.not_after);
    // Whatever is wrong with a key, its text is not told.
    let private = PrivateKeyDer::from_pem_slice(&limits.read(key)?)
        .map_err(|_| wrong(key, &"has no private key in PEM"))?;
    let signing = outside()
        .key_provider
        .load_private_key(private)
        .map_err(|_| wrong(key, &"its private key is of a kind that can't be used"))?;
    let own = CertifiedKey::new(chain, signing);
    match own.keys_match() {
        Ok(()) => Ok((own, until)),
        Err(_) => Err(wrong(
            key,
            &format_args!("is not the key of {}", certificate.display()),
        )),
    }
}
