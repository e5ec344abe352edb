//! What the node proxy remembers about one cluster for one client pod, as Envoy remembers it beside
//! each client: who is in flight, which limits are taken, which endpoints sit out.
//!
//! [`State`] is shared by the workers and atomic; [`Local`] is one worker's view of it, with the
//! connections that this worker keeps.

mod counters;
mod health;
mod local;
mod members;
mod registry;
mod room;
mod routes;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
pub(super) use counters::Counters;
pub(super) use local::{Local, Shown};
pub(super) use members::{Host, Members};
pub(super) use registry::Ask;
pub use registry::Registry;
pub(super) use room::Room;
pub(super) use routes::{Ended, RouteCounters, Routes};

use self::health::Health;
use crate::clock;
use crate::mesh::{Cluster, Workload};
use crate::policy::circuit::Resource;
use crate::types::ClusterName;

/// What is shared by the workers.
#[derive(Debug)]
pub(super) struct State {
    pub(super) name: ClusterName,
    /// The client pod.
    pub(super) client: Arc<Workload>,
    members: ArcSwap<Members>,
    /// Counts up whenever `members` is exchanged.
    generation: AtomicU64,
    pub(super) counters: Counters,
    /// Locked when endpoints or their health change, never for a request otherwise.
    health: Mutex<Health>,
    /// Where requests wait for a connection.
    pub(super) room: Room,
}

impl State {
    fn new(client: &Arc<Workload>, cluster: &Arc<Cluster>) -> Arc<Self> {
        let now = clock::now();
        let mut health = Health::default();
        health.update(cluster, now);
        let members = Members::new(client, cluster, None, &health, now);
        Arc::new(Self {
            name: cluster.name.clone(),
            client: Arc::clone(client),
            members: ArcSwap::from_pointee(members),
            generation: AtomicU64::new(0),
            counters: Counters::default(),
            health: Mutex::new(health),
            room: Room::default(),
        })
    }

    /// Takes what a newer snapshot says of the cluster. An endpoint that stays keeps its counts and
    /// its health; limits that changed apply to what is in use already.
    fn update(&self, cluster: &Arc<Cluster>) {
        if Arc::ptr_eq(&self.members.load().cluster, cluster) {
            return;
        }
        let mut health = self.health();
        health.update(cluster, clock::now());
        self.renew(&health, cluster);
    }

    /// Makes the members anew, because endpoints, policy or health changed.
    fn renew(&self, health: &Health, cluster: &Arc<Cluster>) {
        let before = self.members.load();
        let members = Members::new(&self.client, cluster, Some(&before), health, clock::now());
        let members = Arc::new(members);
        self.members.store(Arc::clone(&members));
        self.generation.fetch_add(1, Ordering::Release);
        self.tell_all(&members);
    }

    /// Everybody is warm: shares need no look at the clock any more.
    fn warmed(&self) {
        let health = self.health();
        let cluster = Arc::clone(&self.members.load().cluster);
        self.renew(&health, &cluster);
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counters and gauges under Envoy's names, without the `cluster.NAME.` before them.
    pub(super) fn statistics(&self) -> Vec<(String, u64)> {
        let members = self.members.load_full();
        let breaker = &members.breaker;
        let mut all: Vec<(String, u64)> = self
            .counters
            .iter()
            .map(|(name, _, value)| match name.strip_prefix("retried_") {
                Some(rest) => (format!("retry.upstream_{rest}"), value),
                None => (name.to_owned(), value),
            })
            .collect();
        for (name, resource) in [
            ("upstream_cx_active", Resource::Connections),
            ("upstream_rq_active", Resource::Requests),
            ("upstream_rq_pending_active", Resource::Pending),
        ] {
            all.push((name.to_owned(), breaker.in_use(resource)));
        }
        for (name, resource) in [
            ("cx_open", Resource::Connections),
            ("rq_pending_open", Resource::Pending),
            ("rq_open", Resource::Requests),
            ("rq_retry_open", Resource::Retries),
        ] {
            let open = u64::from(breaker.is_open(resource));
            all.push((format!("circuit_breakers.default.{name}"), open));
        }
        for (name, resource) in [
            ("remaining_cx", Resource::Connections),
            ("remaining_pending", Resource::Pending),
            ("remaining_rq", Resource::Requests),
            ("remaining_retries", Resource::Retries),
        ] {
            let left = breaker.remaining(resource);
            all.push((format!("circuit_breakers.default.{name}"), left));
        }
        let (total, healthy) = members.membership();
        all.push(("membership_total".into(), total as u64));
        all.push(("membership_healthy".into(), healthy as u64));
        all.extend(self.health().statistics());
        all
    }
}
