//! Objects into a snapshot.
//!
//! Incremental by identity: whatever is made of objects that are still the same allocation is taken
//! over from the time before, so that one changed object costs what depends on it, and readers can
//! tell by the pointer what stayed the same. Knows no file; the problems it finds name an object
//! and a field.

mod endpoint;
mod route;
pub mod rules;
mod subset;
mod visibility;
mod workload;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use self::endpoint::{Index, Member, has_labels};
use self::route::Owners;
use self::rules::Routes;
use self::subset::Client;
use super::store::{Key, Objects};
use crate::api;
use crate::mesh::{Cluster, Endpoint, Owner, RouteTable, Service, ServicePort, Snapshot, Workload};
use crate::types::{ClusterName, Finding, Hostname, ObjectRef, Protocol};

/// Makes snapshots, and remembers the last one's parts.
#[derive(Debug)]
pub struct Compiler {
    node: Arc<str>,
    cluster_domain: Arc<str>,
    version: u64,
    workloads: HashMap<Key, KeptWorkload>,
    tables: HashMap<(Hostname, u16), Vec<KeptTable>>,
    services: HashMap<Hostname, Arc<Service>>,
    clusters: HashMap<ClusterName, Arc<Cluster>>,
    private_clusters: HashMap<Arc<str>, HashMap<ClusterName, Option<Arc<Cluster>>>>,
}

/// What a Pod became, and out of what.
#[derive(Debug)]
struct KeptWorkload {
    pod: Arc<api::Pod>,
    namespace: Option<Arc<api::Namespace>>,
    workload: Arc<Workload>,
    findings: Vec<Finding>,
}

/// A table, and out of what it was made.
#[derive(Debug)]
struct KeptTable {
    routes: Option<Arc<Routes>>,
    clusters: Vec<ClusterName>,
    table: Arc<RouteTable>,
}

/// A snapshot, and what was found while it was made.
#[derive(Debug)]
pub struct Compiled {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// What is wrong, by object.
    pub findings: Vec<(ObjectRef, Finding)>,
}

impl Compiler {
    /// For the proxy of `node`.
    pub fn new(node: &str, cluster_domain: &str) -> Self {
        Self {
            node: node.into(),
            cluster_domain: cluster_domain.into(),
            version: 0,
            workloads: HashMap::new(),
            tables: HashMap::new(),
            services: HashMap::new(),
            clusters: HashMap::new(),
            private_clusters: HashMap::new(),
        }
    }

    /// Makes the snapshot of `objects`. Its version counts up by one each time.
    pub fn compile(&mut self, objects: &Objects) -> Compiled {
        self.version += 1;
        let mut findings = Vec::new();
        let members = self.workloads(objects, &mut findings);
        let workloads = members
            .iter()
            .map(|one| Arc::clone(&one.workload))
            .collect();
        let pods = Index::new(members, objects.slices.values());
        let world = World::new(objects, &self.cluster_domain);

        let mut build = Build::default();
        for (hostname, service) in &world.services {
            self.clusters_of(hostname, service, &pods, &world, &mut build);
        }
        for (hostname, service) in &world.services {
            let service = self.service(hostname, service, &world, &mut build);
            build.services.insert(hostname.clone(), service);
        }
        let addresses = addresses(&build, &pods, &mut findings);
        world.report(&build, &mut findings);

        self.tables = build.tables;
        self.services.clone_from(&build.services);
        self.clusters.clone_from(&build.clusters);
        self.private_clusters.clone_from(&build.private_clusters);
        Compiled {
            snapshot: Snapshot {
                version: self.version,
                cluster_domain: Arc::clone(&self.cluster_domain),
                services: build.services,
                addresses,
                clusters: build.clusters,
                private_clusters: build.private_clusters,
                workloads,
            },
            findings,
        }
    }

