//! Full maps: what becomes of connections and pods, and which counter tells. A test fills the
//! pinned map itself, to the size that it has.

mod bare;

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, ensure};
use aquifer::kernel::log::Level;
use aquifer::kernel::maps::{self, names};
use aquifer::kernel::probe::Probes;
use aquifer::kernel::{Pins, report::Reader};
use aquifer::mesh::FailureMode;
use aquifer::net::{Namespace, socket};
use aquifer_common::{
    AddressKey, Cause, Direction, Family, FlowKey, ListenerKey, Name, Origin, OriginKey, PathKey,
    Pod, PortKey, ProxyCause, RangeKey, Redirect, mapped,
};
use aquifer_tests::{World, client::Http, echo::Echo, process, raw, world};
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError, MapInfo, RingBuf, SockHash};
use bare::{Bare, BarePod, dial, until};
use nix::sys::signal::Signal;

/// A cookie that no namespace has: they count up from 1.
const NOBODY: u64 = u64::MAX;

/// What takes the entries out of a full map again.
type Empty = Box<dyn FnOnce() -> Result<()>>;

/// Writes entries until the map refuses one for want of room. `key` makes a key of a number.
fn fill<M: 'static, K: 'static>(
    mut map: M,
    key: impl Fn(u32) -> K + 'static,
    insert: impl Fn(&mut M, &K) -> Result<(), MapError>,
    remove: impl Fn(&mut M, &K) -> Result<(), MapError> + 'static,
) -> Result<Empty> {
    let mut filled = 0;
    let refused = loop {
        match insert(&mut map, &key(filled)) {
            Ok(()) => filled += 1,
            Err(error) => break error,
        }
    };
    ensure!(maps::full(&refused), "after {filled} entries: {refused}");
    Ok(Box::new(move || {
        for number in 0..filled {
            remove(&mut map, &key(number))?;
        }
        Ok(())
    }))
}

/// [`fill`] for a hash map.
fn fill_hash<K: aya::Pod, V: aya::Pod>(
    pins: &Pins,
    name: &'static str,
    key: impl Fn(u32) -> K + 'static,
    value: V,
) -> Result<Empty> {
    let map: HashMap<MapData, K, V> = maps::hash(pins, name)?;
    let insert = move |map: &mut HashMap<_, _, _>, key: &K| map.insert(key, value, 0);
    fill(map, key, insert, HashMap::remove)
}

/// Writes so many entries into a map that forgets that none of before can be left. Each is written
/// twice: the kernel keeps an entry that a program has looked up in front of all that nobody has
/// touched since they were made.
fn flood<K: aya::Pod, V: aya::Pod>(
    pins: &Pins,
    name: &'static str,
    key: impl Fn(u32) -> K,
    value: V,
) -> Result<()> {
    let mut map: HashMap<MapData, K, V> = maps::lru(pins, name)?;
    for number in 0..2 * MapInfo::from_pin(pins.map(name))?.max_entries() {
        map.insert(key(number), value, 0)?;
        map.insert(key(number), value, 0)?;
    }
    Ok(())
}

fn address(number: u32) -> [u8; 16] {
    mapped(number.to_be_bytes())
}

