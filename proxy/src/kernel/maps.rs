//! The pinned maps, by type. Opened from their pins, so that the proxy, a proxy that takes over and
//! `aquifer maps` all reach them the same way.

use std::io;
use std::net::{IpAddr, SocketAddr};

use aquifer_common::mapped;
use aya::Pod;
use aya::maps::{
    Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, SkStorage, SockHash,
};

use super::{Error, Pins};

/// Names of the maps that are pinned, as the object has them.
pub mod names {
    /// `Array<u32>`: the layout.
    pub const LAYOUT: &str = "LAYOUT";
    /// Cookie → [`aquifer_common::Pod`].
    pub const PODS: &str = "PODS";
    /// Cookie → [`aquifer_common::Name`].
    pub const NAMES: &str = "NAMES";
    /// [`aquifer_common::ListenerKey`] → socket.
    pub const LISTENERS: &str = "LISTENERS";
    /// Storage of sockets: [`aquifer_common::Tag`].
    pub const SOCKETS: &str = "SOCKETS";
    /// [`aquifer_common::OriginKey`] → [`aquifer_common::Origin`].
    pub const ORIGINS: &str = "ORIGINS";
    /// Socket cookie → [`aquifer_common::Redirect`].
    pub const REDIRECTS: &str = "REDIRECTS";
    /// [`aquifer_common::AddressKey`] → 1.
    pub const OWN_ADDRESSES: &str = "OWN_ADDRESSES";
    /// [`aquifer_common::PortKey`] → 1.
    pub const EXCLUDED_PORTS: &str = "EXCLUDED_PORTS";
    /// [`aquifer_common::RangeKey`] → 1.
    pub const EXCLUDED_RANGES: &str = "EXCLUDED_RANGES";
    /// Thread group → 1.
    pub const PROBE_PROCESSES: &str = "PROBE_PROCESSES";
    /// [`aquifer_common::PathKey`] → 1.
    pub const PROBE_FLOWS: &str = "PROBE_FLOWS";
    /// [`aquifer_common::FlowKey`] → index of the device it came by.
    pub const INBOUND_FLOWS: &str = "INBOUND_FLOWS";
    /// Per CPU: [`aquifer_common::Cause`] → count.
    pub const STATS: &str = "STATS";
    /// [`aquifer_common::ProxyCause`] → count.
    pub const PROXY_STATS: &str = "PROXY_STATS";
    /// Ring of log records.
    pub const AYA_LOGS: &str = "AYA_LOGS";
    /// Every one of them.
    pub const ALL: &[&str] = &[
        LAYOUT,
        PODS,
        NAMES,
        LISTENERS,
        SOCKETS,
        ORIGINS,
        REDIRECTS,
        OWN_ADDRESSES,
        EXCLUDED_PORTS,
        EXCLUDED_RANGES,
        PROBE_PROCESSES,
        PROBE_FLOWS,
        INBOUND_FLOWS,
        STATS,
        PROXY_STATS,
        AYA_LOGS,
    ];
}

/// A map's data, by its pin.
fn open(pins: &Pins, name: &'static str) -> Result<MapData, Error> {
    let path = pins.map(name);
    if !path.exists() {
        return Err(Error::NoPins(pins.root().to_owned()));
    }
    MapData::from_pin(&path).map_err(|source| Error::Map { name, path, source })
}

macro_rules! opener {
    ($(#[$doc:meta])* $function:ident, $type:ident<$($arg:ident),*>, $variant:ident) => {
        $(#[$doc])*
        pub fn $function<$($arg: Pod),*>(
            pins: &Pins,
            name: &'static str,
        ) -> Result<$type<MapData, $($arg),*>, Error> {
            $type::try_from(Map::$variant(open(pins, name)?))
                .map_err(|source| Error::Map { name, path: pins.map(name), source })
        }
    };
}

opener!(
    /// A hash map.
    hash, HashMap<K, V>, HashMap
);
opener!(
    /// A hash map that forgets what was not used for longest.
    lru, HashMap<K, V>, LruHashMap
);
opener!(
    /// An array.
    array, Array<V>, Array
);
opener!(
    /// An array with one value a CPU.
    per_cpu_array, PerCpuArray<V>, PerCpuArray
);
opener!(
    /// A trie of prefixes.
    trie, LpmTrie<K, V>, LpmTrie
);
opener!(
    /// A map of sockets.
    sockets, SockHash<K>, SockHash
);
opener!(
    /// Storage of sockets.
    storage, SkStorage<V>, SkStorage
);
/// An address as the maps hold it.
pub fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

/// An address of the maps as everyone else reads it: IPv4 where it is mapped.
pub fn address(octets: [u8; 16]) -> IpAddr {
    IpAddr::from(octets).to_canonical()
}

/// An address and a port of the maps.
pub fn socket_address(octets: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(address(octets), port)
}

/// Whether a write failed because the map has no room: hash maps and maps of sockets say E2BIG, a
/// trie ENOSPC.
pub fn full(error: &MapError) -> bool {
    let MapError::SyscallError(error) = error else {
        return false;
    };
    let code = error.io_error.raw_os_error();
    matches!(code, Some(nix::libc::E2BIG | nix::libc::ENOSPC))
}

/// Whether a write failed because the key is not there: for a removal that is no failure.
pub fn absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}
