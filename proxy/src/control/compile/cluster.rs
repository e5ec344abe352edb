//! The clusters of a service's ports: of the whole service, and of each subset, for everyone and for
//! the callers that see other DestinationRules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::endpoint::{Index, Input, has_labels};
use super::policy::{self, Distribution};
use super::subset::{self, Client, Merged};
use super::world::World;
use super::{Build, Compiler, origination};
use crate::api::{self, DestinationRule, Namespace};
use crate::control::store::Objects;
use crate::mesh::{Cluster, Endpoint, Variants};
use crate::types::{ClusterName, Hostname, Percent, Protocol};

/// The annotation of a Service or a Namespace that asks for a traffic distribution.
const DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// What callers in a namespace have in the place of a cluster.
type Private = (Arc<str>, ClusterName, Variants);

/// The clusters of one service, and out of what they were made.
#[derive(Debug)]
pub(super) struct KeptClusters {
    service: Arc<api::Service>,
    namespace: Option<Arc<Namespace>>,
    rules: Box<[Arc<DestinationRule>]>,
    inputs: Box<[Input]>,
    clusters: Box<[Arc<Cluster>]>,
    private: Box<[Private]>,
    /// Of the first and of the last snapshot that has them.
    made: u64,
    pub(super) version: u64,
}

impl KeptClusters {
    /// Whether they were made for a snapshot before this version: then the service is the same too.
    pub(super) fn is_of_before(&self, version: u64) -> bool {
        self.made < version
    }

    fn enter(&self, build: &mut Build) {
        let clusters = Arc::make_mut(&mut build.clusters);
        for cluster in &self.clusters {
            clusters.insert(Arc::clone(cluster));
        }
        if self.private.is_empty() {
            return;
        }
        let private = Arc::make_mut(&mut build.private_clusters);
        for (namespace, name, variants) in &self.private {
            let of_namespace = private.entry(Arc::clone(namespace)).or_default();
            of_namespace.insert(name.clone(), variants.clone());
        }
    }

    fn leave(&self, build: &mut Build) {
        let clusters = Arc::make_mut(&mut build.clusters);
        for cluster in &self.clusters {
            clusters.remove(&cluster.name);
        }
        if self.private.is_empty() {
            return;
        }
        let private = Arc::make_mut(&mut build.private_clusters);
        for (namespace, name, _) in &self.private {
            if let Some(of_namespace) = private.get_mut(namespace) {
                of_namespace.remove(name);
                if of_namespace.is_empty() {
                    private.remove(namespace);
                }
            }
        }
    }

    fn is_of<'a>(
        &self,
        service: &Arc<api::Service>,
        namespace: Option<&Arc<Namespace>>,
        mut rules: impl Iterator<Item = &'a Arc<DestinationRule>>,
        inputs: &[Input],
    ) -> bool {
        let same_namespace = match (&self.namespace, namespace) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            _ => false,
        };
        let mut before = self.rules.iter();
        let same_rules = before.all(|one| rules.next().is_some_and(|rule| Arc::ptr_eq(one, rule)))
            && rules.next().is_none();
        Arc::ptr_eq(&self.service, service)
            && same_namespace
            && same_rules
            && *self.inputs == *inputs
    }
}

/// One cluster of a port for each subset, and one for the whole.
type Set = BTreeMap<Option<Arc<str>>, Arc<Cluster>>;

impl Compiler {
    /// The clusters of each port: of the whole service, and of each subset.
    pub(super) fn clusters_of(
        &mut self,
        hostname: &Hostname,
        service: &Arc<api::Service>,
        objects: &Objects,
        pods: &Index<'_>,
        world: &World,
        build: &mut Build,
    ) {
        let namespace = objects.namespaces.get(&service.metadata.namespace);
        let rules = || subset::all(&world.destination_rules, hostname);
        let inputs = pods.inputs(service);
        let before = self.clusters.get_mut(hostname);
        let before = before.filter(|kept| kept.is_of(service, namespace, rules(), &inputs));
        if let Some(kept) = before {
            kept.version = build.version;
            if build.anew {
                kept.enter(build);
            }
            return;
        }
        build.work.clusters += 1;
        let before = self.drop_clusters(hostname, build);
        let before = (before.as_deref(), build.now);
        let (clusters, private) =
            self.make_clusters(hostname, service, namespace, pods, world, before);
        let kept = KeptClusters {
            service: Arc::clone(service),
            namespace: namespace.cloned(),
            rules: rules().cloned().collect(),
            inputs: inputs.into(),
            clusters: clusters.into(),
            private: private.into(),
            made: build.version,
            version: build.version,
        };
        kept.enter(build);
        self.clusters.insert(hostname.clone(), Box::new(kept));
    }