    fn workloads(
        &mut self,
        objects: &Objects,
        findings: &mut Vec<(ObjectRef, Finding)>,
    ) -> Vec<Member> {
        for (name, namespace) in &objects.namespaces {
            let mut found = Vec::new();
            workload::check_namespace(namespace, &mut found);
            let object = reference("Namespace", "", name);
            findings.extend(found.into_iter().map(|one| (object.clone(), one)));
        }
        let mut kept = HashMap::with_capacity(objects.pods.len());
        let mut members = Vec::with_capacity(objects.pods.len());
        for (key, pod) in &objects.pods {
            let namespace = objects.namespaces.get(&key.0);
            let before = self.workloads.remove(key).filter(|before| {
                Arc::ptr_eq(&before.pod, pod)
                    && match (&before.namespace, namespace) {
                        (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                        (None, None) => true,
                        _ => false,
                    }
            });
            let one = before.unwrap_or_else(|| {
                let mut findings = Vec::new();
                let namespace = namespace.cloned();
                let workload =
                    workload::compile(pod, namespace.as_deref(), &self.node, &mut findings);
                KeptWorkload {
                    pod: Arc::clone(pod),
                    namespace,
                    workload: Arc::new(workload),
                    findings,
                }
            });
            for finding in &one.findings {
                findings.push((reference("Pod", &key.0, &key.1), finding.clone()));
            }
            members.push(Member {
                pod: Arc::clone(pod),
                workload: Arc::clone(&one.workload),
            });
            kept.insert(key.clone(), one);
        }
        self.workloads = kept;
        members
    }

    /// The clusters of each port: of the whole service, and of each subset.
    fn clusters_of(
        &self,
        hostname: &Hostname,
        service: &api::Service,
        pods: &Index,
        world: &World<'_>,
        build: &mut Build,
    ) {
        let namespace = &*service.metadata.namespace;
        let rules = subset::effective(&world.destination_rules, hostname, namespace, Client::Any);
        let subsets = subset::subsets(&rules);
        let particular = subset::particular(&world.destination_rules, hostname);
        for port in service.spec.ports.iter().filter(|port| port.is_tcp()) {
            let endpoints = pods.endpoints(service, port);
            let of_subset = |subset: &api::destination_rule::Subset| {
                let in_subset = |one: &&Endpoint| {
                    subset.labels.is_empty()
                        || one
                            .workload
                            .as_ref()
                            .is_some_and(|one| has_labels(&one.labels, &subset.labels))
                };
                endpoints
                    .iter()
                    .filter(in_subset)
                    .cloned()
                    .collect::<Vec<_>>()
            };
            let protocol = protocol(port);
            let cluster = |subset: Option<&Arc<str>>,
                           endpoints: Vec<Endpoint>,
                           before: Option<&Arc<Cluster>>| {
                let name = ClusterName::outbound(port.port, subset.map(|one| &**one), hostname);
                let before = before.or_else(|| self.clusters.get(&name));
                let new = Cluster {
                    name,
                    hostname: hostname.clone(),
                    port: port.port,
                    subset: subset.cloned(),
                    protocol,
                    endpoints: endpoints.into(),
                };
                keep(new, before)
            };
            let mut add = |one: Arc<Cluster>| build.clusters.insert(one.name.clone(), one);
            add(cluster(None, endpoints.clone(), None));
            for subset in &subsets {
                add(cluster(Some(&subset.name), of_subset(subset), None));
            }
            for namespace in &particular {
                let client = Client::In(namespace);
                let own = subset::effective(
                    &world.destination_rules,
                    hostname,
                    &service.metadata.namespace,
                    client,
                );
                let same = own.len() == rules.len()
                    && own
                        .iter()
                        .zip(&rules)
                        .all(|(one, other)| Arc::ptr_eq(one, other));
                if same {
                    continue;
                }
                let own = subset::subsets(&own);
                let private = build
                    .private_clusters
                    .entry(Arc::clone(namespace))
                    .or_default();
                for hidden in subsets
                    .iter()
                    .filter(|one| own.iter().all(|own| own.name != one.name))
                {
                    private.insert(
                        ClusterName::outbound(port.port, Some(&hidden.name), hostname),
                        None,
                    );
                }
                let before = self.private_clusters.get(namespace);
                for subset in own {
                    let name = ClusterName::outbound(port.port, Some(&subset.name), hostname);
                    let before = before.and_then(|one| one.get(&name)?.as_ref());
                    let one = cluster(Some(&subset.name), of_subset(subset), before);
                    private.insert(name, Some(one));
                }
            }
        }
    }

    fn service(
        &self,
        hostname: &Hostname,
        service: &api::Service,
        world: &World<'_>,
        build: &mut Build,
    ) -> Arc<Service> {
        let owners = route::owners(&world.routes, hostname);
        let ports = service.spec.ports.iter().filter(|port| port.is_tcp());
        let ports = ports
            .map(|port| {
                let cluster = ClusterName::outbound(port.port, None, hostname);
                let mut table = |routes: Option<&Arc<Routes>>| {
                    self.table(hostname, port.port, &cluster, routes, world, build)
                };
                let Owners { public, private } = &owners;
                ServicePort {
                    number: port.port,
                    name: Arc::clone(&port.name),
                    protocol: protocol(port),
                    routes: table(public.as_ref()),
                    private_routes: private
                        .iter()
                        .map(|(namespace, routes)| (Arc::clone(namespace), table(routes.as_ref())))
                        .collect(),
                    cluster: cluster.clone(),
                }
            })
            .collect();
        let new = Service {
            hostname: hostname.clone(),
            name: Arc::clone(&service.metadata.name),
            namespace: Arc::clone(&service.metadata.namespace),
            vips: service.vips(),
            ports,
        };
        match self.services.get(hostname) {
            Some(before) if same_service(before, &new) => Arc::clone(before),
            _ => Arc::new(new),
        }
    }

    fn table(
        &self,
        hostname: &Hostname,
        port: u16,
        cluster: &ClusterName,
        routes: Option<&Arc<Routes>>,
        world: &World<'_>,
        build: &mut Build,
    ) -> Arc<RouteTable> {
        let clusters = match routes {
            Some(routes) => route::clusters(routes, port, world),
            None => vec![cluster.clone()],
        };
        let key = (hostname.clone(), port);
        let same = |kept: &&KeptTable| {
            let same_routes = match (&kept.routes, routes) {
                (Some(kept), Some(routes)) => Arc::ptr_eq(kept, routes),
                (None, None) => true,
                _ => false,
            };
            same_routes && kept.clusters == clusters
        };
        let before = self
            .tables
            .get(&key)
            .and_then(|kept| kept.iter().find(same));
        let table = match (before, routes) {
            (Some(kept), _) => Arc::clone(&kept.table),
            (None, Some(routes)) => Arc::new(route::table(routes, port, &clusters)),
            (None, None) => Arc::new(route::plain(cluster)),
        };
        build.tables.entry(key).or_default().push(KeptTable {
            routes: routes.cloned(),
            clusters,
            table: Arc::clone(&table),
        });
        table
    }
}

/// What the objects say, by what it is looked up by.
struct World<'a> {
    services: BTreeMap<Hostname, &'a Arc<api::Service>>,
    routes: route::Rules,
    destination_rules: subset::Rules,
}

