//! What is enrolled, for `aquifer status` and readiness.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::mesh::FailureMode;

/// Where a pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Captured.
    Enrolled,
    /// Should be captured and is not; it is tried again.
    Failed,
}

/// One local pod of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PodStatus {
    /// `namespace/name`.
    pub pod: String,
    /// Where its network namespace is said to be.
    pub netns: PathBuf,
    /// The cookie of that namespace, once it is enrolled.
    pub cookie: Option<u64>,
    /// Ports of the listeners for its own connections.
    pub outbound: Vec<u16>,
    /// Ports of the listeners for connections to it.
    pub inbound: Vec<u16>,
    /// Listening sockets held for it, all workers together.
    pub sockets: usize,
    /// What a dead proxy means for it.
    pub failure_mode: FailureMode,
    /// Where it stands.
    pub state: State,
    /// Why it failed.
    pub error: Option<String>,
}

/// All local pods, after one snapshot was brought into force.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// The snapshot; 0 before the first.
    pub version: u64,
    /// Sorted by name.
    pub pods: Vec<PodStatus>,
}

impl Report {
    /// Whether a snapshot has been brought into force and every local pod of it is captured.
    pub fn settled(&self) -> bool {
        self.version > 0 && self.pods.iter().all(|pod| pod.state == State::Enrolled)
    }
}

/// Reads the newest report, and follows it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Status {
    reports: watch::Receiver<Arc<Report>>,
}

impl Status {
    /// The newest report.
    pub fn report(&self) -> Arc<Report> {
        Arc::clone(&self.reports.borrow())
    }

    /// Waits for a report that `fits`. `None` when the driver has ended.
    pub async fn wait_for(&mut self, mut fits: impl FnMut(&Report) -> bool) -> Option<Arc<Report>> {
        let found = self.reports.wait_for(|report| fits(report)).await.ok()?;
        Some(Arc::clone(&found))
    }
}

/// The driver's end.
#[derive(Debug)]
pub(super) struct Publisher {
    reports: watch::Sender<Arc<Report>>,
}

impl Publisher {
    pub(super) fn new() -> Self {
        Self {
            reports: watch::Sender::new(Arc::default()),
        }
    }

    pub(super) fn handle(&self) -> Status {
        Status {
            reports: self.reports.subscribe(),
        }
    }

    pub(super) fn publish(&self, report: Report) {
        self.reports.send_if_modified(|current| {
            let changed = **current != report;
            if changed {
                *current = Arc::new(report);
            }
            changed
        });
    }
}
