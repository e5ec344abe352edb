//! In which namespaces the policies or the Pods may be others than before: that is where guards are
//! looked at again, and policies compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ROOT_NAMESPACE;
use super::population::Member;
use crate::api::authorization_policy::Action;
use crate::control::store::{Key, Objects, of_namespace};

/// Of which namespaces the policies or the Pods may be others than before.
#[derive(Debug)]
pub(super) enum Scope {
    /// Of all.
    All,
    /// Of these.
    Some(BTreeSet<Arc<str>>),
}

impl Default for Scope {
    fn default() -> Self {
        Self::Some(BTreeSet::new())
    }
}

impl Scope {
    /// Adds a namespace whose Pods changed.
    pub(super) fn add_pods(&mut self, namespace: &Arc<str>) {
        if let Self::Some(all) = self {
            all.insert(Arc::clone(namespace));
        }
    }

    /// Adds the namespaces whose policies ask somebody else: whether there is anybody to ask may be
    /// another than before.
    pub(super) fn add_asking(&mut self, objects: &Objects) {
        for (key, policy) in &objects.authorization_policies {
            if policy.spec.action == Action::Custom {
                self.add_pods(&key.0);
            }
        }
    }

    /// Adds a namespace whose policies changed. Those of the root namespace are for all.
    pub(super) fn add_policies(&mut self, namespace: &Arc<str>) {
        if **namespace == *ROOT_NAMESPACE {
            *self = Self::All;
        } else {
            self.add_pods(namespace);
        }
    }
}

/// Every namespace that has Pods or policies.
pub(super) fn namespaces(objects: &Objects, members: &[Member]) -> BTreeSet<Arc<str>> {
    let keys = objects.peer_authentications.keys();
    let keys = keys.chain(objects.authorization_policies.keys());
    let keys = keys.chain(objects.request_authentications.keys());
    let members = members.iter().map(|one| &one.workload.namespace);
    let mut all: BTreeSet<Arc<str>> = BTreeSet::new();
    for namespace in keys.map(|(namespace, _)| namespace).chain(members) {
        if !all.contains(namespace) {
            all.insert(Arc::clone(namespace));
        }
    }
    all
}

/// Makes anew what is kept of the objects in `namespaces` that are others than before, and drops what
/// is kept of those that are gone.
pub(super) fn renew<S, K>(
    kept: &mut BTreeMap<Key, K>,
    objects: &BTreeMap<Key, Arc<S>>,
    namespaces: &BTreeSet<Arc<str>>,
    source_of: impl Fn(&K) -> &Arc<S>,
    make: impl Fn(&Key, &Arc<S>) -> K,
) {
    for namespace in namespaces {
        let known = of_namespace(kept, namespace).map(|(key, _)| key);
        let gone = known.filter(|key| !objects.contains_key(*key));
        for key in gone.cloned().collect::<Vec<Key>>() {
            kept.remove(&key);
        }
        for (key, source) in of_namespace(objects, namespace) {
            let known = kept.get(key);
            if !known.is_some_and(|one| Arc::ptr_eq(source_of(one), source)) {
                kept.insert(key.clone(), make(key, source));
            }
        }
    }
}
