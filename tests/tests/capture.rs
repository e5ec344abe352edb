//! Outbound capture by the kernel side alone: no proxy, but a plain acceptor in its place, driven
//! through the same interface that enrolment and data plane use.

mod bare;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use aquifer::kernel::Kernel;
use aquifer::kernel::maps::{self, names};
use aquifer::kernel::report::Reader;
use aquifer::mesh::FailureMode;
use aquifer::net::{Namespace, socket};
use aquifer_common::{Cause, MARK_DIAL, MARK_TRANSPARENT};
use aquifer_tests::PATIENCE;
use bare::{Bare, dial, until};

#[test]
fn a_connection_reaches_the_proxy_with_its_origin() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("client")?;
    for to in ["192.0.2.7:80", "[2001:db8::7]:443"] {
        let to: SocketAddr = to.parse()?;
        let mut client = pod.dial(to)?;
        let (mut accepted, origin) = pod.accept_outbound()?;
        assert_eq!(origin, Some(to));
        assert_eq!(
            client.peer_addr()?,
            to,
            "getpeername shows what was asked for"
        );
        let own: std::net::IpAddr = if to.is_ipv4() {
            pod.net.v4.into()
        } else {
            pod.net.v6.into()
        };
        assert_eq!(
            client.local_addr()?.ip(),
            own,
            "getsockname shows the pod's address"
        );
        client.write_all(b"hello")?;
        let mut read = [0; 5];
        accepted.read_exact(&mut read)?;
        assert_eq!(&read, b"hello");
        assert_eq!(bare.redirects()?, 1);
        drop(client);
        until("the release ends the entry", || Ok(bare.redirects()? == 0))?;
    }
    Ok(())
}

#[test]
fn a_mapped_address_reaches_the_ipv4_listener() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("client")?;
    let mapped = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().into(), 80);
    let client = pod.dial(mapped)?;
    let (accepted, origin) = pod.accept_outbound()?;
    assert_eq!(origin, Some("192.0.2.7:80".parse()?));
    assert!(accepted.local_addr()?.is_ipv4());
    assert_eq!(client.peer_addr()?, mapped);
    assert_eq!(client.local_addr()?.ip(), pod.net.v4.to_ipv6_mapped());
    Ok(())
}

#[test]
fn loopback_and_own_addresses_pass() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("client")?;
    for at in [
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 8080),
        SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 8080),
        pod.net.at(8081),
        pod.net.at6(8081),
    ] {
        let server = pod.listen(at)?;
        let client = pod.dial(at)?;
        let (_, peer) = server.accept()?;
        assert_eq!(client.local_addr()?, peer, "{at}");
        assert_eq!(client.peer_addr()?, at);
    }
    Ok(())
}

#[test]
fn marks_and_capabilities_do_not_exempt_a_pod() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("client")?;
    let to = "192.0.2.7:80".parse()?;
    for mark in [MARK_DIAL, MARK_TRANSPARENT] {
        // As root, so with CAP_NET_RAW and more.
        let _client = dial(&pod.netns, to, |socket| {
            socket.set_mark(mark)?;
            socket.set_ip_transparent_v4(true)
        })?;
        assert_eq!(pod.accept_outbound()?.1, Some(to));
    }
    Ok(())
}

#[test]
fn the_proxys_own_dial_passes() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("client")?;
    let server = bare.stranger("server")?;
    for to in [server.at(8080), server.at6(8080)] {
        let listener = Namespace::open(server.netns.path())?.run(|| TcpListener::bind(to))??;
        let socket = socket::outbound(&pod.as_pod(), to)?;
        bare.redirects.adopt(socket.as_fd())?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        let (_, peer) = listener.accept()?;
        assert_eq!(Some(peer), socket.local_addr()?.as_socket());
    }
    assert_eq!(bare.counted(Cause::PassedOwnDial)?, 2);
    Ok(())
}

