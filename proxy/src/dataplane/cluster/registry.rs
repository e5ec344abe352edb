//! All clusters' states of the process, by client pod.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::{RouteCounters, State};
use crate::mesh::{Cluster, Workload};
use crate::types::ClusterName;

/// Every state, and how the workers reach each other. Locked when a worker first uses a cluster or
/// the cluster has changed, never for a request otherwise.
#[derive(Debug, Default)]
pub struct Registry {
    states: Mutex<HashMap<u64, HashMap<ClusterName, Arc<State>>>>,
    workers: Mutex<Vec<mpsc::UnboundedSender<Ask>>>,
    /// Of routes with a `statPrefix`, by `HOST:PORT.route.PREFIX`.
    routes: Mutex<HashMap<String, Arc<RouteCounters>>>,
}

/// One worker asks the others to close a connection that carries nothing, because it is refused one
/// by the cluster's limit.
#[derive(Clone, Debug)]
pub(in crate::dataplane) struct Ask {
    /// The client pod, by its cookie.
    pub(in crate::dataplane) pod: u64,
    pub(in crate::dataplane) cluster: ClusterName,
    pub(in crate::dataplane) address: SocketAddr,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// A worker's number, and what the others ask of it.
    pub(in crate::dataplane) fn join(&self) -> (usize, mpsc::UnboundedReceiver<Ask>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut workers = lock(&self.workers);
        workers.push(sender);
        (workers.len() - 1, receiver)
    }

    /// Asks every worker but `from`.
    pub(in crate::dataplane) fn ask(&self, from: usize, ask: &Ask) {
        let workers = lock(&self.workers);
        for (index, worker) in workers.iter().enumerate() {
            if index != from {
                let _ = worker.send(ask.clone());
            }
        }
    }

    /// The state of `cluster` for `pod`, which `client` describes.
    pub(in crate::dataplane) fn state(
        &self,
        pod: u64,
        client: &Arc<Workload>,
        cluster: &Arc<Cluster>,
    ) -> Arc<State> {
        let mut states = lock(&self.states);
        let states = states.entry(pod).or_default();
        if let Some(state) = states.get(&cluster.name) {
            state.update(cluster);
            return Arc::clone(state);
        }
        let state = State::new(client, cluster);
        states.insert(cluster.name.clone(), Arc::clone(&state));
        state
    }

    /// What is counted of a route under `name`.
    pub(in crate::dataplane) fn route(&self, name: &str) -> Arc<RouteCounters> {
        let mut routes = lock(&self.routes);
        match routes.get(name) {
            Some(known) => Arc::clone(known),
            None => Arc::clone(routes.entry(name.to_owned()).or_default()),
        }
    }

    /// Drops what is kept for clusters that are no more.
    pub(in crate::dataplane) fn retain(&self, exists: impl Fn(&ClusterName) -> bool) {
        for clusters in lock(&self.states).values_mut() {
            clusters.retain(|name, _| exists(name));
        }
    }

    /// The state of `cluster` for what is left of a pod that is leaving: nobody else finds it, and it
    /// goes with the last who uses it.
    pub(in crate::dataplane) fn unlisted(
        client: &Arc<Workload>,
        cluster: &Arc<Cluster>,
    ) -> Arc<State> {
        State::new(client, cluster)
    }

    /// Drops what is kept for a pod that left.
    pub(in crate::dataplane) fn forget(&self, pod: u64) {
        lock(&self.states).remove(&pod);
    }

    /// Counters and gauges of every cluster under Envoy's names, added up over the client pods; and
    /// counters of routes.
    pub fn statistics(&self) -> BTreeMap<String, u64> {
        let states: Vec<Arc<State>> = lock(&self.states)
            .values()
            .flat_map(|clusters| clusters.values().cloned())
            .collect();
        let mut sums = BTreeMap::new();
        for state in states {
            for (name, value) in state.statistics() {
                let sum: &mut u64 = sums
                    .entry(format!("cluster.{}.{name}", state.name))
                    .or_default();
                *sum = sum.saturating_add(value);
            }
        }
        for (route, counters) in lock(&self.routes).iter() {
            let counted = counters.statistics().into_iter();
            sums.extend(counted.map(|(name, value)| (format!("vhost.{route}.{name}"), value)));
        }
        sums
    }
}
