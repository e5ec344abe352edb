//! enrolment: local pods of the snapshot get listeners inside their own network namespace, are
//! captured by the kernel side, and leave again.
//!
//! Knows the mesh's snapshots, the kernel side and the sockets; not where snapshots come from nor
//! what the workers do with a connection. One pod's error is that pod's: it is reported, tried
//! again, and touches no other.

mod join;
mod leave;
mod paths;
pub mod probe;
pub mod status;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use crate::kernel::Kernel;
use crate::mesh::{Enrolment, FailureMode, Snapshot, Workload};
use crate::net::{Change, Namespace, Pod};

pub use join::Error;
use join::Joined;
use paths::Paths;
pub use status::{PodStatus, Report, State, Status};

/// First wait before a pod that could not be enrolled is tried again, for what no event tells (a
/// namespace whose file exists a moment before it is mounted). Doubles up to the last.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// Longest wait between two tries.
const RETRY_LAST: Duration = Duration::from_secs(5);

/// Follows the snapshots and keeps kernel, listeners and workers in step.
pub struct Driver {
    kernel: Kernel,
    host: Namespace,
    workers: Vec<UnboundedSender<Change>>,
    pods: BTreeMap<String, Enrolled>,
    failed: BTreeMap<String, Failed>,
    paths: Paths,
    status: status::Publisher,
    /// Set once what an earlier proxy left behind has been looked at.
    swept: bool,
}

/// A pod that is captured.
struct Enrolled {
    workload: Arc<Workload>,
    joined: Joined,
}

/// A pod that should be captured and is not.
struct Failed {
    workload: Arc<Workload>,
    error: Error,
    wait: Duration,
}

impl Driver {
    /// Enrols pods into `kernel` and tells `workers` (one sender a worker). `host` is the network
    /// namespace whose pods are never enrolled: the proxy's own.
    pub fn new(kernel: Kernel, host: Namespace, workers: Vec<UnboundedSender<Change>>) -> Self {
        Self {
            kernel,
            host,
            workers,
            pods: BTreeMap::new(),
            failed: BTreeMap::new(),
            paths: Paths::new(),
            status: status::Publisher::new(),
            swept: false,
        }
    }

    /// What is enrolled and what is not, and why; follows every change.
    pub fn status(&self) -> Status {
        self.status.handle()
    }

