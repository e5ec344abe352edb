//! What the objects say, by what it is looked up by; and what of it leads nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::rules::Routes;
use super::{Build, route, subset};
use crate::api;
use crate::control::store::Objects;
use crate::types::{ClusterName, Finding, Hostname, ObjectRef};

/// The most that is said about the destinations of one VirtualService at one host.
const MAX_FINDINGS: usize = 100;

/// What the objects say, by what it is looked up by.
pub(super) struct World<'a> {
    pub(super) services: BTreeMap<Hostname, &'a Arc<api::Service>>,
    pub(super) routes: route::Rules,
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
    pub(super) fn report(&self, build: &Build, findings: &mut Vec<(ObjectRef, Finding)>) {
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
        let mut told = BTreeSet::new();
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
                    if told.len() < MAX_FINDINGS && told.insert(finding.clone()) {
                        findings.push((routes.reference.clone(), finding));
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

impl Routes {
    fn host_field(&self, host: &Hostname) -> String {
        let index = self.hosts.iter().position(|one| one == host).unwrap_or(0);
        format!("spec.hosts[{index}]")
    }
}