impl<'a> World<'a> {
    fn new(objects: &'a Objects, cluster_domain: &str) -> Self {
        let services = objects
            .services
            .values()
            .filter(|one| !one.is_external_name());
        let services = services
            .map(|one| {
                let metadata = &one.metadata;
                (
                    Hostname::resolve(&metadata.name, &metadata.namespace, cluster_domain),
                    one,
                )
            })
            .collect();
        let mut routes: Vec<_> = objects.virtual_services.values().collect();
        routes.sort_by(|one, other| one.source.metadata.age().cmp(&other.source.metadata.age()));
        let mut rules: Vec<_> = objects.destination_rules.values().collect();
        rules.sort_by(|one, other| one.metadata.age().cmp(&other.metadata.age()));
        Self {
            services,
            routes: route::index(routes.into_iter()),
            destination_rules: subset::index(rules.into_iter(), cluster_domain),
        }
    }

    /// What is valid and yet leads nowhere.
    fn report(&self, build: &Build, findings: &mut Vec<(ObjectRef, Finding)>) {
        for (host, list) in self.routes.exact() {
            let Some(service) = self.services.get(host) else {
                for one in list {
                    let message =
                        format!("no Service has the name {host}: the rules have no effect for it");
                    findings.push((
                        one.reference.clone(),
                        Finding::warning(one.host_field(host), message),
                    ));
                }
                continue;
            };
            let owners = route::owners(&self.routes, host);
            for one in list {
                let mut all = owners
                    .public
                    .iter()
                    .chain(owners.private.values().flatten());
                if !all.any(|owner| Arc::ptr_eq(owner, one)) {
                    let other = owners.public.as_ref().map(|one| one.reference.to_string());
                    let message = format!(
                        "{host} already has the rules of {}: these have no effect for it",
                        other.unwrap_or_else(|| "an older VirtualService".to_owned()),
                    );
                    findings.push((
                        one.reference.clone(),
                        Finding::warning(one.host_field(host), message),
                    ));
                    continue;
                }
                self.report_destinations(one, service, build, findings);
            }
        }
    }

