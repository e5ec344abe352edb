//! Which accounts have pods on which node, by the newest snapshot.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::mesh::{Snapshot, Store};

/// Asks the snapshot; an index of it is kept until there is another.
#[derive(Debug)]
pub struct Places {
    store: Arc<Store>,
    index: Mutex<Option<Index>>,
}

#[derive(Debug)]
struct Index {
    of: Arc<Snapshot>,
    /// Node, namespace, account.
    pods: HashSet<(Arc<str>, Arc<str>, Arc<str>)>,
}

impl Places {
    /// Follows a store.
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            index: Mutex::new(None),
        }
    }

    /// Whether a pod of the account runs on the node. Pods that have ended don't count, nor do pods
    /// that no node has.
    pub fn runs(&self, node: &Arc<str>, namespace: &Arc<str>, account: &Arc<str>) -> bool {
        let now = self.store.load_full();
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match &mut *index {
            Some(index) if Arc::ptr_eq(&index.of, &now) => index,
            stale => stale.insert(Index::new(now)),
        };
        let wanted = (Arc::clone(node), Arc::clone(namespace), Arc::clone(account));
        index.pods.contains(&wanted)
    }
}

impl Index {
    fn new(of: Arc<Snapshot>) -> Self {
        let running = of.workloads.iter().filter(|pod| !pod.ended);
        let pods = running.filter_map(|pod| {
            let node = pod.node.as_ref()?;
            let (namespace, account) = (&pod.namespace, &pod.service_account);
            Some((Arc::clone(node), Arc::clone(namespace), Arc::clone(account)))
        });
        Self {
            pods: pods.collect(),
            of,
        }
    }
}
