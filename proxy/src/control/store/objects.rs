//! The objects in force, by kind and name. Knows no file, and not why an object is in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::{
    AuthorizationPolicy, ConfigMap, DestinationRule, EndpointSlice, Namespace, Node, Object,
    PeerAuthentication, Pod, RequestAuthentication, Service,
};
use crate::control::compile::rules::Routes;
use crate::types::ObjectRef;

/// A namespace and a name.
pub type Key = (Arc<str>, Arc<str>);

/// One object came, went, or is another than before.
#[derive(Clone, Debug)]
pub enum Change {
    /// A Service.
    Service(Key),
    /// An EndpointSlice, as it was and as it is.
    EndpointSlice(Option<Arc<EndpointSlice>>, Option<Arc<EndpointSlice>>),
    /// A VirtualService.
    VirtualService(Option<Arc<Routes>>, Option<Arc<Routes>>),
    /// A DestinationRule.
    DestinationRule(Option<Arc<DestinationRule>>, Option<Arc<DestinationRule>>),
    /// A Pod.
    Pod(Key),
    /// A Namespace, by its name.
    Namespace(Arc<str>),
    /// A Node, by its name.
    Node(Arc<str>),
    /// A PeerAuthentication, an AuthorizationPolicy or a RequestAuthentication, in this namespace.
    Policy(Arc<str>),
    /// A ConfigMap.
    ConfigMap(Key),
}

/// How many changes are remembered. After more of them it takes no longer to look at everything.
const MAX_CHANGES: usize = 256;

/// The objects in force, by kind.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Counts the changes: as long as it stays the same, so does everything here.
    pub generation: u64,
    /// The last of them.
    changes: Vec<Change>,
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
    /// ConfigMaps of Istio's.
    pub config_maps: BTreeMap<Key, Arc<ConfigMap>>,
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
    /// What changed since there were `generation` changes, in order; `None` where that is too long
    /// ago.
    pub fn changes_since(&self, generation: u64) -> Option<&[Change]> {
        let count = usize::try_from(self.generation.checked_sub(generation)?).ok()?;
        self.changes.get(self.changes.len().checked_sub(count)?..)
    }

    fn record(&mut self, change: Change) {
        self.generation += 1;
        if self.changes.len() >= MAX_CHANGES {
            self.changes.clear();
        }
        self.changes.push(change);
    }

    /// Takes a new object, or a new version of one.
    pub(super) fn put(&mut self, reference: &ObjectRef, checked: &Checked) {
        self.set(reference, checked, true);
    }

    /// Drops one.
    pub(super) fn remove(&mut self, reference: &ObjectRef, checked: &Checked) {
        self.set(reference, checked, false);
    }

    fn set(&mut self, reference: &ObjectRef, checked: &Checked, there: bool) {
        let name = &reference.name;
        let key = || (Arc::clone(&reference.namespace), Arc::clone(name));
        macro_rules! set {
            ($map:ident, $key:expr, $one:expr) => {{
                let now = there.then(|| Arc::clone($one));
                let before = replace(&mut self.$map, $key, now.clone());
                (before, now)
            }};
        }
        let policy = || Change::Policy(Arc::clone(&reference.namespace));
        let change = match checked {
            Checked::Routes(one) => {
                let (before, now) = set!(virtual_services, key(), one);
                Change::VirtualService(before, now)
            }
            Checked::Plain(object) => match object {
                Object::Service(one) => {
                    set!(services, key(), one);
                    Change::Service(key())
                }
                Object::EndpointSlice(one) => {
                    let (before, now) = set!(slices, key(), one);
                    Change::EndpointSlice(before, now)
                }
                Object::DestinationRule(one) => {
                    let (before, now) = set!(destination_rules, key(), one);
                    Change::DestinationRule(before, now)
                }
                Object::Pod(one) => {
                    set!(pods, key(), one);
                    Change::Pod(key())
                }
                Object::Namespace(one) => {
                    set!(namespaces, Arc::clone(name), one);
                    Change::Namespace(Arc::clone(name))
                }
                Object::Node(one) => {
                    set!(nodes, Arc::clone(name), one);
                    Change::Node(Arc::clone(name))
                }
                Object::PeerAuthentication(one) => {
                    set!(peer_authentications, key(), one);
                    policy()
                }
                Object::AuthorizationPolicy(one) => {
                    set!(authorization_policies, key(), one);
                    policy()
                }
                Object::RequestAuthentication(one) => {
                    set!(request_authentications, key(), one);
                    policy()
                }
                Object::ConfigMap(one) => {
                    set!(config_maps, key(), one);
                    Change::ConfigMap(key())
                }
                // Kept as `Checked::Routes`.
                Object::VirtualService(_) => return,
            },
        };
        self.record(change);
    }
}

/// What is in `namespace` of objects that are sorted by namespace and name.
pub fn of_namespace<'a, T>(
    all: &'a BTreeMap<Key, T>,
    namespace: &str,
) -> impl Iterator<Item = (&'a Key, &'a T)> {
    // No name is before the empty one.
    let from = (Arc::from(namespace), Arc::from(""));
    let here = all.range(from..);
    here.take_while(move |(key, _)| *key.0 == *namespace)
}

/// Puts `now` in the place of what was there.
fn replace<K: Ord, T>(
    map: &mut BTreeMap<K, Arc<T>>,
    key: K,
    now: Option<Arc<T>>,
) -> Option<Arc<T>> {
    match now {
        Some(now) => map.insert(key, now),
        None => map.remove(&key),
    }
}