    /// Drops the clusters of a host from what is kept, and from the snapshot where they are in it.
    pub(super) fn drop_clusters(
        &mut self,
        hostname: &Hostname,
        build: &mut Build,
    ) -> Option<Box<KeptClusters>> {
        let before = self.clusters.remove(hostname)?;
        if !build.anew {
            before.leave(build);
        }
        Some(before)
    }

    fn make_clusters(
        &self,
        hostname: &Hostname,
        service: &api::Service,
        namespace: Option<&Arc<Namespace>>,
        pods: &Index<'_>,
        world: &World,
        (before, now): (Option<&KeptClusters>, Option<SystemTime>),
    ) -> (Vec<Arc<Cluster>>, Vec<Private>) {
        let own = &*service.metadata.namespace;
        let rules = &world.destination_rules;
        let public = subset::effective(rules, hostname, own, Client::Any);
        let private: Vec<_> = subset::particular(rules, hostname)
            .into_iter()
            .map(|client| {
                let effective = subset::effective(rules, hostname, own, Client::In(&client));
                (client, effective)
            })
            .filter(|(_, effective)| {
                !effective.selected.is_empty() || !same(&effective.others, &public.others)
            })
            .collect();
        let (mut clusters, mut variants) = (Vec::new(), Vec::new());
        for port in service.spec.ports.iter().filter(|port| port.is_tcp()) {
            let before: Option<Set> = before.map(|one| {
                let clusters = one.clusters.iter().filter(|one| one.port == port.port);
                let clusters = clusters.map(|one| (one.subset().map(Into::into), Arc::clone(one)));
                clusters.collect()
            });
            let mut endpoints = pods.endpoints(service, port);
            if let Some(whole) = before.as_ref().and_then(|one| one.get(&None)) {
                date(&mut endpoints, &whole.endpoints, now);
            }
            let maker = Maker {
                hostname,
                port: port.port,
                protocol: protocol(port),
                endpoints: endpoints.into(),
                distribution: distribution(service, namespace),
                default: &self.default_policy,
                before,
            };
            let everyone = maker.set(&public.others);
            for (client, effective) in &private {
                let others = maker.set(&effective.others);
                let selected: Vec<_> = effective
                    .selected
                    .iter()
                    .map(|(caller, rules)| (Arc::clone(caller), maker.set(rules)))
                    .collect();
                let sets = selected.iter().map(|(_, set)| set);
                let names = sets.chain([&everyone, &others]).flat_map(BTreeMap::keys);
                for subset in names.collect::<BTreeSet<_>>() {
                    let name = ClusterName::outbound(port.port, subset.as_deref(), hostname);
                    let (own, theirs) = (others.get(subset), everyone.get(subset));
                    let alike = match (own, theirs) {
                        (Some(own), Some(theirs)) => is_same(own, theirs),
                        (None, None) => true,
                        _ => false,
                    };
                    let chosen = Variants {
                        selected: selected
                            .iter()
                            .map(|(caller, set)| (Arc::clone(caller), set.get(subset).cloned()))
                            .collect(),
                        others: (!alike).then(|| own.cloned()),
                    };
                    if !chosen.selected.is_empty() || chosen.others.is_some() {
                        variants.push((Arc::clone(client), name, chosen));
                    }
                }
            }
            clusters.extend(everyone.into_values());
        }
        if let Some(before) = before {
            keep_variants(&mut variants, &before.private);
        }
        (clusters, variants)
    }
}

/// Since when `endpoints` are there: what has joined those of the time before has done so now,
/// however long its Pod has been ready (Envoy, whose slow start counts from when it heard of them).
fn date(endpoints: &mut [Endpoint], before: &[Endpoint], now: Option<SystemTime>) {
    for endpoint in endpoints {
        // Both are sorted by address.
        let known = before.binary_search_by_key(&endpoint.address, |one| one.address);
        endpoint.since = match known {
            Ok(at) => endpoint.since.max(before[at].since),
            Err(_) => now,
        };
    }
}

