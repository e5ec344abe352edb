//! Advice about a VirtualService.

use std::collections::BTreeMap;
use std::time::Duration;

use super::order::order;
use crate::api::VirtualService;
use crate::api::virtual_service::{Headers, HttpRoute, MESH, VirtualServiceSpec};
use crate::policy::format::Template;
use crate::policy::retry;
use crate::types::Finding;

/// Advice about a VirtualService.
pub fn virtual_service(one: &VirtualService) -> Vec<Finding> {
    let mut findings = Vec::new();
    gateways(&one.spec, &mut findings);
    for (index, rule) in one.spec.http.iter().enumerate() {
        let field = format!("spec.http[{index}]");
        let weights = rule.route.iter().map(|one| one.weight);
        weigh(weights, &field, &mut findings);
        blocks(rule, &field, &mut findings);
        headers(rule, &field, &mut findings);
        retries(rule, &field, &mut findings);
        rewrite(rule, &field, &mut findings);
        mirrors(rule, &field, &mut findings);
    }
    for (index, rule) in one.spec.tls.iter().enumerate() {
        let weights = rule.route.iter().map(|one| one.weight);
        weigh(weights, &format!("spec.tls[{index}]"), &mut findings);
    }
    for (index, rule) in one.spec.tcp.iter().enumerate() {
        let weights = rule.route.iter().map(|one| one.weight);
        weigh(weights, &format!("spec.tcp[{index}]"), &mut findings);
    }
    order(&one.spec.http, &mut findings);
    findings
}

/// Gateways are not served yet. That is told once for each VirtualService, and is no mistake: the
/// same one may serve elsewhere.
fn gateways(spec: &VirtualServiceSpec, findings: &mut Vec<Finding>) {
    let mut given = spec.gateways.iter().enumerate();
    let Some((index, _)) = given.find(|(_, one)| *one != MESH) else {
        return;
    };
    findings.push(if spec.is_for_mesh() {
        Finding::info(
            format!("spec.gateways[{index}]"),
            "no gateway is served yet: the rules count for clients in the mesh alone",
        )
    } else {
        Finding::info(
            "spec.gateways",
            "the rules are for gateways alone, and none is served yet: they have no effect",
        )
    });
}

/// Conditions that are never asked.
fn blocks(rule: &HttpRoute, field: &str, findings: &mut Vec<Finding>) {
    for (index, block) in rule.matches.iter().enumerate() {
        let field = format!("{field}.match[{index}]");
        findings.extend(block.unasked().map(|name| {
            Finding::warning(
                format!("{field}.{name}"),
                "has no effect in a block that has gateways (nor in Istio): leave gateways out of it",
            )
        }));
        let uri = block.uri.as_ref();
        if block.ignore_uri_case && uri.is_none_or(|uri| uri.regex.is_some()) {
            findings.push(Finding::warning(
                format!("{field}.ignoreUriCase"),
                "has no effect: it is for uri.exact and uri.prefix (an expression may begin with (?i))",
            ));
        }
    }
}

/// Operators that never have a value here.
fn headers(rule: &HttpRoute, field: &str, findings: &mut Vec<Finding>) {
    operators(rule.headers.as_ref(), field, findings);
    for (index, one) in rule.route.iter().enumerate() {
        if one.headers.is_some() {
            let field = format!("{field}.route[{index}]");
            operators(one.headers.as_ref(), &field, findings);
        }
    }
}

fn operators(given: Option<&Headers>, field: &str, findings: &mut Vec<Finding>) {
    let Some(given) = given else { return };
    for (side, operations) in [("request", &given.request), ("response", &given.response)] {
        let Some(operations) = operations else {
            continue;
        };
        let mut look = |operation: &str, values: &BTreeMap<String, String>| {
            for (name, text) in values.iter().filter(|(_, text)| text.contains('%')) {
                // One that does not compile is refused elsewhere.
                let Ok(template) = Template::parse(text) else {
                    continue;
                };
                findings.extend(template.absent().map(|operator| {
                    Finding::warning(
                        format!("{field}.headers.{side}.{operation}.{name}"),
                        format!("%{operator}% never has a value here: this proxy has nothing of the kind"),
                    )
                }));
            }
        };
        look("set", &operations.set);
        look("add", &operations.add);
    }
}

