//! Which DestinationRules speak for a host to a client (Istio's look-up), and their subsets.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::ROOT_NAMESPACE;
use super::visibility::{ByHost, is_public, named, sees};
use crate::api::DestinationRule;
use crate::api::destination_rule::{Subset, TrafficPolicy};
use crate::policy::matcher::Caller;
use crate::types::Hostname;

/// The rules by host, the older first.
pub(super) type Rules = ByHost<Arc<DestinationRule>>;

/// Rules that are merged into one, the oldest first.
pub(super) type Merged = Vec<Arc<DestinationRule>>;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Client<'a> {
    /// Anyone in a namespace that no rule speaks of.
    Any,
    /// Someone in this namespace.
    In(&'a str),
}

/// The rules in force for a host, as clients of one namespace see them.
#[derive(Debug, Default)]
pub(super) struct Effective {
    /// For the clients that a `workloadSelector` selects; the first one counts.
    pub(super) selected: Vec<(Arc<Caller>, Merged)>,
    /// For all others.
    pub(super) others: Merged,
}

/// The older first.
pub(super) fn order(one: &Arc<DestinationRule>, other: &Arc<DestinationRule>) -> Ordering {
    one.metadata.age().cmp(&other.metadata.age())
}

/// The rules in force for `host`, a service of `namespace`: those of the client's namespace, or
/// else of the service's, or else of the root namespace. The first of these that has any wins
/// outright, with its most specific host.
pub(super) fn effective(
    rules: &Rules,
    host: &Hostname,
    namespace: &str,
    client: Client<'_>,
) -> Effective {
    let seen = |rule: &DestinationRule| {
        let own = &*rule.metadata.namespace;
        let export_to = &rule.spec.export_to;
        match client {
            // A rule for some workloads is for those of its own namespace.
            Client::In(client) if rule.spec.workload_selector.is_some() => client == own,
            Client::Any if rule.spec.workload_selector.is_some() => false,
            Client::Any => is_public(export_to),
            Client::In(client) => sees(export_to, own, client),
        }
    };
    let own = match client {
        Client::In(client) if client != ROOT_NAMESPACE => Some(client),
        _ => None,
    };
    for level in own.into_iter().chain([namespace, ROOT_NAMESPACE]) {
        for list in rules.find(host) {
            let list: Vec<_> = list
                .iter()
                .filter(|rule| &*rule.metadata.namespace == level && seen(rule))
                .collect();
            if !list.is_empty() {
                return merge(&list);
            }
        }
    }
    Effective::default()
}

/// Puts together what says the same about whom it is for.
fn merge(list: &[&Arc<DestinationRule>]) -> Effective {
    let mut effective = Effective::default();
    for rule in list {
        let selector = rule.spec.workload_selector.as_ref();
        let Some(selector) = selector.filter(|one| !one.match_labels.is_empty()) else {
            if adds(&effective.others, rule) {
                effective.others.push(Arc::clone(rule));
            }
            continue;
        };
        let known = &mut effective.selected;
        match known
            .iter_mut()
            .find(|(one, _)| one.labels == selector.match_labels)
        {
            Some((_, merged)) => merged.push(Arc::clone(rule)),
            None => {
                let caller = Caller {
                    namespace: None,
                    labels: selector.match_labels.clone(),
                };
                known.push((Arc::new(caller), vec![Arc::clone(rule)]));
            }
        }
    }
    effective
}

/// A younger rule adds to an older one where it is seen by at least as many.
fn adds(merged: &Merged, rule: &DestinationRule) -> bool {
    merged.first().is_none_or(|first| {
        let first = &first.spec.export_to;
        is_public(&rule.spec.export_to)
            || !first.is_empty() && first.iter().all(|one| rule.spec.export_to.contains(one))
    })
}

/// Every rule that speaks of `host`, to whomever: all that the clusters of a service depend on,
/// besides the service itself and its endpoints.
pub(super) fn all<'a>(
    rules: &'a Rules,
    host: &'a Hostname,
) -> impl Iterator<Item = &'a Arc<DestinationRule>> {
    rules.find(host).flatten()
}

/// The namespaces whose clients may see other rules for `host` than [`Client::Any`] does.
pub(super) fn particular(rules: &Rules, host: &Hostname) -> BTreeSet<Arc<str>> {
    let mut namespaces = BTreeSet::new();
    for rule in all(rules, host) {
        let own = &rule.metadata.namespace;
        namespaces.insert(Arc::clone(own));
        named(&rule.spec.export_to, own, &mut namespaces);
    }
    namespaces
}

/// The subsets of `rules`; of two with one name the first counts.
pub(super) fn subsets(rules: &Merged) -> Vec<&Subset> {
    let mut names = HashSet::new();
    let all = rules.iter().flat_map(|rule| &rule.spec.subsets);
    all.filter(|subset| names.insert(&subset.name)).collect()
}

/// The policy of `rules`: the oldest rule that has one.
pub(super) fn policy(rules: &Merged) -> Option<&TrafficPolicy> {
    let mut policies = rules
        .iter()
        .filter_map(|rule| rule.spec.traffic_policy.as_ref());
    policies.next()
}
