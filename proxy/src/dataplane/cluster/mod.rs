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

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

pub(super) use counters::Counters;
pub(super) use local::Local;
pub(super) use members::{Host, Members};
pub(super) use registry::Ask;
pub use registry::Registry;

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
    /// Told when a connection or a place on one is given back.
    room: Notify,
    /// Requests that wait for room.
    waiting: AtomicUsize,
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
            room: Notify::new(),
            waiting: AtomicUsize::new(0),
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
        self.members.store(Arc::new(members));
        self.generation.fetch_add(1, Ordering::Release);
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

    /// Resolves when a connection may have become possible, or a place on one. Spurious at times.
    pub(super) fn room(&self) -> Notified<'_> {
        self.room.notified()
    }

    /// A connection was closed, or has room again.
    pub(super) fn released(&self) {
        // Pairs with the fence in `waits`: either the waiting request sees the place that was given
        // back before this, or it is seen here.
        fence(Ordering::SeqCst);
        if self.is_wanted() {
            self.room.notify_waiters();
        }
    }

    /// Whether a request waits for room.
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// One more request waits, until the value is dropped. To be taken before it is looked for room
    /// in vain.
    pub(super) fn waits(self: &Arc<Self>) -> Waits {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Waits(Arc::clone(self))
    }

    /// Counters and gauges under Envoy's names, without the `cluster.NAME.` before them.
    pub(super) fn statistics(&self) -> Vec<(String, u64)> {
        let members = self.members.load_full();
        let breaker = &members.breaker;
        let mut all: Vec<(String, u64)> = self
            .counters
            .iter()
            .map(|(name, _, value)| (name.to_owned(), value))
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

/// A request that waits for room.
pub(super) struct Waits(Arc<State>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
