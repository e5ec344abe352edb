//! Keeps what TLS with servers outside the mesh is made by: follows the snapshots for the settings
//! that rules have, and reads the files that they name, again whenever one has changed. A change that
//! can't be used leaves what was in force, and is told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::sleep;

use crate::mesh::Snapshot;
use crate::mesh::origination::{Credentials, Origination};
use crate::tls::Outside;
use crate::tls::outside::{Fingerprint, Limits, Loaded, load};

/// How often files are looked at: trust that is taken away ends what rests on it within a second.
const LOOK: Duration = Duration::from_millis(500);

/// Where one set of settings stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What is said of it in the rules.
    pub settings: Arc<Origination>,
    /// Whether there is something to make connections by.
    pub active: bool,
    /// When the certificate that is shown ends.
    pub until: Option<SystemTime>,
    /// Why the files as they are now can't be used.
    pub error: Option<String>,
}

/// Reads the newest report. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Status(watch::Receiver<Arc<[Row]>>);

impl Status {
    /// All settings that rules have.
    pub fn rows(&self) -> Arc<[Row]> {
        Arc::clone(&self.0.borrow())
    }
}

/// Follows snapshots and files.
pub struct Driver {
    outside: Outside,
    limits: Limits,
    held: BTreeMap<Arc<Origination>, Held>,
    report: watch::Sender<Arc<[Row]>>,
}

#[derive(Default)]
struct Held {
    seen: Option<Fingerprint>,
    loaded: Option<Arc<Loaded>>,
    error: Option<String>,
}

impl Driver {
    /// Writes to `outside`.
    pub fn new(outside: Outside, limits: Limits) -> Self {
        Self {
            outside,
            limits,
            held: BTreeMap::new(),
            report: watch::Sender::new(Arc::default()),
        }
    }

    /// What there is; follows every change.
    pub fn status(&self) -> Status {
        Status(self.report.subscribe())
    }

    /// Works until the snapshots end.
    pub async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        let mut wanted = settings(&snapshots.borrow_and_update());
        loop {
            if !wanted.is_empty() || !self.held.is_empty() {
                let wanted = wanted.clone();
                // Files may lie on something slow.
                let looking = tokio::task::spawn_blocking(move || {
                    self.look(wanted);
                    self
                });
                self = match looking.await {
                    Ok(looked) => looked,
                    Err(error) if error.is_panic() => {
                        std::panic::resume_unwind(error.into_panic());
                    }
                    Err(_) => return,
                };
            }
            let idle = self.held.is_empty();
            tokio::select! {
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    wanted = settings(&snapshots.borrow_and_update());
                }
                () = sleep(LOOK), if !idle => {}
            }
        }
    }

    /// Reads what is new or has changed.
    fn look(&mut self, wanted: BTreeSet<Arc<Origination>>) {
        let (mut changed, mut again) = (false, Vec::new());
        self.held.retain(|settings, _| {
            let stays = wanted.contains(settings);
            changed |= !stays;
            stays
        });
        for settings in wanted {
            let Credentials::Files(files) = &settings.credentials else {
                continue;
            };
            let held = self.held.entry(Arc::clone(&settings)).or_default();
            let now = Some(Fingerprint::of(files, &self.limits));
            if held.seen == now {
                continue;
            }
            let first = std::mem::replace(&mut held.seen, now).is_none();
            changed = true;
            match load(&settings, files, &self.limits) {
                Ok(loaded) => {
                    if !first {
                        again.push(Arc::clone(&settings));
                    }
                    held.loaded = Some(Arc::new(loaded));
                    held.error = None;
                }
                Err(error) if held.loaded.is_some() => {
                    tracing::warn!(%error, "{settings}: what was in force stays");
                    held.error = Some(error);
                }
                Err(error) => {
                    tracing::error!(%error, "{settings}: its connections fail");
                    held.error = Some(error);
                }
            }
        }
        if changed {
            self.publish();
        }
        // It is in force when it is said.
        for settings in again {
            tracing::info!("{settings}: its files have changed and were read again");
        }
    }

    fn publish(&self) {
        let known = self.held.iter().map(|(settings, held)| {
            let error = || held.error.as_deref().unwrap_or_default().into();
            let known = held.loaded.clone().ok_or_else(error);
            (Arc::clone(settings), known)
        });
        self.outside.set(known.collect::<HashMap<_, _>>());
        let rows = self.held.iter().map(|(settings, held)| Row {
            settings: Arc::clone(settings),
            active: held.loaded.is_some(),
            until: held.loaded.as_ref().and_then(|loaded| loaded.until),
            error: held.error.clone(),
        });
        self.report.send_replace(rows.collect());
    }
}

/// The settings that need files.
fn settings(snapshot: &Snapshot) -> BTreeSet<Arc<Origination>> {
    let private = snapshot.private_clusters.values();
    let private = private.flat_map(|of_namespace| of_namespace.values());
    let private = private.flat_map(|variants| {
        let selected = variants.selected.iter().map(|(_, one)| one);
        selected.chain(&variants.others).flatten()
    });
    let all = snapshot.clusters.iter().chain(private);
    let all = all.filter_map(|cluster| cluster.policy.tls.as_ref());
    all.filter(|one| matches!(one.credentials, Credentials::Files(_)))
        .cloned()
        .collect()
}
