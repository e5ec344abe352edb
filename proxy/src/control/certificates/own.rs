//! The embedded authority (`--ca self`): a root that lies in a folder, for meshes without another.
//!
//! Every proxy that is given the same folder is of the same mesh.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Authority, Failure, Signed};
use crate::clock;
use crate::tls::Request;
use crate::tls::folder::{BACK, Folder, Unusable};
use crate::types::Identity;

/// The embedded authority.
#[derive(Debug)]
pub struct Own {
    pub(super) files: Folder,
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
        Ok(Self {
            files: Folder::open(folder, domain)?,
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
        let Folder { issuer, roots } = &self.files;
        // Not for a moment beyond what was asked for, and not for nothing once the root has ended.
        let signed = if issuer.not_after() <= now {
            Err(Failure::Refused(
                "its own certificate has expired: put a new one in its folder and restart".into(),
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

    fn name(&self) -> String {
        format!("embedded ({})", self.folder.display())
    }
}
