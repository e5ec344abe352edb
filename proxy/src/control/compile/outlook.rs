//! What DestinationRules amount to at the present services and endpoints: subsets that are empty,
//! outlier detection that can eject nobody, rules for a host or a port that does not exist, parts
//! that an older rule has already.

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};

use super::Build;
use super::told::{List, Told};
use super::touched::of_rule;
use super::visibility::is_public;
use super::world::World;
use crate::api::destination_rule::TrafficPolicy;
use crate::api::{DestinationRule, Service};
use crate::mesh::Cluster;
use crate::types::{ClusterName, Finding, Hostname, Percent};

/// Istio's `maxEjectionPercent` where none is given.
const DEFAULT_EJECTION: i32 = 10;

impl World {
    /// What can be said about the DestinationRules of `host` now, each by itself.
    pub(super) fn report_rules(&self, host: &Hostname, build: &Build, told: &mut Told) {
        for rule in self.destination_rules.of(host) {
            let mut found = Vec::new();
            match self.services.get(host) {
                None => {
                    let message = format!("no Service has the name {host}: the rule has no effect");
                    found.push(Finding::warning("spec.host", message));
                }
                Some(service) => {
                    ports(rule, host, &[&**service], &mut found);
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
        told: &mut Told,
    ) {
        let all = self.services.iter();
        let under = all.filter(|(name, _)| name.as_str().ends_with(suffix));
        let services: Vec<&Service> = under.map(|(_, service)| &**service).collect();
        let host = Hostname::new(&format!("*{suffix}"));
        for rule in rules {
            let mut found = Vec::new();
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
