//! What there is of certificates, for `aquifer status`, `config secrets` and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::types::Identity;

/// Where an identity's certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In force.
    Active,
    /// In force, and the last try to renew it failed.
    Stale,
    /// The first is awaited.
    Pending,
    /// There is none, and it could not be had.
    Failed,
    /// The last one has expired, and no other could be had.
    Expired,
}

/// One local identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Whose.
    pub identity: Identity,
    /// How many pods here are of it.
    pub pods: usize,
    /// Where it stands.
    pub state: State,
    /// When it is renewed.
    pub renew: Option<SystemTime>,
    /// Failures in a row.
    pub failures: u32,
    /// What the last one was.
    pub error: Option<String>,
}

/// All local identities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Who signs.
    pub authority: String,
    /// Sorted by identity.
    pub rows: Vec<Row>,
    /// Certificates put in force since the start.
    pub fetched: u64,
    /// Tries that failed since the start, by [`super::Failure::reason`].
    pub failed: BTreeMap<&'static str, u64>,
}

/// Reads the newest report, and follows it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Status(pub(super) watch::Receiver<Arc<Report>>);

impl Status {
    /// The newest report.
    pub fn report(&self) -> Arc<Report> {
        Arc::clone(&self.0.borrow())
    }

    /// Waits for a report that `fits`. `None` when the driver has ended.
    pub async fn wait_for(&mut self, mut fits: impl FnMut(&Report) -> bool) -> Option<Arc<Report>> {
        let found = self.0.wait_for(|report| fits(report)).await.ok()?;
        Some(Arc::clone(&found))
    }
}
