//! The table of a service's port for connections that are not HTTP: the `tcp` and `tls` rules of all
//! VirtualServices that name the host, the older first. (Istio does not choose one of them, as it
//! does for HTTP.)

use std::collections::BTreeMap;
use std::sync::Arc;

use super::route::{self, Ports};
use super::rules::{L4Template, Routes};
use super::visibility::{ByHost, is_public, named, sees};
use crate::mesh::{Destination, L4Kind, L4Rule, L4Table};
use crate::policy::split::Weights;
use crate::types::{ClusterName, Hostname, ObjectRef, Protocol};

/// VirtualServices that have such rules, by host.
pub(super) type Rules = ByHost<Arc<Routes>>;

/// A table, and out of what it was made.
#[derive(Debug)]
pub(super) struct KeptL4 {
    routes: Vec<Arc<Routes>>,
    clusters: Vec<ClusterName>,
    table: Arc<L4Table>,
}

/// Who has which rules for a host: everyone, and callers in namespaces that see others.
pub(super) struct Audiences {
    pub(super) public: Vec<Arc<Routes>>,
    pub(super) private: BTreeMap<Arc<str>, Vec<Arc<Routes>>>,
}

/// The rules for `host`.
pub(super) fn audiences(rules: &Rules, host: &Hostname) -> Audiences {
    let mut all: Vec<&Arc<Routes>> = rules.find(host).flatten().collect();
    all.sort_by(|one, other| one.source.metadata.age().cmp(&other.source.metadata.age()));
    let seen_by = |sees: &dyn Fn(&Routes) -> bool| -> Vec<Arc<Routes>> {
        all.iter()
            .filter(|one| sees(one))
            .map(|one| Arc::clone(one))
            .collect()
    };
    let public = seen_by(&|one| is_public(&one.source.spec.export_to));
    let mut namespaces = std::collections::BTreeSet::new();
    for one in &all {
        named(
            &one.source.spec.export_to,
            &one.reference.namespace,
            &mut namespaces,
        );
    }
    let mut private = BTreeMap::new();
    for namespace in namespaces {
        let own = seen_by(&|one| {
            sees(
                &one.source.spec.export_to,
                &one.reference.namespace,
                &namespace,
            )
        });
        if !same(&own, &public) {
            private.insert(namespace, own);
        }
    }
    Audiences { public, private }
}

fn same(one: &[Arc<Routes>], other: &[Arc<Routes>]) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|(one, other)| Arc::ptr_eq(one, other))
}

/// What a port's protocol lets rules ask about; `None` for HTTP.
pub(super) fn kind(protocol: Protocol) -> Option<L4Kind> {
    match protocol {
        Protocol::Tls => Some(L4Kind::Tls),
        Protocol::Tcp | Protocol::Auto => Some(L4Kind::Tcp),
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => None,
    }
}

fn templates(routes: &[Arc<Routes>], kind: L4Kind) -> impl Iterator<Item = (&Routes, &L4Template)> {
    routes.iter().flat_map(move |one| {
        let rules = one.l4.iter().filter(move |rule| rule.kind == kind);
        rules.map(|rule| (&**one, rule))
    })
}

impl KeptL4 {
    /// The table at `port`; the one from before where it was made of the same. `None` where no rule
    /// is for that port.
    pub(super) fn make(
        routes: &[Arc<Routes>],
        kind: L4Kind,
        port: u16,
        ports: &impl Ports,
        before: &[Self],
    ) -> Option<(Self, bool)> {
        let here = |(_, rule): &(&Routes, &L4Template)| {
            let mut blocks = rule.blocks.iter();
            blocks.any(|block| block.port.is_none_or(|one| one == port))
        };
        let rules: Vec<_> = templates(routes, kind).filter(here).collect();
        if rules.is_empty() {
            return None;
        }
        let targets = rules.iter().flat_map(|(_, rule)| &rule.targets);
        let clusters: Vec<ClusterName> = targets
            .map(|target| route::cluster(&target.place, port, ports))
            .collect();
        let kept = before.iter().find(|one| {
            one.table.kind == kind && same(&one.routes, routes) && one.clusters == clusters
        });
        let made = kept.is_none();
        let table = match kept {
            Some(kept) => Arc::clone(&kept.table),
            None => Arc::new(table(&rules, kind, port, &clusters)),
        };
        let kept = Self {
            routes: routes.to_vec(),
            clusters,
            table,
        };
        Some((kept, made))
    }

    /// The table.
    pub(super) fn table(&self) -> &Arc<L4Table> {
        &self.table
    }
}

fn table(
    rules: &[(&Routes, &L4Template)],
    kind: L4Kind,
    port: u16,
    clusters: &[ClusterName],
) -> L4Table {
    let mut clusters = clusters.iter().cloned();
    let mut made = Vec::new();
    for (routes, rule) in rules {
        let targets = rule.targets.iter().zip(clusters.by_ref());
        let destinations: Vec<Destination> = targets
            .map(|(target, cluster)| Destination {
                cluster,
                headers: None,
                names_port: target.place.port.is_some(),
            })
            .collect();
        let Some(weights) = Weights::new(rule.targets.iter().map(|one| one.weight)) else {
            continue;
        };
        let name: Arc<str> = match kind {
            L4Kind::Tcp => format!("tcp[{}]", rule.index),
            L4Kind::Tls => format!("tls[{}]", rule.index),
        }
        .into();
        for block in &rule.blocks {
            if block.port.is_some_and(|one| one != port) {
                continue;
            }
            made.push(Arc::new(L4Rule {
                source: ObjectRef::clone(&routes.reference),
                name: Arc::clone(&name),
                server_names: block.server_names.clone(),
                subnets: block.subnets.clone(),
                caller: block.caller.clone(),
                destinations: destinations.clone(),
                weights: weights.clone(),
            }));
        }
    }
    L4Table { kind, rules: made }
}