/// Fills one of the maps that enrolment writes.
fn fill_enrolment(pins: &Pins, name: &'static str) -> Result<Empty> {
    let nobody = |number: u32| NOBODY - u64::from(number);
    match name {
        names::PODS => fill_hash(pins, name, nobody, Pod::default()),
        names::NAMES => fill_hash(pins, name, nobody, Name::new("nobody")),
        names::LISTENERS => {
            let map: SockHash<MapData, ListenerKey> = maps::sockets(pins, name)?;
            let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let key =
                move |number| ListenerKey::new(nobody(number), Direction::Outbound, Family::V4);
            let number = socket.as_raw_fd();
            let insert =
                move |map: &mut SockHash<_, _>, key: &ListenerKey| map.insert(key, number, 0);
            // A closed socket leaves the map by itself: this one lives until then.
            let remove = move |map: &mut SockHash<_, _>, key: &ListenerKey| {
                let _lives = &socket;
                map.remove(key)
            };
            fill(map, key, insert, remove)
        }
        names::OWN_ADDRESSES => {
            let key = |number| AddressKey {
                cookie: NOBODY,
                address: address(number),
            };
            fill_hash(pins, name, key, 1_u8)
        }
        names::EXCLUDED_PORTS => {
            let key = |number: u32| {
                let port = u16::try_from(number % 0x1_0000).expect("it is below 65,536");
                let cookie = NOBODY - u64::from(number / 0x1_0000);
                PortKey::new(cookie, Direction::Outbound, port)
            };
            fill_hash(pins, name, key, 1_u8)
        }
        names::EXCLUDED_RANGES => {
            let map: LpmTrie<MapData, RangeKey, u8> = maps::trie(pins, name)?;
            let key = |number| Key::new(RangeKey::BITS, RangeKey::new(NOBODY, address(number)));
            let insert = |map: &mut LpmTrie<_, _, _>, key: &Key<RangeKey>| map.insert(key, 1, 0);
            fill(map, key, insert, LpmTrie::remove)
        }
        _ => anyhow::bail!("enrolment does not write {name}"),
    }
}

/// Which of the maps hold something of a pod.
fn traces(pins: &Pins, cookie: u64) -> Result<Vec<&'static str>> {
    let mut found = HashSet::new();
    let pods: HashMap<_, u64, Pod> = maps::hash(pins, names::PODS)?;
    found.extend(pods.get(&cookie, 0).is_ok().then_some(names::PODS));
    let known: HashMap<_, u64, Name> = maps::hash(pins, names::NAMES)?;
    found.extend(known.get(&cookie, 0).is_ok().then_some(names::NAMES));
    let addresses: HashMap<_, AddressKey, u8> = maps::hash(pins, names::OWN_ADDRESSES)?;
    let ports: HashMap<_, PortKey, u8> = maps::hash(pins, names::EXCLUDED_PORTS)?;
    let ranges: LpmTrie<_, RangeKey, u8> = maps::trie(pins, names::EXCLUDED_RANGES)?;
    let listeners: SockHash<_, ListenerKey> = maps::sockets(pins, names::LISTENERS)?;
    let halves = RangeKey::new(cookie, [0; 16]).cookie;
    for (name, holds) in [
        (
            names::OWN_ADDRESSES,
            addresses.keys().flatten().any(|key| key.cookie == cookie),
        ),
        (
            names::EXCLUDED_PORTS,
            ports.keys().flatten().any(|key| key.cookie == cookie),
        ),
        (
            names::EXCLUDED_RANGES,
            ranges
                .keys()
                .flatten()
                .any(|key| key.data().cookie == halves),
        ),
        (
            names::LISTENERS,
            listeners.keys().flatten().any(|key| key.cookie == cookie),
        ),
    ] {
        found.extend(holds.then_some(name));
    }
    if pins.link(&Pins::inbound_name(cookie)).exists() {
        found.insert("the link of the inbound program");
    }
    Ok(found.into_iter().collect())
}

