//! Folders and files into objects.
//!
//! A folder's own files count, in the order of their names; folders inside of it don't (as with
//! `kubectl apply -f`), nor do names that begin with a dot: editors and the kubelet keep their
//! temporary files there. A mounted ConfigMap, whose files are links into a hidden folder that is
//! swapped as a whole, is therefore read once and always in one version.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::api::{Decoded, decode, yaml};
use crate::control::store::{Content, File};

/// The largest file that is read.
pub const MAX_FILE_BYTES: u64 = 16 << 20;

/// The most objects in a file. Below 16 MiB only nonsense has more.
const MAX_OBJECTS: usize = 100_000;

/// What a folder holds.
#[derive(Debug)]
pub(super) struct Listing {
    /// In the order in which they count.
    pub(super) files: Vec<Arc<Path>>,
    /// Why it can't be listed; `files` is then what it held before.
    pub(super) error: Option<String>,
}

/// Reads folders again and again, and knows what did not change.
#[derive(Debug, Default)]
pub(super) struct Reader {
    seen: HashMap<Arc<Path>, u64>,
}

/// The files of `folder`. A path to a file is a folder of one.
pub(super) fn list(folder: &Path, before: &[Arc<Path>]) -> Listing {
    match try_list(folder) {
        Ok(files) => Listing { files, error: None },
        Err(error) => {
            let what = match error.kind() {
                io::ErrorKind::NotFound => {
                    "no such folder; it is read as soon as it appears".to_owned()
                }
                _ => format!("can't be listed: {error}"),
            };
            Listing {
                files: before.to_vec(),
                error: Some(what),
            }
        }
    }
}

fn try_list(folder: &Path) -> io::Result<Vec<Arc<Path>>> {
    if fs::metadata(folder)?.is_file() {
        return Ok(vec![folder.into()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // A folder of such a name is skipped; anything else that is no file is told when it is read.
        if is_manifest(&path) && !fs::metadata(&path).is_ok_and(|one| one.is_dir()) {
            files.push(path.into());
        }
    }
    files.sort();
    Ok(files)
}

fn is_manifest(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|one| one.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

impl Reader {
    /// Reads each of `files`, and forgets all others.
    pub(super) fn read(&mut self, files: &[Arc<Path>]) -> Vec<File> {
        let mut seen = HashMap::with_capacity(files.len());
        let read = files
            .iter()
            .map(|path| {
                let (content, hash) = self.read_one(path);
                if let Some(hash) = hash {
                    seen.insert(Arc::clone(path), hash);
                }
                File {
                    path: Arc::clone(path),
                    content,
                }
            })
            .collect();
        self.seen = seen;
        read
    }

    fn read_one(&self, path: &Arc<Path>) -> (Content, Option<u64>) {
        let bytes = match load(path) {
            Ok(bytes) => bytes,
            Err(message) => return (Content::Unreadable { message, line: 0 }, None),
        };
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        let hash = hasher.finish();
        if self.seen.get(path) == Some(&hash) {
            return (Content::Unchanged, Some(hash));
        }
        (parse(bytes), Some(hash))
    }
}

fn load(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: io::Error| format!("can't be read: {error}");
    // Opening a pipe or a terminal would wait for its other end.
    let nonblocking = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)
        .map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("can't be read: not a regular file".to_owned());
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(too_large(metadata.len()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    // It may grow while it is read.
    let read = file
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if read as u64 > MAX_FILE_BYTES {
        return Err(too_large(read as u64));
    }
    Ok(bytes)
}

fn too_large(bytes: u64) -> String {
    format!(
        "{} MiB is too large; at most {} MiB are read: split the file",
        bytes.div_ceil(1 << 20),
        MAX_FILE_BYTES >> 20
    )
}

fn parse(bytes: Vec<u8>) -> Content {
    let unreadable = |message: String, line| Content::Unreadable { message, line };
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
            return unreadable(
                "not text in UTF-8".to_owned(),
                u32::try_from(line).unwrap_or(0),
            );
        }
    };
    if text.trim().is_empty() {
        return unreadable("the file is empty".to_owned(), 0);
    }
    // The parser is not ours: if it has a bug, one file fails and not the control plane.
    match catch_unwind(AssertUnwindSafe(|| objects(&text))) {
        Ok(Ok(objects)) => Content::Objects(objects),
        Ok(Err((message, line))) => unreadable(message, line),
        Err(_) => unreadable("not valid YAML: the parser gave up".to_owned(), 0),
    }
}

/// All objects, or why there are none and in which line.
fn objects(text: &str) -> Result<Vec<Decoded>, (String, u32)> {
    let mut objects = Vec::new();
    for document in yaml::documents(text) {
        let document = document.map_err(|refused| (refused.to_string(), refused.line()))?;
        objects.extend(decode(document));
        if objects.len() > MAX_OBJECTS {
            return Err((
                format!("more than {MAX_OBJECTS} objects: split the file"),
                0,
            ));
        }
    }
    Ok(objects)
}

/// Folders outside of the given ones on which their content depends: where links lead to.
pub(super) fn link_targets(files: &[Arc<Path>]) -> Vec<PathBuf> {
    let mut targets: Vec<PathBuf> = files
        .iter()
        .filter(|path| path.is_symlink())
        .filter_map(|path| Some(fs::canonicalize(path).ok()?.parent()?.to_owned()))
        .collect();
    targets.sort();
    targets.dedup();
    targets
}
