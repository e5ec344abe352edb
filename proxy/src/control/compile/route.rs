//! The route table of a service's port: a VirtualService's rules as they read at that port, or one
//! plain rule.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use super::rules::{self, Block, Forwarding, Place, Plan, Routes, Template};
use super::visibility::{ByHost, is_public, named, sees};
use crate::mesh::{Action, Destination, Forward, Mirror, RouteTable, Rule};
use crate::policy::matcher::Match;
use crate::policy::split::Weights;
use crate::types::{ClusterName, Hostname};

/// VirtualServices for mesh traffic by host, the older first.
pub(super) type Rules = ByHost<Arc<Routes>>;

/// The ports of a service, for a destination that names none.
pub(super) trait Ports {
    /// The only port of `host`, where it has exactly one.
    fn only_port(&self, host: &Hostname) -> Option<u16>;
}

/// The name of a rule that has none (Istio).
static DEFAULT: LazyLock<Arc<str>> = LazyLock::new(|| "default".into());

/// The older first.
pub(super) fn order(one: &Arc<Routes>, other: &Arc<Routes>) -> Ordering {
    one.source.metadata.age().cmp(&other.source.metadata.age())
}

/// Whose rules apply to a host.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// For a caller in a namespace that no `exportTo` names.
    pub(super) public: Option<Arc<Routes>>,
    /// For callers in these namespaces, where it is another.
    pub(super) private: BTreeMap<Arc<str>, Option<Arc<Routes>>>,
}

/// The VirtualServices that own `host`: for each caller the most specific that it sees, and among
/// these the oldest. They are not merged (Istio's rule for mesh traffic).
pub(super) fn owners(rules: &Rules, host: &Hostname) -> Owners {
    let mut owners = Owners::default();
    let mut namespaces = std::collections::BTreeSet::new();
    for routes in rules.find(host).flatten() {
        let spec = &routes.source.spec;
        if owners.public.is_none() && is_public(&spec.export_to) {
            owners.public = Some(Arc::clone(routes));
        }
        named(
            &spec.export_to,
            &routes.reference.namespace,
            &mut namespaces,
        );
    }
    for namespace in namespaces {
        let mut all = rules.find(host).flatten();
        let seen = all.find(|one| {
            sees(
                &one.source.spec.export_to,
                &one.reference.namespace,
                &namespace,
            )
        });
        let same = match (seen, &owners.public) {
            (Some(seen), Some(public)) => Arc::ptr_eq(seen, public),
            (None, None) => true,
            _ => false,
        };
        if !same {
            owners.private.insert(namespace, seen.cloned());
        }
    }
    owners
}

/// The plain table of a service without rules.
pub(super) fn plain(cluster: &ClusterName) -> RouteTable {
    let forward = Forward::to(cluster.clone(), rules::default_retry());
    let rule = Rule {
        name: Arc::clone(&DEFAULT),
        matches: Arc::default(),
        action: Action::Forward(Arc::new(forward)),
        headers: rules::no_operations(),
        cors: None,
        fault: None,
        stat_prefix: None,
    };
    RouteTable::new(None, vec![Arc::new(rule)])
}

/// The clusters that the rules of `routes` lead to at `port`, in order: all that a table depends on
/// besides `routes` itself.
pub(super) fn clusters(routes: &Routes, port: u16, ports: &impl Ports) -> Vec<ClusterName> {
    let places = routes.rules.iter().flat_map(Template::places);
    places.map(|place| cluster(place, port, ports)).collect()
}

/// The ports of those clusters, which tell as much.
pub(super) fn ports(routes: &Routes, port: u16, ports: &impl Ports) -> impl Iterator<Item = u16> {
    let places = routes.rules.iter().flat_map(Template::places);
    places.map(move |place| port_of(place, port, ports))
}

fn port_of(place: &Place, port: u16, ports: &impl Ports) -> u16 {
    place
        .port
        .or_else(|| ports.only_port(&place.host))
        .unwrap_or(port)
}

