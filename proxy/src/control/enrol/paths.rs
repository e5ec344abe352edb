//! The paths of pods' network namespaces: tells when one may have appeared or gone.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// /proc sends no events: namespaces named by a path there are looked at this often.
const PROC_INTERVAL: Duration = Duration::from_secs(1);

/// Watches the folders of paths.
pub(super) struct Paths {
    watcher: Option<RecommendedWatcher>,
    watched: HashSet<PathBuf>,
    events: Receiver<()>,
    /// Kept so that `events` stays open where there is no watcher.
    _sender: Sender<()>,
    in_proc: bool,
}

impl Paths {
    pub(super) fn new() -> Self {
        // One waiting event says all there is to say.
        let (sender, events) = channel(1);
        let told = sender.clone();
        let watcher = notify::recommended_watcher(move |_event| {
            // Full: somebody is about to look anyway.
            let _ = told.try_send(());
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(%error, "network namespaces are not watched: a pod that goes is \
                                        noticed when its Pod object goes");
            })
            .ok();
        Self {
            watcher,
            watched: HashSet::new(),
            events,
            _sender: sender,
            in_proc: false,
        }
    }

    /// Watches where these are, or where they would appear, and nowhere else.
    pub(super) fn watch<'a>(&mut self, paths: impl Iterator<Item = &'a Path>) {
        let paths: Vec<&Path> = paths.collect();
        self.in_proc = paths.iter().any(|path| path.starts_with("/proc"));
        let wanted: HashSet<PathBuf> = paths
            .iter()
            .filter(|path| !path.starts_with("/proc"))
            .filter_map(|path| path.ancestors().skip(1).find(|folder| folder.is_dir()))
            .map(Path::to_owned)
            .collect();
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        for folder in self.watched.difference(&wanted) {
            // A folder that is gone is watched no more.
            let _ = watcher.unwatch(folder);
        }
        let mut watched: HashSet<PathBuf> = self.watched.intersection(&wanted).cloned().collect();
        for folder in wanted.difference(&self.watched) {
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    watched.insert(folder.clone());
                }
                Err(error) => tracing::warn!(folder = %folder.display(), %error, "not watched"),
            }
        }
        self.watched = watched;
    }

    /// Waits until something may have changed.
    pub(super) async fn changed(&mut self) {
        if self.in_proc {
            let _ = tokio::time::timeout(PROC_INTERVAL, self.events.recv()).await;
        } else {
            self.events.recv().await;
        }
    }
}

/// Whether the namespace at `path` is still the one with this inode. We hold it open, so the number
/// is not given to another.
pub(super) fn is_namespace(path: &Path, inode: u64) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.ino() == inode)
}
