//! Follows the host's probe process (kubelet): who it is now, again when it ends.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::kernel::probe::{Probes, find};

/// How often the process table is looked through: the kernel has no event for a process that starts
/// under a name. Its end is an event.
const INTERVAL: Duration = Duration::from_secs(1);

/// Follows the processes called `name`, on a thread of its own, for as long as this process lives.
pub fn follow(name: &str, probes: Probes) -> io::Result<()> {
    let name = name.to_owned();
    std::thread::Builder::new()
        .name("probe-process".to_owned())
        .spawn(move || watch(&name, probes))
        .map(drop)
}

fn watch(name: &str, mut probes: Probes) {
    let mut known = HashSet::new();
    let mut complained = false;
    loop {
        let found = find(name).unwrap_or_default();
        if found != known {
            match probes.set(&found) {
                Ok(()) => {
                    tracing::info!(name, processes = ?found, "probe processes");
                    known.clone_from(&found);
                    complained = false;
                }
                Err(error) if !complained => {
                    tracing::warn!(name, %error, "probe processes are not told to the kernel side");
                    complained = true;
                }
                Err(_) => {}
            }
        }
        wait(&found);
    }
}

/// Until one of the processes ends, or it is time to look again.
fn wait(groups: &HashSet<u32>) {
    let ends: Vec<_> = groups
        .iter()
        .filter_map(|group| Pid::from_raw(i32::try_from(*group).ok()?))
        .filter_map(|group| pidfd_open(group, PidfdFlags::empty()).ok())
        .collect();
    let mut waits: Vec<_> = ends
        .iter()
        .map(|end| PollFd::new(end, PollFlags::IN))
        .collect();
    let timeout = Timespec {
        tv_sec: INTERVAL.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    // Interrupted is looking early.
    let _ = poll(&mut waits, Some(&timeout));
}
