//! The file systems that the kernel side needs: a bpffs for the pins, the cgroup2 tree for the
//! programs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{Error, Pins};

/// Where a bpffs is expected, and mounted where there is none.
const STANDARD: &str = "/sys/fs/bpf";

/// Whether `path`, or the nearest folder above it that exists, is on a bpffs.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    let existing = path
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"));
    Ok(statfs(existing)?.filesystem_type() == BPF_FS_MAGIC)
}

/// Makes the folder of the pins, on a bpffs. Mounts one at /sys/fs/bpf where the folder is below
/// it and nothing is mounted there.
pub(super) fn prepare(pins: &Pins) -> Result<(), Error> {
    let root = pins.root();
    let failed = |problem| {
        let path = root.to_owned();
        move |source: io::Error| Error::Folder {
            path,
            problem,
            source,
        }
    };
    if root
        .components()
        .skip(1)
        .any(|part| part.as_os_str().to_string_lossy().contains('.'))
    {
        return Err(Error::DottedFolder(root.to_owned()));
    }
    if !is_bpffs(root).map_err(failed("looking at its file system"))? {
        if !root.starts_with(STANDARD) {
            return Err(Error::NotBpffs(root.to_owned()));
        }
        mount_standard().map_err(failed(
            "mounting a bpffs at /sys/fs/bpf (needs CAP_SYS_ADMIN; or have it mounted: \
             `mount -t bpf bpf /sys/fs/bpf`)",
        ))?;
    }
    fs::create_dir_all(root).map_err(failed("making it"))
}

fn mount_standard() -> io::Result<()> {
    // Two that start at once must not mount one over the other: the first's pins would be hidden.
    let lock = File::open("/sys/fs")?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    if is_bpffs(Path::new(STANDARD))? {
        return Ok(());
    }
    mount(
        Some("bpf"),
        STANDARD,
        Some("bpf"),
        MsFlags::empty(),
        Some("mode=0700"),
    )?;
    Ok(())
}

/// The root of the cgroup2 tree, from /proc/mounts: `/sys/fs/cgroup` as a rule,
/// `/sys/fs/cgroup/unified` on a hybrid host.
pub fn cgroup2() -> io::Result<Option<PathBuf>> {
    Ok(find_cgroup2(&fs::read_to_string("/proc/mounts")?))
}

fn find_cgroup2(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        // The kernel writes a blank as \040.
        (kind == "cgroup2").then(|| PathBuf::from(path.replace("\\040", " ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_tree_is_found_where_it_is_mounted() {
        for (mounts, expected) in [
            (
                "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0",
                Some("/sys/fs/cgroup"),
            ),
            (
                "tmpfs /sys/fs/cgroup tmpfs ro 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                 cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0",
                Some("/sys/fs/cgroup/unified"),
            ),
            ("none /with\\040blank cgroup2 rw 0 0", Some("/with blank")),
            ("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0", None),
            ("", None),
        ] {
            assert_eq!(
                find_cgroup2(mounts).as_deref(),
                expected.map(Path::new),
                "{mounts}"
            );
        }
    }
}
