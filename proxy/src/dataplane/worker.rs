//! A data-plane worker: one thread with a runtime, pools and counters of its own. Workers share
//! listeners by SO_REUSEPORT and otherwise only what is atomic.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::MissedTickBehavior;

use super::accept::accept;
use super::cluster::{Ask, Local, Registry, RouteCounters, Routes};
use super::idle::Idlers;
use super::neighbours::Neighbours;
use super::parts::Parts;
use super::pod::{LocalPod, Phase};
use super::{authorize, inbound, outbound, task};
use crate::clock;
use crate::kernel::Redirects;
use crate::mesh::{Cluster, KeyRing, Snapshot, Store};
use crate::net::descriptors::Descriptors;
use crate::net::pod::{Change, Listeners};
use crate::telemetry::access_log::{AccessLog, MAX_AGE, Record, Written};
use crate::telemetry::counters::Counters;
use crate::tls::{Outside, Secrets};
use crate::types::ClusterName;

/// A snapshot as one worker's requests share it: counting its holders touches nothing that other
/// workers write.
#[allow(
    clippy::redundant_allocation,
    reason = "the outer count is this thread's own"
)]
pub(super) type Seen = Rc<Arc<Snapshot>>;

/// How often what is idle for too long is looked for.
pub(super) const SWEEP: Duration = Duration::from_secs(60);

/// One worker, on its own thread.
pub struct Worker {
    pub(super) store: Arc<Store>,
    pub(super) redirects: Redirects,
    pub(super) descriptors: Descriptors,
    pub(super) secrets: Secrets,
    pub(super) outside: Outside,
    pub(super) keys: KeyRing,
    pub(super) mutual_tls: bool,
    pub(super) cluster_id: Arc<str>,
    pub(super) neighbours: Neighbours,
    /// Clients that may be idle for too long.
    pub(super) idlers: Idlers,
    pub(super) clusters: Arc<Registry>,
    /// For addresses that no service owns.
    pub(super) passthrough: Arc<Cluster>,
    /// This worker's number among them.
    index: usize,
    pub(super) counters: Arc<Counters>,
    log: AccessLog,
    /// The snapshot last seen: shared within the thread, so that taking it for a request touches no
    /// counter that other threads write.
    snapshot: RefCell<Seen>,
    random: RefCell<SmallRng>,
    /// What this worker has counted of routes with a `statPrefix`.
    routes: Routes,
    hostname: String,
}

struct Enrolled {
    pod: Rc<LocalPod>,
    listeners: Vec<JoinHandle<()>>,
}

/// Runs a worker on the calling thread until `changes` ends and its connections are done, or
/// `deadline` (which begins then) is over.
pub fn run(
    parts: Parts,
    mut changes: mpsc::UnboundedReceiver<Change>,
    mut stop: watch::Receiver<bool>,
    deadline: Duration,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async move {
        let (worker, mut asked) = Worker::new(parts);
        let worker = Rc::new(worker);
        let mut pods: HashMap<u64, Enrolled> = HashMap::new();
        let mut snapshots = worker.store.subscribe();
        let mut outside = worker.outside.subscribe();
        let mut certificates = worker.secrets.subscribe();
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = sweep.tick() => worker.sweep(pods.values().map(|enrolled| &*enrolled.pod)),
                change = changes.recv() => match change {
                    Some(change) => apply(&worker, &mut pods, change),
                    None => break,
                },
                Some(ask) = asked.recv() => give_up(&pods, &ask),
                Ok(()) = snapshots.changed() => {
                    for one in pods.values() {
                        authorize::review(&worker, &one.pod);
                        one.pod.follow(&worker);
                    }
                }
                Ok(()) = outside.changed() => secure(&worker, &pods),
                Ok(()) = certificates.changed() => secure(&worker, &pods),
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        let draining: Vec<_> = pods
            .into_values()
            .map(|enrolled| {
                enrolled.listeners.iter().for_each(JoinHandle::abort);
                enrolled.pod.enter(Phase::Draining);
                enrolled.pod.close();
                enrolled.pod
            })
            .collect();
        let idle = async {
            for pod in &draining {
                pod.idle().await;
            }
        };
        // What is still open is allowed for no longer than before.
        let reviewing = async {
            while snapshots.changed().await.is_ok() {
                draining
                    .iter()
                    .for_each(|pod| authorize::review(&worker, pod));
            }
        };
        let drained = async {
            tokio::select! {
                () = idle => {}
                () = async { reviewing.await; std::future::pending().await } => {}
            }
        };
        let _ = tokio::time::timeout(deadline, drained).await;
        worker.log.flush();
    }));
    Ok(())
}

