//! What can be wrong with a DestinationRule by itself (Istio's validation).

use std::collections::HashSet;

use super::{DestinationRule, Subset, TrafficPolicy};
use crate::api::host::{check_export_to, check_host, is_label};
use crate::api::labels;
use crate::types::Finding;

mod balancer;
mod pool;
mod tls;

impl DestinationRule {
    pub(in crate::api) fn validate(&self, findings: &mut Vec<Finding>) {
        let spec = &self.spec;
        check_host(&spec.host, "spec.host", findings);
        check_export_to(&spec.export_to, findings);
        if let Some(selector) = &spec.workload_selector {
            labels::check(
                &selector.match_labels,
                "spec.workloadSelector.matchLabels",
                findings,
            );
        }
        if let Some(policy) = &spec.traffic_policy {
            policy.validate("spec.trafficPolicy", findings);
        }
        let mut names = HashSet::new();
        for (index, subset) in spec.subsets.iter().enumerate() {
            let field = format!("spec.subsets[{index}]");
            subset.validate(&field, findings);
            if !subset.name.is_empty() && !names.insert(&subset.name) {
                findings.push(Finding::warning(
                    format!("{field}.name"),
                    format!(
                        "subset {} is given twice: the first one counts",
                        subset.name
                    ),
                ));
            }
        }
    }
}

impl Subset {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        let name = format!("{field}.name");
        if self.name.is_empty() {
            findings.push(Finding::error(name, "a subset needs a name"));
        } else if !is_label(&self.name) {
            findings.push(Finding::error(
                name,
                format!(
                    "{:?} is not a DNS label (a-z, 0-9 and -, at most 63)",
                    self.name
                ),
            ));
        }
        labels::check(&self.labels, &format!("{field}.labels"), findings);
        if let Some(policy) = &self.traffic_policy {
            policy.validate(&format!("{field}.trafficPolicy"), findings);
        }
    }
}

impl TrafficPolicy {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        if *self == Self::default() {
            findings.push(Finding::error(field, "has no field; leave it out"));
            return;
        }
        let at = |name: &str| format!("{field}.{name}");
        if let Some(one) = &self.load_balancer {
            one.validate(&at("loadBalancer"), findings);
        }
        if let Some(one) = &self.connection_pool {
            one.validate(&at("connectionPool"), findings);
        }
        if let Some(one) = &self.outlier_detection {
            one.validate(&at("outlierDetection"), findings);
        }
        if let Some(one) = &self.tls {
            one.validate(&at("tls"), findings);
        }
        if let Some(one) = &self.retry_budget {
            one.validate(&at("retryBudget"), findings);
        }
        if let Some(one) = &self.tunnel {
            one.validate(&at("tunnel"), findings);
            if self.proxy_protocol.is_some() {
                findings.push(Finding::error(
                    at("proxyProtocol"),
                    "only one of tunnel and proxyProtocol may be given",
                ));
            }
        }
        self.validate_ports(field, findings);
    }

    fn validate_ports(&self, field: &str, findings: &mut Vec<Finding>) {
        let mut numbers = HashSet::new();
        for (index, one) in self.port_level_settings.iter().enumerate() {
            let field = format!("{field}.portLevelSettings[{index}]");
            let number = one.port.as_ref().map_or(0, |port| port.number);
            if number == 0 {
                findings.push(Finding::error(
                    format!("{field}.port.number"),
                    "a port from 1 to 65535 is required",
                ));
            } else if !numbers.insert(number) {
                findings.push(Finding::warning(
                    format!("{field}.port.number"),
                    format!("port {number} is given twice: the first one counts"),
                ));
            }
            if let Some(one) = &one.load_balancer {
                one.validate(&format!("{field}.loadBalancer"), findings);
            }
            if let Some(one) = &one.connection_pool {
                one.validate(&format!("{field}.connectionPool"), findings);
            }
            if let Some(one) = &one.outlier_detection {
                one.validate(&format!("{field}.outlierDetection"), findings);
            }
            if let Some(one) = &one.tls {
                one.validate(&format!("{field}.tls"), findings);
            }
        }
    }
}
