//! What the pinned maps say, read by anyone, whether a proxy runs or not. Changes nothing.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use aquifer_common::{
    AddressKey, Cause, Direction, FailureMode, Family, LAYOUT, ListenerKey, Name, Pod, PortKey,
    ProxyCause, RangeKey, Redirect,
};
use aya::maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, SockHash};
use ipnet::IpNet;

use super::maps::{self, names};
use super::{Error, Pins, load};
use crate::mesh;

/// A pod that is enrolled.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRow {
    /// `namespace/name`.
    pub pod: String,
    /// Cookie of its network namespace.
    pub cookie: u64,
    /// What a dead proxy means for it.
    pub failure_mode: mesh::FailureMode,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Ports of the listeners for its own connections.
    pub outbound: Vec<u16>,
    /// Ports of the listeners for connections to it.
    pub inbound: Vec<u16>,
    /// Whether all of its listeners live. Where they don't, the failure mode is in force.
    pub served: bool,
    /// Ports to which its connections are not captured.
    pub exclude_outbound_ports: Vec<u16>,
    /// Its own ports to which connections are not captured.
    pub exclude_inbound_ports: Vec<u16>,
    /// Destinations that are not captured.
    pub exclude_outbound_ranges: Vec<IpNet>,
}

/// A captured connection that lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct RedirectRow {
    /// `namespace/name`.
    pub pod: String,
    /// Cookie of the pod's network namespace.
    pub cookie: u64,
    /// Its source, as the proxy's listener sees it.
    pub source: SocketAddr,
    /// The address that the application asked for.
    pub destination: SocketAddr,
}

/// A listening socket of a proxy's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct ListenerRow {
    /// `namespace/name`.
    pub pod: String,
    /// Cookie of the pod's network namespace.
    pub cookie: u64,
    /// `outbound` or `inbound`.
    pub direction: &'static str,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// Its port on the loopback of the pod.
    pub port: u16,
    /// Whether the socket lives: one that is closed leaves the kernel's map by itself.
    pub live: bool,
}

/// Reads the maps of one proxy.
pub struct Reader {
    pods: HashMap<MapData, u64, Pod>,
    names: HashMap<MapData, u64, Name>,
    listeners: SockHash<MapData, ListenerKey>,
    redirects: HashMap<MapData, u64, Redirect>,
    addresses: HashMap<MapData, AddressKey, u8>,
    ports: HashMap<MapData, PortKey, u8>,
    ranges: LpmTrie<MapData, RangeKey, u8>,
    stats: PerCpuArray<MapData, u64>,
    proxy_stats: Array<MapData, u64>,
}