/// Lets go of connections by TLS that show what is no longer in force.
fn secure(worker: &Worker, pods: &HashMap<u64, Enrolled>) {
    for enrolled in pods.values() {
        enrolled.pod.secure(worker);
        enrolled.pod.follow(worker);
    }
}

/// Closes what another worker needs the place of.
fn give_up(pods: &HashMap<u64, Enrolled>, ask: &Ask) {
    let pod = pods.get(&ask.pod);
    if let Some(cluster) = pod.and_then(|enrolled| enrolled.pod.known(&ask.cluster)) {
        cluster.give_up_one(ask.address);
    }
}

fn apply(worker: &Rc<Worker>, pods: &mut HashMap<u64, Enrolled>, change: Change) {
    match change {
        Change::Join { pod, listeners } => {
            let known = pods.remove(&pod.cookie);
            let local = match known {
                // Enrolled anew (its listeners were replaced): pools and connections go on.
                Some(known) => {
                    known.listeners.iter().for_each(JoinHandle::abort);
                    known.pod.update(pod);
                    known.pod
                }
                None => Rc::new(LocalPod::new(pod)),
            };
            let listeners = listen(worker, &local, listeners);
            worker.neighbours.settle(&local);
            pods.insert(
                local.cookie(),
                Enrolled {
                    pod: local,
                    listeners,
                },
            );
        }
        Change::Update { pod } => {
            if let Some(enrolled) = pods.get(&pod.cookie) {
                enrolled.pod.update(pod);
                worker.neighbours.settle(&enrolled.pod);
            }
        }
        Change::Leave { cookie, now, done } => {
            let Some(enrolled) = pods.remove(&cookie) else {
                let _ = done.send(());
                return;
            };
            enrolled
                .pod
                .enter(if now { Phase::Gone } else { Phase::Draining });
            worker.clusters.forget(cookie);
            worker.neighbours.remove(&enrolled.pod);
            spawn_local(async move {
                for listener in enrolled.listeners {
                    listener.abort();
                    let _ = listener.await;
                }
                enrolled.pod.close();
                if now {
                    enrolled.pod.idle().await;
                }
                let _ = done.send(());
            });
        }
    }
}

fn listen(worker: &Rc<Worker>, pod: &Rc<LocalPod>, listeners: Listeners) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    pod.listens(&listeners);
    for listener in listeners.outbound {
        let serve = {
            let (worker, pod) = (Rc::clone(worker), Rc::clone(pod));
            move |accepted| {
                worker.counters.downstream_cx_outbound.increment();
                let (serving, own) = (Rc::clone(&worker), Rc::clone(&pod));
                task::spawn(&worker, &pod, async move {
                    outbound::serve(&serving, &own, accepted).await
                });
            }
        };
        tasks.extend(start(worker, listener, serve));
    }
    for listener in listeners.inbound {
        let serve = {
            let (worker, pod) = (Rc::clone(worker), Rc::clone(pod));
            move |accepted| {
                worker.counters.downstream_cx_inbound.increment();
                let (serving, own) = (Rc::clone(&worker), Rc::clone(&pod));
                task::spawn(&worker, &pod, async move {
                    inbound::serve(&serving, &own, accepted).await
                });
            }
        };
        tasks.extend(start(worker, listener, serve));
    }
    tasks
}