    /// Works until the snapshots end. What is enrolled then stays so: the kernel keeps each pod's
    /// failure mode, and the next proxy takes over.
    pub async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            // The first is empty because nothing has been read yet, and not because nobody is
            // enrolled.
            if snapshot.version > 0 {
                self.reconcile(&snapshot).await;
            }
            let retry = self.failed.values().map(|failed| failed.wait).min();
            let wait = async {
                match retry {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = self.paths.changed() => {}
                () = wait => {}
            }
        }
    }

    /// Brings everything into step with one snapshot.
    async fn reconcile(&mut self, snapshot: &Snapshot) {
        let wanted: BTreeMap<String, (&Arc<Workload>, &Enrolment)> = snapshot
            .workloads
            .iter()
            .filter_map(|workload| {
                let enrolment = workload.local.as_ref()?;
                Some((
                    format!("{}/{}", workload.namespace, workload.name),
                    (workload, enrolment),
                ))
            })
            .collect();
        self.paths.watch(
            wanted
                .values()
                .map(|(_, enrolment)| enrolment.netns.as_path()),
        );

        let gone: Vec<(String, bool)> = self
            .pods
            .iter()
            .filter_map(|(name, enrolled)| {
                let there = paths::is_namespace(&enrolled.joined.path, enrolled.joined.inode);
                match wanted.get(name) {
                    Some((_, enrolment)) if there && enrolment.netns == enrolled.joined.path => {
                        None
                    }
                    // The pod is still there and no longer of the mesh: what is open may finish.
                    _ => Some((name.clone(), !there || !exists(snapshot, name))),
                }
            })
            .collect();
        for (name, now) in gone {
            self.leave(&name, now).await;
        }
        self.failed.retain(|name, _| wanted.contains_key(name));
        for (name, (workload, enrolment)) in &wanted {
            if self.pods.contains_key(name) {
                self.refresh(name, workload, enrolment);
            } else {
                self.join(name, workload, enrolment).await;
            }
        }
        if !self.swept {
            self.swept = true;
            self.sweep(&wanted);
        }
        self.publish(snapshot.version);
    }

    async fn join(&mut self, name: &str, workload: &Arc<Workload>, enrolment: &Enrolment) {
        let others: HashMap<u64, &str> = self
            .pods
            .iter()
            .map(|(name, enrolled)| (enrolled.joined.pod.cookie, name.as_str()))
            .collect();
        let host = self.host.cookie();
        let workers = self.workers.len();
        let result = join::join(
            &mut self.kernel,
            name,
            workload,
            enrolment,
            workers,
            host,
            &others,
        )
        .await;
        match result {
            Ok((joined, listeners)) => {
                tracing::info!(
                    pod = name,
                    cookie = joined.pod.cookie,
                    outbound = ?joined.outbound,
                    inbound = ?joined.inbound,
                    "enrolled"
                );
                for (worker, listeners) in self.workers.iter().zip(listeners) {
                    let pod = Arc::clone(&joined.pod);
                    // A worker that is gone takes the process with it.
                    let _ = worker.send(Change::Join { pod, listeners });
                }
                self.failed.remove(name);
                let workload = Arc::clone(workload);
                self.pods
                    .insert(name.to_owned(), Enrolled { workload, joined });
            }
            Err(error) => {
                let before = self.failed.get(name);
                let text = error.to_string();
                if before.is_none_or(|before| before.error.to_string() != text) {
                    tracing::warn!(pod = name, error = text, "not enrolled; tried again");
                }
                let wait = before.map_or(RETRY_FIRST, |before| RETRY_LAST.min(before.wait * 2));
                let workload = Arc::clone(workload);
                self.failed.insert(
                    name.to_owned(),
                    Failed {
                        workload,
                        error,
                        wait,
                    },
                );
            }
        }
    }

    /// Tells kernel and workers what has changed about a pod that stays.
    fn refresh(&mut self, name: &str, workload: &Arc<Workload>, enrolment: &Enrolment) {
        let Some(enrolled) = self.pods.get_mut(name) else {
            return;
        };
        if Arc::ptr_eq(&enrolled.workload, workload) || enrolled.workload == *workload {
            return;
        }
        let addresses = join::addresses(&enrolled.joined.pod.netns, workload);
        let rules = join::rules(enrolment, &addresses);
        match self.kernel.update(enrolled.joined.pod.cookie, &rules) {
            Ok(_) => {
                let pod = Arc::new(Pod {
                    workload: Arc::clone(workload),
                    ..Pod::clone(&enrolled.joined.pod)
                });
                enrolled.joined.pod = Arc::clone(&pod);
                enrolled.workload = Arc::clone(workload);
                for worker in &self.workers {
                    let _ = worker.send(Change::Update {
                        pod: Arc::clone(&pod),
                    });
                }
            }
            // The old workload is kept, so that the next snapshot tries again.
            Err(error) => tracing::warn!(pod = name, %error, "not updated"),
        }
    }

    async fn leave(&mut self, name: &str, now: bool) {
        let Some(enrolled) = self.pods.remove(name) else {
            return;
        };
        tracing::info!(
            pod = name,
            cookie = enrolled.joined.pod.cookie,
            now,
            "leaves the mesh"
        );
        leave::leave(&mut self.kernel, &self.workers, enrolled.joined, now).await;
    }

    /// Expels what a proxy before this one enrolled and nobody wants any more. A pod that is wanted
    /// and could not be enrolled yet keeps its entry, and so its failure mode.
    fn sweep(&mut self, wanted: &BTreeMap<String, (&Arc<Workload>, &Enrolment)>) {
        let ours: Vec<u64> = self
            .pods
            .values()
            .map(|enrolled| enrolled.joined.pod.cookie)
            .collect();
        for cookie in self.kernel.cookies() {
            let name = self.kernel.name(cookie).unwrap_or_default();
            let waiting = wanted.contains_key(&name) && !self.pods.contains_key(&name);
            if ours.contains(&cookie) || waiting {
                continue;
            }
            match self.kernel.expel(cookie) {
                Ok(()) => {
                    tracing::info!(pod = name, cookie, "expelled: enrolled by an earlier proxy")
                }
                Err(error) => tracing::warn!(pod = name, cookie, %error, "not expelled"),
            }
        }
    }

    fn publish(&self, version: u64) {
        let enrolled = self.pods.iter().map(|(name, enrolled)| PodStatus {
            pod: name.clone(),
            netns: enrolled.joined.path.clone(),
            cookie: Some(enrolled.joined.pod.cookie),
            outbound: enrolled.joined.outbound.clone(),
            inbound: enrolled.joined.inbound.clone(),
            sockets: enrolled.joined.sockets,
            failure_mode: mode(&enrolled.workload),
            state: State::Enrolled,
            error: None,
        });
        let failed = self.failed.iter().map(|(name, failed)| PodStatus {
            pod: name.clone(),
            netns: failed
                .workload
                .local
                .as_ref()
                .map(|local| local.netns.clone())
                .unwrap_or_default(),
            cookie: None,
            outbound: Vec::new(),
            inbound: Vec::new(),
            sockets: 0,
            failure_mode: mode(&failed.workload),
            state: State::Failed,
            error: Some(failed.error.to_string()),
        });
        let mut pods: Vec<PodStatus> = enrolled.chain(failed).collect();
        pods.sort_by(|a, b| a.pod.cmp(&b.pod));
        self.status.publish(Report { version, pods });
    }
}

fn mode(workload: &Workload) -> FailureMode {
    workload
        .local
        .as_ref()
        .map(|local| local.failure_mode)
        .unwrap_or_default()
}

fn exists(snapshot: &Snapshot, name: &str) -> bool {
    name.split_once('/').is_some_and(|(namespace, name)| {
        snapshot
            .workloads
            .iter()
            .any(|workload| &*workload.namespace == namespace && &*workload.name == name)
    })
}
