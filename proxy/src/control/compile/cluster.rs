//! The clusters of a service's ports: of the whole service, and of each subset, for everyone and for
//! the callers that see other DestinationRules.

use std::sync::Arc;

use super::endpoint::{Index, has_labels};
use super::subset::{self, Client};
use super::world::World;
use super::{Build, Compiler};
use crate::api;
use crate::mesh::{Cluster, Endpoint, Variants};
use crate::types::{ClusterName, Hostname, Protocol};

impl Compiler {
    /// The clusters of each port: of the whole service, and of each subset.
    pub(super) fn clusters_of(
        &self,
        hostname: &Hostname,
        service: &api::Service,
        pods: &Index<'_>,
        world: &World<'_>,
        build: &mut Build,
    ) {
        let namespace = &*service.metadata.namespace;
        let rules = subset::effective(&world.destination_rules, hostname, namespace, Client::Any);
        let subsets = subset::subsets(&rules);
        let particular = subset::particular(&world.destination_rules, hostname);
        for port in service.spec.ports.iter().filter(|port| port.is_tcp()) {
            let endpoints = pods.endpoints(service, port);
            let of_subset = |subset: &api::destination_rule::Subset| {
                let in_subset = |one: &&Endpoint| {
                    subset.labels.is_empty()
                        || one
                            .workload
                            .as_ref()
                            .is_some_and(|one| has_labels(&one.labels, &subset.labels))
                };
                endpoints
                    .iter()
                    .filter(in_subset)
                    .cloned()
                    .collect::<Vec<_>>()
            };
            let protocol = protocol(port);
            let cluster = |subset: Option<&Arc<str>>,
                           endpoints: Vec<Endpoint>,
                           before: Option<&Arc<Cluster>>| {
                let name = ClusterName::outbound(port.port, subset.map(|one| &**one), hostname);
                let before = before.or_else(|| self.last.clusters.get(&name));
                let new = Cluster {
                    name,
                    hostname: hostname.clone(),
                    port: port.port,
                    subset: subset.cloned(),
                    protocol,
                    endpoints: endpoints.into(),
                    policy: Arc::clone(&self.default_policy),
                };
                keep(new, before)
            };
            let mut add = |one: Arc<Cluster>| build.clusters.insert(one.name.clone(), one);
            add(cluster(None, endpoints.clone(), None));
            for subset in &subsets {
                add(cluster(Some(&subset.name), of_subset(subset), None));
            }
            for namespace in &particular {
                let client = Client::In(namespace);
                let own = subset::effective(
                    &world.destination_rules,
                    hostname,
                    &service.metadata.namespace,
                    client,
                );
                let same = own.len() == rules.len()
                    && own
                        .iter()
                        .zip(&rules)
                        .all(|(one, other)| Arc::ptr_eq(one, other));
                if same {
                    continue;
                }
                let own = subset::subsets(&own);
                let private = build
                    .private_clusters
                    .entry(Arc::clone(namespace))
                    .or_default();
                for hidden in subsets
                    .iter()
                    .filter(|one| own.iter().all(|own| own.name != one.name))
                {
                    let none = Variants {
                        others: Some(None),
                        ..Variants::default()
                    };
                    private.insert(
                        ClusterName::outbound(port.port, Some(&hidden.name), hostname),
                        none,
                    );
                }
                let before = self.last.private_clusters.get(namespace);
                for subset in own {
                    let name = ClusterName::outbound(port.port, Some(&subset.name), hostname);
                    let before = before.and_then(|one| one.get(&name)?.others.as_ref()?.as_ref());
                    let one = cluster(Some(&subset.name), of_subset(subset), before);
                    let own = Variants {
                        others: Some(Some(one)),
                        ..Variants::default()
                    };
                    private.insert(name, own);
                }
            }
        }
    }
}

/// What a port declares to carry.
pub(super) fn protocol(port: &api::service::ServicePort) -> Protocol {
    let name = (!port.name.is_empty()).then_some(&*port.name);
    Protocol::declared(port.app_protocol.as_deref(), name)
}

/// The cluster as it was, where nothing changed; otherwise the new one, with the old list where
/// that did not change.
fn keep(mut new: Cluster, before: Option<&Arc<Cluster>>) -> Arc<Cluster> {
    let Some(before) = before else {
        return Arc::new(new);
    };
    if before.endpoints == new.endpoints {
        if before.protocol == new.protocol && before.policy == new.policy {
            return Arc::clone(before);
        }
        new.endpoints = Arc::clone(&before.endpoints);
    }
    Arc::new(new)
}