#[test]
fn exclusions_pass_and_can_change() -> Result<()> {
    let bare = Bare::new()?;
    let net = bare.stranger("client")?;
    let server = bare.stranger("server")?;
    let mut pod = bare.enrol(net, |rules| {
        rules.exclude_outbound_ports = vec![8080];
    })?;
    let outside = Namespace::open(server.netns.path())?;
    let listeners: Vec<TcpListener> = [server.at(8080), server.at(8081), server.at6(8081)]
        .into_iter()
        .map(|at| outside.run(|| TcpListener::bind(at))?)
        .collect::<io::Result<_>>()?;

    let client = pod.dial(server.at(8080))?;
    assert_eq!(listeners[0].accept()?.1, client.local_addr()?);
    let _captured = pod.dial(server.at(8081))?;
    assert_eq!(pod.accept_outbound()?.1, Some(server.at(8081)));

    pod.rules.exclude_outbound_ports.clear();
    pod.rules.exclude_outbound_ranges = vec![
        format!("{}/30", server.v4).parse()?,
        format!("{}/64", server.v6).parse()?,
    ];
    let cookie = pod.netns.cookie();
    let mut kernel = bare.kernel();
    let kernel = kernel.as_mut().context("unloaded")?;
    assert!(kernel.update(cookie, &pod.rules.rules())?);
    for listener in &listeners[1..] {
        let client = pod.dial(listener.local_addr()?)?;
        assert_eq!(listener.accept()?.1, client.local_addr()?);
    }
    let outside_range = "192.0.2.7:8080".parse()?;
    let _captured = pod.dial(outside_range)?;
    assert_eq!(pod.accept_outbound()?.1, Some(outside_range));
    assert_eq!(bare.counted(Cause::PassedExcludedPort)?, 1);
    assert_eq!(bare.counted(Cause::PassedExcludedRange)?, 2);
    Ok(())
}

#[test]
fn without_a_proxy_the_failure_mode_decides() -> Result<()> {
    let bare = Bare::new()?;
    let server = bare.stranger("server")?;
    let listener =
        Namespace::open(server.netns.path())?.run(|| TcpListener::bind(server.at(8080)))??;
    for mode in [FailureMode::Closed, FailureMode::Open] {
        let name = if mode == FailureMode::Open {
            "open"
        } else {
            "closed"
        };
        let net = bare.stranger(name)?;
        let mut pod = bare.enrol(net, |rules| rules.failure_mode = mode)?;
        bare.close_listeners(&mut pod)?;
        let dialled = pod.dial(server.at(8080));
        if mode == FailureMode::Open {
            assert_eq!(listener.accept()?.1, dialled?.local_addr()?);
        } else {
            assert_eq!(dialled.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        }
    }
    // Also with no proxy at all, the kernel side being pinned.
    let mut pod = bare.pod("orphan")?;
    bare.close_listeners(&mut pod)?;
    drop(bare.kernel().take());
    assert!(pod.dial(server.at(8080)).is_err());
    let reader = Reader::open(&bare.pins())?;
    let row = reader
        .pods()
        .into_iter()
        .find(|row| row.pod == "orphan")
        .context("no row")?;
    assert!(!row.served);
    assert!(
        reader
            .pods()
            .iter()
            .any(|row| row.pod == "open" && row.failure_mode == FailureMode::Open)
    );
    Ok(())
}

#[test]
fn a_socket_bound_to_a_device_does_not_hang() -> Result<()> {
    let bare = Bare::new()?;
    let server = bare.stranger("server")?;
    let listener =
        Namespace::open(server.netns.path())?.run(|| TcpListener::bind(server.at(8080)))??;
    let closed = bare.pod("closed")?;
    let net = bare.stranger("open")?;
    let open = bare.enrol(net, |rules| rules.failure_mode = FailureMode::Open)?;
    let bound = |socket: &socket2::Socket| socket.bind_device(Some(b"eth0"));
    assert!(dial(&closed.netns, server.at(8080), bound).is_err());
    let client = dial(&open.netns, server.at(8080), bound)?;
    assert_eq!(listener.accept()?.1, client.local_addr()?);
    assert_eq!(bare.counted(Cause::DroppedBoundDevice)?, 1);
    assert_eq!(bare.counted(Cause::PassedBoundDevice)?, 1);
    Ok(())
}

#[test]
fn a_socket_that_is_used_again_forgets_its_first_origin() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("client")?;
    let server = pod.listen("127.0.0.1:8080".parse()?)?;
    let socket = pod
        .netns
        .run(|| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None))??;
    let first: SocketAddr = "192.0.2.7:80".parse()?;
    socket.connect(&first.into())?;
    assert_eq!(pod.accept_outbound()?.1, Some(first));
    disconnect(&socket)?;
    let second = server.local_addr()?;
    socket.connect(&second.into())?;
    server.accept()?;
    assert_eq!(socket.peer_addr()?.as_socket(), Some(second));
    assert_eq!(bare.redirects()?, 0);
    disconnect(&socket)?;
    // The proxy's own listener, on purpose: nobody knows where it was going.
    let listener = pod.outbound[0].local_addr()?;
    socket.connect(&listener.into())?;
    assert_eq!(pod.accept_outbound()?.1, None);
    Ok(())
}

