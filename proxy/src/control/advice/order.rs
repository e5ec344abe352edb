//! Rules of a VirtualService that come too late: an earlier one takes all that they ask for.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use crate::api::virtual_service::{HttpMatch, HttpRoute};
use crate::types::Finding;

/// Rules that come too late.
pub(super) fn order(rules: &[HttpRoute], findings: &mut Vec<Finding>) {
    if rules.len() < 2 && rules.iter().all(|rule| rule.matches.len() < 2) {
        return;
    }
    // Blocks by all that they ask for; and those that ask for a prefix of the path alone.
    let mut known = HashMap::new();
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
            let asks = asks(block);
            let same = known
                .get(&asks)
                .map(|one| format!("it asks for the same as {one}"));
            let late = same.or_else(|| {
                let before = covering(block, &prefixes)?;
                Some(format!("{before} takes every path that it asks for"))
            });
            if let Some(why) = late {
                let message = format!("is never reached: {why} (IST0131)");
                findings.push(Finding::warning(field, message));
                continue;
            }
            known.insert(asks, field.clone());
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

/// All that a block asks for.
fn asks(block: &HttpMatch) -> impl Hash + Eq + '_ {
    let HttpMatch {
        name: _,
        stat_prefix: _,
        uri,
        ignore_uri_case,
        scheme,
        method,
        authority,
        headers,
        without_headers,
        query_params,
        port,
        source_labels,
        source_namespace,
        gateways,
    } = block;
    (
        uri,
        ignore_uri_case,
        scheme,
        method,
        authority,
        headers,
        without_headers,
        query_params,
        port,
        source_labels,
        source_namespace,
        gateways,
    )
}

/// Whether a block asks for nothing but a path, or for nothing at all.
fn asks_for_path_alone(block: &HttpMatch) -> bool {
    let bare = HttpMatch {
        uri: block.uri.clone(),
        ..HttpMatch::default()
    };
    asks(&bare) == asks(block)
}

/// The prefix of the path, where the block asks for nothing else.
fn only_prefix(block: &HttpMatch) -> Option<&str> {
    let prefix = block.uri.as_ref()?.prefix.as_deref()?;
    asks_for_path_alone(block).then_some(prefix)
}

fn takes_everything(block: &HttpMatch) -> bool {
    match &block.uri {
        None => asks_for_path_alone(block),
        Some(_) => only_prefix(block).is_some_and(|prefix| matches!(prefix, "" | "/")),
    }
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
