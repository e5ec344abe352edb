//! What the objects say, by what it is looked up by; and what of it leads nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::rules::{Plan, Routes};
use super::{Build, route, subset};
use crate::api;
use crate::control::store::Objects;
use crate::types::{ClusterName, Finding, Hostname, ObjectRef};

/// The most that is said about the destinations of one VirtualService at one host.
const MAX_FINDINGS: usize = 100;

/// What the objects say, by what it is looked up by.
pub(super) struct World<'a> {
    pub(super) services: BTreeMap<Hostname, &'a Arc<api::Service>>,
    pub(super) namespaces: &'a BTreeMap<Arc<str>, Arc<api::Namespace>>,
    pub(super) routes: route::Rules,
    /// Those that route HTTP for the mesh, the older first.
    all_routes: Vec<&'a Arc<Routes>>,
    pub(super) destination_rules: subset::Rules,
}

impl<'a> World<'a> {
    pub(super) fn new(objects: &'a Objects, cluster_domain: &str) -> Self {
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
        let routes = objects.virtual_services.values();
        let mut routes: Vec<_> = routes.filter(|one| one.is_for_mesh_http()).collect();
        routes.sort_by(|one, other| one.source.metadata.age().cmp(&other.source.metadata.age()));
        let mut rules: Vec<_> = objects.destination_rules.values().collect();
        rules.sort_by(|one, other| one.metadata.age().cmp(&other.metadata.age()));
        Self {
            services,
            namespaces: &objects.namespaces,
            routes: route::index(routes.iter().copied()),
            all_routes: routes,
            destination_rules: subset::index(rules.into_iter(), cluster_domain),
        }
    }

    /// What is valid and yet leads nowhere.
    pub(super) fn report(&self, build: &Build, findings: &mut Vec<(ObjectRef, Finding)>) {
        for routes in &self.all_routes {
            let before = findings.len();
            for (index, host) in routes.hosts.iter().enumerate() {
                if findings.len() - before >= MAX_FINDINGS {
                    break;
                }
                if host.as_str().starts_with('*') {
                    continue;
                }
                if let Some(message) = self.idle(routes, host) {
                    let finding = Finding::warning(format!("spec.hosts[{index}]"), message);
                    findings.push((routes.reference.clone(), finding));
                } else if let Some(service) = self.services.get(host) {
                    self.report_destinations(routes, service, build, findings);
                }
            }
        }
    }

    /// Why the rules of `routes` have no effect for `host`.
    fn idle(&self, routes: &Arc<Routes>, host: &Hostname) -> Option<String> {
        if !self.services.contains_key(host) {
            return Some(format!(
                "no Service has the name {host}: the rules have no effect for it"
            ));
        }
        let owners = route::owners(&self.routes, host);
        let mut all = owners
            .public
            .iter()
            .chain(owners.private.values().flatten());
        if all.any(|owner| Arc::ptr_eq(owner, routes)) {
            return None;
        }
        if routes.source.spec.export_to == ["~"] {
            return None;
        }
        let private = owners.private.into_values().flatten().next();
        let other = owners.public.or(private)?;
        Some(format!(
            "{host} already has the rules of {}: these have no effect for it",
            other.reference
        ))
    }

    fn report_destinations(
        &self,
        routes: &Routes,
        service: &api::Service,
        build: &Build,
        findings: &mut Vec<(ObjectRef, Finding)>,
    ) {
        let mut told = BTreeSet::new();
        for rule in &routes.rules {
            let Plan::Forward(forwarding) = &rule.plan else {
                continue;
            };
            for target in &forwarding.targets {
                let place = &target.place;
                let field = format!(
                    "spec.http[{}].route[{}].destination",
                    rule.index, target.index
                );
                let mut warn = |part: &str, message: String| {
                    let message = format!("{message}; requests are answered 503 (NC)");
                    let finding = Finding::warning(format!("{field}.{part}"), message);
                    // Two hosts of one VirtualService may lead to the same.
                    if told.len() < MAX_FINDINGS && told.insert(finding.clone()) {
                        findings.push((routes.reference.clone(), finding));
                    }
                };
                let Some(destination) = self.services.get(&place.host) else {
                    warn("host", format!("no Service has the name {}", place.host));
                    continue;
                };
                let has = |number: u16| {
                    destination
                        .spec
                        .ports
                        .iter()
                        .any(|port| port.port == number && port.is_tcp())
                };
                if let Some(port) = place.port.filter(|port| !has(*port)) {
                    warn("port.number", format!("{} has no port {port}", place.host));
                    continue;
                }
                let Some(subset) = &place.subset else {
                    continue;
                };
                let port = place
                    .port
                    .or_else(|| self.only_port_of(destination))
                    .or_else(|| {
                        let mut ports = service.spec.ports.iter().map(|port| port.port);
                        ports.find(|port| has(*port))
                    });
                let name = port.map(|port| ClusterName::outbound(port, Some(subset), &place.host));
                let known = name.is_some_and(|name| {
                    let private = build.private_clusters.values();
                    build.clusters.contains_key(&name)
                        || private.into_iter().any(|one| one.contains_key(&name))
                });
                if !known {
                    warn(
                        "subset",
                        format!("no DestinationRule gives {} a subset {subset}", place.host),
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
