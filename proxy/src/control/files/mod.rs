//! Folders of manifests as a source of configuration: read, watched, and told about.

mod read;
mod watch;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;

pub use read::MAX_FILE_BYTES;
pub(super) use watch::Watch;

use super::store::File;
use crate::clock;
use crate::policy::authorization::TrustDomains;
use crate::types::{Position, Problem, Severity};

/// What the compiler needs to know besides the objects.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this node.
    pub node: String,
    /// What names of Services end with.
    pub cluster_domain: String,
    /// The mesh's own trust domain and its aliases.
    pub trust_domains: TrustDomains,
}

/// Folders of manifests.
#[derive(Debug)]
pub struct Source {
    pub(super) settings: Settings,
    folders: Vec<Folder>,
    reader: read::Reader,
    status: Arc<Status>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    files: Vec<Arc<Path>>,
    error: Option<String>,
}

/// What became of each folder; shared with whoever tells it.
#[derive(Debug, Default)]
pub struct Status {
    folders: ArcSwap<Vec<FolderStatus>>,
}

/// What became of one folder.
#[derive(Clone, Debug)]
pub struct FolderStatus {
    /// The folder.
    pub path: PathBuf,
    /// How many files it has.
    pub files: usize,
    /// How many objects of it are in force, by kind.
    pub objects: BTreeMap<Arc<str>, usize>,
    /// When it was last read.
    pub read: SystemTime,
    /// Why it can't be read.
    pub error: Option<String>,
}

impl Status {
    /// As of now; empty before the first load.
    pub fn folders(&self) -> Arc<Vec<FolderStatus>> {
        self.folders.load_full()
    }
}

impl Source {
    /// The folders in the order in which they count: of two objects of one name the first wins.
    pub fn new(folders: Vec<PathBuf>, settings: Settings) -> Self {
        let folders = folders.into_iter().map(|path| Folder {
            path: std::path::absolute(&path).unwrap_or(path),
            files: Vec::new(),
            error: None,
        });
        Self {
            settings,
            folders: folders.collect(),
            reader: read::Reader::default(),
            status: Arc::default(),
        }
    }

    /// What becomes of the folders, for as long as the source is followed.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.folders.iter().map(|one| one.path.clone()).collect()
    }

    /// Folders that links lead to, as of the last read.
    pub(super) fn link_targets(&self) -> Vec<PathBuf> {
        self.folders
            .iter()
            .flat_map(|one| read::link_targets(&one.files))
            .collect()
    }

    /// Reads everything. A file under two of the folders is read once. Says besides whether a file
    /// is there that was not, or the other way round.
    pub(super) fn read(&mut self) -> (Vec<File>, bool) {
        let mut all: Vec<Arc<Path>> = Vec::new();
        let mut known = HashSet::new();
        let mut moved = false;
        for folder in &mut self.folders {
            let listing = read::list(&folder.path, &folder.files);
            moved |= listing.files != folder.files;
            folder.files = listing.files;
            folder.error = listing.error;
            for file in &folder.files {
                if known.insert(Arc::clone(file)) {
                    all.push(Arc::clone(file));
                }
            }
        }
        (self.reader.read(&all), moved)
    }

    /// The folders that can't be read.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> + '_ {
        self.folders.iter().filter_map(|folder| {
            let kept = match folder.files.len() {
                0 => String::new(),
                count => format!(" (what it had stays in force: {count} files)"),
            };
            Some(Problem {
                severity: Severity::Error,
                object: None,
                position: Some(Position {
                    file: folder.path.as_path().into(),
                    line: 0,
                }),
                field: String::new(),
                message: format!("{}{kept}", folder.error.as_ref()?),
            })
        })
    }

    /// Tells what became of each folder; `count` counts the objects in force under a path.
    pub(super) fn tell(&self, count: impl Fn(&Path) -> BTreeMap<Arc<str>, usize>) {
        let read = clock::wall();
        let folders = self.folders.iter().map(|folder| FolderStatus {
            path: folder.path.clone(),
            files: folder.files.len(),
            objects: count(&folder.path),
            read,
            error: folder.error.clone(),
        });
        self.status.folders.store(Arc::new(folders.collect()));
    }
}
