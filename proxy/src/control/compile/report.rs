//! What is valid and yet leads nowhere: hosts without a service, destinations without a cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::rules::{Place, Plan, Routes};
use super::world::World;
use super::{Build, route};
use crate::api;
use crate::mesh::L4Kind;
use crate::types::{ClusterName, Finding, Hostname, ObjectRef};

/// The most that is said about the destinations of one VirtualService at one host.
const MAX_FINDINGS: usize = 100;

/// A destination as it was written.
struct Written<'a> {
    /// The object that has it.
    object: &'a ObjectRef,
    field: String,
    place: &'a Place,
    /// What comes of one that leads nowhere.
    consequence: &'static str,
}

impl World<'_> {
    /// What is valid and yet leads nowhere.
    pub(super) fn report(&self, build: &Build, findings: &mut Vec<(ObjectRef, Finding)>) {
        for routes in &self.all_routes {
            let before = findings.len();
            let mut told = BTreeSet::new();
            for (index, host) in routes.hosts.iter().enumerate() {
                if findings.len() - before >= MAX_FINDINGS {
                    break;
                }
                if let Some(message) = self.idle(routes, host) {
                    let finding = Finding::warning(format!("spec.hosts[{index}]"), message);
                    findings.push((routes.reference.clone(), finding));
                }
                let service = self.services.get(host).map(|one| &***one);
                self.report_destinations(routes, service, build, &mut told);
            }
            findings.extend(told);
        }
    }

    /// Why the rules of `routes` have no effect for `host`, or less than may be thought.
    fn idle(&self, routes: &Arc<Routes>, host: &Hostname) -> Option<String> {
        if routes.source.spec.export_to == ["~"] || host.as_str().starts_with('*') {
            return None;
        }
        if !self.services.contains_key(host) && routes.source.spec.http.is_empty() {
            return Some(format!(
                "no Service has the name {host}: the rules have no effect for it"
            ));
        }
        let owners = route::owners(&self.routes, host);
        let mut all = owners
            .public
            .iter()
            .chain(owners.private.values().flatten());
        let owned = all.any(|owner| Arc::ptr_eq(owner, routes));
        if owned && !self.services.contains_key(host) {
            return Some(format!(
                "no Service has the name {host}: the rules count for requests to port 80 alone"
            ));
        }
        if owned || routes.source.spec.http.is_empty() {
            return None;
        }
        let private = owners.private.into_values().flatten().next();
        let other = owners.public.or(private)?;
        Some(format!(
            "{host} already has the rules of {}: these have no effect for it",
            other.reference
        ))
    }

    /// `service`: the one that the rules are for.
    fn report_destinations(
        &self,
        routes: &Routes,
        service: Option<&api::Service>,
        build: &Build,
        told: &mut BTreeSet<(ObjectRef, Finding)>,
    ) {
        for written in written(routes) {
            let Some((part, message)) = self.nowhere(written.place, service, build) else {
                continue;
            };
            let message = format!("{message}; {}", written.consequence);
            let finding = Finding::warning(format!("{}.{part}", written.field), message);
            // Two hosts of one VirtualService may lead to the same.
            if told.len() < MAX_FINDINGS {
                told.insert((written.object.clone(), finding));
            }
        }
    }

    /// Why there is no cluster for `place`, and in which of its fields.
    fn nowhere(
        &self,
        place: &Place,
        service: Option<&api::Service>,
        build: &Build,
    ) -> Option<(&'static str, String)> {
        let host = &place.host;
        let Some(destination) = self.services.get(host) else {
            return Some(("host", format!("no Service has the name {host}")));
        };
        let mut numbers = destination.spec.ports.iter().filter(|port| port.is_tcp());
        let has = |number: u16| {
            let mut ports = destination.spec.ports.iter().filter(|port| port.is_tcp());
            ports.any(|port| port.port == number)
        };
        if let Some(port) = place.port.filter(|port| !has(*port)) {
            return Some(("port.number", format!("{host} has no port {port}")));
        }
        let subset = place.subset.as_ref()?;
        let asked = service.map(|one| one.spec.ports.iter().map(|port| port.port));
        let port = place
            .port
            .or_else(|| self.only_port_of(destination))
            .or_else(|| asked.into_iter().flatten().find(|port| has(*port)))
            .or_else(|| numbers.next().map(|port| port.port))?;
        let name = ClusterName::outbound(port, Some(subset), host);
        let known = build.clusters.contains_key(&name)
            || build
                .private_clusters
                .values()
                .any(|one| one.contains_key(&name));
        (!known).then(|| {
            let message = format!("no DestinationRule gives {host} a subset {subset}");
            ("subset", message)
        })
    }
}

/// Every destination of `routes`.
fn written(routes: &Routes) -> Vec<Written<'_>> {
    let mut all = Vec::new();
    for rule in &routes.rules {
        let Plan::Forward(forwarding) = &rule.plan else {
            continue;
        };
        let object = rule.delegate.as_ref().unwrap_or(&routes.reference);
        let field = format!("spec.http[{}]", rule.index);
        all.extend(forwarding.targets.iter().map(|target| Written {
            object,
            field: format!("{field}.route[{}].destination", target.index),
            place: &target.place,
            consequence: "requests are answered 503 (NC)",
        }));
        all.extend(forwarding.mirrors.iter().map(|mirror| Written {
            object,
            field: format!("{field}.{}", mirror.field),
            place: &mirror.place,
            consequence: "nothing is mirrored",
        }));
    }
    for rule in &routes.l4 {
        let kind = match rule.kind {
            L4Kind::Tcp => "tcp",
            L4Kind::Tls => "tls",
        };
        all.extend(rule.targets.iter().map(|target| Written {
            object: &routes.reference,
            field: format!(
                "spec.{kind}[{}].route[{}].destination",
                rule.index, target.index
            ),
            place: &target.place,
            consequence: "connections are closed",
        }));
    }
    all
}
