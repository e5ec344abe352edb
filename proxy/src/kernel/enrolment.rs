//! The entries of enrolled pods in the maps.
//!
//! Written in an order in which every state between two writes is one that may last: what is
//! excluded and the listeners first, the pod itself last; and the other way round when it leaves.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use aquifer_common::{
    AddressKey, Direction, FailureMode, Family, ListenerKey, Name, Pod, PortKey, RangeKey,
};
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, MapData, MapError, SockHash};
use ipnet::IpNet;

use super::maps::{self, names};
use super::{Error, Pins};
use crate::mesh;

/// A listener of a pod.
#[derive(Clone, Copy, Debug)]
pub struct Listener<'a> {
    /// Which connections it takes.
    pub direction: Direction,
    /// Which family they have on the wire.
    pub family: Family,
    /// Its port.
    pub port: u16,
    /// One socket of its SO_REUSEPORT group, listening.
    pub socket: BorrowedFd<'a>,
}

/// A pod to be captured.
#[derive(Clone, Debug)]
pub struct Capture<'a> {
    /// Cookie of its network namespace.
    pub cookie: u64,
    /// `namespace/name`.
    pub name: &'a str,
    /// Its network namespace.
    pub netns: BorrowedFd<'a>,
    /// Its listeners: none, one or two a direction.
    pub listeners: &'a [Listener<'a>],
    /// What is not captured, and what else may change while it is enrolled.
    pub rules: Rules<'a>,
}

/// What may change while a pod is enrolled.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// What a dead proxy means.
    pub failure_mode: mesh::FailureMode,
    /// Every address of the pod; the first of each family is what `getsockname` shows.
    pub addresses: &'a [IpAddr],
    /// Ports to which its connections are not captured.
    pub exclude_outbound_ports: &'a [u16],
    /// Its own ports to which connections are not captured.
    pub exclude_inbound_ports: &'a [u16],
    /// Destinations that are not captured.
    pub exclude_outbound_ranges: &'a [IpNet],
}

/// The maps of enrolment.
pub(super) struct Entries {
    pods: HashMap<MapData, u64, Pod>,
    names: HashMap<MapData, u64, Name>,
    listeners: SockHash<MapData, ListenerKey>,
    addresses: HashMap<MapData, AddressKey, u8>,
    ports: HashMap<MapData, PortKey, u8>,
    ranges: LpmTrie<MapData, RangeKey, u8>,
}

