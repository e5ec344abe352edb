//! What a worker keeps for one local pod: its pools, its balancer state, and whether it still
//! serves.

use std::cell::{Cell, Ref, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use foldhash::fast::RandomState;
use http::HeaderValue;
use slab::Slab;
use tokio::sync::Notify;

use super::authorize::Admissions;
use super::cluster::{Local, Registry};
use super::worker::Worker;
use super::{hbone, secured, way};
use crate::mesh::Cluster;
use crate::net::pod::{Listeners, Pod};
use crate::types::identity::NotAnIdentity;
use crate::types::{ClusterName, Identity};
use crate::wire::proxy_protocol::Ends;

/// How far a pod is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// New connections are taken.
    Serving,
    /// No new ones; those that are open may finish.
    Draining,
    /// Its network namespace is going: everything of it ends now.
    Gone,
}

/// A cluster that the pod uses.
struct Known {
    /// As the newest snapshot describes it.
    cluster: Arc<Cluster>,
    local: Rc<Local>,
}

/// One local pod in one worker.
pub(super) struct LocalPod {
    pod: RefCell<Arc<Pod>>,
    clusters: RefCell<HashMap<ClusterName, Known, RandomState>>,
    phase: Cell<Phase>,
    /// Tasks to wake when the phase changes.
    waiting: RefCell<Slab<Waker>>,
    /// What runs for it, counted, and whoever waits for none of it.
    running: Cell<usize>,
    ended: Notify,
    /// Connections into the pod.
    admissions: Admissions,
    /// The ports of the proxy's own listeners in the pod's namespace.
    own_ports: RefCell<Vec<u16>>,
    /// HBONE connections of the pod.
    tunnels: hbone::Pool,
    /// Whether some upstream connections are for one client's connection alone.
    apart: Cell<bool>,
    /// What peers are told about the pod, made when somebody first asks.
    baggage: RefCell<Option<HeaderValue>>,
}

impl LocalPod {
    pub(super) fn new(pod: Arc<Pod>) -> Self {
        Self {
            pod: RefCell::new(pod),
            clusters: RefCell::default(),
            phase: Cell::new(Phase::Serving),
            waiting: RefCell::default(),
            running: Cell::new(0),
            ended: Notify::new(),
            admissions: Admissions::default(),
            own_ports: RefCell::default(),
            tunnels: hbone::Pool::default(),
            apart: Cell::new(false),
            baggage: RefCell::default(),
        }
    }

