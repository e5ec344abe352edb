//! What was found, kept by what it was found of until that is looked at again.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::types::{Finding, Hostname, ObjectRef};

/// A list of what is wrong with which object.
pub(super) type List = Vec<(ObjectRef, Finding)>;

/// Everything that was found, in the order in which it is told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Of Namespaces and Pods by themselves.
    own: BTreeMap<ObjectRef, List>,
    /// Of VirtualServices that delegate or are delegates, as such.
    delegations: BTreeMap<ObjectRef, List>,
    /// Of addresses that several claim.
    pub(super) addresses: List,
    /// Of the policies of a namespace, and of its Pods under them.
    policies: BTreeMap<Arc<str>, List>,
    /// Of VirtualServices, by the one that was looked at.
    routes: BTreeMap<ObjectRef, List>,
    /// Of DestinationRules by themselves.
    rules: BTreeMap<ObjectRef, List>,
    /// Of DestinationRules that are for one host.
    merged: BTreeMap<Hostname, List>,
}

impl Told {
    /// Replaces what was found of a Namespace or a Pod by itself.
    pub(super) fn set_own(&mut self, of: ObjectRef, found: Vec<Finding>) {
        let found = found.into_iter().map(|one| (of.clone(), one)).collect();
        set(&mut self.own, &of, found);
    }

    /// Replaces what was found of a VirtualService as one that delegates or is a delegate.
    pub(super) fn set_delegation(&mut self, of: &ObjectRef, found: Vec<Finding>) {
        let found = found.into_iter().map(|one| (of.clone(), one)).collect();
        set(&mut self.delegations, of, found);
    }

    /// Replaces what was found of the policies of a namespace.
    pub(super) fn set_policies(&mut self, of: &Arc<str>, found: List) {
        set(&mut self.policies, of, found);
    }

    /// Forgets what was found of all policies.
    pub(super) fn forget_policies(&mut self) {
        self.policies.clear();
    }

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
        let own = self.own.values().chain(self.delegations.values());
        let before = own.flatten().chain(&self.addresses);
        let by_object = self.routes.values().chain(self.rules.values());
        let after = self.policies.values().chain(by_object);
        let after = after.chain(self.merged.values()).flatten();
        before.chain(after).cloned().collect()
    }
}

fn set<K: Clone + Ord>(map: &mut BTreeMap<K, List>, of: &K, found: List) {
    if !found.is_empty() {
        map.insert(of.clone(), found);
    } else if !map.is_empty() {
        map.remove(of);
    }
}
