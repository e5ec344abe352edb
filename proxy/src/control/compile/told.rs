//! What was found, kept by what it was found of until that is looked at again.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::types::{Finding, Hostname, ObjectRef};

/// A list of what is wrong with which object.
pub(super) type List = Vec<(ObjectRef, Finding)>;

/// Everything that was found, in the order in which it is told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Of namespaces, Pods, delegates and policies.
    pub(super) others: List,
    /// Of addresses that several claim.
    pub(super) addresses: List,
    /// Of VirtualServices, by the one that was looked at.
    routes: BTreeMap<ObjectRef, List>,
    /// Of DestinationRules by themselves.
    rules: BTreeMap<ObjectRef, List>,
    /// Of DestinationRules that are for one host.
    merged: BTreeMap<Hostname, List>,
}

impl Told {
    /// Replaces what was found of a VirtualService.
    pub(super) fn set_routes(&mut self, of: &ObjectRef, found: List) {
        set(&mut self.routes, of, found);
    }

    /// Replaces what was found of a DestinationRule.
    pub(super) fn set_rule(&mut self, of: &ObjectRef, found: List) {
        set(&mut self.rules, of, found);
    }

    /// Replaces what was found of the DestinationRules of a host.
    pub(super) fn set_merged(&mut self, of: &Hostname, found: List) {
        set(&mut self.merged, of, found);
    }

    /// All of it.
    pub(super) fn all(&self) -> Arc<[(ObjectRef, Finding)]> {
        let routes = self.routes.values().flatten();
        let rules = self.rules.values().flatten();
        let all = self.others.iter().chain(&self.addresses);
        let all = all.chain(routes).chain(rules);
        all.chain(self.merged.values().flatten()).cloned().collect()
    }
}

fn set<K: Clone + Ord>(map: &mut BTreeMap<K, List>, of: &K, found: List) {
    if !found.is_empty() {
        map.insert(of.clone(), found);
    } else if !map.is_empty() {
        map.remove(of);
    }
}
