//! Picks an endpoint of a cluster. State is kept by (client pod, cluster), as Envoy keeps it
//! beside each client, and shared by the workers: counts are exact and atomic.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::Error;
use super::pod::LocalPod;
use super::worker::Worker;
use crate::mesh::{Cluster, Endpoint};
use crate::policy::balance::least_request;
use crate::types::ClusterName;

/// What the balancer remembers about one cluster for one client pod.
#[derive(Debug)]
pub struct ClusterState {
    endpoints: Arc<[Endpoint]>,
    /// Requests or connections in flight, an endpoint each.
    active: Box<[Arc<AtomicU64>]>,
}

/// All states of the process. Locked when a worker first uses a cluster or its endpoints have
/// changed, never for a request otherwise.
#[derive(Debug, Default)]
pub struct Registry {
    states: Mutex<HashMap<u64, HashMap<ClusterName, Arc<ClusterState>>>>,
}

impl Registry {
    fn state(&self, pod: u64, cluster: &Cluster) -> Arc<ClusterState> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let states = states.entry(pod).or_default();
        let known = states.get(&cluster.name);
        if let Some(state) = known.filter(|state| state.serves(cluster)) {
            return Arc::clone(state);
        }
        // An endpoint that stays keeps its count: requests in flight go on counting.
        let before: HashMap<SocketAddr, &Arc<AtomicU64>> = known
            .map(|state| {
                state
                    .endpoints
                    .iter()
                    .map(|e| e.address)
                    .zip(&*state.active)
                    .collect()
            })
            .unwrap_or_default();
        let active = cluster
            .endpoints
            .iter()
            .map(|endpoint| {
                before
                    .get(&endpoint.address)
                    .copied()
                    .cloned()
                    .unwrap_or_default()
            })
            .collect();
        let state = Arc::new(ClusterState {
            endpoints: Arc::clone(&cluster.endpoints),
            active,
        });
        states.insert(cluster.name.clone(), Arc::clone(&state));
        state
    }

    /// Drops what is kept for clusters that are no more.
    pub fn retain(&self, exists: impl Fn(&ClusterName) -> bool) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        for clusters in states.values_mut() {
            clusters.retain(|name, _| exists(name));
        }
    }

    /// Drops what is kept for a pod that left.
    pub fn forget(&self, pod: u64) {
        self.states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&pod);
    }
}

impl ClusterState {
    fn serves(&self, cluster: &Cluster) -> bool {
        Arc::ptr_eq(&self.endpoints, &cluster.endpoints)
    }
}

/// An endpoint chosen, and its place in the count of what is in flight; given back when dropped.
#[derive(Debug)]
pub struct Lease {
    /// Where to connect to.
    pub address: SocketAddr,
    active: Arc<AtomicU64>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which endpoints a client asked for, by the address it dialled.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// Any of the cluster: of the address's family where there are such, so that a pod with two
    /// addresses counts once.
    Like(SocketAddr),
    /// This one, where it is of the cluster: a headless service's address is a pod's own.
    Exactly(SocketAddr),
}

/// Picks an endpoint of `cluster` for `pod`.
pub fn pick(
    worker: &Worker,
    pod: &LocalPod,
    cluster: &Cluster,
    wanted: Wanted,
) -> Result<Lease, Error> {
    let mut cached = pod.clusters.borrow_mut();
    let state = match cached.get(&cluster.name) {
        Some(state) if state.serves(cluster) => state,
        _ => {
            let state = worker.balancers.state(pod.cookie(), cluster);
            cached
                .entry(cluster.name.clone())
                .insert_entry(state)
                .into_mut()
        }
    };
    let (Wanted::Like(dialled) | Wanted::Exactly(dialled)) = wanted;
    let exact = match wanted {
        Wanted::Exactly(address) => state.endpoints.iter().position(|e| e.address == address),
        Wanted::Like(_) => None,
    };
    let index = exact
        .or_else(|| {
            let family = family(&state.endpoints, dialled);
            let active = |index: usize| state.active[family.start + index].load(Ordering::Relaxed);
            let chosen = least_request(family.len(), [worker.draw(), worker.draw()], active);
            chosen.map(|index| family.start + index)
        })
        .ok_or(Error::NoHealthyUpstream)?;
    let active = Arc::clone(&state.active[index]);
    active.fetch_add(1, Ordering::Relaxed);
    Ok(Lease {
        address: state.endpoints[index].address,
        active,
    })
}

/// The endpoints of `like`'s family, or all where it has none. They are sorted by address, which
/// puts IPv4 first.
fn family(endpoints: &[Endpoint], like: SocketAddr) -> Range<usize> {
    let border = endpoints.partition_point(|endpoint| endpoint.address.is_ipv4());
    let own = if like.is_ipv4() {
        0..border
    } else {
        border..endpoints.len()
    };
    if own.is_empty() {
        0..endpoints.len()
    } else {
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Hostname, Protocol};

    fn cluster(ports: &[u16]) -> Cluster {
        let hostname = Hostname::new("web.shop.svc.cluster.local");
        Cluster {
            name: ClusterName::outbound(80, None, &hostname),
            hostname,
            port: 80,
            subset: None,
            protocol: Protocol::Http,
            endpoints: ports
                .iter()
                .map(|port| Endpoint::new(([10, 0, 0, 1], *port).into()))
                .collect(),
            policy: Arc::default(),
        }
    }

    #[test]
    fn an_endpoint_that_stays_keeps_its_count() {
        let registry = Registry::default();
        let state = registry.state(1, &cluster(&[1, 2]));
        state.active[1].fetch_add(5, Ordering::Relaxed);
        let next = registry.state(1, &cluster(&[2, 3]));
        assert_eq!(next.active[0].load(Ordering::Relaxed), 5);
        assert_eq!(next.active[1].load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_family_is_used_where_there_is_one() {
        let endpoints = |addresses: &[&str]| -> Vec<Endpoint> {
            let address = |text: &&str| text.parse().expect("an address");
            addresses
                .iter()
                .map(|text| Endpoint::new(address(text)))
                .collect()
        };
        let both = endpoints(&["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80"]);
        let only = endpoints(&["10.0.0.1:80"]);
        let (four, six) = (
            ([10, 9, 9, 9], 80).into(),
            "[fd00::9]:80".parse().expect("an address"),
        );
        assert_eq!(family(&both, four), 0..2);
        assert_eq!(family(&both, six), 2..3);
        assert_eq!(family(&only, six), 0..1);
        assert_eq!(family(&[], six), 0..0);
    }

    #[test]
    fn pods_are_counted_apart_and_workers_together() {
        let registry = Registry::default();
        let cluster = cluster(&[1]);
        let (one, other) = (registry.state(1, &cluster), registry.state(2, &cluster));
        assert!(Arc::ptr_eq(&one, &registry.state(1, &cluster)));
        assert!(!Arc::ptr_eq(&one, &other));
        registry.forget(1);
        assert!(!Arc::ptr_eq(&one, &registry.state(1, &cluster)));
    }
}