fn start(
    worker: &Rc<Worker>,
    listener: TcpListener,
    serve: impl Fn(super::accept::Accepted) + 'static,
) -> Option<JoinHandle<()>> {
    match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => Some(spawn_local(accept(Rc::clone(worker), listener, serve))),
        Err(error) => {
            tracing::error!(%error, "a pod's listener can't be used");
            None
        }
    }
}

impl Worker {
    fn new(parts: Parts) -> (Self, mpsc::UnboundedReceiver<Ask>) {
        let (index, asked) = parts.clusters.join();
        let snapshot = RefCell::new(Rc::new(parts.store.load_full()));
        let worker = Self {
            store: parts.store,
            redirects: parts.redirects,
            descriptors: parts.descriptors,
            secrets: parts.secrets,
            outside: parts.outside,
            keys: parts.keys,
            mutual_tls: parts.mutual_tls,
            cluster_id: parts.cluster_id,
            neighbours: Neighbours::new(parts.same_node),
            idlers: Idlers::default(),
            clusters: parts.clusters,
            passthrough: Arc::new(Cluster::passthrough()),
            index,
            counters: parts.counters,
            log: parts.log,
            snapshot,
            random: RefCell::new(SmallRng::from_os_rng()),
            routes: Routes::default(),
            hostname: crate::net::hostname(),
        };
        (worker, asked)
    }

    /// Asks the other workers to close a connection of `pod`'s to `address` that carries nothing: the
    /// cluster's limit allows no other, and a request waits here.
    pub(super) fn ask_others(&self, pod: &LocalPod, cluster: &Local, address: SocketAddr) {
        let ask = Ask {
            pod: pod.cookie(),
            cluster: cluster.state.name.clone(),
            address,
        };
        self.clusters.ask(self.index, &ask);
    }

    /// What is counted of a route that has a `statPrefix`, under `name`.
    pub(super) fn route(&self, name: &str) -> Arc<RouteCounters> {
        self.routes.of(&self.clusters, name)
    }

    /// The snapshot in force. Its holder keeps it, whatever comes next.
    pub(super) fn snapshot(&self) -> Seen {
        let newest = self.store.load();
        let mut seen = self.snapshot.borrow_mut();
        if !Arc::ptr_eq(&newest, &seen) {
            *seen = Rc::new(Arc::clone(&newest));
        }
        Rc::clone(&seen)
    }

    /// Lets go of connections that were idle for too long and of clusters that are no more.
    fn sweep<'a>(&self, pods: impl Iterator<Item = &'a LocalPod>) {
        let (now, snapshot) = (clock::now(), self.snapshot());
        let exists =
            |name: &ClusterName| snapshot.clusters.contains(name.as_str()) || name.is_passthrough();
        for pod in pods {
            pod.sweep(now, exists);
        }
        self.idlers.look(now);
        self.clusters.retain(exists);
    }

    /// This machine's name.
    pub(super) fn hostname(&self) -> &str {
        &self.hostname
    }

    /// A uniformly random number.
    pub(super) fn draw(&self) -> u64 {
        self.random.borrow_mut().next_u64()
    }

    /// Whether access log lines are wanted.
    pub(super) fn logs(&self) -> bool {
        self.log.enabled()
    }

    /// Writes an access log line.
    pub(super) fn log(self: &Rc<Self>, record: &Record<'_>) {
        match self.log.write(record) {
            Written::Queued => {}
            Written::First => {
                let worker = Rc::clone(self);
                spawn_local(async move {
                    tokio::time::sleep(MAX_AGE).await;
                    worker.lost(worker.log.flush());
                });
            }
            dropped @ Written::Dropped(_) => self.lost(dropped),
        }
    }

    fn lost(&self, written: Written) {
        if let Written::Dropped(bytes) = written {
            // Lines are about 300 bytes; what matters is that the number moves.
            self.counters
                .access_log_dropped
                .add((bytes as u64).div_ceil(300));
        }
    }
}