#[test]
fn a_pod_that_finds_no_room_is_told_and_not_enrolled() -> Result<()> {
    let bare = Bare::new()?;
    let pins = bare.pins();
    let outside = bare.stranger("outside")?;
    let server = outside
        .netns
        .run(|| TcpListener::bind(outside.at(8080)))??;
    for (number, (name, cause)) in [
        (names::PODS, ProxyCause::FullPods),
        (names::NAMES, ProxyCause::FullNames),
        (names::LISTENERS, ProxyCause::FullListeners),
        (names::OWN_ADDRESSES, ProxyCause::FullOwnAddresses),
        (names::EXCLUDED_PORTS, ProxyCause::FullExcludedPorts),
        (names::EXCLUDED_RANGES, ProxyCause::FullExcludedRanges),
    ]
    .into_iter()
    .enumerate()
    {
        let net = bare.stranger(&format!("pod{number}"))?;
        let pod = bare.prepare(net, |rules| {
            rules.exclude_outbound_ports = vec![9999];
            rules.exclude_outbound_ranges = vec!["203.0.113.0/24".parse().unwrap()];
        })?;
        let empty = fill_enrolment(&pins, name)?;
        let refused = pod.write(bare.kernel().as_mut().context("unloaded")?);
        let told = refused.err().context(name)?.to_string();
        assert!(told.contains(&format!("map {name} is full: ")), "{told}");
        assert_eq!(bare.counted_here(cause)?, 1, "{name}");
        assert_eq!(
            traces(&pins, pod.netns.cookie())?,
            [""; 0],
            "{name}: left behind"
        );
        let client = pod.dial(outside.at(8080))?;
        assert_eq!(
            server.accept()?.1,
            client.local_addr()?,
            "{name}: not captured"
        );

        empty()?;
        pod.write(bare.kernel().as_mut().context("unloaded")?)?;
        captured(&pod, outside.at(8080)).context(name)?;
        assert_eq!(bare.counted_here(cause)?, 1, "{name}");
        assert_eq!(traces(&pins, pod.netns.cookie())?.len(), 7, "{name}");
    }
    Ok(())
}

fn captured(pod: &BarePod, to: SocketAddr) -> Result<()> {
    let _client = pod.dial(to)?;
    assert_eq!(pod.accept_outbound()?.1, Some(to));
    Ok(())
}

#[test]
fn a_pod_whose_change_finds_no_room_stays_as_it_was() -> Result<()> {
    let bare = Bare::new()?;
    let mut pod = bare.pod("client")?;
    let outside = bare.stranger("outside")?;
    let server = outside
        .netns
        .run(|| TcpListener::bind(outside.at(8080)))??;
    let empty = fill_enrolment(&bare.pins(), names::EXCLUDED_PORTS)?;
    pod.rules.exclude_outbound_ports = vec![8080];
    let cookie = pod.netns.cookie();
    let update = |pod: &BarePod| -> Result<bool> {
        let mut kernel = bare.kernel();
        Ok(kernel
            .as_mut()
            .context("unloaded")?
            .update(cookie, &pod.rules.rules())?)
    };
    assert!(update(&pod).is_err());
    captured(&pod, outside.at(8080))?;
    // A proxy that takes over finds no room either: the pod must not lose its capture by that.
    assert!(
        pod.write(bare.kernel().as_mut().context("unloaded")?)
            .is_err()
    );
    captured(&pod, outside.at(8080))?;
    assert_eq!(bare.counted_here(ProxyCause::FullExcludedPorts)?, 2);

    empty()?;
    assert!(update(&pod)?);
    let client = pod.dial(outside.at(8080))?;
    assert_eq!(server.accept()?.1, client.local_addr()?);
    Ok(())
}

#[test]
fn probe_processes_beyond_the_last_place_are_strangers() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("server")?;
    let server = pod.listen(pod.net.at(8080))?;
    let host = Namespace::open(bare.lab.node.path())?;
    let room = MapInfo::from_pin(bare.pins().map(names::PROBE_PROCESSES))?.max_entries();
    // Above the largest number that Linux gives (2^22), so nobody's.
    let nobodies: HashSet<u32> = (0..=room).map(|number| (1 << 24) + number).collect();
    let mut probes = Probes::open(&bare.pins())?;
    let told = probes.set(&nobodies).err().context("it fits")?.to_string();
    assert!(told.starts_with("map PROBE_PROCESSES is full: "), "{told}");
    assert_eq!(bare.counted_here(ProxyCause::FullProbeProcesses)?, 1);
    let known: HashMap<_, u32, u8> = maps::hash(&bare.pins(), names::PROBE_PROCESSES)?;
    assert_eq!(known.keys().count(), room as usize, "as many as fit");
    let _stranger = dial(&host, pod.net.at(8080), |_| Ok(()))?;
    pod.accept_inbound()?;
    // Those that have ended make room for those that have begun.
    probes.set(&[std::process::id()].into())?;
    let probe = dial(&host, pod.net.at(8080), |_| Ok(()))?;
    assert_eq!(server.accept()?.1, probe.local_addr()?);
    Ok(())
}

