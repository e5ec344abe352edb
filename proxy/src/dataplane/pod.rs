//! What a worker keeps for one local pod: its pools, its balancer state, and whether it still
//! serves.

use std::cell::{Cell, Ref, RefCell};
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use foldhash::fast::RandomState;
use slab::Slab;
use tokio::sync::watch;

use super::balance::ClusterState;
use super::pool::Pools;
use crate::net::pod::Pod;
use crate::types::ClusterName;

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

/// One local pod in one worker.
pub struct LocalPod {
    pod: RefCell<Arc<Pod>>,
    pub(super) pools: Pools,
    pub(super) clusters: RefCell<HashMap<ClusterName, Arc<ClusterState>, RandomState>>,
    phase: Cell<Phase>,
    /// Tasks to wake when the phase changes.
    waiting: RefCell<Slab<Waker>>,
    running: watch::Sender<usize>,
}

impl LocalPod {
    pub(super) fn new(pod: Arc<Pod>) -> Self {
        Self {
            pod: RefCell::new(pod),
            pools: Pools::default(),
            clusters: RefCell::default(),
            phase: Cell::new(Phase::Serving),
            waiting: RefCell::default(),
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
        self.0.running.send_modify(|running| *running -= 1);
    }
}
