//! The snapshot in force, and what is wrong with the configuration that it came from.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::Snapshot;
use crate::types::Problem;

/// Where `control` puts snapshots and everyone else takes them.
#[derive(Debug)]
pub struct Store {
    current: ArcSwap<Snapshot>,
    problems: watch::Sender<Arc<Vec<Problem>>>,
    changes: watch::Sender<Arc<Snapshot>>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// Holds the empty snapshot.
    pub fn new() -> Self {
        let empty = Arc::new(Snapshot::default());
        Self {
            current: ArcSwap::new(Arc::clone(&empty)),
            problems: watch::Sender::default(),
            changes: watch::Sender::new(empty),
        }
    }

    /// The snapshot in force, for one connection or request. No lock, no contention.
    pub fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// The same for a holder that lives longer.
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The swappable pointer itself, for a worker's cached reader.
    pub fn pointer(&self) -> &ArcSwap<Snapshot> {
        &self.current
    }

    /// Puts a snapshot in force, with the problems found while it was made.
    pub fn publish(&self, snapshot: Arc<Snapshot>, problems: Vec<Problem>) {
        self.problems.send_replace(Arc::new(problems));
        self.current.store(Arc::clone(&snapshot));
        self.changes.send_replace(snapshot);
    }

    /// Replaces the problems alone: what is in force does not change.
    pub fn report(&self, problems: Vec<Problem>) {
        self.problems.send_replace(Arc::new(problems));
    }

    /// What is wrong with the configuration now, errors first.
    pub fn problems(&self) -> Arc<Vec<Problem>> {
        Arc::clone(&self.problems.borrow())
    }

    /// Follows the problems: the receiver always sees the newest and may skip some.
    pub fn subscribe_problems(&self) -> watch::Receiver<Arc<Vec<Problem>>> {
        self.problems.subscribe()
    }

    /// Follows the snapshots: the receiver always sees the newest and may skip some.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.changes.subscribe()
    }
}
