//! A service with its ports and their route tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cluster::protocol;
use super::route::{self, Owners};
use super::rules::Routes;
use super::world::World;
use super::{Build, Compiler};
use crate::api;
use crate::mesh::{RouteTable, Service, ServicePort};
use crate::types::{ClusterName, Hostname};

/// A table, and out of what it was made.
#[derive(Debug)]
pub(super) struct KeptTable {
    routes: Option<Arc<Routes>>,
    clusters: Vec<ClusterName>,
    table: Arc<RouteTable>,
}

impl Compiler {
    pub(super) fn service(
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
                    l4: None,
                    private_l4: BTreeMap::new(),
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
        match self.last.services.get(hostname) {
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
            (None, routes) => {
                build.work.tables += 1;
                Arc::new(match routes {
                    Some(routes) => route::table(routes, port, &clusters),
                    None => route::plain(cluster),
                })
            }
        };
        build.tables.entry(key).or_default().push(KeptTable {
            routes: routes.cloned(),
            clusters,
            table: Arc::clone(&table),
        });
        table
    }
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