fn disconnect(socket: &socket2::Socket) -> io::Result<()> {
    Ok(rustix::net::connect_unspec(socket)?)
}

#[test]
fn two_clients_on_one_port_keep_their_origins() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("client")?;
    let (one, other): (SocketAddr, SocketAddr) = ("192.0.2.7:80".parse()?, "192.0.2.8:81".parse()?);
    let port = 40000;
    let bound = |ip: std::net::IpAddr| {
        move |socket: &socket2::Socket| socket.bind(&SocketAddr::new(ip, port).into())
    };
    let _first = dial(&pod.netns, one, bound(pod.net.v4.into()))?;
    let _second = dial(&pod.netns, other, bound(Ipv4Addr::LOCALHOST.into()))?;
    assert_eq!(pod.accept_outbound()?.1, Some(one));
    assert_eq!(pod.accept_outbound()?.1, Some(other));
    Ok(())
}

#[test]
fn a_client_that_is_gone_before_it_is_accepted_keeps_its_origin() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("client")?;
    let to = "192.0.2.7:80".parse()?;
    let mut client = pod.dial(to)?;
    client.write_all(b"fire and forget")?;
    drop(client);
    let (mut accepted, origin) = pod.accept_outbound()?;
    assert_eq!(origin, Some(to));
    let mut text = String::new();
    accepted.read_to_string(&mut text)?;
    assert_eq!(text, "fire and forget");
    Ok(())
}

#[test]
fn multipath_tcp_is_captured() -> Result<()> {
    const IPPROTO_MPTCP: i32 = 262;
    let bare = Bare::new()?;
    let pod = bare.pod("client")?;
    let to: SocketAddr = "192.0.2.7:80".parse()?;
    let protocol = Some(socket2::Protocol::from(IPPROTO_MPTCP));
    let socket = pod
        .netns
        .run(|| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, protocol))?;
    let socket = match socket {
        Err(error) if error.raw_os_error() == Some(nix::libc::EPROTONOSUPPORT) => return Ok(()),
        socket => socket?,
    };
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let (accepted, origin) = pod.accept_outbound()?;
    assert_eq!(origin, Some(to));
    assert_eq!(bare.redirects()?, 1);
    socket::reset(accepted);
    drop(socket);
    until("the entry goes with the connection", || {
        Ok(bare.redirects()? == 0)
    })?;
    Ok(())
}

/// How a client opens a connection with data in its SYN.
#[derive(Clone, Copy, Debug)]
enum FastOpen {
    /// `TCP_FASTOPEN_CONNECT`: `connect` may put the SYN off until something is written.
    Connect,
    /// `sendto` with `MSG_FASTOPEN`: there is no `connect` at all.
    Send,
}

impl FastOpen {
    fn open(self, socket: &socket2::Socket, to: SocketAddr, first: &[u8]) -> Result<()> {
        match self {
            Self::Connect => {
                nix::sys::socket::setsockopt(
                    socket,
                    nix::sys::socket::sockopt::TcpFastOpenConnect,
                    &true,
                )?;
                socket.connect(&to.into())?;
                assert_eq!(socket.send(first)?, first.len());
            }
            Self::Send => {
                let flags = nix::libc::MSG_FASTOPEN;
                let sent = socket.send_to_with_flags(first, &to.into(), flags)?;
                assert_eq!(sent, first.len());
            }
        }
        Ok(())
    }
}