/// Takes over the clusters of the time before that say the same.
fn keep_variants(now: &mut [Private], before: &[Private]) {
    for (client, name, variants) in now {
        let mut before = before.iter();
        let Some((.., before)) = before.find(|(c, n, _)| c == client && n == name) else {
            continue;
        };
        let old = before.selected.iter().map(|(_, one)| one);
        let old: Vec<_> = old.chain(&before.others).flatten().collect();
        let new = variants.selected.iter_mut().map(|(_, one)| one);
        for one in new.chain(&mut variants.others).flatten() {
            if let Some(same) = old.iter().find(|old| is_same(old, one)) {
                *one = Arc::clone(same);
            }
        }
    }
}

/// What the clusters of one port have in common.
struct Maker<'a> {
    hostname: &'a Hostname,
    port: u16,
    protocol: Protocol,
    endpoints: Arc<[Endpoint]>,
    distribution: Option<Distribution>,
    default: &'a Arc<crate::mesh::cluster::Policy>,
    /// As it was the time before, for everyone.
    before: Option<Set>,
}

impl Maker<'_> {
    /// The clusters under `rules`.
    fn set(&self, rules: &Merged) -> Set {
        let policy = subset::policy(rules);
        let whole = self.cluster(None, Arc::clone(&self.endpoints), policy, None);
        let mut set = BTreeMap::from([(None, whole)]);
        for subset in subset::subsets(rules) {
            let endpoints = if subset.labels.is_empty() || self.endpoints.is_empty() {
                Arc::clone(&self.endpoints)
            } else {
                let members = self
                    .endpoints
                    .iter()
                    .filter(|one| has_labels(one, &subset.labels));
                members.cloned().collect()
            };
            let own = subset.traffic_policy.as_ref();
            let cluster = self.cluster(Some(&subset.name), endpoints, policy, own);
            set.insert(Some(Arc::clone(&subset.name)), cluster);
        }
        set
    }

    fn cluster(
        &self,
        subset: Option<&Arc<str>>,
        endpoints: Arc<[Endpoint]>,
        rule: Option<&api::destination_rule::TrafficPolicy>,
        own: Option<&api::destination_rule::TrafficPolicy>,
    ) -> Arc<Cluster> {
        let before = self
            .before
            .as_ref()
            .and_then(|set| set.get(&subset.cloned()));
        let mut policy = policy::compile(rule, own, self.port, self.distribution);
        policy.tls = policy::tls(rule, own, self.port).and_then(|tls| {
            origination::compile(tls, self.hostname, self.port, subset.map(|one| &**one))
        });
        // A panic would use them: Istio then tells no proxy of endpoints that are not ready.
        let endpoints = match policy.panic_threshold {
            Percent::ZERO => endpoints,
            _ if endpoints.iter().all(|one| one.ready) => endpoints,
            _ => endpoints.iter().filter(|one| one.ready).cloned().collect(),
        };
        let before_policy = before.map(|one| &one.policy);
        let new = Cluster {
            name: match before {
                Some(before) => before.name.clone(),
                None => ClusterName::outbound(self.port, subset.map(|one| &**one), self.hostname),
            },
            hostname: self.hostname.clone(),
            port: self.port,
            protocol: self.protocol,
            endpoints,
            policy: policy::keep(policy, before_policy, self.default),
        };
        keep(new, before)
    }
}

fn same(one: &Merged, other: &Merged) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|(one, other)| Arc::ptr_eq(one, other))
}

fn is_same(one: &Cluster, other: &Cluster) -> bool {
    one.endpoints == other.endpoints && one.policy == other.policy && one.protocol == other.protocol
}

/// The Service's own traffic distribution, or else its namespace's (Istio).
fn distribution(
    service: &api::Service,
    namespace: Option<&Arc<Namespace>>,
) -> Option<Distribution> {
    let annotated = service.metadata.annotations.get(DISTRIBUTION);
    let of_namespace = namespace.and_then(|one| one.metadata.annotations.get(DISTRIBUTION));
    let given = service.spec.traffic_distribution.as_ref();
    let given = given.filter(|text| !text.is_empty());
    Distribution::parse(given.or(annotated).or(of_namespace)?)
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
