//! Answers that wait until a test lets them go, and tell how many wait.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result};
use tokio::sync::watch;

use crate::PATIENCE;

/// What stands before a server's answers. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    open: watch::Sender<bool>,
    held: watch::Sender<usize>,
    /// The most that were inside at once, waiting or not.
    most: AtomicUsize,
}

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Inner {
            open: watch::Sender::new(false),
            held: watch::Sender::new(0),
            most: AtomicUsize::new(0),
        }))
    }
}

/// One that is inside.
struct Inside(Arc<Inner>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.held.send_modify(|held| *held -= 1);
    }
}

impl Gate {
    /// Does `work` as soon as the gate is open. Whoever is dropped before does not count any more.
    pub async fn pass<T>(&self, work: impl Future<Output = T>) -> T {
        let mut open = self.0.open.subscribe();
        let _inside = Inside(Arc::clone(&self.0));
        self.0.held.send_modify(|held| {
            *held += 1;
            self.0.most.fetch_max(*held, Ordering::Relaxed);
        });
        // The sender lives as long as this does.
        let _ = open.wait_for(|open| *open).await;
        work.await
    }

    /// Waits until exactly `count` are inside.
    pub async fn holds(&self, count: usize) -> Result<()> {
        let mut held = self.0.held.subscribe();
        let waited = tokio::time::timeout(PATIENCE, held.wait_for(|held| *held == count)).await;
        waited
            .map(|_| ())
            .with_context(|| format!("{} are inside, not {count}", *self.0.held.borrow()))
    }

    /// The most that were inside at once.
    pub fn most(&self) -> usize {
        self.0.most.load(Ordering::Relaxed)
    }

    /// Lets everybody go, and who comes later.
    pub fn open(&self) {
        self.0.open.send_replace(true);
    }

    /// Holds who comes from now on.
    pub fn close(&self) {
        self.0.open.send_replace(false);
    }
}
