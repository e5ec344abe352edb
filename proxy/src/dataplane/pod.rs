//! What a worker keeps for one local pod: its pools, its balancer state, and whether it still
//! serves.

use std::cell::{Ref, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;

use super::balance::ClusterState;
use super::pool::Pools;
use crate::net::pod::Pod;
use crate::types::ClusterName;

/// How far a pod is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// New connections are taken.
    Serving,
    /// No new ones; those that are open may finish.
    Draining,
    /// Its network namespace is going: everything of it ends now.
    Gone,
}

/// One local pod in one worker.
pub struct LocalPod {
    pod: RefCell<Arc<Pod>>,
    pub(super) pools: Pools,
    pub(super) clusters: RefCell<HashMap<ClusterName, Arc<ClusterState>>>,
    phase: watch::Sender<Phase>,
    running: watch::Sender<usize>,
}

impl LocalPod {
    pub(super) fn new(pod: Arc<Pod>) -> Self {
        Self {
            pod: RefCell::new(pod),
            pools: Pools::default(),
            clusters: RefCell::default(),
            phase: watch::Sender::new(Phase::Serving),
            running: watch::Sender::new(0),
        }
    }

    /// The pod as its newest manifest describes it.
    pub(super) fn pod(&self) -> Ref<'_, Arc<Pod>> {
        self.pod.borrow()
    }

    /// The namespace's cookie.
    pub(super) fn cookie(&self) -> u64 {
        self.pod.borrow().cookie
    }

    /// Takes a newer manifest.
    pub(super) fn update(&self, pod: Arc<Pod>) {
        self.pod.replace(pod);
    }

    /// Moves on to another phase.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Resolves when no new work may begin.
    pub(super) async fn draining(&self) {
        // The sender lives in `self`: the channel can't be closed.
        let _ = self
            .phase
            .subscribe()
            .wait_for(|phase| *phase != Phase::Serving)
            .await;
    }

    /// Resolves when everything must end.
    pub(super) async fn gone(&self) {
        let _ = self
            .phase
            .subscribe()
            .wait_for(|phase| *phase == Phase::Gone)
            .await;
    }

    /// Counts something that runs for this pod, until it is dropped.
    pub(super) fn running(self: &Rc<Self>) -> Running {
        self.running.send_modify(|running| *running += 1);
        Running(Rc::clone(self))
    }

    /// Resolves when nothing runs any more.
    pub(super) async fn idle(&self) {
        let _ = self
            .running
            .subscribe()
            .wait_for(|running| *running == 0)
            .await;
    }
}

/// Something that runs for a pod.
pub(super) struct Running(Rc<LocalPod>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| *running -= 1);
    }
}
