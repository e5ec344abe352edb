//! What DestinationRules amount to at the present endpoints: subsets that are empty, outlier
//! detection that can eject nobody, rules for a host that does not exist.

use std::net::IpAddr;
use std::sync::Arc;

use super::world::World;
use super::{Build, reference};
use crate::api::DestinationRule;
use crate::api::destination_rule::TrafficPolicy;
use crate::mesh::Cluster;
use crate::types::{ClusterName, Finding, Hostname, ObjectRef, Percent};

/// Istio's `maxEjectionPercent` where none is given.
const DEFAULT_EJECTION: i32 = 10;

impl World<'_> {
    /// What can be said about the DestinationRules now.
    pub(super) fn report_rules(&self, build: &Build, findings: &mut Vec<(ObjectRef, Finding)>) {
        for (host, rule) in &self.all_rules {
            if host.as_str().starts_with('*') {
                continue;
            }
            let metadata = &rule.metadata;
            let object = || reference("DestinationRule", &metadata.namespace, &metadata.name);
            let Some(service) = self.services.get(host) else {
                let message = format!("no Service has the name {host}: the rule has no effect");
                findings.push((object(), Finding::warning("spec.host", message)));
                continue;
            };
            let mut ports = service.spec.ports.iter().filter(|port| port.is_tcp());
            let Some(port) = ports.next() else { continue };
            let mut found = Vec::new();
            report_rule(rule, host, port.port, build, &mut found);
            findings.extend(found.into_iter().map(|one| (object(), one)));
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
    let cluster = |subset: Option<&str>| {
        let name = ClusterName::outbound(port, subset, host);
        let private = || {
            let mut namespaces = build.private_clusters.values();
            namespaces.find_map(|one| {
                let variants = one.get(&name)?;
                let selected = variants.selected.iter().filter_map(|(_, one)| one.as_ref());
                variants.others.iter().flatten().chain(selected).next()
            })
        };
        build.clusters.get(&name).or_else(private)
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