/// A connection whose origin was forgotten before the proxy took it: nobody knows where it was
/// going, so it is reset. The proxy is halted meanwhile, since it takes them at once.
#[tokio::test]
async fn a_forgotten_origin_ends_the_connection() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    let pins = Pins::new(world.proxy.bpffs());
    world.proxy.child.signal(Signal::SIGSTOP);
    let pid = world.proxy.child.pid();
    until("the proxy is halted", || halted(pid))?;
    let mut forgotten = world.client.netns.connect(world::at(world::HTTP)).await?;
    let key = |number| OriginKey {
        cookie: NOBODY,
        source: address(number),
        source_port: 0,
        reserved: [0; 6],
    };
    let origin = Origin {
        address: [0; 16],
        port: 0,
        reserved: [0; 6],
    };
    flood(&pins, names::ORIGINS, key, origin)?;
    let mut remembered = Http::connect(&world.client, world::at(world::HTTP)).await?;
    world.proxy.child.signal(Signal::SIGCONT);

    let (said, end) = raw::drain(&mut forgotten).await?;
    assert_eq!((said.as_slice(), end), (&[][..], raw::End::Reset));
    assert_eq!(world.proxy.counted("missed_origin")?, 1);
    // The newest has its place.
    assert_eq!(remembered.get("app", "/").await?.status, 200);
    assert_eq!(world.proxy.counted("missed_origin")?, 1);
    assert_eq!(world.proxy.counted("full_origins")?, 0);
    Ok(())
}

/// Whether a signal has stopped every thread of a process.
fn halted(pid: i32) -> Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
        // After the name, which stands in brackets and may hold anything.
        let (_, state) = stat.rsplit_once(") ").context("no state")?;
        if !state.starts_with('T') {
            return Ok(false);
        }
    }
    Ok(true)
}

#[test]
fn a_connection_that_cannot_be_listed_goes_on() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("client")?;
    let to = "192.0.2.7:80".parse()?;
    let nobodys = Redirect {
        cookie: NOBODY,
        address: [0; 16],
        source: [0; 16],
        port: 0,
        source_port: 0,
        reserved: [0; 4],
    };
    let nobody = |number: u32| NOBODY - u64::from(number);
    let empty = fill_hash(&bare.pins(), names::REDIRECTS, nobody, nobodys)?;
    let full = bare.redirects()?;
    let mut client = pod.dial(to)?;
    let (mut accepted, origin) = pod.accept_outbound()?;
    assert_eq!(origin, Some(to));
    assert_eq!(bare.counted(Cause::FullRedirects)?, 1);
    client.write_all(b"hello")?;
    let mut bytes = [0; 5];
    accepted.read_exact(&mut bytes)?;
    assert_eq!(&bytes, b"hello");
    drop(client);
    assert_eq!(bare.redirects()?, full, "none of the others went");
    empty()?;
    let _listed = pod.dial(to)?;
    assert_eq!(bare.redirects()?, 1);
    assert_eq!(bare.counted(Cause::FullRedirects)?, 1);
    Ok(())
}

