//! A number of one's own, from which a lab derives every name and address, so that labs of several
//! tests, of the demo and of the bench live beside each other on one machine.
//!
//! The slot is held by a lock on a file. The kernel drops that lock with the process, however it
//! ended; so whoever takes any slot first sweeps the slots that nobody holds any more.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{netns::Netns, process};

const BPFFS: &str = "/sys/fs/bpf";
const FOLDER: &str = "/run/aquifer-labs";
/// 198.18.0.0/15, set aside for measurements by RFC 2544, has 512 networks of 256 addresses.
const SLOTS: u16 = 512;

/// A number held until this is dropped.
#[derive(Debug)]
pub struct Slot {
    number: u16,
    _lock: Flock<File>,
}

impl Slot {
    /// Takes a free slot and removes what dead owners of this and other slots left behind.
    pub fn take() -> Result<Self> {
        fs::create_dir_all(FOLDER).with_context(|| format!("make {FOLDER} (are you root?)"))?;
        let mut taken = None;
        for number in 0..SLOTS {
            let path = Path::new(FOLDER).join(number.to_string());
            // A file that never existed marks the end of what may be stale.
            let existed = path.exists();
            if taken.is_some() && !existed {
                break;
            }
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .with_context(|| format!("open {}", path.display()))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => {
                    let slot = Self {
                        number,
                        _lock: lock,
                    };
                    if existed {
                        slot.sweep();
                    }
                    // The first free one is kept; others were locked only to be swept.
                    taken.get_or_insert(slot);
                }
                Err((_, Errno::EWOULDBLOCK)) => {}
                Err((_, errno)) => bail!("lock {}: {errno}", path.display()),
            }
        }
        taken.context("all 512 lab slots are in use")
    }

    /// The number, below 512.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The first part of every name that belongs to this slot.
    pub fn prefix(&self) -> String {
        format!("aqh{}-", self.number)
    }

    /// The folder on the BPF file system that a proxy of this slot pins to.
    pub fn bpffs(&self) -> PathBuf {
        PathBuf::from(BPFFS).join(format!("aqh{}", self.number))
    }

    /// The folder that the proxy of another node of this slot pins to.
    pub fn bpffs_of(&self, node: &Netns) -> PathBuf {
        PathBuf::from(BPFFS).join(node.name())
    }

    /// Removes all that bears this slot's name: processes in its namespaces first, since they
    /// would keep the namespaces alive.
    pub fn sweep(&self) {
        let prefix = self.prefix();
        let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let stale: Vec<_> = names
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
            })
            .collect();
        let inodes = stale
            .iter()
            .flat_map(fs::metadata)
            .map(|meta| meta.ino())
            .collect();
        kill_inside(&inodes);
        for path in &stale {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            // Best effort: a namespace that somebody else deletes at this moment is gone as well.
            let _ = process::output("ip", &["netns", "delete", &name]);
        }
        remove_pins(&self.bpffs());
        for entry in fs::read_dir(BPFFS).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                remove_pins(&entry.path());
            }
        }
    }
}

/// Ends the processes whose network namespace is one of `inodes`. Labs are their only users, and
/// this process itself, which only visits them by threads, is never one of them.
fn kill_inside(inodes: &BTreeSet<u64>) {
    if inodes.is_empty() {
        return;
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let inside = fs::metadata(entry.path().join("ns/net"))
            .is_ok_and(|meta| inodes.contains(&meta.ino()));
        if inside && pid != std::process::id().cast_signed() {
            // It may have ended by itself since.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Unlinks every pin below `folder`, and the folder: maps and links go with their last pin.
pub fn remove_pins(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            remove_pins(&path);
        } else {
            let _ = fs::remove_file(path);
        }
    }
    let _ = fs::remove_dir(folder);
}
