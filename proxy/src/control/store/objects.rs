//! The objects in force, by kind and name. Knows no file, and not why an object is in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::{
    AuthorizationPolicy, DestinationRule, EndpointSlice, Namespace, Node, Object,
    PeerAuthentication, Pod, RequestAuthentication, Service,
};
use crate::control::compile::rules::Routes;
use crate::types::ObjectRef;

/// A namespace and a name.
pub type Key = (Arc<str>, Arc<str>);

/// The objects in force, by kind.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Counts the changes: as long as it stays the same, so does everything here.
    pub generation: u64,
    /// By name.
    pub namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
    /// By name.
    pub nodes: BTreeMap<Arc<str>, Arc<Node>>,
    /// By namespace and name, as all that follow.
    pub pods: BTreeMap<Key, Arc<Pod>>,
    /// Services.
    pub services: BTreeMap<Key, Arc<Service>>,
    /// EndpointSlices.
    pub slices: BTreeMap<Key, Arc<EndpointSlice>>,
    /// VirtualServices, with their rules compiled.
    pub virtual_services: BTreeMap<Key, Arc<Routes>>,
    /// DestinationRules.
    pub destination_rules: BTreeMap<Key, Arc<DestinationRule>>,
    /// PeerAuthentications.
    pub peer_authentications: BTreeMap<Key, Arc<PeerAuthentication>>,
    /// AuthorizationPolicies.
    pub authorization_policies: BTreeMap<Key, Arc<AuthorizationPolicy>>,
    /// RequestAuthentications.
    pub request_authentications: BTreeMap<Key, Arc<RequestAuthentication>>,
}

/// An object, checked as far as that can be done without the others.
#[derive(Clone, Debug)]
pub(super) enum Checked {
    Plain(Object),
    Routes(Arc<Routes>),
}

impl Checked {
    /// Whether it is the same allocation.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Routes(one), Self::Routes(other)) => Arc::ptr_eq(one, other),
            (Self::Plain(one), Self::Plain(other)) => one.is(other),
            (Self::Routes(_) | Self::Plain(_), _) => false,
        }
    }
}

impl Objects {
    /// Takes a new object, or a new version of one.
    pub(super) fn put(&mut self, reference: &ObjectRef, checked: &Checked) {
        self.generation += 1;
        let name = Arc::clone(&reference.name);
        let key = (Arc::clone(&reference.namespace), Arc::clone(&name));
        match checked {
            Checked::Routes(one) => drop(self.virtual_services.insert(key, Arc::clone(one))),
            Checked::Plain(object) => match object {
                Object::Namespace(one) => drop(self.namespaces.insert(name, Arc::clone(one))),
                Object::Node(one) => drop(self.nodes.insert(name, Arc::clone(one))),
                Object::Pod(one) => drop(self.pods.insert(key, Arc::clone(one))),
                Object::Service(one) => drop(self.services.insert(key, Arc::clone(one))),
                Object::EndpointSlice(one) => drop(self.slices.insert(key, Arc::clone(one))),
                Object::DestinationRule(one) => {
                    drop(self.destination_rules.insert(key, Arc::clone(one)));
                }
                Object::PeerAuthentication(one) => {
                    drop(self.peer_authentications.insert(key, Arc::clone(one)));
                }
                Object::AuthorizationPolicy(one) => {
                    drop(self.authorization_policies.insert(key, Arc::clone(one)));
                }
                Object::RequestAuthentication(one) => {
                    drop(self.request_authentications.insert(key, Arc::clone(one)));
                }
                // Kept as `Checked::Routes`.
                Object::VirtualService(_) => {}
            },
        }
    }

    /// Drops one.
    pub(super) fn remove(&mut self, reference: &ObjectRef, checked: &Checked) {
        self.generation += 1;
        let name = Arc::clone(&reference.name);
        let key = (Arc::clone(&reference.namespace), Arc::clone(&name));
        match checked {
            Checked::Routes(_) => drop(self.virtual_services.remove(&key)),
            Checked::Plain(object) => match object {
                Object::Namespace(_) => drop(self.namespaces.remove(&name)),
                Object::Node(_) => drop(self.nodes.remove(&name)),
                Object::Pod(_) => drop(self.pods.remove(&key)),
                Object::Service(_) => drop(self.services.remove(&key)),
                Object::EndpointSlice(_) => drop(self.slices.remove(&key)),
                Object::DestinationRule(_) => drop(self.destination_rules.remove(&key)),
                Object::PeerAuthentication(_) => drop(self.peer_authentications.remove(&key)),
                Object::AuthorizationPolicy(_) => drop(self.authorization_policies.remove(&key)),
                Object::RequestAuthentication(_) => {
                    drop(self.request_authentications.remove(&key));
                }
                Object::VirtualService(_) => {}
            },
        }
    }
}
