//! A cluster's endpoints as a client pod may use them at one time.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::health::Health;
use super::room::Room;
use crate::clock;
use crate::mesh::{Cluster, Endpoint, Workload};
use crate::policy::balance::{Candidate, Plan};
use crate::policy::circuit::Breaker;
use crate::policy::locality::Place;
use crate::policy::outlier::{Monitor, Settings};

/// One endpoint.
#[derive(Debug)]
pub(in crate::dataplane) struct Host {
    pub(in crate::dataplane) address: SocketAddr,
    counts: Arc<Counts>,
    /// Where outcomes are counted, where there is outlier detection.
    pub(super) monitor: Option<(Arc<Monitor>, Arc<Settings>)>,
}

/// What goes on at an endpoint, whatever else about it changes.
#[derive(Debug, Default)]
struct Counts {
    /// Requests or relayed connections in flight.
    active: AtomicU64,
    /// Connections open or being opened.
    connections: AtomicU64,
    /// Where requests wait for one.
    room: Arc<Room>,
}

impl Host {
    /// Whether outcomes are counted.
    pub(in crate::dataplane) fn is_watched(&self) -> bool {
        self.monitor.is_some()
    }

    /// Requests in flight.
    pub(in crate::dataplane) fn active(&self) -> u64 {
        self.counts.active.load(Ordering::Relaxed)
    }

    /// Counts a request.
    pub(in crate::dataplane) fn begin(&self) {
        self.counts.active.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a request off the count.
    pub(in crate::dataplane) fn end(&self) {
        self.counts.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a connection; returns how many there were before.
    pub(in crate::dataplane) fn opened(&self) -> u64 {
        self.counts.connections.fetch_add(1, Ordering::AcqRel)
    }

    /// Takes a connection off the count.
    pub(in crate::dataplane) fn closed(&self) {
        self.counts.connections.fetch_sub(1, Ordering::AcqRel);
    }

    /// Connections open or being opened.
    pub(super) fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Acquire)
    }

    /// Where requests wait for a connection to it.
    pub(in crate::dataplane) fn room(&self) -> &Arc<Room> {
        &self.counts.room
    }
}

/// The endpoints of a cluster at one time, and the limits in force.
#[derive(Debug)]
pub(in crate::dataplane) struct Members {
    pub(in crate::dataplane) cluster: Arc<Cluster>,
    /// In the order of the cluster's endpoints, which is by address.
    pub(in crate::dataplane) hosts: Box<[Arc<Host>]>,
    pub(in crate::dataplane) breaker: Breaker,
    /// How they are balanced, for clients that dialled IPv4 and IPv6.
    plans: [Family; 2],
    /// When the last endpoint that is warming up will be warm.
    pub(super) warm: Option<SystemTime>,
}

/// The endpoints of one address family, which are balanced among themselves, so that a pod with two
/// addresses counts once.
#[derive(Clone, Debug)]
pub(in crate::dataplane) struct Family {
    /// Where it begins among the hosts.
    pub(in crate::dataplane) start: usize,
    pub(in crate::dataplane) plan: Arc<Plan>,
}

impl Members {
    pub(super) fn new(
        client: &Workload,
        cluster: &Arc<Cluster>,
        before: Option<&Self>,
        health: &Health,
        now: Instant,
    ) -> Self {
        let settings = cluster.policy.outlier.as_ref();
        let settings = settings.map(|settings| Arc::new(settings.clone()));
        let hosts: Box<[Arc<Host>]> = cluster
            .endpoints
            .iter()
            .map(|endpoint| {
                let address = endpoint.address;
                let known = before.and_then(|before| before.host(address));
                Arc::new(Host {
                    address,
                    counts: known
                        .map(|host| Arc::clone(&host.counts))
                        .unwrap_or_default(),
                    monitor: health.monitor(address).zip(settings.clone()),
                })
            })
            .collect();
        let limits = cluster.policy.limits.clone();
        let breaker = match before {
            Some(before) => before.breaker.with_limits(limits, now),
            None => Breaker::new(limits, now),
        };
        Self {
            plans: families(client, cluster, health),
            warm: warm(cluster),
            cluster: Arc::clone(cluster),
            hosts,
            breaker,
        }
    }

    /// The endpoint at `address`.
    pub(in crate::dataplane) fn host(&self, address: SocketAddr) -> Option<&Arc<Host>> {
        let index = self
            .hosts
            .binary_search_by_key(&address, |host| host.address)
            .ok()?;
        self.hosts.get(index)
    }

