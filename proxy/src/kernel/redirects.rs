//! What the data plane asks the kernel side about one connection: where it was going, that it is
//! the proxy's own, which source ports are in use.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aquifer_common::{FlowKey, Origin, OriginKey, ProxyCause, Tag};
use aya::maps::{HashMap, MapData, SkStorage};

use super::counts::Counts;
use super::maps::{self, names};
use super::{Error, Pins};

/// The maps of connections. Cheap to clone; every clone asks the same maps.
#[derive(Clone)]
pub struct Redirects {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Redirects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redirects").finish_non_exhaustive()
    }
}

struct Inner {
    origins: Mutex<HashMap<MapData, OriginKey, Origin>>,
    flows: Mutex<HashMap<MapData, FlowKey, u32>>,
    sockets: Mutex<SkStorage<MapData, Tag>>,
    counts: Counts,
}

impl Redirects {
    /// Opens the maps of the proxy whose pins these are.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let inner = Inner {
            origins: Mutex::new(maps::lru(pins, names::ORIGINS)?),
            flows: Mutex::new(maps::lru(pins, names::INBOUND_FLOWS)?),
            sockets: Mutex::new(maps::storage(pins, names::SOCKETS)?),
            counts: Counts::open(pins)?,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Takes the address that a captured connection asked for: `pod` is the cookie of the pod whose
    /// outbound listener accepted it from `peer`. The entry is gone afterwards.
    ///
    /// `None` is a miss, and counted: the pod dialled the listener itself, or the map was full and
    /// forgot the entry. Nobody knows where the connection was going: end it.
    pub fn take(&self, pod: u64, peer: SocketAddr) -> Option<SocketAddr> {
        let key = OriginKey {
            cookie: pod,
            source: maps::octets(peer.ip()),
            source_port: peer.port(),
            reserved: [0; 6],
        };
        let origin = {
            let mut origins = lock(&self.inner.origins);
            let origin = origins.get(&key, 0).ok();
            if origin.is_some() {
                // Gone already is as good.
                let _ = origins.remove(&key);
            }
            origin
        };
        if origin.is_none() {
            self.inner.counts.count(ProxyCause::MissedOrigin);
        }
        origin.map(|origin| maps::socket_address(origin.address, origin.port))
    }

    /// Tags a socket as the proxy's own, before it connects: the kernel side lets it pass. No pod
    /// can write that tag, unlike a mark.
    pub fn adopt(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        lock(&self.inner.sockets)
            .insert(&socket.as_raw_fd(), Tag::OWN, 0)
            .map_err(io::Error::other)
    }

    /// Whether `caller` has a connection to `local` of this pod that was given to the proxy and has
    /// not been closed, or is about to have one: a dial from that port would meet it and hang.
    pub fn inbound_taken(&self, pod: u64, caller: SocketAddr, local: SocketAddr) -> bool {
        lock(&self.inner.flows)
            .get(&flow(pod, caller, local), 0)
            .is_ok()
    }

    /// Tells that an accepted inbound connection is closed: its source port is free again.
    pub fn inbound_closed(&self, pod: u64, caller: SocketAddr, local: SocketAddr) {
        let removed = lock(&self.inner.flows).remove(&flow(pod, caller, local));
        // Gone already is as good, and tells that the map was full and forgot it.
        if removed.is_err_and(|error| maps::absent(&error)) {
            self.inner.counts.count(ProxyCause::MissedInboundFlow);
        }
    }
}

fn flow(pod: u64, caller: SocketAddr, local: SocketAddr) -> FlowKey {
    FlowKey {
        cookie: pod,
        caller: maps::octets(caller.ip()),
        local: maps::octets(local.ip()),
        caller_port: caller.port(),
        local_port: local.port(),
        reserved: [0; 4],
    }
}

/// A panic in between leaves a map handle as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
