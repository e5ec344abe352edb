//! What DestinationRules amount to at the present services and endpoints: subsets that are empty,
//! outlier detection that can eject nobody, rules for a host or a port that does not exist, parts
//! that an older rule has already.

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};

use super::cluster::protocol;
use super::endpoint::has_all;
use super::population::{Member, within};
use super::told::{List, Told};
use super::touched::of_rule;
use super::visibility::is_public;
use super::world::World;
use super::{Build, l4};
use crate::api::destination_rule::{LoadBalancer, TrafficPolicy};
use crate::api::service::ServicePort;
use crate::api::{DestinationRule, Service};
use crate::mesh::Cluster;
use crate::types::{ClusterName, Finding, Hostname, Percent, Protocol};

/// Istio's `maxEjectionPercent` where none is given.
const DEFAULT_EJECTION: i32 = 10;

impl World {
    /// What can be said about the DestinationRules of `host` now, each by itself.
    pub(super) fn report_rules(
        &self,
        host: &Hostname,
        build: &Build,
        members: &[Member],
        told: &mut Told,
    ) {
        for rule in self.destination_rules.of(host) {
            let mut found = Vec::new();
            selected(rule, members, &mut found);
            match self.services.get(host) {
                None => {
                    let message = format!("no Service has the name {host}: the rule has no effect");
                    found.push(Finding::warning("spec.host", message));
                }
                Some(service) => {
                    ports(rule, host, &[&**service], &mut found);
                    hashes(rule, host, service, &mut found);
                    let mut ports = service.spec.ports.iter().filter(|port| port.is_tcp());
                    if let Some(port) = ports.next() {
                        report_rule(rule, host, port.port, build, &mut found);
                    }
                }
            }
            tell(rule, found, told);
        }
    }

    /// What can be said about the DestinationRules for all hosts that end with `suffix`.
    pub(super) fn report_domain(
        &self,
        suffix: &str,
        rules: &[Arc<DestinationRule>],
        members: &[Member],
        told: &mut Told,
    ) {
        let all = self.services.iter();
        let under = all.filter(|(name, _)| name.as_str().ends_with(suffix));
        let services: Vec<&Service> = under.map(|(_, service)| &**service).collect();
        let host = Hostname::new(&format!("*{suffix}"));
        for rule in rules {
            let mut found = Vec::new();
            selected(rule, members, &mut found);
            if services.is_empty() {
                let message = format!("no Service has a name under {host}: the rule has no effect");
                found.push(Finding::warning("spec.host", message));
            } else {
                ports(rule, &host, &services, &mut found);
            }
            tell(rule, found, told);
        }
    }

    /// What the DestinationRules of `host` take from each other.
    pub(super) fn report_merged(&self, host: &Hostname, told: &mut Told) {
        let rules = self.destination_rules.of(host);
        let mut found = List::new();
        if rules.len() > 1 {
            report_merged(rules, &mut found);
        }
        told.set_merged(host, found);
    }
}

fn tell(rule: &DestinationRule, found: Vec<Finding>, told: &mut Told) {
    let object = of_rule(rule);
    let found = found.into_iter().map(|one| (object.clone(), one)).collect();
    told.set_rule(&object, found);
}

/// A `workloadSelector` that selects nobody: the rule is for those clients alone.
fn selected(rule: &DestinationRule, members: &[Member], findings: &mut Vec<Finding>) {
    let Some(selector) = &rule.spec.workload_selector else {
        return;
    };
    let namespace = &rule.metadata.namespace;
    let mut own = within(members, namespace).iter();
    if !own.any(|one| has_all(&one.workload.labels, &selector.match_labels)) {
        findings.push(Finding::warning(
            "spec.workloadSelector",
            format!("no pod in namespace {namespace} has these labels: the rule has no effect"),
        ));
    }
}

/// Keys of requests at ports that carry none.
fn hashes(rule: &DestinationRule, host: &Hostname, service: &Service, found: &mut Vec<Finding>) {
    let Some(policy) = &rule.spec.traffic_policy else {
        return;
    };
    let ports = || service.spec.ports.iter().filter(|port| port.is_tcp());
    let asks = |balancer: Option<&LoadBalancer>| {
        let hash = balancer.and_then(|one| one.consistent_hash.as_ref());
        hash.is_some_and(|one| one.use_source_ip != Some(true))
    };
    let carries = |port: &ServicePort| {
        let protocol = protocol(port);
        protocol == Protocol::Auto || l4::kind(protocol).is_none()
    };
    let mut tell = |field: String, message: String| {
        let field = format!("spec.trafficPolicy{field}.loadBalancer.consistentHash");
        let message =
            format!("has no effect: {message}, and there are no requests to hash; use useSourceIp");
        found.push(Finding::warning(field, message));
    };
    let own = |number: u16| {
        let mut all = policy.port_level_settings.iter();
        all.position(|one| one.port.as_ref().is_some_and(|port| port.number == number))
    };
    let mut whole = ports().filter(|port| own(port.port).is_none()).peekable();
    if asks(policy.load_balancer.as_ref()) && whole.peek().is_some() && !whole.any(carries) {
        tell(
            String::new(),
            format!("no port of {host} that it is for carries HTTP"),
        );
    }
    for port in ports().filter(|port| !carries(port)) {
        if let Some(index) = own(port.port)
            && asks(policy.port_level_settings[index].load_balancer.as_ref())
        {
            let message = format!("port {} of {host} does not carry HTTP", port.port);
            tell(format!(".portLevelSettings[{index}]"), message);
        }
    }
}

