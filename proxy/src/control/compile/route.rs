//! The route table of a service's port: a VirtualService's rules as they read at that port, or one
//! plain rule.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rules::{Block, Routes, Target, Template};
use super::visibility::{ByHost, is_public, named, sees};
use crate::mesh::{Action, Destination, RouteTable, Rule};
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
const DEFAULT: &str = "default";

/// Indexes VirtualServices for mesh traffic, given from the oldest to the youngest.
pub(super) fn index<'a>(routes: impl Iterator<Item = &'a Arc<Routes>>) -> Rules {
    let mut index = ByHost::new();
    for one in routes {
        for host in &one.hosts {
            index.insert(host, Arc::clone(one));
        }
    }
    index
}

impl Routes {
    /// One that routes TCP or TLS alone says nothing about HTTP, and one for gateways alone nothing
    /// about the mesh.
    pub(super) fn is_for_mesh_http(&self) -> bool {
        !self.source.spec.http.is_empty() && self.source.spec.is_for_mesh()
    }
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
    let destinations = vec![Destination {
        cluster: cluster.clone(),
    }];
    let rules = Weights::new([1]).map(|weights| {
        Arc::new(Rule {
            name: DEFAULT.into(),
            matches: Vec::new(),
            action: Action::Forward {
                destinations,
                weights,
            },
        })
    });
    RouteTable {
        source: None,
        rules: rules.into_iter().collect(),
    }
}

/// The clusters that the rules of `routes` lead to at `port`, in order: all that a table depends on
/// besides `routes` itself.
pub(super) fn clusters(routes: &Routes, port: u16, ports: &impl Ports) -> Vec<ClusterName> {
    let targets = routes.rules.iter().flat_map(|rule| &rule.targets);
    targets.map(|target| cluster(target, port, ports)).collect()
}

fn cluster(target: &Target, port: u16, ports: &impl Ports) -> ClusterName {
    let port = target
        .port
        .or_else(|| ports.only_port(&target.host))
        .unwrap_or(port);
    ClusterName::outbound(port, target.subset.as_deref(), &target.host)
}

/// The table of `routes` at `port`; `clusters` as [`clusters`] gave them.
pub(super) fn table(routes: &Routes, port: u16, clusters: &[ClusterName]) -> RouteTable {
    let mut rules = Vec::new();
    let mut clusters = clusters.iter();
    for template in &routes.rules {
        let destinations: Vec<Destination> = clusters
            .by_ref()
            .take(template.targets.len())
            .map(|cluster| Destination {
                cluster: cluster.clone(),
            })
            .collect();
        let Some(weights) = Weights::new(template.targets.iter().map(|one| one.weight)) else {
            continue;
        };
        let action = Action::Forward {
            destinations,
            weights,
        };
        rules_of(template, port, action, &mut rules);
    }
    RouteTable {
        source: Some(routes.reference.clone()),
        rules,
    }
}

/// One rule, or one for each named match block: the block's name becomes a part of the rule's.
fn rules_of(template: &Template, port: u16, action: Action, rules: &mut Vec<Arc<Rule>>) {
    let rule = |name: &str, matches| {
        Arc::new(Rule {
            name: if name.is_empty() {
                DEFAULT.into()
            } else {
                name.into()
            },
            matches,
            action: action.clone(),
        })
    };
    let Some(blocks) = &template.blocks else {
        rules.push(rule(&template.name, Vec::new()));
        return;
    };
    let here = |block: &&Block| block.port.is_none_or(|one| one == port);
    let blocks: Vec<&Block> = blocks.iter().filter(here).collect();
    if blocks.iter().all(|block| block.name.is_empty()) {
        if !blocks.is_empty() {
            let matches = blocks.iter().map(|block| block.condition.clone()).collect();
            rules.push(rule(&template.name, matches));
        }
        return;
    }
    for block in blocks {
        let name = match (template.name.as_str(), block.name.as_str()) {
            ("", _) => DEFAULT.to_owned(),
            (rule, "") => rule.to_owned(),
            (rule, block) => format!("{rule}.{block}"),
        };
        rules.push(rule(&name, vec![block.condition.clone()]));
    }
}