/// The cluster that `place` means for traffic to `port`.
pub(super) fn cluster(place: &Place, port: u16, ports: &impl Ports) -> ClusterName {
    let port = port_of(place, port, ports);
    ClusterName::outbound(port, place.subset.as_deref(), &place.host)
}

/// The table of `routes` at `port`; `clusters` as [`clusters`] gave them.
pub(super) fn table(routes: &Routes, port: u16, clusters: &[ClusterName]) -> RouteTable {
    let mut rules = Vec::with_capacity(routes.rules.len());
    let mut clusters = clusters.iter().cloned();
    for template in &routes.rules {
        let action = match &template.plan {
            Plan::Redirect(redirect) => Action::Redirect(Arc::clone(redirect)),
            Plan::Respond(response) => Action::Respond(Arc::clone(response)),
            Plan::Forward(forwarding) => {
                let Some(forward) = forward(forwarding, &mut clusters) else {
                    continue;
                };
                Action::Forward(Arc::new(forward))
            }
        };
        rules_of(template, port, &action, &mut rules);
    }
    RouteTable::new(Some(Arc::clone(&routes.reference)), rules)
}

/// Takes as many of `clusters` as there are places.
fn forward(
    forwarding: &Forwarding,
    clusters: &mut impl Iterator<Item = ClusterName>,
) -> Option<Forward> {
    let targets = forwarding.targets.iter().zip(clusters.by_ref());
    let destinations = targets
        .map(|(target, cluster)| Destination {
            cluster,
            headers: target.headers.clone(),
            names_port: target.place.port.is_some(),
        })
        .collect();
    let mirrors = forwarding.mirrors.iter().zip(clusters);
    let mirrors = mirrors
        .map(|(mirror, cluster)| Mirror {
            cluster,
            share: mirror.share,
        })
        .collect();
    Some(Forward {
        destinations,
        weights: Weights::new(forwarding.targets.iter().map(|one| one.weight))?,
        rewrite: forwarding.rewrite.clone(),
        timeout: forwarding.timeout,
        retry: Arc::clone(&forwarding.retry),
        mirrors,
    })
}

/// One rule, or one for each match block that has a name or a statistics prefix: the block's name
/// becomes a part of the rule's.
fn rules_of(template: &Template, port: u16, action: &Action, rules: &mut Vec<Arc<Rule>>) {
    let rule = |name: &str, stat_prefix: Option<&Arc<String>>, matches: Arc<[Match]>| {
        Arc::new(Rule {
            name: if name.is_empty() {
                Arc::clone(&DEFAULT)
            } else {
                name.into()
            },
            matches,
            action: action.clone(),
            headers: Arc::clone(&template.headers),
            cors: template.cors.clone(),
            fault: template.fault.clone(),
            stat_prefix: stat_prefix.cloned(),
        })
    };
    let Some(blocks) = &template.blocks else {
        rules.push(rule(&template.name, None, Arc::default()));
        return;
    };
    let here = |block: &Block| block.port.is_none_or(|one| one == port);
    let alike = |block: &Block| block.name.is_empty() && block.stat_prefix.is_none();
    // Tables of all ports share the conditions, where they ask for no port.
    if blocks.iter().all(|block| here(block) && alike(block)) {
        if !blocks.is_empty() {
            rules.push(rule(&template.name, None, Arc::clone(&template.conditions)));
        }
        return;
    }
    let blocks = blocks.iter().zip(template.conditions.iter());
    let blocks: Vec<(&Block, &Match)> = blocks.filter(|(block, _)| here(block)).collect();
    if blocks.iter().all(|(block, _)| alike(block)) {
        if !blocks.is_empty() {
            let matches = blocks.iter().map(|(_, condition)| (*condition).clone());
            rules.push(rule(&template.name, None, matches.collect()));
        }
        return;
    }
    for (block, condition) in blocks {
        let name = match (template.name.as_str(), block.name.as_str()) {
            ("", _) => String::new(),
            (rule, "") => rule.to_owned(),
            (rule, block) => format!("{rule}.{block}"),
        };
        let conditions = [condition.clone()];
        rules.push(rule(&name, block.stat_prefix.as_ref(), conditions.into()));
    }
}