    fn report_destinations(
        &self,
        routes: &Routes,
        service: &api::Service,
        build: &Build,
        findings: &mut Vec<(ObjectRef, Finding)>,
    ) {
        for rule in &routes.rules {
            for target in &rule.targets {
                let field = format!(
                    "spec.http[{}].route[{}].destination",
                    rule.index, target.index
                );
                let mut warn = |part: &str, message: String| {
                    let message = format!("{message}; requests are answered 503 (NC)");
                    let finding = Finding::warning(format!("{field}.{part}"), message);
                    // Two hosts of one VirtualService may lead to the same.
                    let finding = (routes.reference.clone(), finding);
                    if !findings.contains(&finding) {
                        findings.push(finding);
                    }
                };
                let Some(destination) = self.services.get(&target.host) else {
                    warn("host", format!("no Service has the name {}", target.host));
                    continue;
                };
                let has = |number: u16| {
                    destination
                        .spec
                        .ports
                        .iter()
                        .any(|port| port.port == number && port.is_tcp())
                };
                if let Some(port) = target.port.filter(|port| !has(*port)) {
                    warn("port.number", format!("{} has no port {port}", target.host));
                    continue;
                }
                let Some(subset) = &target.subset else {
                    continue;
                };
                let port = target
                    .port
                    .or_else(|| self.only_port_of(destination))
                    .or_else(|| {
                        let mut ports = service.spec.ports.iter().map(|port| port.port);
                        ports.find(|port| has(*port))
                    });
                let name = port.map(|port| ClusterName::outbound(port, Some(subset), &target.host));
                let known = name.is_some_and(|name| {
                    let private = build.private_clusters.values();
                    build.clusters.contains_key(&name)
                        || private
                            .into_iter()
                            .any(|one| matches!(one.get(&name), Some(Some(_))))
                });
                if !known {
                    warn(
                        "subset",
                        format!("no DestinationRule gives {} a subset {subset}", target.host),
                    );
                }
            }
        }
    }

    fn only_port_of(&self, service: &api::Service) -> Option<u16> {
        let mut ports = service.spec.ports.iter().filter(|port| port.is_tcp());
        let first = ports.next()?;
        ports.next().is_none().then_some(first.port)
    }
}

impl route::Ports for World<'_> {
    fn only_port(&self, host: &Hostname) -> Option<u16> {
        self.only_port_of(self.services.get(host)?)
    }
}

/// What is being made.
#[derive(Default)]
struct Build {
    clusters: HashMap<ClusterName, Arc<Cluster>>,
    private_clusters: HashMap<Arc<str>, HashMap<ClusterName, Option<Arc<Cluster>>>>,
    tables: HashMap<(Hostname, u16), Vec<KeptTable>>,
    services: HashMap<Hostname, Arc<Service>>,
}

