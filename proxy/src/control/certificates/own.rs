//! The embedded authority (`--ca self`): a root that lies in a folder, for meshes without another.
//!
//! Every proxy that is given the same folder is of the same mesh. Its files are read again when they
//! change: a root that is taken out of them is trusted no more.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;

use super::{Authority, Failure, News, Signed};
use crate::clock;
use crate::tls::Request;
use crate::tls::folder::{BACK, Fingerprint, Folder, Unusable};
use crate::types::Identity;

/// The embedded authority.
#[derive(Debug)]
pub struct Own {
    pub(super) files: ArcSwap<Folder>,
    seen: Mutex<Fingerprint>,
    folder: PathBuf,
    life: Duration,
}

impl Own {
    /// The authority of a folder, made for `domain` where there is none. Its certificates hold for
    /// `life`.
    ///
    /// # Errors
    /// Where the folder can't serve.
    pub fn open(folder: &Path, domain: &str, life: Duration) -> Result<Self, Unusable> {
        Folder::open(folder, domain)?;
        // Before it is read: what changes meanwhile is seen the next time.
        let seen = Mutex::new(Fingerprint::of(folder));
        Ok(Self {
            files: ArcSwap::from_pointee(Folder::read(folder)?),
            seen,
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
        let files = self.files.load();
        let Folder { issuer, roots } = &**files;
        // Not for a moment beyond what was asked for, and not for nothing once the root has ended.
        let signed = if issuer.not_after() <= now {
            Err(Failure::Refused(
                "its own certificate has expired: put a new one in its folder".into(),
            ))
        } else {
            let sign = issuer.sign(&request.der, identity, now - BACK, now + self.life);
            sign.map_err(Failure::from).map(|chain| Signed {
                chain,
                roots: roots.clone(),
            })
        };
        Box::pin(std::future::ready(signed))
    }

    fn look(&self) -> Option<News> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Fingerprint::of(&self.folder);
        if now == *seen {
            return None;
        }
        // Once for each change: files that are replaced one after another don't fit for a moment.
        *seen = now;
        match Folder::read(&self.folder) {
            Ok(files) => {
                let roots = files.roots.clone();
                tracing::info!(folder = %self.folder.display(), roots = roots.len(), "read anew");
                self.files.store(Arc::new(files));
                Some(News::Roots(roots))
            }
            Err(error) => {
                tracing::error!(%error, "--ca-dir: what was read before stays in force");
                None
            }
        }
    }

    fn name(&self) -> String {
        format!("embedded ({})", self.folder.display())
    }
}
