//! TLS with servers that are not of the mesh, as DestinationRules say it: the configuration in force
//! for each of their settings, written by the control plane, read by every worker.
//!
//! Not that of `ISTIO_MUTUAL`: it has the mesh's certificates, which are [`super::Secrets`]'.

mod files;
mod verify;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

pub use files::{Fingerprint, Limits, Loaded, load};

use crate::mesh::origination::Origination;

/// What files were made into, or why there is nothing.
pub type Known = Result<Arc<Loaded>, Arc<str>>;

/// Shared by everyone who opens such connections. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Outside(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    known: ArcSwap<HashMap<Arc<Origination>, Known>>,
    changes: watch::Sender<u64>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            known: ArcSwap::default(),
            changes: watch::Sender::new(0),
        }
    }
}

impl Outside {
    /// What is in force for these settings; `None` where nobody has looked at their files yet.
    pub fn known(&self, settings: &Origination) -> Option<Known> {
        self.0.known.load().get(settings).cloned()
    }

    /// The same, waited for.
    pub async fn loaded(&self, settings: &Origination) -> Known {
        if let Some(known) = self.known(settings) {
            return known;
        }
        let mut changes = self.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(known) = self.known(settings) {
                return known;
            }
            if changes.changed().await.is_err() {
                return Err("nobody reads the files of TLS any more".into());
            }
        }
    }

    /// Tells of each change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Puts these in force, and no others.
    pub fn set(&self, known: HashMap<Arc<Origination>, Known>) {
        self.0.known.store(Arc::new(known));
        self.0
            .changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests;
