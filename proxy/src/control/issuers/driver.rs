//! The loop that fetches, fetches again and drops.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Failure, Fetcher};
use crate::clock;
use crate::mesh::{KeyRing, Snapshot};
use crate::policy::jwt::{Keys, Origin, Source};
use crate::policy::refresh::Refresh;

/// How many are fetched at once.
const AT_ONCE: usize = 16;
/// The longest sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Follows the snapshots and keeps the keys that they name.
pub struct Driver {
    fetcher: Arc<Fetcher>,
    ring: KeyRing,
    interval: Duration,
    known: BTreeMap<Arc<Origin>, Entry>,
    asked: JoinSet<(Arc<Origin>, Result<Keys, Failure>)>,
    room: Arc<Semaphore>,
    report: watch::Sender<Arc<Report>>,
}

#[derive(Default)]
struct Entry {
    refresh: Refresh,
    keys: Option<Arc<Keys>>,
    in_flight: bool,
    error: Option<String>,
}

/// Where the keys of one issuer stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where they are fetched.
    pub url: String,
    /// How many there are; `None` while none have come.
    pub keys: Option<usize>,
    /// Failures since they came last.
    pub failures: u32,
    /// What the last one was.
    pub error: Option<String>,
}

/// All that are fetched.
pub type Report = Vec<Row>;

/// Reads the newest report. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Status(pub(super) watch::Receiver<Arc<Report>>);

impl Status {
    /// The newest report.
    pub fn report(&self) -> Arc<Report> {
        Arc::clone(&self.0.borrow())
    }
}

impl Driver {
    /// Has `fetcher` fetch about every `interval`, and puts what comes into `ring`.
    pub fn new(fetcher: Fetcher, ring: KeyRing, interval: Duration) -> Self {
        Self {
            fetcher: Arc::new(fetcher),
            ring,
            interval,
            known: BTreeMap::new(),
            asked: JoinSet::new(),
            room: Arc::new(Semaphore::new(AT_ONCE)),
            report: watch::Sender::default(),
        }
    }

    /// What there is; follows every change.
    pub fn status(&self) -> Status {
        Status(self.report.subscribe())
    }

    /// Works until the snapshots end.
    pub async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.follow(&snapshot);
            let wait = self.act(&snapshot);
            self.publish();
            tokio::select! {
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                Some(answer) = self.asked.join_next() => match answer {
                    Ok((origin, answer)) => self.take(&origin, answer),
                    Err(error) if error.is_panic() => {
                        std::panic::resume_unwind(error.into_panic());
                    }
                    Err(_) => {}
                },
                () = sleep(wait) => {}
            }
        }
    }

    /// Learns whose keys are wanted.
    fn follow(&mut self, snapshot: &Snapshot) {
        let guards = snapshot.guards.values().flat_map(|guards| guards.values());
        let rules = guards.flat_map(|guard| &guard.tokens);
        let wanted: BTreeSet<&Arc<Origin>> = rules
            .filter_map(|rule| match &rule.keys {
                Source::Fetched(origin) => Some(origin),
                Source::Given(_) | Source::Nowhere(_) => None,
            })
            .collect();
        let before = self.known.len();
        self.known.retain(|origin, _| wanted.contains(origin));
        if self.known.len() < before {
            self.fill();
        }
        for origin in wanted {
            if !self.known.contains_key(origin) {
                self.known.insert(Arc::clone(origin), Entry::default());
            }
        }
    }

    /// Does what is due, and says how long nothing will be.
    fn act(&mut self, snapshot: &Arc<Snapshot>) -> Duration {
        let now = clock::now();
        let mut wait = LONGEST_SLEEP;
        let mut lost = false;
        for (origin, entry) in &mut self.known {
            if entry.refresh.expire(now) {
                let url = &origin.location;
                tracing::error!(%url, error = entry.error, "the keys of an issuer are too old: its tokens are refused");
                entry.keys = None;
                lost = true;
            }
            if entry.in_flight {
                continue;
            }
            let left = entry.refresh.wait(now);
            if !left.is_zero() {
                wait = wait.min(left);
                continue;
            }
            entry.in_flight = true;
            let (fetcher, room) = (Arc::clone(&self.fetcher), Arc::clone(&self.room));
            let (origin, snapshot) = (Arc::clone(origin), Arc::clone(snapshot));
            self.asked.spawn(async move {
                // Closed by nobody.
                let _permit = room.acquire().await;
                let answer = fetcher.fetch(&origin, &snapshot).await;
                (origin, answer)
            });
        }
        if lost {
            self.fill();
        }
        wait
    }

    /// Takes an answer.
    fn take(&mut self, origin: &Arc<Origin>, answer: Result<Keys, Failure>) {
        let Some(entry) = self.known.get_mut(origin) else {
            // Nobody names it any more.
            return;
        };
        entry.in_flight = false;
        let now: Instant = clock::now();
        let url = &origin.location;
        match answer {
            Ok(keys) => {
                entry.refresh.succeeded(now, self.interval, rand::random());
                entry.error = None;
                if entry.keys.as_deref() != Some(&keys) {
                    tracing::info!(%url, count = keys.count(), "the keys of an issuer are in force");
                    entry.keys = Some(Arc::new(keys));
                    self.fill();
                }
            }
            Err(failure) => {
                let again = entry.refresh.failed(now, self.interval, rand::random());
                let error = failure.to_string();
                match &entry.keys {
                    Some(_) => tracing::warn!(
                        %url, %error, ?again,
                        "the keys of an issuer could not be fetched again; the old ones hold"
                    ),
                    None => tracing::error!(
                        %url, %error, ?again,
                        "the keys of an issuer can't be fetched: its tokens are refused"
                    ),
                }
                entry.error = Some(error);
            }
        }
    }

    /// Puts in force what there is.
    fn fill(&self) {
        let all = self.known.iter().filter_map(|(origin, entry)| {
            let keys = entry.keys.as_ref()?;
            Some((Arc::clone(origin), Arc::clone(keys)))
        });
        self.ring.replace(all.collect());
    }

    fn publish(&self) {
        let rows = self.known.iter().map(|(origin, entry)| Row {
            url: origin.location.to_string(),
            keys: entry.keys.as_ref().map(|keys| keys.count()),
            failures: entry.refresh.failures(),
            error: entry.error.clone(),
        });
        let report: Report = rows.collect();
        self.report.send_if_modified(|current| {
            let changed = **current != report;
            if changed {
                *current = Arc::new(report);
            }
            changed
        });
    }
}
