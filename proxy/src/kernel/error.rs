//! What can go wrong between the proxy and the kernel side, each with the way out.

use std::io;
use std::path::PathBuf;

use aya::maps::MapError;

use super::maps::{self, names};

/// One line that names the thing and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Pins are missing.
    #[error("no maps are pinned under {0}: no proxy has run with this --bpffs on this machine")]
    NoPins(PathBuf),
    /// Pins of another version.
    #[error(
        "the maps under {path} have layout {found} and this binary reads {expected}: use the \
         `aquifer` of the proxy that made them"
    )]
    Layout {
        /// The folder.
        path: PathBuf,
        /// What the pins say.
        found: u32,
        /// What this binary knows.
        expected: u32,
    },
    /// The folder of the pins.
    #[error("{path}: {problem}: {source}")]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What was tried.
        problem: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The folder of the pins cannot be one.
    #[error("{0} is not on a bpffs: choose a --bpffs below /sys/fs/bpf, or mount one there")]
    NotBpffs(PathBuf),
    /// The folder of the pins cannot be one.
    #[error("{0} has a dot in its name, which a bpffs refuses: choose another --bpffs")]
    DottedFolder(PathBuf),
    /// The programs' log.
    #[error("opening the kernel programs' log: {0}; `--kernel-log off` goes without")]
    Log(String),
    /// A map could not be opened.
    #[error("map {name} at {path}: {source}; `aquifer cleanup --bpffs` removes all pins")]
    Map {
        /// Its name.
        name: &'static str,
        /// Where it is pinned.
        path: PathBuf,
        /// Why it failed.
        source: MapError,
    },
    /// A map could not be written.
    #[error("map {name}: {source}")]
    Write {
        /// Its name.
        name: &'static str,
        /// Why it failed.
        source: MapError,
    },
    /// A map has no room.
    #[error("map {name} is full: {}", room(name))]
    Full {
        /// Its name.
        name: &'static str,
    },
    /// The object did not load.
    #[error("the kernel refuses the program {name}: {source}")]
    Program {
        /// Its name.
        name: &'static str,
        /// Why it failed.
        source: Box<aya::programs::ProgramError>,
    },
    /// The object did not load.
    #[error("loading the kernel object: {0}; `aquifer preflight` tells what is missing")]
    Object(#[from] Box<aya::EbpfError>),
    /// A link could not be pinned.
    #[error("pinning {path}: {source}")]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Of a map that could not be written.
    pub(super) fn write(name: &'static str, source: MapError) -> Self {
        if maps::full(&source) {
            Self::Full { name }
        } else {
            Self::Write { name, source }
        }
    }
}

/// How a full map gets room.
fn room(name: &str) -> &'static str {
    match name {
        names::PROBE_PROCESSES => "give --probe-process a name that fewer processes have",
        names::PODS | names::NAMES | names::LISTENERS => {
            "enrol fewer pods on this node (`aquifer maps pods` lists them)"
        }
        _ => {
            "exclude fewer ports and ranges on this node, or enrol fewer pods (`aquifer maps pods` \
             lists them)"
        }
    }
}