#[test]
fn a_forgotten_inbound_flow_is_counted_and_its_connection_unharmed() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("server")?;
    let caller = bare.stranger("caller")?;
    let outside = Namespace::open(caller.netns.path())?;
    let to = pod.net.at(8080);
    let server = pod.listen(to)?;
    let cookie = pod.netns.cookie();
    let mut client = dial(&outside, to, |_| Ok(()))?;
    let mut accepted = pod.accept_inbound()?;
    let from = client.local_addr()?;
    assert!(bare.redirects.inbound_taken(cookie, from, to));
    let key = |number| FlowKey {
        cookie: NOBODY,
        caller: address(number),
        local: [0; 16],
        caller_port: 0,
        local_port: 0,
        reserved: [0; 4],
    };
    flood(&bare.pins(), names::INBOUND_FLOWS, key, 0_u32)?;
    assert!(!bare.redirects.inbound_taken(cookie, from, to), "forgotten");
    // Unguarded, the caller's own port may be drawn for the dial to the application. The two have
    // the same four values then, and are kept apart by their devices.
    if bare.counted(Cause::UnboundInbound)? == 0 {
        let dialled = socket::transparent(&pod.as_pod(), from, to)?;
        bare.redirects.adopt(dialled.as_fd())?;
        dialled.connect_timeout(&to.into(), aquifer_tests::PATIENCE)?;
        assert_eq!(server.accept()?.1, from);
    }
    client.write_all(b"hello")?;
    let mut bytes = [0; 5];
    accepted.read_exact(&mut bytes)?;
    assert_eq!(&bytes, b"hello");
    bare.redirects.inbound_closed(cookie, from, to);
    assert_eq!(bare.counted_here(ProxyCause::MissedInboundFlow)?, 1);

    let client = dial(&outside, to, |_| Ok(()))?;
    pod.accept_inbound()?;
    let from = client.local_addr()?;
    assert!(
        bare.redirects.inbound_taken(cookie, from, to),
        "the newest has its place"
    );
    bare.redirects.inbound_closed(cookie, from, to);
    assert_eq!(bare.counted_here(ProxyCause::MissedInboundFlow)?, 1);
    assert_eq!(bare.counted(Cause::FullInboundFlows)?, 0);
    Ok(())
}

fn nobodys_path(number: u32) -> PathKey {
    PathKey {
        source: address(number),
        destination: [0; 16],
        source_port: 0,
        destination_port: 0,
    }
}

/// A probe's entry is looked for when its SYN arrives, a moment after it was written. Here the SYN
/// finds the pod's link down, and comes again when the entry is forgotten.
#[test]
fn a_forgotten_probe_is_a_stranger() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("server")?;
    let host = Namespace::open(bare.lab.node.path())?;
    let mut probes = Probes::open(&bare.pins())?;
    probes.set(&[std::process::id()].into())?;
    let to = pod.net.at(8080);
    let server = pod.listen(to)?;

    // Counted when it ends, though nobody came to harm.
    let unharmed = dial(&host, to, |_| Ok(()))?;
    server.accept()?;
    flood(&bare.pins(), names::PROBE_FLOWS, nobodys_path, 1_u8)?;
    drop(unharmed);
    until("its end is counted", || {
        Ok(bare.counted(Cause::MissedProbeFlow)? == 1)
    })?;

    let node = bare.lab.node.name();
    let ip = |arguments: &[&str]| process::output("ip", &[&["-netns", node], arguments].concat());
    let shown = process::output(
        "ip",
        &[
            "-netns",
            pod.net.netns.name(),
            "-json",
            "link",
            "show",
            "dev",
            "eth0",
        ],
    )?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    let hardware = shown[0]["address"]
        .as_str()
        .context("eth0 has no address")?;
    // Not to be asked for while the link is down: a host that nobody knows is unreachable.
    let own = pod.net.v4.to_string();
    ip(&[
        "neighbour",
        "replace",
        &own,
        "lladdr",
        hardware,
        "dev",
        "br0",
        "nud",
        "permanent",
    ])?;
    let port = shown[0]["link_index"].as_u64().context("no peer")?;
    let ports: serde_json::Value = serde_json::from_str(&ip(&["-json", "link", "show"])?)?;
    let port = ports
        .as_array()
        .and_then(|all| {
            all.iter()
                .find(|link| link["ifindex"].as_u64() == Some(port))
        })
        .and_then(|link| link["ifname"].as_str())
        .context("the bridge has no such port")?;
    ip(&["link", "set", port, "down"])?;
    let probe =
        host.run(|| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None))??;
    probe.set_nonblocking(true)?;
    let begun = probe.connect(&to.into()).unwrap_err();
    assert_eq!(begun.raw_os_error(), Some(nix::libc::EINPROGRESS));
    flood(&bare.pins(), names::PROBE_FLOWS, nobodys_path, 1_u8)?;
    ip(&["link", "set", port, "up"])?;
    assert_eq!(
        Some(pod.accept_inbound()?.peer_addr()?),
        probe.local_addr()?.as_socket()
    );
    drop(probe);
    until("its end is counted", || {
        Ok(bare.counted(Cause::MissedProbeFlow)? == 2)
    })?;

    // The newest has its place, and an end that misses nothing counts nothing.
    let probe = dial(&host, to, |_| Ok(()))?;
    assert_eq!(server.accept()?.1, probe.local_addr()?);
    let known: HashMap<_, PathKey, u8> = maps::lru(&bare.pins(), names::PROBE_FLOWS)?;
    let path = |from: SocketAddr| PathKey {
        source: maps::octets(from.ip()),
        destination: maps::octets(to.ip()),
        source_port: from.port(),
        destination_port: to.port(),
    };
    let path = path(probe.local_addr()?);
    assert!(known.get(&path, 0).is_ok());
    drop(probe);
    until("its entry goes", || Ok(known.get(&path, 0).is_err()))?;
    assert_eq!(bare.counted(Cause::MissedProbeFlow)?, 2);
    assert_eq!(bare.counted(Cause::FullProbeFlows)?, 0);
    Ok(())
}

