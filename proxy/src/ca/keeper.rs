//! The authority's root, the intermediate that signs in its name, and the server's own certificate;
//! each replaced in time.
//!
//! The root's key is read from its folder for as long as it takes to sign an intermediate. The
//! intermediate's key lives in memory alone, and ends with the process.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;

use super::refusal::Refusal;
use crate::clock;
use crate::policy::renewal::{Lifetime, Now, Renewal, Step};
use crate::tls::folder::{BACK, Fingerprint, Folder, Unusable};
use crate::tls::{Asked, Error, Issuer, Key, pem, service};
use crate::types::{Identity, Timestamp};

/// How often the folder is looked at, and the clock.
const OFTEN: Duration = Duration::from_secs(1);

/// How long certificates hold.
#[derive(Clone, Copy, Debug)]
pub struct Lives {
    /// A workload's: what is signed where nothing is asked for, and the most that is.
    pub workload: Duration,
    /// The intermediate's. It is replaced at about half of that.
    pub intermediate: Duration,
}

/// Why there is nothing to sign with.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] Unusable),
    /// What was made of it.
    #[error(transparent)]
    Tls(#[from] Error),
}

/// Keeps what signs.
#[derive(Debug)]
pub struct Keeper {
    folder: PathBuf,
    domain: Arc<str>,
    names: Vec<String>,
    lives: Lives,
    signing: ArcSwap<Signing>,
    watch: Mutex<Watch>,
}

/// What is in force.
#[derive(Debug)]
struct Signing {
    issuer: Issuer,
    roots: Vec<CertificateDer<'static>>,
    tls: Arc<ServerConfig>,
    until: SystemTime,
}

#[derive(Debug)]
struct Watch {
    files: Fingerprint,
    renewal: Renewal,
}

impl Keeper {
    /// The authority of a folder, made where there is none. `names` are the hosts' names and
    /// addresses by which the server is known.
    ///
    /// # Errors
    /// Where the folder can't serve.
    pub fn open(
        folder: PathBuf,
        domain: Arc<str>,
        names: Vec<String>,
        lives: Lives,
    ) -> Result<Self, Failure> {
        let now = now();
        // Before it is read: what changes meanwhile is seen the next time.
        Folder::open(&folder, &domain)?;
        let files = Fingerprint::of(&folder);
        let signing = Signing::new(Folder::read(&folder)?, &domain, &names, lives, now.wall)?;
        let mut renewal = Renewal::default();
        renewal.succeeded(now, signing.lifetime(now.wall), rand::random());
        Ok(Self {
            folder,
            domain,
            names,
            lives,
            signing: ArcSwap::from_pointee(signing),
            watch: Mutex::new(Watch { files, renewal }),
        })
    }

    /// Signs a request for an identity, for so many seconds (the usual time where not positive). The
    /// chain is as Istio writes it: the last element has all roots.
    ///
    /// # Errors
    /// Where the request can't be used, or the authority has ended.
    pub fn sign(
        &self,
        asked: &Asked,
        identity: &Identity,
        seconds: i64,
        now: SystemTime,
    ) -> Result<Vec<String>, Refusal> {
        let signing = self.signing.load();
        let wanted = match u64::try_from(seconds) {
            Ok(seconds @ 1..) => Duration::from_secs(seconds).min(self.lives.workload),
            _ => self.lives.workload,
        };
        let chain = signing
            .issuer
            .sign(&asked.der, identity, now - BACK, now + wanted)
            .map_err(|error| match error {
                Error::Request(_) => Refusal::Request(error),
                other => Refusal::Signing(other),
            })?;
        let mut texts: Vec<String> = chain.iter().map(|one| pem(one)).collect();
        texts.push(signing.roots.iter().map(|one| pem(one)).collect());
        Ok(texts)
    }

    /// For the next connection.
    pub fn tls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.signing.load().tls)
    }

    /// All roots.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.signing.load().roots.clone()
    }

    /// When what signs ends, should nothing replace it.
    pub fn until(&self) -> SystemTime {
        self.signing.load().until
    }

    /// Replaces what is due, for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(OFTEN).await;
            self.tend(now());
        }
    }

    /// Looks at the files and at the clocks, and replaces what is due.
    pub(super) fn tend(&self, now: Now) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let files = Fingerprint::of(&self.folder);
        let changed = files != watch.files;
        let due = match watch.renewal.step(now) {
            Step::Wait(_) => false,
            Step::Fetch => true,
            Step::Expire => {
                tracing::error!("the authority's certificate has expired: nothing can be signed");
                true
            }
        };
        if !changed && !due {
            return;
        }
        // Once for each change: files that are replaced one after another don't fit for a moment.
        watch.files = files;
        let read = Folder::read(&self.folder).map_err(Failure::from);
        let made = read.and_then(|folder| {
            let (domain, names) = (&self.domain, &self.names);
            Ok(Signing::new(folder, domain, names, self.lives, now.wall)?)
        });
        match made {
            Ok(signing) => {
                tracing::info!(
                    until = %Timestamp(signing.until),
                    roots = signing.roots.len(),
                    "a new intermediate signs from now on"
                );
                let lifetime = signing.lifetime(now.wall);
                watch.renewal.succeeded(now, lifetime, rand::random());
                self.signing.store(Arc::new(signing));
            }
            Err(error) => {
                let again = watch.renewal.failed(now, rand::random());
                tracing::error!(%error, ?again, "what signed before goes on until it expires");
            }
        }
    }
}

impl Signing {
    fn new(
        folder: Folder,
        domain: &str,
        names: &[String],
        lives: Lives,
        now: SystemTime,
    ) -> Result<Self, Error> {
        let Folder { issuer, roots } = folder;
        let (from, until) = (now - BACK, now + lives.intermediate);
        if issuer.not_after() <= now {
            return Err(Error::Issuer("its own certificate has expired".to_owned()));
        }
        // An intermediate from files may be one that allows no other below it.
        let issuer = if issuer.is_root() {
            issuer.intermediate(domain, from, until)?
        } else {
            issuer
        };
        let until = until.min(issuer.not_after());
        let key = Key::generate()?;
        let chain = issuer.host(&key, names, from, until)?;
        Ok(Self {
            tls: service::server(chain, &key)?,
            issuer,
            roots,
            until,
        })
    }

    fn lifetime(&self, now: SystemTime) -> Lifetime {
        Lifetime {
            from: now - BACK,
            until: self.until,
        }
    }
}

fn now() -> Now {
    Now {
        instant: clock::now(),
        wall: clock::wall(),
    }
}
