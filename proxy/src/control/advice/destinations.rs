//! Advice about a DestinationRule.

use std::collections::HashSet;

use crate::api::destination_rule::{
    DestinationRule, LoadBalancer, LocalityLb, OutlierDetection, Simple, TrafficPolicy,
};
use crate::types::Finding;

/// `consecutive5xxErrors` where it is absent.
const DEFAULT_5XX: u32 = 5;

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
    if let Some(policy) = &rule.spec.traffic_policy {
        left_out(policy, &mut findings);
    }
    for (field, policy) in whole.into_iter().chain(subsets) {
        // A subset's blocks stand in the place of the rule's; what it lacks is the rule's.
        let inherited = rule.spec.traffic_policy.as_ref();
        let inherited = inherited.and_then(|one| one.outlier_detection.as_ref());
        let outlier = policy.outlier_detection.as_ref();
        balancer(
            policy.load_balancer.as_ref(),
            outlier.or(inherited),
            &field,
            &mut findings,
        );
        outliers(outlier, &field, &mut findings);
        for (index, port) in policy.port_level_settings.iter().enumerate() {
            // A port's settings stand in the place of the whole policy.
            let field = format!("{field}.portLevelSettings[{index}]");
            let outlier = port.outlier_detection.as_ref();
            balancer(port.load_balancer.as_ref(), outlier, &field, &mut findings);
            outliers(outlier, &field, &mut findings);
        }
        if policy.tunnel.is_some() {
            findings.push(Finding::info(
                format!("{field}.tunnel"),
                "counts for connections that a tcp or tls rule sends to this host alone (as in Istio); everything else goes to it as it is",
            ));
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

/// A port's settings stand in the place of the whole policy, and can't have these; those of a subset
/// leave them in force.
fn left_out(policy: &TrafficPolicy, findings: &mut Vec<Finding>) {
    let ports = policy.port_level_settings.iter();
    let ports = ports.filter_map(|one| Some(one.port.as_ref()?.number.to_string()));
    let ports: Vec<String> = ports.collect();
    for (name, given) in [
        ("retryBudget", policy.retry_budget.is_some()),
        ("proxyProtocol", policy.proxy_protocol.is_some()),
        ("tunnel", policy.tunnel.is_some()),
    ] {
        if given && !ports.is_empty() {
            findings.push(Finding::warning(
                format!("spec.trafficPolicy.{name}"),
                format!(
                    "has no effect at port {}: portLevelSettings stand in the place of the whole policy there; a subset's own {name} counts at every port",
                    ports.join(" and ")
                ),
            ));
        }
    }
}

/// `outlier`: the detection that goes with it.
fn balancer(
    given: Option<&LoadBalancer>,
    outlier: Option<&OutlierDetection>,
    field: &str,
    findings: &mut Vec<Finding>,
) {
    let Some(given) = given else { return };
    let field = format!("{field}.loadBalancer");
    let cookie = given.consistent_hash.as_ref();
    let cookie = cookie.and_then(|hash| hash.http_cookie.as_ref());
    if let Some(cookie) = cookie.filter(|cookie| cookie.ttl.is_none()) {
        for (name, given) in [
            ("path", !cookie.path.is_empty()),
            ("attributes", !cookie.attributes.is_empty()),
        ] {
            if given {
                findings.push(Finding::warning(
                    format!("{field}.consistentHash.httpCookie.{name}"),
                    "has no effect: without ttl no cookie is made",
                ));
            }
        }
    }
    if let Some(locality) = &given.locality_lb_setting {
        locate(
            locality,
            outlier,
            &format!("{field}.localityLbSetting"),
            findings,
        );
    }
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
}

/// Failover needs outlier detection, since nothing else takes endpoints out; distribution doesn't
/// (`ApplyLocalityLoadBalancer` in Istio's `loadbalancer.go`).
fn locate(
    given: &LocalityLb,
    outlier: Option<&OutlierDetection>,
    field: &str,
    findings: &mut Vec<Finding>,
) {
    let off = given.enabled == Some(false);
    for (name, given, needs_outlier) in [
        ("distribute", !given.distribute.is_empty(), false),
        ("failover", !given.failover.is_empty(), true),
        (
            "failoverPriority",
            !given.failover_priority.is_empty(),
            true,
        ),
    ] {
        if given && off {
            findings.push(Finding::warning(
                format!("{field}.{name}"),
                "has no effect: enabled is false",
            ));
        } else if given && needs_outlier && outlier.is_none() {
            findings.push(Finding::warning(
                format!("{field}.{name}"),
                "has no effect without outlierDetection in the same policy (nor in Istio): endpoints that nobody ejects never fail over",
            ));
        }
    }
    let mut seen = HashSet::new();
    for (index, one) in given.failover.iter().enumerate() {
        if !seen.insert(&one.from) {
            findings.push(Finding::warning(
                format!("{field}.failover[{index}].from"),
                format!("region {} is given twice: the first one counts", one.from),
            ));
        }
    }
}

/// Every gateway error is a 5xx too: a limit on the former that is no lower never decides (Istio's
/// description of the field says so).
fn outliers(given: Option<&OutlierDetection>, field: &str, findings: &mut Vec<Finding>) {
    let Some(given) = given else { return };
    let any = given.consecutive_5xx_errors.unwrap_or(DEFAULT_5XX);
    let gateway = given.consecutive_gateway_errors.unwrap_or(0);
    let same = given.outlier_detection_http_error_codes.is_empty();
    if same && any > 0 && gateway >= any {
        findings.push(Finding::warning(
            format!("{field}.outlierDetection.consecutiveGatewayErrors"),
            format!(
                "has no effect: consecutive5xxErrors, which counts them too, is {any}{}; write less, or consecutive5xxErrors: 0",
                if given.consecutive_5xx_errors.is_none() {
                    " where it is absent"
                } else {
                    ""
                }
            ),
        ));
    }
}