#[test]
fn fast_open_is_captured_and_its_bytes_arrive() -> Result<()> {
    /// Bits of `net.ipv4.tcp_fastopen`: clients may; without a cookie from an earlier connection;
    /// listeners take data in a SYN; without a cookie; whether they asked for it or not.
    const CLIENT: u32 = 1;
    const NO_COOKIE: u32 = 4;
    const SERVER: u32 = 2 | 0x200 | 0x400;
    let bare = Bare::new()?;
    let mapped = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().into(), 80);
    let pattern: Vec<u8> = (0..100_000_u32)
        .map(|index| index.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    for (name, bits, in_syn) in [
        ("asks", CLIENT, false),
        ("puts-off", CLIENT | NO_COOKIE, false),
        ("in-syn", CLIENT | NO_COOKIE | SERVER, true),
    ] {
        let net = bare.stranger(name)?;
        net.netns
            .sysctl("net/ipv4/tcp_fastopen", &bits.to_string())?;
        let pod = bare.enrol(net, |_| {})?;
        for way in [FastOpen::Connect, FastOpen::Send] {
            for to in [
                "192.0.2.7:80".parse()?,
                "[2001:db8::7]:443".parse()?,
                mapped,
            ] {
                let what = format!("{name}, {way:?} to {to}");
                let passive = fast_opened(&pod.netns)?;
                let domain = socket2::Domain::for_address(to);
                let socket = pod
                    .netns
                    .run(|| socket2::Socket::new(domain, socket2::Type::STREAM, None))??;
                let (first, rest) = pattern.split_at(100);
                way.open(&socket, to, first).with_context(|| what.clone())?;
                let (mut accepted, origin) = pod.accept_outbound().context(what.clone())?;
                let canonical = SocketAddr::new(to.ip().to_canonical(), to.port());
                assert_eq!(origin, Some(canonical), "{what}");
                assert_eq!(socket.peer_addr()?.as_socket(), Some(to), "{what}");
                assert_eq!(
                    fast_opened(&pod.netns)? - passive,
                    u64::from(in_syn),
                    "{what}: the SYN carried data that the listener took"
                );
                let mut client = std::net::TcpStream::from(socket);
                let mut read = vec![0; pattern.len()];
                std::thread::scope(|scope| {
                    let writer = scope.spawn(|| client.write_all(rest));
                    accepted.read_exact(&mut read).context(what.clone())?;
                    writer.join().expect("the writer")?;
                    anyhow::Ok(())
                })?;
                assert!(read == pattern, "{what}: the bytes differ");
                assert_eq!(bare.redirects()?, 1, "{what}");
                drop(client);
                until("the release ends the entry", || Ok(bare.redirects()? == 0))?;
            }
        }
    }
    Ok(())
}

/// How many connections of a namespace began with data that its listeners took from the SYN.
fn fast_opened(netns: &Namespace) -> Result<u64> {
    let table = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat"))??;
    let mut lines = table.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = lines.next().zip(lines.next()).context("no TcpExt")?;
    let mut fields = names.split(' ').zip(values.split(' '));
    let field = fields.find(|(name, _)| *name == "TCPFastOpenPassive");
    Ok(field.context("no TCPFastOpenPassive")?.1.parse()?)
}

/// The limit that ebpf/README.md tells, in small: a pod with so many local ports has so many captured
/// connections of a family, wherever they go.
#[test]
fn local_ports_bound_a_pods_captured_connections() -> Result<()> {
    // Even, and so is what is added below: of an odd number of ports the kernel leaves one out of
    // its search, now and then (`__inet_hash_connect` rounds the range down, Linux 6.1).
    const PORTS: u16 = 10;
    let bare = Bare::new()?;
    let pod = bare.pod("client")?;
    let range = |ports: u16| {
        let range = format!("40000 {}", 40000 + ports - 1);
        pod.net.netns.sysctl("net/ipv4/ip_local_port_range", &range)
    };
    range(PORTS)?;
    let mut open = Vec::new();
    for (full, elsewhere) in [
        ("192.0.2.7:80", "192.0.2.8:81"),
        ("[2001:db8::7]:80", "[2001:db8::8]:81"),
    ] {
        let (full, elsewhere): (SocketAddr, SocketAddr) = (full.parse()?, elsewhere.parse()?);
        for _ in 0..PORTS {
            open.push((pod.dial(full)?, pod.accept_outbound()?));
        }
        for to in [full, elsewhere] {
            let refused = pod.dial(to).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AddrNotAvailable, "{to}");
        }
    }
    // What is refused leaves nothing behind.
    assert_eq!(bare.redirects()?, open.len());
    range(PORTS + 2)?;
    let to = "192.0.2.8:81".parse()?;
    let _client = pod.dial(to)?;
    assert_eq!(pod.accept_outbound()?.1, Some(to));

    // One port that the client chose, to two destinations.
    let bound = SocketAddr::new(pod.net.v4.into(), 50000);
    let from = |to: &str| {
        dial(&pod.netns, to.parse()?, |socket| {
            socket.set_reuse_address(true)?;
            socket.bind(&bound.into())
        })
        .map_err(anyhow::Error::from)
    };
    let _first = from("192.0.2.7:80")?;
    let refused = from("192.0.2.8:80").unwrap_err();
    let kind = refused.downcast_ref::<io::Error>().map(io::Error::kind);
    assert_eq!(kind, Some(io::ErrorKind::AddrNotAvailable));
    Ok(())
}