impl Routes {
    fn host_field(&self, host: &Hostname) -> String {
        let index = self.hosts.iter().position(|one| one == host).unwrap_or(0);
        format!("spec.hosts[{index}]")
    }
}

fn reference(kind: &str, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef {
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn protocol(port: &api::service::ServicePort) -> Protocol {
    let name = (!port.name.is_empty()).then_some(&*port.name);
    Protocol::declared(port.app_protocol.as_deref(), name)
}

/// The cluster as it was, where nothing changed; otherwise the new one, with the old list where
/// that did not change.
fn keep(mut new: Cluster, before: Option<&Arc<Cluster>>) -> Arc<Cluster> {
    let Some(before) = before else {
        return Arc::new(new);
    };
    if before.endpoints == new.endpoints {
        if before.protocol == new.protocol {
            return Arc::clone(before);
        }
        new.endpoints = Arc::clone(&before.endpoints);
    }
    Arc::new(new)
}

fn same_service(one: &Service, other: &Service) -> bool {
    let same_port = |one: &ServicePort, other: &ServicePort| {
        let same_private = one.private_routes.len() == other.private_routes.len()
            && one
                .private_routes
                .iter()
                .zip(&other.private_routes)
                .all(|(one, other)| one.0 == other.0 && Arc::ptr_eq(one.1, other.1));
        one.number == other.number
            && one.name == other.name
            && one.protocol == other.protocol
            && Arc::ptr_eq(&one.routes, &other.routes)
            && same_private
    };
    one.vips == other.vips
        && one.ports.len() == other.ports.len()
        && one
            .ports
            .iter()
            .zip(&other.ports)
            .all(|(one, other)| same_port(one, other))
}

/// Who owns each address: a ClusterIP first, then the Pod that has it.
fn addresses(
    build: &Build,
    pods: &Index,
    findings: &mut Vec<(ObjectRef, Finding)>,
) -> HashMap<IpAddr, Owner> {
    let mut services: Vec<&Arc<Service>> = build.services.values().collect();
    services.sort_by(|one, other| one.hostname.cmp(&other.hostname));
    let mut owners: HashMap<IpAddr, Owner> = HashMap::new();
    let mut behind: HashMap<IpAddr, Vec<Arc<Service>>> = HashMap::new();
    for service in services {
        for vip in &service.vips {
            if let Some(Owner::Service(other)) = owners.get(vip) {
                let message = format!(
                    "{vip} is already the address of {}: it has no effect here",
                    other.hostname
                );
                let object = reference("Service", &service.namespace, &service.name);
                findings.push((object, Finding::warning("spec.clusterIPs", message)));
            } else {
                owners.insert(*vip, Owner::Service(Arc::clone(service)));
            }
        }
        let clusters = service
            .ports
            .iter()
            .filter_map(|port| build.clusters.get(&port.cluster));
        for endpoint in clusters.flat_map(|cluster| cluster.endpoints.iter()) {
            let list = behind.entry(endpoint.address.ip()).or_default();
            if list.last().is_none_or(|last| !Arc::ptr_eq(last, service)) {
                list.push(Arc::clone(service));
            }
        }
    }
    for Member { pod, workload } in pods.members().iter().filter(|one| !one.pod.is_finished()) {
        for address in &workload.addresses {
            match owners.get(address) {
                None => {
                    let services = behind.get(address).cloned().unwrap_or_default();
                    owners.insert(
                        *address,
                        Owner::Workload(Arc::clone(workload), services.into()),
                    );
                }
                // The pods of a node's own network share its address.
                Some(Owner::Workload(other, _)) if pod.spec.host_network && other.host_network => {}
                Some(other) => {
                    let other = match other {
                        Owner::Service(one) => format!("Service {}/{}", one.namespace, one.name),
                        Owner::Workload(one, _) => format!("Pod {}/{}", one.namespace, one.name),
                    };
                    let message = format!(
                        "{address} is already the address of {other}: it has no effect here"
                    );
                    let object = reference("Pod", &workload.namespace, &workload.name);
                    findings.push((object, Finding::warning("status.podIPs", message)));
                }
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests;
