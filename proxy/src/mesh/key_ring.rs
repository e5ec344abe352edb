//! The keys of tokens' issuers that had to be fetched.
//!
//! Apart from the snapshot, since they come and go by themselves: `control` fetches and replaces
//! them, the data plane looks them up when a request has a token. One atomic pointer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::policy::jwt::{Keys, Origin};

/// What was fetched, by where from. Cheap to clone: all clones are the same.
#[derive(Clone, Default)]
pub struct KeyRing(Arc<ArcSwap<BTreeMap<Arc<Origin>, Arc<Keys>>>>);

impl KeyRing {
    /// The keys from there; `None` while none have come.
    pub fn keys(&self, origin: &Origin) -> Option<Arc<Keys>> {
        self.0.load().get(origin).cloned()
    }

    /// Replaces all of them. For the one who fetches.
    pub fn replace(&self, all: BTreeMap<Arc<Origin>, Arc<Keys>>) {
        self.0.store(Arc::new(all));
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.load().keys()).finish()
    }
}
