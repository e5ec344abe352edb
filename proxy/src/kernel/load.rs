//! Loading: the object into the kernel, its programs onto the cgroup tree and into pods' network
//! namespaces, all of it pinned.
//!
//! Pins of the same layout are taken over: the maps are used as they are, and each new link is
//! attached before the old one goes, so that no connection passes uncaptured in between. Pins of
//! another layout are removed first.

use std::fs::{self, File};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use aquifer_common::LAYOUT;
use aya::maps::Array;
use aya::programs::links::FdLink;
use aya::programs::{
    CgroupAttachMode, CgroupSock, CgroupSockAddr, ProgramError, SkLookup, SockOps,
};
use aya::{Ebpf, EbpfLoader};

use super::log::{Level, Records};
use super::maps::{self, names};
use super::{Error, Pins, bpffs};

/// The kernel object, built from `ebpf/` by `cargo xtask ebpf` and committed.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/bytecode/aquifer.bpf.o");

/// The programs of the cgroup tree.
const PROGRAMS: [(&str, Kind); 8] = [
    // What reads goes before what writes: a connection is captured once its origin can be filed.
    ("aquifer_sockops", Kind::SockOps),
    ("aquifer_release", Kind::Sock),
    ("aquifer_peer4", Kind::SockAddr),
    ("aquifer_peer6", Kind::SockAddr),
    ("aquifer_sock4", Kind::SockAddr),
    ("aquifer_sock6", Kind::SockAddr),
    ("aquifer_connect4", Kind::SockAddr),
    ("aquifer_connect6", Kind::SockAddr),
];

/// The program of each enrolled pod's namespace.
const INBOUND: &str = "aquifer_inbound";

#[derive(Clone, Copy)]
enum Kind {
    SockAddr,
    SockOps,
    Sock,
}

/// Where the programs go and how they are set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the pins, on a bpffs.
    pub bpffs: PathBuf,
    /// Root of the cgroup2 tree.
    pub cgroup: PathBuf,
    /// Cookie of the host's network namespace.
    pub host: u64,
    /// Which of the programs' log lines are made. The others cost nothing.
    pub log: Level,
}

/// The object, ready to make one more copy of the inbound program.
pub(super) struct Loader {
    loader: EbpfLoader<'static>,
    pins: Pins,
}

impl Loader {
    /// Loads and attaches everything but the pods' own programs. The second value reads the
    /// programs' log lines, where any are made.
    pub(super) fn load(options: &Options) -> Result<(Self, Option<Records>), Error> {
        let pins = Pins::new(&options.bpffs);
        bpffs::prepare(&pins)?;
        if layout(&pins).ok() != Some(LAYOUT) {
            let removed = pins.clear()?;
            if removed > 0 {
                tracing::warn!(
                    bpffs = %pins.root().display(), removed,
                    "replaced the pins of another layout"
                );
            }
        }
        let folder = |problem, path: PathBuf| {
            move |source| Error::Folder {
                path,
                problem,
                source,
            }
        };
        fs::create_dir_all(pins.links()).map_err(folder("making it", pins.links()))?;

        let mut loader = EbpfLoader::new();
        // Nothing in the object is relocated against the kernel's own types, and these cost 20 MiB.
        loader.btf(None);
        loader
            .default_map_pin_directory(pins.root())
            .map_pin_path(names::SOCKETS, pins.map(names::SOCKETS))
            .map_pin_path(names::AYA_LOGS, pins.map(names::AYA_LOGS))
            .override_global("HOST", constant(options.host), true)
            .override_global(aya_log::LEVEL, options.log.constant(), false);
        let mut object = loader.load(OBJECT).map_err(Box::new)?;

        let cgroup =
            File::open(&options.cgroup).map_err(folder("opening it", options.cgroup.clone()))?;
        for (name, kind) in PROGRAMS {
            let link =
                attach(&mut object, name, kind, &cgroup).map_err(|source| Error::Program {
                    name,
                    source: Box::new(source),
                })?;
            pin(&pins, name, link)?;
        }
        let records = Records::open(&mut object, options.log)?;
        let mut version: Array<_, u32> = maps::array(&pins, names::LAYOUT)?;
        version.set(0, LAYOUT, 0).map_err(|source| Error::Write {
            name: names::LAYOUT,
            source,
        })?;
        Ok((Self { loader, pins }, records))
    }

