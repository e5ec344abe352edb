//! The mesh at one moment. Immutable: a change makes a new one.

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayString;
use foldhash::HashMap;

use super::{
    Cluster, Clusters, Forward, Guard, L4Table, RouteTable, Service, ServicePort, VirtualHosts,
    Workload, virtual_host,
};
use crate::policy::client_certificate;
use crate::policy::external::Provider;
use crate::policy::hash;
use crate::policy::matcher::{Caller, Source};
use crate::types::{ClusterName, Hostname};

/// The longest name there is, in bytes (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 255;

/// Everything the data plane may ask about the mesh. What a change leaves as it was, a snapshot shares
/// with the one before.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts up with each snapshot; 0 is the empty one before the first configuration.
    pub version: u64,
    /// What Service names end with, `cluster.local` as a rule.
    pub cluster_domain: Arc<str>,
    /// Every Service, by its full name.
    pub services: Arc<HashMap<Hostname, Arc<Service>>>,
    /// Who owns an address.
    pub addresses: Arc<HashMap<IpAddr, Owner>>,
    /// Every cluster, by its name.
    pub clusters: Arc<Clusters>,
    /// What callers in a namespace have in the place of [`Self::clusters`] (DestinationRules that
    /// not everyone sees, or that are for some workloads). Empty as a rule.
    pub private_clusters: Arc<HashMap<Arc<str>, HashMap<ClusterName, Variants>>>,
    /// Hosts that VirtualServices speak of and no service has.
    pub virtual_hosts: Arc<VirtualHosts>,
    /// Every pod, sorted by namespace and name.
    pub workloads: Arc<Vec<Arc<Workload>>>,
    /// Who may connect to the local pods, by namespace and name. Ask [`Self::guard`].
    pub guards: Arc<Guards>,
    /// Who may be asked whether a request may pass, by name.
    pub providers: Arc<Providers>,
    /// What applications are told of their callers' certificates.
    pub client_certificate: client_certificate::Mode,
}

/// External authorizers by their names.
pub type Providers = HashMap<Arc<str>, Arc<Provider>>;

/// Who may connect to each local pod, by its namespace and name.
pub type Guards = HashMap<Arc<str>, HashMap<Arc<str>, Arc<Guard>>>;

/// What callers in one namespace have in the place of a cluster. `None` of a cluster: it does not
/// exist for them.
#[derive(Clone, Debug, Default)]
pub struct Variants {
    /// For callers that a `workloadSelector` selects; the first one counts.
    pub selected: Vec<(Arc<Caller>, Option<Arc<Cluster>>)>,
    /// For the namespace's other callers; absent where they have what everyone has.
    pub others: Option<Option<Arc<Cluster>>>,
}

/// Who owns an address.
#[derive(Clone, Debug)]
pub enum Owner {
    /// A ClusterIP.
    Service(Arc<Service>),
    /// A pod's address, and the services that select the pod (sorted by name).
    Workload(Arc<Workload>, Arc<[Arc<Service>]>),
}

impl Snapshot {
    /// The service and port that `authority` names for a caller in `namespace` which dialled
    /// `port`: full name, `name.ns.svc`, `name.ns`, `name` (in the caller's own namespace) or a
    /// ClusterIP; in any case, with or without a trailing dot and a port, which is ignored
    /// (routing by the port dialled is Istio's rule).
    pub fn host(
        &self,
        authority: &str,
        namespace: &str,
        port: u16,
    ) -> Option<(&Arc<Service>, &ServicePort)> {
        let service = self.service_named(authority, namespace)?;
        Some((service, service.port(port)?))
    }

    /// Who may connect to `workload`. `None`: it is no local pod of the mesh, and nobody asks.
    pub fn guard(&self, workload: &Workload) -> Option<&Arc<Guard>> {
        self.guards.get(&workload.namespace)?.get(&workload.name)
    }