    /// How warm the endpoint at `index` is, between 0 and 1.
    pub(in crate::dataplane) fn warmth(&self, index: usize, now: SystemTime) -> f64 {
        let endpoint = self.cluster.endpoints.get(index);
        match (&self.cluster.policy.warmup, endpoint) {
            (Some(warmup), Some(endpoint)) => warmup.warmth(age(endpoint, now)),
            _ => 1.0,
        }
    }

    /// How clients that dialled `like` are balanced.
    pub(in crate::dataplane) fn family(&self, like: SocketAddr) -> &Family {
        &self.plans[usize::from(like.is_ipv6())]
    }

    /// How many endpoints there are, and how many of them are ready and not ejected. A pod with two
    /// addresses counts once: it is the family with more endpoints that counts, and of two alike the
    /// one that is worse off.
    pub(super) fn membership(&self) -> (usize, usize) {
        let sound = |(host, endpoint): &(&Arc<Host>, &Endpoint)| {
            let monitor = host.monitor.as_ref();
            endpoint.ready && monitor.is_none_or(|(one, _)| !one.is_ejected())
        };
        let families = [false, true].map(|six| {
            let all = self.hosts.iter().zip(&*self.cluster.endpoints);
            let family = all.filter(|(host, _)| host.address.is_ipv6() == six);
            (family.clone().count(), family.filter(sound).count())
        });
        let [four, six] = families;
        let worse = |(total, healthy): (usize, usize)| (total, Reverse(healthy));
        if worse(four) >= worse(six) { four } else { six }
    }
}

/// The plans for both families: where one has no endpoints, its clients get the other's. They are
/// sorted by address, which puts IPv4 first.
fn families(client: &Workload, cluster: &Cluster, health: &Health) -> [Family; 2] {
    let endpoints = &*cluster.endpoints;
    let border = endpoints.partition_point(|endpoint| endpoint.address.is_ipv4());
    let family = |start: usize, endpoints: &[Endpoint]| Family {
        start,
        plan: Arc::new(plan(client, cluster, endpoints, health)),
    };
    let (four, six) = endpoints.split_at(border);
    if four.is_empty() || six.is_empty() {
        let all = family(0, endpoints);
        return [all.clone(), all];
    }
    [family(0, four), family(border, six)]
}

fn plan(client: &Workload, cluster: &Cluster, endpoints: &[Endpoint], health: &Health) -> Plan {
    let policy = &cluster.policy;
    let places = endpoints.iter().map(|one| (place(one), one.weight));
    let placements = policy.locality.place(
        Place {
            locality: &client.locality,
            labels: &client.labels,
            node: client.node.as_deref(),
        },
        places,
    );
    let now = clock::wall();
    let candidates: Vec<Candidate> = endpoints
        .iter()
        .zip(placements.endpoints)
        .map(|(endpoint, placement)| Candidate {
            address: endpoint.address,
            weight: endpoint.weight,
            healthy: endpoint.ready && !health.is_ejected(endpoint.address),
            warming: policy
                .warmup
                .is_some_and(|warmup| warmup.is_warming(age(endpoint, now))),
            placement,
        })
        .collect();
    Plan::new(
        policy.balancer,
        &candidates,
        placements.group_weights.as_deref(),
        policy.panic_threshold,
    )
}

/// When the last endpoint will be warm, where one is not.
fn warm(cluster: &Cluster) -> Option<SystemTime> {
    let warmup = cluster.policy.warmup?;
    let now = clock::wall();
    let joined = cluster
        .endpoints
        .iter()
        .filter_map(|endpoint| endpoint.since);
    let last = joined.max()?.checked_add(warmup.window)?;
    (last > now).then_some(last)
}

fn place(endpoint: &Endpoint) -> Place<'_> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    let workload = endpoint.workload.as_deref();
    Place {
        locality: &endpoint.locality,
        labels: workload.map_or(&NONE, |workload| &workload.labels),
        node: workload.and_then(|workload| workload.node.as_deref()),
    }
}

/// How long ago an endpoint joined: for ever, where that is not known.
fn age(endpoint: &Endpoint, now: SystemTime) -> Duration {
    let since = endpoint.since.unwrap_or(SystemTime::UNIX_EPOCH);
    now.duration_since(since).unwrap_or_default()
}
