//! Where maps and links are pinned, and of which layout they are.
//!
//! One folder a proxy (`--bpffs`): the maps by name, the links under `links/`. Two proxies with
//! different folders share nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aquifer_common::Pod;

use super::Error;
use super::maps::{self, names};

/// The folder of one proxy's pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The folder at `root`. Nothing is created.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the map `name` is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where links are pinned.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Where the link of the program `name` is pinned.
    pub fn link(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }

    /// Name of the link of a pod's inbound program.
    pub fn inbound_name(cookie: u64) -> String {
        format!("inbound-{cookie}")
    }

    /// Removes every pin: links first, so that nothing is captured into maps that go. Returns how
    /// many there were. No folder is no error.
    pub fn clear(&self) -> Result<usize, Error> {
        self.disarm();
        let removed = empty(&self.links())? + empty(&self.root)?;
        match fs::remove_dir(&self.root) {
            Ok(()) => Ok(removed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(removed),
            Err(source) => Err(Error::Folder {
                path: self.root.clone(),
                problem: "removing it",
                source,
            }),
        }
    }
}

impl Pins {
    /// Forgets every pod, so that nothing is captured from here on: a program whose last pin is
    /// removed is detached a moment later, in the kernel's own time. Pins of another layout may not
    /// be readable; there that moment stays.
    fn disarm(&self) {
        let Ok(mut pods) = maps::hash::<u64, Pod>(self, names::PODS) else {
            return;
        };
        let cookies: Vec<u64> = pods.keys().filter_map(Result::ok).collect();
        for cookie in cookies {
            // Gone already is as good.
            let _ = pods.remove(&cookie);
        }
    }
}

/// Removes a folder's files, and its folders where they are empty.
fn empty(folder: &Path) -> Result<usize, Error> {
    let failed = |path: &Path, problem| {
        let path = path.to_owned();
        move |source| Error::Folder {
            path,
            problem,
            source,
        }
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(source) => return Err(failed(folder, "reading it")(source)),
    };
    let mut removed = 0;
    for entry in entries {
        let path = entry.map_err(failed(folder, "reading it"))?.path();
        if path.is_dir() {
            fs::remove_dir(&path).map_err(failed(&path, "removing it"))?;
        } else {
            fs::remove_file(&path).map_err(failed(&path, "removing it"))?;
            removed += 1;
        }
    }
    Ok(removed)
}
