//! Advice about a VirtualService.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::api::VirtualService;
use crate::api::virtual_service::{HttpMatch, HttpRoute};
use crate::types::Finding;

/// Advice about a VirtualService.
pub fn virtual_service(one: &VirtualService) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, rule) in one.spec.http.iter().enumerate() {
        let field = format!("spec.http[{index}]");
        let weights = rule.route.iter().map(|one| one.weight);
        weigh(weights, &field, &mut findings);
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

/// Rules that come too late.
fn order(rules: &[HttpRoute], findings: &mut Vec<Finding>) {
    if rules.len() < 2 && rules.iter().all(|rule| rule.matches.len() < 2) {
        return;
    }
    // Blocks by all that they ask for; and those that ask for a prefix of the path alone.
    let mut known: HashMap<String, String> = HashMap::new();
    let mut prefixes: HashMap<&str, String> = HashMap::new();
    let mut end: Option<usize> = None;
    for (index, rule) in rules.iter().enumerate() {
        if let Some(end) = end {
            findings.push(Finding::warning(
                format!("spec.http[{index}]"),
                format!("is never reached: spec.http[{end}] takes every request (IST0130)"),
            ));
            continue;
        }
        let mut own = HashSet::new();
        for (at, block) in rule.matches.iter().enumerate() {
            let field = format!("spec.http[{index}].match[{at}]");
            let asks = HttpMatch {
                name: String::new(),
                stat_prefix: String::new(),
                ..block.clone()
            };
            let text = format!("{asks:?}");
            if let Some(before) = known.get(&text) {
                let message =
                    format!("is never reached: it asks for the same as {before} (IST0131)");
                findings.push(Finding::warning(field, message));
                continue;
            }
            if let Some(before) = covering(block, &prefixes) {
                let message = format!(
                    "is never reached: {before} takes every path that it asks for (IST0131)"
                );
                findings.push(Finding::warning(field, message));
                continue;
            }
            known.insert(text, field.clone());
            own.insert((at, field));
        }
        // Blocks of one rule do the same: they don't hide each other.
        for (at, field) in own {
            let block = &rule.matches[at];
            if let Some(prefix) = only_prefix(block) {
                prefixes.entry(prefix).or_insert(field);
            }
        }
        if rule.matches.is_empty() || rule.matches.iter().any(takes_everything) {
            end = Some(index);
        }
    }
}

/// The prefix of the path, where the block asks for nothing else.
fn only_prefix(block: &HttpMatch) -> Option<&str> {
    let prefix = block.uri.as_ref()?.prefix.as_deref()?;
    let bare = HttpMatch {
        name: block.name.clone(),
        stat_prefix: block.stat_prefix.clone(),
        uri: block.uri.clone(),
        ..HttpMatch::default()
    };
    (bare == *block).then_some(prefix)
}

fn takes_everything(block: &HttpMatch) -> bool {
    let nothing = HttpMatch {
        name: block.name.clone(),
        stat_prefix: block.stat_prefix.clone(),
        ..HttpMatch::default()
    };
    nothing == *block || only_prefix(block).is_some_and(|prefix| matches!(prefix, "" | "/"))
}

/// The block of an earlier rule that takes every path of this one.
fn covering<'a>(block: &HttpMatch, prefixes: &'a HashMap<&str, String>) -> Option<&'a String> {
    if block.ignore_uri_case || prefixes.is_empty() {
        return None;
    }
    let uri = block.uri.as_ref()?;
    let text = uri.exact.as_deref().or(uri.prefix.as_deref())?;
    let mut beginnings = (1..=text.len()).filter_map(|end| text.get(..end));
    beginnings.find_map(|beginning| prefixes.get(beginning))
}