impl Reader {
    /// Opens the pins. An error says where there are none, or that they have another layout.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        match load::layout(pins)? {
            LAYOUT => {}
            found => {
                return Err(Error::Layout {
                    path: pins.root().to_owned(),
                    found,
                    expected: LAYOUT,
                });
            }
        }
        Ok(Self {
            pods: maps::hash(pins, names::PODS)?,
            names: maps::hash(pins, names::NAMES)?,
            listeners: maps::sockets(pins, names::LISTENERS)?,
            redirects: maps::hash(pins, names::REDIRECTS)?,
            addresses: maps::hash(pins, names::OWN_ADDRESSES)?,
            ports: maps::hash(pins, names::EXCLUDED_PORTS)?,
            ranges: maps::trie(pins, names::EXCLUDED_RANGES)?,
            stats: maps::per_cpu_array(pins, names::STATS)?,
            proxy_stats: maps::array(pins, names::PROXY_STATS)?,
        })
    }

    /// The enrolled pods, sorted by name.
    pub fn pods(&self) -> Vec<PodRow> {
        let live = self.live();
        let mut rows: Vec<PodRow> = self
            .pods
            .iter()
            .filter_map(Result::ok)
            .map(|(cookie, pod)| self.pod(cookie, &pod, &live))
            .collect();
        rows.sort_by(|a, b| (&a.pod, a.cookie).cmp(&(&b.pod, b.cookie)));
        rows
    }

    fn pod(&self, cookie: u64, pod: &Pod, live: &HashSet<(u64, u8, u8)>) -> PodRow {
        let served = sockets(pod)
            .filter(|(.., port)| *port != 0)
            .all(|(direction, family, _)| live.contains(&(cookie, direction as u8, family as u8)));
        let ports = |direction: Direction| {
            let mut ports: Vec<u16> = self
                .ports
                .keys()
                .filter_map(Result::ok)
                .filter(|key| key.cookie == cookie && key.direction == direction as u8)
                .map(|key| key.port)
                .collect();
            ports.sort_unstable();
            ports
        };
        let mut addresses: Vec<IpAddr> = self
            .addresses
            .keys()
            .filter_map(Result::ok)
            .filter(|key| key.cookie == cookie)
            .map(|key| maps::address(key.address))
            .collect();
        addresses.sort_unstable();
        let given = |ports: [u16; 2]| ports.into_iter().filter(|port| *port != 0).collect();
        PodRow {
            pod: self.name(cookie),
            cookie,
            failure_mode: if pod.failure_mode == FailureMode::Open as u8 {
                mesh::FailureMode::Open
            } else {
                mesh::FailureMode::Closed
            },
            addresses,
            outbound: given([pod.outbound_v4, pod.outbound_v6]),
            inbound: given([pod.inbound_v4, pod.inbound_v6]),
            served,
            exclude_outbound_ports: ports(Direction::Outbound),
            exclude_inbound_ports: ports(Direction::Inbound),
            exclude_outbound_ranges: self.ranges(cookie),
        }
    }

    fn ranges(&self, cookie: u64) -> Vec<IpNet> {
        let mine = RangeKey::new(cookie, [0; 16]).cookie;
        let mut ranges: Vec<IpNet> = self
            .ranges
            .keys()
            .filter_map(Result::ok)
            .filter(|key| key.data().cookie == mine)
            .filter_map(|key| {
                let address = maps::address(key.data().address);
                let above = if address.is_ipv4() { 64 + 96 } else { 64 };
                let bits = u8::try_from(key.prefix_len().checked_sub(above)?).ok()?;
                IpNet::new(address, bits).ok()
            })
            .collect();
        ranges.sort_unstable();
        ranges
    }

    /// The captured connections that live, sorted by pod and source.
    pub fn redirects(&self) -> Vec<RedirectRow> {
        let mut names = BTreeMap::new();
        let mut rows: Vec<RedirectRow> = self
            .redirects
            .iter()
            .filter_map(Result::ok)
            .map(|(_, redirect)| {
                let cookie = redirect.cookie;
                let pod: &String = names.entry(cookie).or_insert_with(|| self.name(cookie));
                RedirectRow {
                    pod: pod.clone(),
                    cookie,
                    source: maps::socket_address(redirect.source, redirect.source_port),
                    destination: maps::socket_address(redirect.address, redirect.port),
                }
            })
            .collect();
        rows.sort_unstable();
        rows
    }

    /// The listeners that pods are said to have, and whether they live.
    pub fn listeners(&self) -> Vec<ListenerRow> {
        let live = self.live();
        let mut rows: Vec<ListenerRow> = self
            .pods
            .iter()
            .filter_map(Result::ok)
            .flat_map(|(cookie, pod)| sockets(&pod).map(move |socket| (cookie, socket)))
            .filter(|(_, (.., port))| *port != 0)
            .map(|(cookie, (direction, family, port))| ListenerRow {
                pod: self.name(cookie),
                cookie,
                direction: match direction {
                    Direction::Outbound => "outbound",
                    Direction::Inbound => "inbound",
                },
                family: match family {
                    Family::V4 => "IPv4",
                    Family::V6 => "IPv6",
                },
                port,
                live: live.contains(&(cookie, direction as u8, family as u8)),
            })
            .collect();
        rows.sort_unstable();
        rows
    }

    /// The counters, kernel's first, in a fixed order.
    pub fn stats(&self) -> Vec<(&'static str, u64)> {
        let kernel = Cause::ALL.iter().map(|cause| {
            let counts = self.stats.get(&(*cause as u32), 0);
            (cause.name(), counts.map_or(0, |counts| counts.iter().sum()))
        });
        let proxy = ProxyCause::ALL.iter().map(|cause| {
            (
                cause.name(),
                self.proxy_stats
                    .get(&(*cause as u32), 0)
                    .unwrap_or_default(),
            )
        });
        kernel.chain(proxy).collect()
    }

    fn name(&self, cookie: u64) -> String {
        self.names
            .get(&cookie, 0)
            .map(|name| name.as_str().to_owned())
            .unwrap_or_default()
    }

    fn live(&self) -> HashSet<(u64, u8, u8)> {
        self.listeners
            .keys()
            .filter_map(Result::ok)
            .map(|key| (key.cookie, key.direction, key.family))
            .collect()
    }
}

fn sockets(pod: &Pod) -> impl Iterator<Item = (Direction, Family, u16)> + use<> {
    [
        (Direction::Outbound, Family::V4, pod.outbound_v4),
        (Direction::Outbound, Family::V6, pod.outbound_v6),
        (Direction::Inbound, Family::V4, pod.inbound_v4),
        (Direction::Inbound, Family::V6, pod.inbound_v6),
    ]
    .into_iter()
}
