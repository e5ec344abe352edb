//! Tells when something in a set of folders may have changed.
//!
//! Level-triggered: it says that there is something to look at, never what. Watched are the folders
//! themselves, what links in them lead to, and their parents, so that a folder that is swapped,
//! deleted or comes back is seen. Reading what is there is another's business.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Changes come in bursts (a rename is two, an editor's save five): a burst is over after this
/// long without another.
const QUIET: Duration = Duration::from_millis(20);

/// A burst that does not end is looked at anyway after so many of these.
const MAX_QUIETS: u32 = 10;

/// Watches folders.
pub(in crate::control) struct Watch {
    watcher: RecommendedWatcher,
    /// What is watched, with the device and inode that it was when the watch began.
    watched: HashMap<PathBuf, (u64, u64)>,
    signal: Arc<Signal>,
}

#[derive(Debug, Default)]
struct Signal {
    changed: Notify,
    /// Watches may have ended with the folders they were on, or events were lost.
    renew: AtomicBool,
    scope: Mutex<Scope>,
}

/// Which events matter.
#[derive(Debug, Default)]
struct Scope {
    /// The folders asked for. A change of one of their parents matters where it lies on the way.
    folders: Vec<PathBuf>,
    /// Where links lead to.
    targets: Vec<PathBuf>,
}

impl Scope {
    fn contains(&self, path: &Path) -> bool {
        self.folders
            .iter()
            .any(|folder| path.starts_with(folder) || folder.starts_with(path))
            || self
                .targets
                .iter()
                .any(|target| path.starts_with(target) || target.starts_with(path))
    }
}

impl Watch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// The system has no more watches to give (`fs.inotify.max_user_instances`).
    pub(in crate::control) fn new() -> notify::Result<Self> {
        let signal = Arc::new(Signal::default());
        let told = Arc::clone(&signal);
        let watcher = notify::recommended_watcher(move |event| told.take(event))?;
        Ok(Self {
            watcher,
            watched: HashMap::new(),
            signal,
        })
    }

    /// Watches `folders`, and `targets` that links in them lead to; ends all other watches. Says
    /// whether a watch is new: what it is on may have changed before.
    ///
    /// # Errors
    /// The first folder that can't be watched; the others are.
    pub(in crate::control) fn set(
        &mut self,
        folders: &[PathBuf],
        targets: &[PathBuf],
    ) -> (bool, notify::Result<()>) {
        let renew = self.signal.renew.swap(false, Ordering::AcqRel);
        let mut wanted: Vec<PathBuf> = targets.to_vec();
        let mut inside = Vec::new();
        for folder in folders {
            inside.push(folder.clone());
            if let Ok(canonical) = fs::canonicalize(folder) {
                wanted.extend(canonical.parent().map(Path::to_owned));
                inside.push(canonical.clone());
                wanted.push(canonical);
            }
            wanted.extend(nearest_parent(folder));
        }
        *self
            .signal
            .scope
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Scope {
            folders: inside,
            targets: targets.to_vec(),
        };
        let wanted: HashMap<PathBuf, (u64, u64)> = wanted
            .into_iter()
            .filter_map(|path| {
                let metadata = fs::metadata(&path).ok()?;
                Some((path, (metadata.dev(), metadata.ino())))
            })
            .collect();
        self.watched.retain(|path, identity| {
            let keep = !renew && wanted.get(path) == Some(identity);
            if !keep {
                // It may be gone with its folder.
                let _ = self.watcher.unwatch(path);
            }
            keep
        });
        let mut result = Ok(());
        let mut new = false;
        for (path, identity) in wanted {
            if self.watched.contains_key(&path) {
                continue;
            }
            match self.watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    new = true;
                    self.watched.insert(path, identity);
                }
                // It went between the two looks: whoever deleted it also changed its parent.
                Err(_) if !path.exists() => new = true,
                Err(error) => result = result.and(Err(error)),
            }
        }
        (new, result)
    }

    /// Waits until something may have changed and the burst of changes is over.
    pub(in crate::control) async fn changed(&self) {
        self.signal.changed.notified().await;
        for _ in 0..MAX_QUIETS {
            if timeout(QUIET, self.signal.changed.notified())
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

/// The nearest folder above `path` that exists.
fn nearest_parent(path: &Path) -> Option<PathBuf> {
    path.ancestors()
        .skip(1)
        .find(|one| one.is_dir())
        .map(Path::to_owned)
}

impl Signal {
    fn take(&self, event: notify::Result<Event>) {
        let Ok(event) = event else {
            self.renew.store(true, Ordering::Release);
            self.changed.notify_one();
            return;
        };
        // Reading is an event as well, and we read after each.
        let matters = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
            EventKind::Access(_) => false,
            _ => true,
        };
        let scope = self.scope.lock().unwrap_or_else(PoisonError::into_inner);
        if event.need_rescan() || (matters && event.paths.iter().any(|path| scope.contains(path))) {
            let on_the_way = |path: &PathBuf| {
                let folders = scope.folders.iter().chain(&scope.targets);
                folders.into_iter().any(|folder| folder.starts_with(path))
            };
            if event.need_rescan() || event.paths.iter().any(on_the_way) {
                self.renew.store(true, Ordering::Release);
            }
            self.changed.notify_one();
        }
    }
}