#[test]
fn two_proxies_on_one_kernel_do_not_meet() -> Result<()> {
    let (one, other) = (Bare::new()?, Bare::new()?);
    let (first, second) = (one.pod("client")?, other.pod("client")?);
    let to = "192.0.2.7:80".parse()?;
    let _a = first.dial(to)?;
    let _b = second.dial(to)?;
    assert_eq!(first.accept_outbound()?.1, Some(to));
    assert_eq!(second.accept_outbound()?.1, Some(to));
    assert_eq!((one.redirects()?, other.redirects()?), (1, 1));
    assert_eq!(one.counted(Cause::CapturedV4)?, 1);
    drop(other);
    let _c = first.dial(to)?;
    assert_eq!(first.accept_outbound()?.1, Some(to));
    Ok(())
}

#[test]
fn a_new_proxy_takes_over_without_a_refused_connection() -> Result<()> {
    let bare = Bare::new()?;
    let mut pod = bare.pod("client")?;
    let caller = bare.stranger("caller")?;
    let outside = Namespace::open(caller.netns.path())?;
    let to = "192.0.2.7:80".parse()?;
    let mut before = pod.dial(to)?;
    let (mut accepted, _) = pod.accept_outbound()?;

    // Both attached for a moment: each connection is still captured once, with its origin.
    let mut successor = Kernel::load(&bare.options)?;
    let _between = pod.dial(to)?;
    assert_eq!(pod.accept_outbound()?.1, Some(to));

    let old = std::mem::take(&mut pod.outbound);
    let old_inbound = std::mem::take(&mut pod.inbound);
    pod.listen_again()?;
    assert_ne!(pod.outbound[0].local_addr()?, old[0].local_addr()?);
    pod.write(&mut successor)?;
    let _after = pod.dial(to)?;
    assert_eq!(pod.accept_outbound()?.1, Some(to));
    let _inbound = dial(&outside, pod.net.at(8080), |_| Ok(()))?;
    pod.accept_inbound()?;
    drop((old, old_inbound));
    drop(bare.kernel().take());
    let _later = pod.dial(to)?;
    assert_eq!(pod.accept_outbound()?.1, Some(to));

    before.write_all(b"still")?;
    let mut bytes = [0; 5];
    accepted.read_exact(&mut bytes)?;
    assert_eq!(&bytes, b"still");
    Ok(())
}

#[test]
fn pins_of_another_layout_are_replaced() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("client")?;
    let mut layout: aya::maps::Array<_, u32> = maps::array(&bare.pins(), names::LAYOUT)?;
    layout.set(0, 999, 0)?;
    let told = Reader::open(&bare.pins())
        .err()
        .context("it was read")?
        .to_string();
    assert!(told.contains("layout 999"), "{told}");
    let successor = Kernel::load(&bare.options)?;
    assert!(successor.cookies().is_empty());
    // The old programs are gone: the pod is not enrolled with anyone.
    begin(&pod.netns, "192.0.2.7:80".parse()?)?;
    assert_eq!(bare.redirects()?, 0);
    pod.write(&mut { successor })?;
    let to = "192.0.2.9:80".parse()?;
    let _client = pod.dial(to)?;
    let (_, peer) = bare::accept(&pod.outbound)?;
    let redirects = aquifer::kernel::Redirects::open(&bare.pins())?;
    assert_eq!(redirects.take(pod.netns.cookie(), peer), Some(to));
    Ok(())
}

#[test]
fn everything_is_gone_after_a_clean_up() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("client")?;
    assert!(bare.pins().clear()? > 10);
    assert!(!bare.options.bpffs.exists());
    assert!(
        pod.outbound
            .iter()
            .all(|socket| socket.set_nonblocking(true).is_ok())
    );
    begin(&pod.netns, "192.0.2.7:80".parse()?)?;
    assert!(pod.outbound[0].accept().is_err(), "nothing is captured");
    Ok(())
}

/// Begins to connect to an address where nobody answers, and does not wait. (A captured connection
/// is there at once, since the listener is on loopback.)
fn begin(netns: &Namespace, to: SocketAddr) -> Result<()> {
    let socket = netns
        .run(|| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None))??;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(error.into()),
        _ => Ok(()),
    }
}