    /// The pod as its newest manifest describes it.
    pub(super) fn pod(&self) -> Ref<'_, Arc<Pod>> {
        self.pod.borrow()
    }

    /// Who it is in the mesh.
    ///
    /// # Errors
    /// As [`Workload::identity`](crate::mesh::Workload::identity).
    pub(super) fn identity(&self, worker: &Worker) -> Result<Identity, NotAnIdentity> {
        let trust = worker.secrets.trust();
        self.pod().workload.identity(trust.domain())
    }

    /// The pod's address of the same family as `like`.
    pub(super) fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        let pod = self.pod.borrow();
        let mut own = pod.workload.addresses.iter();
        own.find(|own| own.is_ipv4() == like.is_ipv4()).copied()
    }

    /// The pod's HBONE connections.
    pub(super) fn tunnels(&self) -> &hbone::Pool {
        &self.tunnels
    }

    /// The connections into the pod that were admitted.
    pub(super) fn admissions(&self) -> &Admissions {
        &self.admissions
    }

    /// The namespace's cookie.
    pub(super) fn cookie(&self) -> u64 {
        self.pod.borrow().cookie
    }

    /// What this worker keeps about a cluster that the pod uses.
    pub(super) fn cluster(&self, worker: &Worker, cluster: &Arc<Cluster>) -> Rc<Local> {
        let mut clusters = self.clusters.borrow_mut();
        let known = clusters.get_mut(&cluster.name);
        if let Some(known) = &known
            && Arc::ptr_eq(&known.cluster, cluster)
        {
            return Rc::clone(&known.local);
        }
        let pod = self.pod.borrow();
        // A request may have been under way since an older snapshot, which must not win.
        let snapshot = worker.snapshot();
        let newest = snapshot.cluster_for(&cluster.name, pod.workload.source());
        let cluster = newest.unwrap_or(cluster);
        if let Some(known) = &known
            && Arc::ptr_eq(&known.cluster, cluster)
        {
            return Rc::clone(&known.local);
        }
        let state = if self.is_gone() {
            Registry::unlisted(&pod.workload, cluster)
        } else {
            worker.clusters.state(pod.cookie, &pod.workload, cluster)
        };
        if let Some(known) = known {
            known.cluster = Arc::clone(cluster);
            // Another one where the cluster had gone in the meantime, and another worker noticed.
            if !Arc::ptr_eq(&known.local.state, &state) {
                known.local.clear();
                known.local = Rc::new(Local::new(state));
            }
            return Rc::clone(&known.local);
        }
        let local = Rc::new(Local::new(state));
        let known = Known {
            cluster: Arc::clone(cluster),
            local: Rc::clone(&local),
        };
        clusters.insert(cluster.name.clone(), known);
        local
    }

    /// What is kept about the cluster of this name, where the pod used it before.
    pub(super) fn known(&self, name: &ClusterName) -> Option<Rc<Local>> {
        let clusters = self.clusters.borrow();
        Some(Rc::clone(&clusters.get(name)?.local))
    }

    /// Lets go of connections that were made by something else than is in force: another pod has the
    /// address, one of the mesh where there was none, or another certificate or trust counts.
    pub(super) fn follow(&self, worker: &Worker) {
        if worker.mutual_tls {
            for known in self.clusters.borrow().values() {
                known.local.follow(|to| way::made(worker, self, to));
            }
        }
    }

    /// Lets go of connections by TLS that show another certificate than is in force.
    pub(super) fn secure(&self, worker: &Worker) {
        for known in self.clusters.borrow().values() {
            let local = &known.local;
            if let Some(settings) = &local.policy().tls {
                local.shows(secured::shown(worker, self, settings));
            }
        }
    }

    /// Closes connections that are idle for too long, and forgets clusters that are no more.
    pub(super) fn sweep(&self, now: Instant, exists: impl Fn(&ClusterName) -> bool) {
        self.tunnels.sweep(now);
        self.clusters.borrow_mut().retain(|name, known| {
            known.local.sweep(now);
            let stays = exists(name);
            if !stays {
                known.local.clear();
            }
            stays
        });
    }

    /// From now on some upstream connections are for one client's connection alone.
    pub(super) fn keeps_clients_apart(&self) {
        self.apart.set(true);
    }

    /// A client's connection has ended: closes those that were for it alone.
    pub(super) fn forget(&self, client: Ends) {
        if self.apart.get() {
            let clusters = self.clusters.borrow();
            clusters
                .values()
                .for_each(|known| known.local.forget(client));
        }
    }

    /// Closes every connection that carries nothing, and whatever becomes idle later.
    pub(super) fn close(&self) {
        for (_, known) in self.clusters.borrow_mut().drain() {
            known.local.clear();
        }
        self.tunnels.close();
    }

    /// Whether new connections and requests are over.
    pub(super) fn is_gone(&self) -> bool {
        self.phase.get() > Phase::Serving
    }

    /// Takes note of the listeners that the proxy has there.
    pub(super) fn listens(&self, listeners: &Listeners) {
        let all = listeners.outbound.iter().chain(&listeners.inbound);
        let ports = all.filter_map(|one| Some(one.local_addr().ok()?.port()));
        self.own_ports.replace(ports.collect());
    }

    /// Whether a port in the pod's namespace is the proxy's.
    pub(super) fn is_own_port(&self, port: u16) -> bool {
        self.own_ports.borrow().contains(&port)
    }

    /// What HBONE peers are told about the pod.
    pub(super) fn baggage(&self, worker: &Worker) -> Option<HeaderValue> {
        let mut baggage = self.baggage.borrow_mut();
        if baggage.is_none() {
            let pod = self.pod.borrow();
            *baggage =
                HeaderValue::try_from(pod.workload.baggage(&worker.cluster_id).header()).ok();
        }
        baggage.clone()
    }

    /// Takes a newer manifest.
    pub(super) fn update(&self, pod: Arc<Pod>) {
        self.baggage.replace(None);
        self.pod.replace(pod);
    }

    /// Moves on to another phase.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.waiting
            .borrow()
            .iter()
            .for_each(|(_, waker)| waker.wake_by_ref());
    }

    /// Resolves when no new work may begin.
    pub(super) fn draining(&self) -> Reaches<'_> {
        Reaches {
            pod: self,
            phase: Phase::Draining,
            place: None,
        }
    }

    /// Resolves when everything must end.
    pub(super) fn gone(&self) -> Reaches<'_> {
        Reaches {
            pod: self,
            phase: Phase::Gone,
            place: None,
        }
    }

    /// Counts something that runs for this pod, until it is dropped.
    pub(super) fn running(self: &Rc<Self>) -> Running {
        self.running.set(self.running.get() + 1);
        Running(Rc::clone(self))
    }

    /// Resolves when nothing runs any more.
    pub(super) async fn idle(&self) {
        while self.running.get() > 0 {
            // On one thread nothing ends between the look and the wait.
            self.ended.notified().await;
        }
    }
}

/// Resolves when a pod has come as far as a phase. Polled with every event of a connection, so that
/// a poll is no more than a comparison.
pub(super) struct Reaches<'a> {
    pod: &'a LocalPod,
    phase: Phase,
    place: Option<usize>,
}

impl Future for Reaches<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.pod.phase.get() >= self.phase {
            return Poll::Ready(());
        }
        let mut waiting = self.pod.waiting.borrow_mut();
        match self.place.and_then(|place| waiting.get_mut(place)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => {
                let place = waiting.insert(cx.waker().clone());
                drop(waiting);
                self.place = Some(place);
            }
        }
        Poll::Pending
    }
}

impl Drop for Reaches<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.pod.waiting.borrow_mut().try_remove(place);
        }
    }
}

/// Something that runs for a pod.
pub(super) struct Running(Rc<LocalPod>);

impl Drop for Running {
    fn drop(&mut self) {
        let pod = &self.0;
        pod.running.set(pod.running.get() - 1);
        if pod.running.get() == 0 {
            pod.ended.notify_waiters();
        }
    }
}