impl Entries {
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            pods: maps::hash(pins, names::PODS)?,
            names: maps::hash(pins, names::NAMES)?,
            listeners: maps::sockets(pins, names::LISTENERS)?,
            addresses: maps::hash(pins, names::OWN_ADDRESSES)?,
            ports: maps::hash(pins, names::EXCLUDED_PORTS)?,
            ranges: maps::trie(pins, names::EXCLUDED_RANGES)?,
        })
    }

    /// The enrolled pods' cookies.
    pub(super) fn cookies(&self) -> Vec<u64> {
        self.pods.keys().filter_map(Result::ok).collect()
    }

    /// Whether a pod is captured.
    pub(super) fn has(&self, cookie: u64) -> bool {
        self.pods.get(&cookie, 0).is_ok()
    }

    /// What a pod is called.
    pub(super) fn name(&self, cookie: u64) -> Option<String> {
        let name = self.names.get(&cookie, 0).ok()?;
        Some(name.as_str().to_owned())
    }

    /// Writes all that belongs to a pod but its own entry. Returns the latter.
    pub(super) fn prepare(&mut self, capture: &Capture<'_>) -> Result<Pod, Error> {
        let cookie = capture.cookie;
        self.names
            .insert(cookie, Name::new(capture.name), 0)
            .map_err(written(names::NAMES))?;
        let mut pod = Pod::default();
        for listener in capture.listeners {
            let key = ListenerKey::new(cookie, listener.direction, listener.family);
            self.listeners
                .insert(key, listener.socket.as_raw_fd(), 0)
                .map_err(written(names::LISTENERS))?;
            *match (listener.direction, listener.family) {
                (Direction::Outbound, Family::V4) => &mut pod.outbound_v4,
                (Direction::Outbound, Family::V6) => &mut pod.outbound_v6,
                (Direction::Inbound, Family::V4) => &mut pod.inbound_v4,
                (Direction::Inbound, Family::V6) => &mut pod.inbound_v6,
            } = listener.port;
        }
        self.rules(cookie, &capture.rules, &mut pod)?;
        Ok(pod)
    }

    /// Puts a pod's entry in force: from here on it is captured.
    pub(super) fn commit(&mut self, cookie: u64, pod: Pod) -> Result<(), Error> {
        self.pods
            .insert(cookie, pod, 0)
            .map_err(written(names::PODS))
    }

    /// Replaces what may change. Returns `false` where the pod is not enrolled.
    pub(super) fn update(&mut self, cookie: u64, rules: &Rules<'_>) -> Result<bool, Error> {
        let Ok(mut pod) = self.pods.get(&cookie, 0) else {
            return Ok(false);
        };
        self.rules(cookie, rules, &mut pod)?;
        self.commit(cookie, pod)?;
        Ok(true)
    }

    fn rules(&mut self, cookie: u64, rules: &Rules<'_>, pod: &mut Pod) -> Result<(), Error> {
        pod.failure_mode = match rules.failure_mode {
            mesh::FailureMode::Closed => FailureMode::Closed,
            mesh::FailureMode::Open => FailureMode::Open,
        } as u8;
        (pod.address_v4, pod.address_v6) = ([0; 4], [0; 16]);
        for address in rules.addresses {
            match address {
                IpAddr::V4(v4) if pod.address_v4 == [0; 4] => pod.address_v4 = v4.octets(),
                IpAddr::V6(v6) if pod.address_v6 == [0; 16] => pod.address_v6 = v6.octets(),
                _ => {}
            }
        }
        pod.flags = 0;
        for (flag, used) in [
            (
                Pod::EXCLUDES_OUTBOUND_PORTS,
                !rules.exclude_outbound_ports.is_empty(),
            ),
            (
                Pod::EXCLUDES_INBOUND_PORTS,
                !rules.exclude_inbound_ports.is_empty(),
            ),
            (
                Pod::EXCLUDES_RANGES,
                !rules.exclude_outbound_ranges.is_empty(),
            ),
        ] {
            if used {
                pod.flags |= flag;
            }
        }

        let addresses = rules.addresses.iter();
        let addresses = addresses.map(|ip| AddressKey {
            cookie,
            address: maps::octets(*ip),
        });
        let own = |key: &AddressKey| key.cookie == cookie;
        replace(
            &mut self.addresses,
            names::OWN_ADDRESSES,
            addresses,
            own,
            address_bytes,
        )?;

        let port = |direction| move |port: &u16| PortKey::new(cookie, direction, *port);
        let outbound = rules
            .exclude_outbound_ports
            .iter()
            .map(port(Direction::Outbound));
        let inbound = rules
            .exclude_inbound_ports
            .iter()
            .map(port(Direction::Inbound));
        let own = |key: &PortKey| key.cookie == cookie;
        let bytes = |key: &PortKey| (key.port, key.direction);
        replace(
            &mut self.ports,
            names::EXCLUDED_PORTS,
            outbound.chain(inbound),
            own,
            bytes,
        )?;

        self.replace_ranges(cookie, rules.exclude_outbound_ranges)
    }

    fn replace_ranges(&mut self, cookie: u64, ranges: &[IpNet]) -> Result<(), Error> {
        let failed = written(names::EXCLUDED_RANGES);
        let wanted: Vec<_> = ranges
            .iter()
            .map(|range| range_key(cookie, range))
            .collect();
        for key in &wanted {
            self.ranges.insert(key, 1, 0).map_err(&failed)?;
        }
        let kept: HashSet<_> = wanted
            .iter()
            .map(|key| (key.prefix_len(), key.data().address))
            .collect();
        let mine = RangeKey::new(cookie, [0; 16]).cookie;
        let stale: Vec<_> = self
            .ranges
            .keys()
            .filter_map(Result::ok)
            .filter(|key| key.data().cookie == mine)
            .filter(|key| !kept.contains(&(key.prefix_len(), key.data().address)))
            .collect();
        for key in stale {
            removed(self.ranges.remove(&key)).map_err(&failed)?;
        }
        Ok(())
    }

    /// Takes a pod out. From the first step on nothing of it is captured.
    pub(super) fn remove(&mut self, cookie: u64) -> Result<(), Error> {
        removed(self.pods.remove(&cookie)).map_err(written(names::PODS))?;
        for direction in [Direction::Outbound, Direction::Inbound] {
            for family in [Family::V4, Family::V6] {
                let key = ListenerKey::new(cookie, direction, family);
                removed(self.listeners.remove(&key)).map_err(written(names::LISTENERS))?;
            }
        }
        removed(self.names.remove(&cookie)).map_err(written(names::NAMES))?;
        let nothing = Rules {
            failure_mode: mesh::FailureMode::Closed,
            addresses: &[],
            exclude_outbound_ports: &[],
            exclude_inbound_ports: &[],
            exclude_outbound_ranges: &[],
        };
        self.rules(cookie, &nothing, &mut Pod::default())
    }
}

