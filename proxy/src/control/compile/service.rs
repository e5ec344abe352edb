//! A service with its ports and their tables, and the hosts that no service has.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cluster::protocol;
use super::l4::{self, KeptL4};
use super::route::{self, Owners};
use super::rules::Routes;
use super::world::World;
use super::{Build, Compiler};
use crate::api;
use crate::mesh::service::Private;
use crate::mesh::{L4Table, RouteTable, Service, ServicePort, VirtualHost, virtual_host};
use crate::types::{ClusterName, Hostname, Protocol};

/// A table of rules, and out of what it was made. All services that have the same rules at the same
/// port share it.
#[derive(Debug)]
pub(super) struct KeptTable {
    /// Held so that no other one can have its place.
    #[expect(dead_code, reason = "it is only held on to")]
    routes: Arc<Routes>,
    ports: Box<[u16]>,
    table: Arc<RouteTable>,
    /// Of the last snapshot that has it.
    pub(super) version: u64,
}

/// Whose table it is: a VirtualService's (by its allocation, which [`KeptTable`] holds on to) at a
/// port.
pub(super) type TableKey = (usize, u16);

impl Compiler {
    /// Puts the service of this name into the snapshot, or takes it out.
    pub(super) fn put_service(&self, hostname: &Hostname, world: &World, build: &mut Build) {
        let Some(service) = world.services.get(hostname) else {
            if build.services.contains_key(hostname) {
                Arc::make_mut(&mut build.services).remove(hostname);
            }
            return;
        };
        let service = self.service(hostname, service, world, build);
        let known = build.services.get(hostname);
        if !known.is_some_and(|known| Arc::ptr_eq(known, &service)) {
            Arc::make_mut(&mut build.services).insert(hostname.clone(), service);
        }
    }

    /// Puts what becomes of requests for `host` into the snapshot where no service has it, or takes
    /// it out.
    pub(super) fn put_virtual_host(&self, host: &Hostname, world: &World, build: &mut Build) {
        if world.is_virtual(host) {
            let made = self.virtual_host(host, world, build);
            Arc::make_mut(&mut build.virtual_hosts).insert(host, made);
        } else if build.virtual_hosts.contains(host) {
            Arc::make_mut(&mut build.virtual_hosts).remove(host);
        }
    }

    fn service(
        &self,
        hostname: &Hostname,
        service: &api::Service,
        world: &World,
        build: &mut Build,
    ) -> Arc<Service> {
        let owners = route::owners(&world.routes, hostname);
        let audiences = l4::audiences(&world.l4_routes, hostname);
        let before = self.last.services.get(hostname);
        let plain_owners = owners.private.is_empty()
            && audiences.public.is_empty()
            && audiences.private.is_empty();
        let kept = self.clusters.get(hostname);
        if let Some(before) = before
            && kept.is_some_and(|kept| kept.is_of_before(build.version))
            && plain_owners
            && self.has_tables(before, owners.public.as_ref(), world, build)
        {
            return Arc::clone(before);
        }
        let ports = service.spec.ports.iter().filter(|port| port.is_tcp());
        let ports = ports
            .map(|port| {
                let before = before.and_then(|one| one.port(port.port));
                let cluster = match before {
                    Some(before) => before.cluster.clone(),
                    None => {
                        let name = ClusterName::outbound(port.port, None, hostname);
                        let known = build.clusters.get(name.as_str());
                        known.map_or(name, |cluster| cluster.name.clone())
                    }
                };
                let mut table = |routes: Option<&Arc<Routes>>| match routes {
                    Some(routes) => self.table(routes, port.port, world, build),
                    None => plain(&cluster, before, build),
                };
                let Owners { public, private } = &owners;
                let routes = table(public.as_ref());
                let private_routes: BTreeMap<_, _> = private
                    .iter()
                    .map(|(namespace, routes)| (Arc::clone(namespace), table(routes.as_ref())))
                    .collect();
                let protocol = protocol(port);
                let mut l4 = |routes: &[Arc<Routes>]| {
                    self.l4_table(hostname, routes, protocol, port.port, world, build)
                };
                let private = audiences.private.iter();
                let exceptions = Private {
                    routes: private_routes,
                    l4: private
                        .map(|(namespace, routes)| (Arc::clone(namespace), l4(routes)))
                        .collect(),
                };
                ServicePort {
                    number: port.port,
                    name: Arc::clone(&port.name),
                    protocol,
                    routes,
                    exceptions: exceptions.boxed(),
                    l4: l4(&audiences.public),
                    cluster,
                }
            })
            .collect::<Box<[_]>>();
        let new = Service {
            hostname: hostname.clone(),
            name: Arc::clone(&service.metadata.name),
            namespace: Arc::clone(&service.metadata.namespace),
            vips: service.vips().into(),
            ports,
        };
        match before {
            Some(before) if same_service(before, &new) => Arc::clone(before),
            _ => Arc::new(new),
        }
    }

