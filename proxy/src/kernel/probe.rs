//! The host's probe processes (kubelet): who they are, and telling the kernel side.
//!
//! A process counts only if it shares the network and pid namespaces of the proxy, which are the
//! host's: a container can choose its name but not those.

use std::collections::HashSet;
use std::fs;
use std::io;

use aya::maps::{HashMap, MapData};

use super::counts::Counts;
use super::maps::{self, names};
use super::{Error, Pins};

/// The kernel side's list of probe processes.
pub struct Probes {
    map: HashMap<MapData, u32, u8>,
    counts: Counts,
}

impl Probes {
    /// Opens the list of the proxy whose pins these are.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            map: maps::hash(pins, names::PROBE_PROCESSES)?,
            counts: Counts::open(pins)?,
        })
    }

    /// Makes these thread groups the probe processes, and no others. Where there is no room for
    /// all, as many as fit are, and the rest are treated as strangers.
    pub fn set(&mut self, groups: &HashSet<u32>) -> Result<(), Error> {
        let failed = |source| Error::write(names::PROBE_PROCESSES, source);
        // First, so that those that are gone take no place: their numbers may be anybody's.
        let known: Vec<u32> = self.map.keys().filter_map(Result::ok).collect();
        for group in known.iter().filter(|group| !groups.contains(group)) {
            match self.map.remove(group) {
                Err(error) if !maps::absent(&error) => return Err(failed(error)),
                _ => {}
            }
        }
        for group in groups {
            let written = self.map.insert(group, 1, 0).map_err(failed);
            written.inspect_err(|error| self.counts.full(error))?;
        }
        Ok(())
    }
}

/// Thread groups called `name` (as /proc/PID/comm has it: 15 bytes) in the proxy's own network and
/// pid namespaces.
pub fn find(name: &str) -> io::Result<HashSet<u32>> {
    let mut comm = name.as_bytes();
    comm = &comm[..comm.len().min(15)];
    let own = namespaces("self")?;
    let mut found = HashSet::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // A process that ends while it is looked at is none.
        let named = fs::read(format!("/proc/{pid}/comm"));
        if named.is_ok_and(|named| named.trim_ascii_end() == comm)
            && namespaces(&pid.to_string()).is_ok_and(|theirs| theirs == own)
        {
            found.insert(pid);
        }
    }
    Ok(found)
}

fn namespaces(process: &str) -> io::Result<[std::path::PathBuf; 2]> {
    Ok([
        fs::read_link(format!("/proc/{process}/ns/net"))?,
        fs::read_link(format!("/proc/{process}/ns/pid"))?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_by_its_name() {
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        assert!(find(comm.trim_end()).unwrap().contains(&std::process::id()));
        assert!(find("no process has it").unwrap().is_empty());
    }
}