/// Weights are shares of their sum; people who write percentages want to know that they aren't.
fn weigh(
    weights: impl ExactSizeIterator<Item = i32> + Clone,
    field: &str,
    findings: &mut Vec<Finding>,
) {
    let total: i64 = weights.clone().map(i64::from).sum();
    if weights.len() > 1 && total != 100 {
        findings.push(Finding::warning(
            format!("{field}.route"),
            format!("the weights add up to {total}, not to 100: each destination gets its share of {total}"),
        ));
    }
}

fn retries(rule: &HttpRoute, field: &str, findings: &mut Vec<Finding>) {
    let Some(retries) = &rule.retries else { return };
    if retries.attempts <= 0 {
        return;
    }
    // The default list has words for other cases than these.
    if !retries.retry_on.is_empty()
        && let Ok(on) = retry::Conditions::parse(&retries.retry_on)
    {
        findings.extend(on.idle().map(|(word, why)| {
            Finding::warning(
                format!("{field}.retries.retryOn"),
                format!("{word} has no effect: {why}"),
            )
        }));
    }
    if rule.fault.is_some() {
        findings.push(Finding::warning(
            format!("{field}.fault"),
            "beside retries: an aborted request is not tried again, and never reaches the upstream that retries are for",
        ));
    }
    let Some(timeout) = rule.timeout else { return };
    let attempts = u32::try_from(retries.attempts)
        .unwrap_or(0)
        .saturating_add(1);
    match retries.per_try_timeout {
        Some(one) if one >= timeout => findings.push(Finding::warning(
            format!("{field}.retries.perTryTimeout"),
            format!(
                "{} is not shorter than timeout ({}) and has no effect: a request that hangs is never tried again",
                show(one),
                show(timeout)
            ),
        )),
        Some(one) if one.saturating_mul(attempts) > timeout => {
            let fit = timeout.as_nanos() / one.as_nanos().max(1);
            findings.push(Finding::warning(
                format!("{field}.retries.attempts"),
                format!(
                    "{attempts} attempts of {} each need up to {}, but timeout ends them after {}: {fit} can finish",
                    show(one),
                    show(one.saturating_mul(attempts)),
                    show(timeout)
                ),
            ));
        }
        Some(_) | None => {}
    }
}

fn show(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}

/// A prefix without its slash, rewritten to one with: `/v2` to `/` makes `//x` of `/v2/x`.
fn rewrite(rule: &HttpRoute, field: &str, findings: &mut Vec<Finding>) {
    let Some(rewrite) = &rule.rewrite else { return };
    let mut prefixes = rule
        .matches
        .iter()
        .filter_map(|block| block.uri.as_ref()?.prefix.as_ref());
    let bare = prefixes.find(|prefix| !prefix.ends_with('/') && !prefix.is_empty());
    if let Some(prefix) = bare
        && rewrite.uri.ends_with('/')
    {
        findings.push(Finding::warning(
            format!("{field}.rewrite.uri"),
            format!(
                "{prefix}/x becomes {}/x: match the prefix {prefix}/ (and {prefix} exactly) as well, or rewrite to {:?}",
                rewrite.uri,
                rewrite.uri.trim_end_matches('/')
            ),
        ));
    }
}

/// A copy for whom the request goes to anyway.
fn mirrors(rule: &HttpRoute, field: &str, findings: &mut Vec<Finding>) {
    let old = rule.mirror.iter().map(|one| ("mirror".to_owned(), one));
    let new = rule.mirrors.iter().enumerate().filter_map(|(index, one)| {
        let field = format!("mirrors[{index}].destination");
        Some((field, one.destination.as_ref()?))
    });
    for (name, mirror) in old.chain(new) {
        let mut routes = rule.route.iter().filter_map(|one| one.destination.as_ref());
        if routes.any(|one| one == mirror) {
            findings.push(Finding::warning(
                format!("{field}.{name}"),
                format!(
                    "mirrors to where the requests go themselves: {} gets some of them twice",
                    mirror.host
                ),
            ));
        }
    }
}