    /// Whether every port of `service`, of the time before, has the table that `public` makes there,
    /// and nothing else.
    fn has_tables(
        &self,
        service: &Service,
        public: Option<&Arc<Routes>>,
        world: &World,
        build: &mut Build,
    ) -> bool {
        service.ports.iter().all(|port| {
            let bare = port.exceptions.is_none() && port.l4.is_none();
            bare && match public {
                None => port.routes.source.is_none(),
                Some(routes) => {
                    Arc::ptr_eq(&port.routes, &self.table(routes, port.number, world, build))
                }
            }
        })
    }

    /// What becomes of requests for `host`, which no service has.
    fn virtual_host(&self, host: &Hostname, world: &World, build: &mut Build) -> VirtualHost {
        let Owners { public, private } = route::owners(&world.routes, host);
        let mut table = |routes: Option<&Arc<Routes>>| {
            routes.map(|routes| self.table(routes, virtual_host::PORT, world, build))
        };
        VirtualHost {
            routes: table(public.as_ref()),
            private: private
                .into_iter()
                .map(|(namespace, routes)| (namespace, table(routes.as_ref())))
                .collect(),
        }
    }

    fn table(
        &self,
        routes: &Arc<Routes>,
        port: u16,
        world: &World,
        build: &mut Build,
    ) -> Arc<RouteTable> {
        let key = (Arc::as_ptr(routes).addr(), port);
        let version = build.version;
        if let Some(kept) = build.tables.get_mut(&key)
            && (kept.version == version
                || route::ports(routes, port, world).eq(kept.ports.iter().copied()))
        {
            kept.version = version;
            return Arc::clone(&kept.table);
        }
        build.work.tables += 1;
        // Whoever names a cluster that there is shares its name.
        let clusters = route::clusters(routes, port, world).into_iter();
        let known = |name: ClusterName| match build.clusters.get(name.as_str()) {
            Some(cluster) => cluster.name.clone(),
            None => name,
        };
        let clusters: Vec<ClusterName> = clusters.map(known).collect();
        let table = Arc::new(route::table(routes, port, &clusters));
        let kept = KeptTable {
            routes: Arc::clone(routes),
            ports: route::ports(routes, port, world).collect(),
            table: Arc::clone(&table),
            version,
        };
        build.tables.insert(key, kept);
        table
    }

    fn l4_table(
        &self,
        hostname: &Hostname,
        routes: &[Arc<Routes>],
        protocol: Protocol,
        port: u16,
        world: &World,
        build: &mut Build,
    ) -> Option<Arc<L4Table>> {
        let kind = l4::kind(protocol).filter(|_| !routes.is_empty())?;
        let key = (hostname.clone(), port);
        let before = self.l4_tables.get(&key).map(Vec::as_slice);
        let (kept, made) = KeptL4::make(routes, kind, port, world, before.unwrap_or_default())?;
        build.work.tables += usize::from(made);
        let table = Arc::clone(kept.table());
        build.l4_tables.entry(key).or_default().push(kept);
        Some(table)
    }
}

/// The table of a port without rules, or the one before where that was such a one.
fn plain(
    cluster: &ClusterName,
    before: Option<&ServicePort>,
    build: &mut Build,
) -> Arc<RouteTable> {
    let before = before.into_iter().flat_map(|port| {
        let private = port.private().routes.values();
        std::iter::once(&port.routes).chain(private)
    });
    let mut before = before.filter(|table| table.source.is_none());
    match before.next() {
        Some(before) => Arc::clone(before),
        None => {
            build.work.tables += 1;
            Arc::new(route::plain(cluster))
        }
    }
}

fn same_service(one: &Service, other: &Service) -> bool {
    one.vips == other.vips
        && one.ports.len() == other.ports.len()
        && one
            .ports
            .iter()
            .zip(&other.ports)
            .all(|(one, other)| same_port(one, other))
}

fn same_port(one: &ServicePort, other: &ServicePort) -> bool {
    let l4 = |one: &Option<Arc<L4Table>>, other: &Option<Arc<L4Table>>| match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    };
    one.number == other.number
        && one.name == other.name
        && one.protocol == other.protocol
        && Arc::ptr_eq(&one.routes, &other.routes)
        && same_map(&one.private().routes, &other.private().routes, Arc::ptr_eq)
        && l4(&one.l4, &other.l4)
        && same_map(&one.private().l4, &other.private().l4, l4)
}

fn same_map<T>(
    one: &BTreeMap<Arc<str>, T>,
    other: &BTreeMap<Arc<str>, T>,
    same: impl Fn(&T, &T) -> bool,
) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|(one, other)| one.0 == other.0 && same(one.1, other.1))
}
