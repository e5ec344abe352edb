//! Advice about configuration that is valid and yet not what its author is likely to mean: the
//! mistakes that guides and copied examples contain.
//!
//! Pure functions over one object; what needs the others too is in `compile`. The codes in
//! parentheses are those of `istioctl analyze`.

mod rules;

use std::collections::HashSet;

use crate::api::destination_rule::{DestinationRule, LoadBalancer, Simple};
use crate::types::Finding;

pub use rules::virtual_service;

/// Advice about a DestinationRule.
pub fn destination_rule(rule: &DestinationRule) -> Vec<Finding> {
    let mut findings = Vec::new();
    let whole = rule.spec.traffic_policy.as_ref();
    let whole = whole.map(|policy| ("spec.trafficPolicy".to_owned(), policy));
    let subsets = rule.spec.subsets.iter().enumerate();
    let subsets = subsets.filter_map(|(index, subset)| {
        let policy = subset.traffic_policy.as_ref()?;
        Some((format!("spec.subsets[{index}].trafficPolicy"), policy))
    });
    for (field, policy) in whole.into_iter().chain(subsets) {
        balancer(policy.load_balancer.as_ref(), &field, &mut findings);
        for (index, port) in policy.port_level_settings.iter().enumerate() {
            let field = format!("{field}.portLevelSettings[{index}]");
            balancer(port.load_balancer.as_ref(), &field, &mut findings);
        }
        if policy.retry_budget.is_some() {
            let pool = policy.connection_pool.as_ref();
            let http = pool.and_then(|pool| pool.http.as_ref());
            if http.is_some_and(|http| http.max_retries > 0) {
                findings.push(Finding::warning(
                    format!("{field}.connectionPool.http.maxRetries"),
                    "has no effect beside retryBudget",
                ));
            }
        }
    }
    findings
}

fn balancer(given: Option<&LoadBalancer>, field: &str, findings: &mut Vec<Finding>) {
    let Some(given) = given else { return };
    let field = format!("{field}.loadBalancer");
    if given.simple == Some(Simple::LeastConn) {
        findings.push(Finding::warning(
            format!("{field}.simple"),
            "LEAST_CONN is deprecated, and the same as LEAST_REQUEST: write that",
        ));
    }
    let warms = given.warmup.is_some() || given.warmup_duration_secs.is_some();
    let can = given.consistent_hash.is_none()
        && !matches!(given.simple, Some(Simple::Random | Simple::Passthrough));
    if warms && !can {
        findings.push(Finding::warning(
            format!("{field}.warmup"),
            "has no effect: only LEAST_REQUEST and ROUND_ROBIN warm endpoints up",
        ));
    }
    let locality = given.locality_lb_setting.as_ref();
    let regions = locality.into_iter().flat_map(|one| &one.failover);
    let mut seen = HashSet::new();
    for (index, one) in regions.enumerate() {
        if !seen.insert(&one.from) {
            findings.push(Finding::warning(
                format!("{field}.localityLbSetting.failover[{index}].from"),
                format!("region {} is given twice: the first one counts", one.from),
            ));
        }
    }
}

#[cfg(test)]
mod tests;