/// A socket's storage counts as its options' memory. The setting is a namespace's own since Linux
/// 6.9; where it is the whole machine's, it is nothing to play with.
#[test]
fn a_socket_without_room_for_its_tag_meets_the_failure_mode() -> Result<()> {
    const LIMIT: &str = "net/core/optmem_max";
    let bare = Bare::new()?;
    let outside = bare.stranger("outside")?;
    let server = outside
        .netns
        .run(|| TcpListener::bind(outside.at(8080)))??;
    let own = outside
        .netns
        .run(|| std::path::Path::new("/proc/sys").join(LIMIT).exists())?;
    if !own {
        return Ok(());
    }
    for (number, (name, mode)) in [("closed", FailureMode::Closed), ("open", FailureMode::Open)]
        .into_iter()
        .enumerate()
    {
        let pod = bare.enrol(bare.stranger(name)?, |rules| rules.failure_mode = mode)?;
        pod.net.netns.sysctl(LIMIT, "1")?;
        let dialled = pod.dial(outside.at(8080));
        match mode {
            FailureMode::Open => assert_eq!(server.accept()?.1, dialled?.local_addr()?),
            FailureMode::Closed => {
                assert_eq!(dialled.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            }
        }
        assert_eq!(
            bare.counted(Cause::FullSockets)?,
            number as u64 + 1,
            "{name}"
        );
        pod.net.netns.sysctl(LIMIT, "131072")?;
        captured(&pod, outside.at(8080)).context(name)?;
    }
    assert_eq!(bare.counted(Cause::DroppedClosed)?, 1);
    assert_eq!(bare.counted(Cause::PassedOpen)?, 1);
    Ok(())
}

/// Nobody reads the programs' lines here, so their ring is soon full: lines are lost, connections
/// are not.
#[test]
fn a_full_log_costs_lines_alone() -> Result<()> {
    const CONNECTIONS: usize = 2000;
    /// What one captured connection has said of it: by `connect`, by `sockops`.
    const LINES: usize = 2;
    let bare = Bare::with_log(Level::Debug)?;
    let pod = bare.pod("client")?;
    let to = "192.0.2.7:80".parse()?;
    for _ in 0..CONNECTIONS {
        captured(&pod, to)?;
    }
    let ring = MapData::from_pin(bare.pins().map(names::AYA_LOGS))?;
    let mut ring = RingBuf::try_from(Map::RingBuf(ring))?;
    let mut kept = 0;
    while ring.next().is_some() {
        kept += 1;
    }
    assert!((1..LINES * CONNECTIONS).contains(&kept), "{kept} lines");
    let reader = Reader::open(&bare.pins())?;
    let full = reader
        .stats()
        .into_iter()
        .filter(|(name, _)| name.starts_with("full_"));
    assert!(full.into_iter().all(|(_, count)| count == 0));
    Ok(())
}