/// Settings of ports that none of `services` has.
fn ports(
    rule: &DestinationRule,
    host: &Hostname,
    services: &[&Service],
    findings: &mut Vec<Finding>,
) {
    let whole = rule.spec.traffic_policy.as_ref();
    let whole = whole.map(|policy| ("spec".to_owned(), policy));
    let subsets = rule.spec.subsets.iter().enumerate();
    let subsets = subsets.filter_map(|(index, one)| {
        let policy = one.traffic_policy.as_ref()?;
        Some((format!("spec.subsets[{index}]"), policy))
    });
    for (field, policy) in whole.into_iter().chain(subsets) {
        for (index, one) in policy.port_level_settings.iter().enumerate() {
            let number = one.port.as_ref().map_or(0, |port| port.number);
            let mut all = services.iter().flat_map(|one| &one.spec.ports);
            if !all.any(|port| port.is_tcp() && port.port == number) {
                findings.push(Finding::warning(
                    format!("{field}.trafficPolicy.portLevelSettings[{index}].port.number"),
                    format!("{host} has no port {number}: these settings have no effect (ports are the Service's, not its Pods')"),
                ));
            }
        }
    }
}

/// What the older rules for one host have, in one namespace.
#[derive(Default)]
struct Merged<'a> {
    policy: Option<&'a DestinationRule>,
    subsets: HashMap<&'a str, &'a DestinationRule>,
}

/// Parts of `rules`, all for one host and the oldest first, that an older one has already. Those
/// alone that are for everyone: of the others it depends on the client what is merged.
fn report_merged(rules: &[Arc<DestinationRule>], findings: &mut List) {
    let mut namespaces: HashMap<&str, Merged<'_>> = HashMap::new();
    for rule in rules {
        let spec = &rule.spec;
        if !is_public(&spec.export_to) || spec.workload_selector.is_some() {
            continue;
        }
        let mut tell = |field: String, older: &DestinationRule| {
            let message = format!(
                "has no effect: {} is for the same host, and its own counts",
                of_rule(older)
            );
            findings.push((of_rule(rule), Finding::warning(field, message)));
        };
        let merged = namespaces.entry(&rule.metadata.namespace).or_default();
        if spec.traffic_policy.is_some() {
            match merged.policy {
                Some(older) => tell("spec.trafficPolicy".to_owned(), older),
                None => merged.policy = Some(rule),
            }
        }
        for (index, subset) in spec.subsets.iter().enumerate() {
            match merged.subsets.get(&*subset.name) {
                // Of two in one rule validation tells.
                Some(older) if !std::ptr::eq(*older, &**rule) => {
                    tell(format!("spec.subsets[{index}]"), older);
                }
                Some(_) => {}
                None => drop(merged.subsets.insert(&subset.name, rule)),
            }
        }
    }
}

fn report_rule(
    rule: &Arc<DestinationRule>,
    host: &Hostname,
    port: u16,
    build: &Build,
    findings: &mut Vec<Finding>,
) {
    let mut name = String::new();
    let mut cluster = |subset: Option<&str>| {
        ClusterName::write_outbound(&mut name, port, subset, host);
        let private = || {
            let mut namespaces = build.private_clusters.values();
            namespaces.find_map(|one| {
                let variants = one.get(name.as_str())?;
                let selected = variants.selected.iter().filter_map(|(_, one)| one.as_ref());
                variants.others.iter().flatten().chain(selected).next()
            })
        };
        build.clusters.get(name.as_str()).or_else(private)
    };
    let Some(whole) = cluster(None) else { return };
    let spec = &rule.spec;
    if let Some(policy) = &spec.traffic_policy {
        ejects(policy, whole, "spec.trafficPolicy", findings);
    }
    for (index, subset) in spec.subsets.iter().enumerate() {
        let field = format!("spec.subsets[{index}]");
        let Some(members) = cluster(Some(&subset.name)) else {
            continue;
        };
        if members.endpoints.is_empty() && !whole.endpoints.is_empty() {
            findings.push(Finding::warning(
                format!("{field}.labels"),
                format!("no endpoint of {host} has these labels: requests to the subset are answered 503 (UH)"),
            ));
        }
        if let Some(policy) = &subset.traffic_policy {
            ejects(policy, members, &format!("{field}.trafficPolicy"), findings);
        }
    }
}

/// Whether outlier detection can eject one of the endpoints at all.
fn ejects(policy: &TrafficPolicy, cluster: &Cluster, field: &str, findings: &mut Vec<Finding>) {
    let Some(outlier) = &policy.outlier_detection else {
        return;
    };
    let given = outlier.max_ejection_percent;
    let percent = if given > 0 { given } else { DEFAULT_EJECTION };
    // A pod with an address of each family counts once.
    let count = |v4: bool| {
        let addresses = cluster.endpoints.iter().map(|one| one.address.ip());
        addresses
            .filter(|one| matches!(one, IpAddr::V4(_)) == v4)
            .count()
    };
    let count = count(true).max(count(false));
    let allowed = Percent::new(percent.into()).is_none_or(|percent| percent.allows(1, count));
    if count > 0 && !allowed {
        let least = 100_usize.div_ceil(count);
        findings.push(Finding::warning(
            format!("{field}.outlierDetection.maxEjectionPercent"),
            format!(
                "{percent}% of {count} endpoints is less than one: nobody is ever ejected; write {least} or more"
            ),
        ));
    }
}
