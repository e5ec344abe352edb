//! Who is trusted beside those whom the authority names; and the files that say so, looked at as long
//! as the proxy runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{Authority, News};
use crate::tls::{Bundle, Error, Trust};

/// How often files are looked at: trust that is taken away ends what rests on it within a second.
const LOOK: Duration = Duration::from_millis(250);

/// Who is trusted beside those whom the authority names.
#[derive(Clone, Debug)]
pub struct Anchors {
    /// The mesh's own trust domain.
    pub domain: Arc<str>,
    /// Its other names.
    pub aliases: Vec<Arc<str>>,
    /// Files of roots by trust domain, given by whoever runs the mesh.
    pub roots: Vec<(Arc<str>, Bundle)>,
}

impl Anchors {
    /// These and the `named` roots of the mesh's own domain.
    ///
    /// # Errors
    /// Where a root can't be read.
    pub fn trust<'a>(
        &self,
        named: impl IntoIterator<Item = &'a CertificateDer<'static>>,
    ) -> Result<Trust, Error> {
        let mut roots: BTreeMap<Arc<str>, Vec<CertificateDer<'static>>> = BTreeMap::new();
        for (domain, file) in &self.roots {
            let of = roots.entry(Arc::clone(domain)).or_default();
            of.extend(file.roots().iter().cloned());
        }
        let own = roots.entry(Arc::clone(&self.domain)).or_default();
        own.extend(named.into_iter().cloned());
        Trust::new(
            Arc::clone(&self.domain),
            self.aliases.iter().cloned(),
            roots,
        )
    }
}

/// What a look at the files has found.
#[derive(Debug)]
pub(super) struct Found {
    /// All of [`Anchors::roots`], where one of them has changed.
    pub(super) roots: Option<Vec<(Arc<str>, Bundle)>>,
    /// What the authority's own say.
    pub(super) authority: Option<News>,
}

/// Looks at the files until nobody wants to know.
pub(super) async fn follow(
    authority: Arc<dyn Authority>,
    mut roots: Vec<(Arc<str>, Bundle)>,
    found: mpsc::Sender<Found>,
) {
    loop {
        tokio::select! {
            () = sleep(LOOK) => {}
            () = found.closed() => return,
        }
        let authority = Arc::clone(&authority);
        // Files may lie on something slow.
        let looking = tokio::task::spawn_blocking(move || {
            let authority = authority.look();
            let mut changed = false;
            for (domain, file) in &mut roots {
                match file.look() {
                    Ok(others) => changed |= others,
                    Err(error) => tracing::error!(
                        %error, %domain,
                        "--trust-roots: what was read before stays in force"
                    ),
                }
            }
            let given = changed.then(|| roots.clone());
            let found = Found {
                roots: given,
                authority,
            };
            (roots, found)
        });
        let looked = match looking.await {
            Ok((still, looked)) => {
                roots = still;
                looked
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
        if looked.roots.is_none() && looked.authority.is_none() {
            continue;
        }
        if found.send(looked).await.is_err() {
            return;
        }
    }
}
