//! What is valid and yet leads nowhere: hosts without a service, destinations without a cluster,
//! rules for ports and protocols that the services do not have.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::cluster::protocol;
use super::rules::{Place, Plan, Routes};
use super::told::List;
use super::world::World;
use super::{Build, l4, route};
use crate::api;
use crate::api::virtual_service::VirtualServiceSpec;
use crate::mesh::L4Kind;
use crate::types::{ClusterName, Finding, Hostname, ObjectRef, Protocol};

/// The most that is said about the destinations of one VirtualService at one host.
const MAX_FINDINGS: usize = 100;

/// A destination as it was written.
struct Written<'a> {
    /// The object that has it.
    object: &'a ObjectRef,
    field: Field<'a>,
    place: &'a Place,
    /// What comes of one that leads nowhere.
    consequence: &'static str,
}

/// The field of a destination, which is hardly ever asked for.
enum Field<'a> {
    /// Of `http`, `tls` or `tcp`: which rule, and which of its `route`.
    Route(&'static str, usize, usize),
    /// Of `http`: which rule, and the field below it.
    Mirror(usize, &'a str),
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(kind, rule, route) => {
                write!(f, "spec.{kind}[{rule}].route[{route}].destination")
            }
            Self::Mirror(rule, field) => write!(f, "spec.http[{rule}].{field}"),
        }
    }
}

impl World {
    /// What of `routes` is valid and yet leads nowhere. It depends on the hosts that they are for and
    /// those that they lead to, and on nothing else.
    pub(super) fn report(&self, routes: &Arc<Routes>, build: &Build) -> List {
        let mut findings = List::new();
        let mut told = self.unreached(routes);
        for (index, host) in routes.hosts.iter().enumerate() {
            if findings.len() >= MAX_FINDINGS {
                break;
            }
            if let Some(message) = self.idle(routes, host) {
                let finding = Finding::warning(format!("spec.hosts[{index}]"), message);
                findings.push((ObjectRef::clone(&routes.reference), finding));
            }
            let service = self.services.get(host).map(|one| &**one);
            self.report_destinations(routes, service, build, &mut told);
        }
        findings.extend(told);
        findings
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

    /// Rules for connections that their hosts do not have: of another protocol, or to another port.
    /// Only where every host is a service: of other hosts the ports are not known.
    fn unreached(&self, routes: &Routes) -> BTreeSet<(ObjectRef, Finding)> {
        let mut told = BTreeSet::new();
        let mut ports: Vec<(u16, Protocol)> = Vec::new();
        for host in &routes.hosts {
            let Some(service) = self.services.get(host) else {
                return told;
            };
            let own = service.spec.ports.iter().filter(|port| port.is_tcp());
            ports.extend(own.map(|port| (port.port, protocol(port))));
        }
        let mut tell = |field: String, message: String| {
            let finding = Finding::warning(field, message);
            told.insert((ObjectRef::clone(&routes.reference), finding));
        };
        let names = || {
            let hosts: Vec<&str> = routes.hosts.iter().map(Hostname::as_str).collect();
            hosts.join(" and ")
        };
        let spec = &routes.source.spec;
        let http = |one: Protocol| one == Protocol::Auto || l4::kind(one).is_none();
        let tls = |one| l4::kind(one) == Some(L4Kind::Tls);
        let tcp = |one| l4::kind(one) == Some(L4Kind::Tcp);
        let carried: [(_, _, &dyn Fn(Protocol) -> bool); 3] = [
            ("http", "HTTP", &http),
            ("tls", "TLS", &tls),
            ("tcp", "TCP", &tcp),
        ];
        for (kind, name, carries) in carried {
            let asked = asked_ports(spec, kind);
            if asked.is_empty() {
                continue;
            }
            if !ports.iter().any(|(_, one)| carries(*one)) {
                let message = format!(
                    "no port of {} is declared as {name}: these rules have no effect",
                    names()
                );
                tell(format!("spec.{kind}"), message);
                continue;
            }
            let asked = asked.iter().enumerate().flat_map(|(rule, blocks)| {
                let blocks = blocks.iter().enumerate();
                blocks.map(move |(block, port)| (rule, block, port.unwrap_or(0)))
            });
            for (rule, block, port) in asked.filter(|(.., port)| *port != 0) {
                let mut here = ports.iter().filter(|(number, _)| *number == port);
                let message = match here.next() {
                    None => format!("{} has no port {port}", names()),
                    Some((_, one)) if !carries(*one) && !here.any(|(_, one)| carries(*one)) => {
                        format!("port {port} is not declared as {name}")
                    }
                    Some(_) => continue,
                };
                let field = format!("spec.{kind}[{rule}].match[{block}].port");
                tell(field, format!("{message}: this block never applies"));
            }
        }
        told
    }

    /// `service`: the one that the rules are for.
    fn report_destinations(
        &self,
        routes: &Routes,
        service: Option<&api::Service>,
        build: &Build,
        told: &mut BTreeSet<(ObjectRef, Finding)>,
    ) {
        let mut name = String::new();
        for written in written(routes) {
            let nowhere = self.nowhere(written.place, service, build, &mut name);
            let Some((part, message)) = nowhere else {
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
        name: &mut String,
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
        ClusterName::write_outbound(name, port, Some(subset), host);
        let mut private = build.private_clusters.values();
        let known = build.clusters.contains(name.as_str())
            || private.any(|one| one.contains_key(name.as_str()));
        (!known).then(|| {
            let message = format!("no DestinationRule gives {host} a subset {subset}");
            ("subset", message)
        })
    }
}

/// The ports that the blocks of each rule of a kind ask for.
fn asked_ports(spec: &VirtualServiceSpec, kind: &str) -> Vec<Vec<Option<u16>>> {
    macro_rules! ports {
        ($rules:expr) => {{
            let rules = $rules.iter();
            rules
                .map(|rule| rule.matches.iter().map(|block| block.port).collect())
                .collect()
        }};
    }
    match kind {
        "http" => ports!(spec.http),
        "tls" => ports!(spec.tls),
        _ => ports!(spec.tcp),
    }
}

/// Every destination of `routes`.
fn written(routes: &Routes) -> impl Iterator<Item = Written<'_>> {
    let http = routes.rules.iter().filter_map(|rule| match &rule.plan {
        Plan::Forward(forwarding) => Some((rule, forwarding)),
        Plan::Redirect(_) | Plan::Respond(_) => None,
    });
    let http = http.flat_map(|(rule, forwarding)| {
        let object = rule.delegate.as_ref().unwrap_or(&routes.reference);
        let targets = forwarding.targets.iter().map(move |target| Written {
            object,
            field: Field::Route("http", rule.index, target.index),
            place: &target.place,
            consequence: "requests are answered 503 (NC)",
        });
        targets.chain(forwarding.mirrors.iter().map(move |mirror| Written {
            object,
            field: Field::Mirror(rule.index, &mirror.field),
            place: &mirror.place,
            consequence: "nothing is mirrored",
        }))
    });
    http.chain(routes.l4.iter().flat_map(move |rule| {
        let kind = match rule.kind {
            L4Kind::Tcp => "tcp",
            L4Kind::Tls => "tls",
        };
        rule.targets.iter().map(move |target| Written {
            object: &routes.reference,
            field: Field::Route(kind, rule.index, target.index),
            place: &target.place,
            consequence: "connections are closed",
        })
    }))
}
