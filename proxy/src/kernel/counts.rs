//! The counters that user space keeps beside the kernel programs' own: what became of an entry that
//! was looked for or written, and which map had no room. Pinned, so that `aquifer maps` shows them.

use std::sync::{Mutex, PoisonError};

use aquifer_common::ProxyCause;
use aya::maps::{Array, MapData};

use super::maps::{self, names};
use super::{Error, Pins};

/// Held while a counter is read and written back: all handles of the process lead to one map.
static TURN: Mutex<()> = Mutex::new(());

/// A handle on the counters of one proxy.
pub(super) struct Counts(Mutex<Array<MapData, u64>>);

impl Counts {
    /// Opens the counters of the proxy whose pins these are.
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self(Mutex::new(maps::array(pins, names::PROXY_STATS)?)))
    }

    /// Counts a rare event.
    pub(super) fn count(&self, cause: ProxyCause) {
        // A panic in between leaves the map as good as before.
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = cause as u32;
        if let Ok(count) = stats.get(&index, 0) {
            let _ = stats.set(index, count.wrapping_add(1), 0);
        }
    }

    /// Counts a map that had no room, where that is what went wrong.
    pub(super) fn full(&self, error: &Error) {
        if let Error::Full { name } = error
            && let Some(cause) = full(name)
        {
            self.count(cause);
        }
    }
}

/// What is counted when user space finds `name` full. The maps that are missing here are written by
/// the kernel programs, which count for themselves, or have a place for every key.
fn full(name: &str) -> Option<ProxyCause> {
    Some(match name {
        names::PODS => ProxyCause::FullPods,
        names::NAMES => ProxyCause::FullNames,
        names::LISTENERS => ProxyCause::FullListeners,
        names::OWN_ADDRESSES => ProxyCause::FullOwnAddresses,
        names::EXCLUDED_PORTS => ProxyCause::FullExcludedPorts,
        names::EXCLUDED_RANGES => ProxyCause::FullExcludedRanges,
        names::PROBE_PROCESSES => ProxyCause::FullProbeProcesses,
        _ => return None,
    })
}