    /// The folder of the pins.
    pub(super) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Loads a copy of the inbound program for the pod `cookie` and attaches it to its namespace,
    /// in the place of an earlier one.
    pub(super) fn attach_inbound(
        &mut self,
        cookie: u64,
        netns: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        self.loader
            .override_global("COOKIE", constant(cookie), true);
        let mut object = self.loader.load(OBJECT).map_err(Box::new)?;
        let link = (|| -> Result<FdLink, ProgramError> {
            let program: &mut SkLookup = program(&mut object, INBOUND)?;
            program.load()?;
            let link = program.attach(netns)?;
            Ok(program.take_link(link)?.into())
        })()
        .map_err(|source| Error::Program {
            name: INBOUND,
            source: Box::new(source),
        })?;
        pin(&self.pins, &Pins::inbound_name(cookie), link)
    }

    /// Detaches the pod's copy.
    pub(super) fn detach_inbound(&self, cookie: u64) -> Result<(), Error> {
        let path = self.pins.link(&Pins::inbound_name(cookie));
        match fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::Folder {
                path,
                problem: "removing it",
                source,
            }),
            _ => Ok(()),
        }
    }
}

/// The layout that the pins say.
pub(super) fn layout(pins: &Pins) -> Result<u32, Error> {
    let version: Array<_, u32> = maps::array(pins, names::LAYOUT)?;
    version.get(&0, 0).map_err(|source| Error::Map {
        name: names::LAYOUT,
        path: pins.map(names::LAYOUT),
        source,
    })
}

/// A load-time constant. The loader borrows such values for as long as it lives, which is as long
/// as the process; eight bytes a pod that is enrolled are the price.
fn constant(value: u64) -> &'static u64 {
    Box::leak(Box::new(value))
}

fn program<'a, P>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut P, ProgramError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    object
        .program_mut(name)
        .ok_or(ProgramError::NotLoaded)?
        .try_into()
}

fn attach(
    object: &mut Ebpf,
    name: &str,
    kind: Kind,
    cgroup: &File,
) -> Result<FdLink, ProgramError> {
    // Links on a cgroup always coexist. The mode says flags 0: the kernel refuses any for a link.
    let mode = CgroupAttachMode::Single;
    let invalid = |error: aya::programs::links::LinkError| {
        ProgramError::IOError(std::io::Error::other(error))
    };
    match kind {
        Kind::SockAddr => {
            let program: &mut CgroupSockAddr = program(object, name)?;
            program.load()?;
            let link = program.attach(cgroup, mode)?;
            program.take_link(link)?.try_into().map_err(invalid)
        }
        Kind::SockOps => {
            let program: &mut SockOps = program(object, name)?;
            program.load()?;
            let link = program.attach(cgroup, mode)?;
            program.take_link(link)?.try_into().map_err(invalid)
        }
        Kind::Sock => {
            let program: &mut CgroupSock = program(object, name)?;
            program.load()?;
            let link = program.attach(cgroup, mode)?;
            program.take_link(link)?.try_into().map_err(invalid)
        }
    }
}

/// Pins a link under its name. An older one of that name is detached by this, and not before.
fn pin(pins: &Pins, name: &str, link: FdLink) -> Result<(), Error> {
    let path = pins.link(name);
    // bpffs refuses names with a dot.
    let beside = pins.link(&format!("new-{name}-{}", std::process::id()));
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Pin {
        path: path.clone(),
        source,
    };
    link.pin(&beside).map_err(|error| failed(error.into()))?;
    fs::rename(&beside, &path).map_err(|error| failed(error.into()))
}