    fn service_named(&self, authority: &str, namespace: &str) -> Option<&Arc<Service>> {
        let host = crate::types::name::without_port(authority);
        if let Some(address) = crate::types::name::ip_literal(host) {
            return match self.addresses.get(&address)? {
                Owner::Service(service) => Some(service),
                Owner::Workload(..) => None,
            };
        }
        // On the stack: this runs for every request. A longer name is nobody's (RFC 1035).
        let mut name = ArrayString::<MAX_NAME>::new();
        name.try_push_str(host.strip_suffix('.').unwrap_or(host))
            .ok()?;
        name.make_ascii_lowercase();
        if let Some(service) = self.services.get(name.as_str()) {
            return Some(service);
        }
        let endings: &[&str] = match name.split('.').count() {
            1 => &[".", namespace, ".svc.", &self.cluster_domain],
            2 => &[".svc.", &self.cluster_domain],
            3 if name.ends_with(".svc") => &[".", &self.cluster_domain],
            // `POD.NAME.NAMESPACE.svc.DOMAIN`: one pod of a headless Service (Istio gives these the
            // domain `*.NAME...`).
            _ => {
                let (_, service) = name.split_once('.')?;
                return self.services.get(service).filter(|one| one.vips.is_empty());
            }
        };
        for ending in endings {
            name.try_push_str(ending).ok()?;
        }
        self.services.get(name.as_str())
    }

    /// The cluster of this name for `client`.
    pub fn cluster_for(&self, name: &ClusterName, client: Source<'_>) -> Option<&Arc<Cluster>> {
        if let Some(private) = self.private_clusters.get(client.namespace)
            && let Some(variants) = private.get(name)
        {
            let mut selected = variants.selected.iter();
            if let Some((_, cluster)) = selected.find(|(caller, _)| caller.is(client)) {
                return cluster.as_ref();
            }
            if let Some(cluster) = &variants.others {
                return cluster.as_ref();
            }
        }
        self.cluster(name)
    }

    /// What requests are hashed by that `forward` sends on: the keys of all its destinations, in
    /// order (Istio gives a route the hash policies of them all). Only a cluster whose balancer
    /// hashes asks for them.
    pub fn hash_keys<'a>(
        &'a self,
        forward: &'a Forward,
        client: Source<'a>,
    ) -> impl Iterator<Item = &'a hash::Key> {
        forward.destinations.iter().filter_map(move |one| {
            let cluster = self.cluster_for(&one.cluster, client)?;
            cluster.policy.hash_key(one.names_port)
        })
    }

    /// The cluster of this name, for callers whose namespace sees what everyone does.
    pub fn cluster(&self, name: &ClusterName) -> Option<&Arc<Cluster>> {
        self.clusters.get(name.as_str())
    }

    /// The route table for HTTP requests that name `authority`, of a caller in `namespace` that
    /// dialled `port`: a service's ([`Self::host`]), or that of a host which VirtualServices alone
    /// speak of. `None` where the authority means nothing here (ALLOW_ANY).
    pub fn route_table(
        &self,
        authority: &str,
        namespace: &str,
        port: u16,
    ) -> Option<&Arc<RouteTable>> {
        if let Some((_, port)) = self.host(authority, namespace, port) {
            return Some(self.routes(port, namespace));
        }
        if port != virtual_host::PORT {
            return None;
        }
        let host = crate::types::name::without_port(authority);
        let mut name = ArrayString::<MAX_NAME>::new();
        name.try_push_str(host.strip_suffix('.').unwrap_or(host))
            .ok()?;
        name.make_ascii_lowercase();
        self.virtual_hosts.find(&name, namespace)
    }

    /// The rules for connections to a service's `port` that are not HTTP, for a caller in
    /// `namespace`; `None` where it has none.
    pub fn l4<'a>(&self, port: &'a ServicePort, namespace: &str) -> Option<&'a Arc<L4Table>> {
        let private = port.private().l4.get(namespace);
        private.unwrap_or(&port.l4).as_ref()
    }

    /// The route table of a service's `port` for a caller in `namespace`: which rules a caller sees
    /// depends on their `exportTo`.
    pub fn routes<'a>(&self, port: &'a ServicePort, namespace: &str) -> &'a Arc<RouteTable> {
        port.private().routes.get(namespace).unwrap_or(&port.routes)
    }
}
