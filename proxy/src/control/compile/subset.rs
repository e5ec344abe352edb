//! Which DestinationRules speak for a host to a client (Istio's look-up), and their subsets.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::visibility::{ByHost, is_public, named, sees};
use crate::api::DestinationRule;
use crate::api::destination_rule::Subset;
use crate::types::Hostname;

/// Where rules for the whole mesh live.
const ROOT_NAMESPACE: &str = "istio-system";

/// The rules by host, the older first.
pub(super) type Rules = ByHost<Arc<DestinationRule>>;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Client<'a> {
    /// Anyone in a namespace that no rule speaks of.
    Any,
    /// Someone in this namespace.
    In(&'a str),
}

/// Indexes the rules, given from the oldest to the youngest. A rule that is for some clients only
/// is left out (validation has said so).
pub(super) fn index<'a>(
    rules: impl Iterator<Item = &'a Arc<DestinationRule>>,
    cluster_domain: &str,
) -> Rules {
    let mut index = ByHost::new();
    for rule in rules.filter(|rule| rule.spec.workload_selector.is_none()) {
        let namespace = &rule.metadata.namespace;
        let host = Hostname::resolve(&rule.spec.host, namespace, cluster_domain);
        index.insert(&host, Arc::clone(rule));
    }
    index
}

/// The rules in force for `host`, a service of `namespace`: those of the client's namespace, or
/// else of the service's, or else of the root namespace. The first of these that has any wins
/// outright, with its most specific host.
pub(super) fn effective(
    rules: &Rules,
    host: &Hostname,
    namespace: &str,
    client: Client<'_>,
) -> Vec<Arc<DestinationRule>> {
    let seen = |rule: &DestinationRule| {
        let export_to = &rule.spec.export_to;
        match client {
            Client::Any => is_public(export_to),
            Client::In(client) => sees(export_to, &rule.metadata.namespace, client),
        }
    };
    let own = match client {
        Client::In(client) if client != ROOT_NAMESPACE => Some(client),
        _ => None,
    };
    for level in own.into_iter().chain([namespace, ROOT_NAMESPACE]) {
        for list in rules.find(host) {
            let mut found: Vec<Arc<DestinationRule>> = Vec::new();
            for rule in list {
                if &*rule.metadata.namespace != level || !seen(rule) {
                    continue;
                }
                // A younger rule adds its subsets where it is seen by at least as many.
                let adds = found.first().is_none_or(|first| {
                    let wide = is_public(&rule.spec.export_to);
                    let first = &first.spec.export_to;
                    wide || first.iter().all(|one| rule.spec.export_to.contains(one))
                        && !first.is_empty()
                });
                if adds {
                    found.push(Arc::clone(rule));
                }
            }
            if !found.is_empty() {
                return found;
            }
        }
    }
    Vec::new()
}

/// The namespaces whose clients may see other rules for `host` than [`Client::Any`] does.
pub(super) fn particular(rules: &Rules, host: &Hostname) -> BTreeSet<Arc<str>> {
    let mut namespaces = BTreeSet::new();
    for rule in rules.find(host).flatten() {
        let own = &rule.metadata.namespace;
        namespaces.insert(Arc::clone(own));
        named(&rule.spec.export_to, own, &mut namespaces);
    }
    namespaces
}

/// The subsets of `rules`; of two with one name the first counts.
pub(super) fn subsets(rules: &[Arc<DestinationRule>]) -> Vec<&Subset> {
    let mut names = HashSet::new();
    let all = rules.iter().flat_map(|rule| &rule.spec.subsets);
    all.filter(|subset| names.insert(&subset.name)).collect()
}