fn address_bytes(key: &AddressKey) -> [u8; 16] {
    key.address
}

fn range_key(cookie: u64, range: &IpNet) -> Key<RangeKey> {
    // An IPv4 range lies under ::ffff:0:0/96, as every address in the maps.
    let above = match range {
        IpNet::V4(_) => 96,
        IpNet::V6(_) => 0,
    };
    let bits = 64 + above + u32::from(range.prefix_len());
    Key::new(bits, RangeKey::new(cookie, maps::octets(range.network())))
}

/// Makes `wanted` the keys of a pod: what is new first, then what is no longer wanted.
fn replace<K: aya::Pod, I: Eq + Hash>(
    map: &mut HashMap<MapData, K, u8>,
    name: &'static str,
    wanted: impl Iterator<Item = K>,
    own: impl Fn(&K) -> bool,
    identity: impl Fn(&K) -> I,
) -> Result<(), Error> {
    let mut kept = HashSet::new();
    for key in wanted {
        map.insert(key, 1, 0).map_err(written(name))?;
        kept.insert(identity(&key));
    }
    let stale: Vec<K> = map
        .keys()
        .filter_map(Result::ok)
        .filter(|key| own(key) && !kept.contains(&identity(key)))
        .collect();
    for key in stale {
        removed(map.remove(&key)).map_err(written(name))?;
    }
    Ok(())
}

fn written(name: &'static str) -> impl Fn(MapError) -> Error {
    move |source| Error::write(name, source)
}

/// What is not there is removed.
fn removed(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(error) if maps::absent(&error) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_lies_where_its_addresses_do() {
        for (range, bits, first) in [
            ("10.0.0.0/8", 64 + 96 + 8, "::ffff:10.0.0.0"),
            ("10.1.2.3/8", 64 + 96 + 8, "::ffff:10.0.0.0"),
            ("0.0.0.0/0", 64 + 96, "::ffff:0.0.0.0"),
            ("fd00::/8", 64 + 8, "fd00::"),
            ("::/0", 64, "::"),
        ] {
            let key = range_key(7, &range.parse().unwrap());
            assert_eq!(key.prefix_len(), bits, "{range}");
            let first: std::net::Ipv6Addr = first.parse().unwrap();
            assert_eq!(key.data().address, first.octets(), "{range}");
        }
    }
}
