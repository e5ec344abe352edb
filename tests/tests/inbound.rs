//! Inbound capture by the kernel side alone, and the dial to the application under the caller's own
//! address: a plain acceptor stands in the proxy's place.

mod bare;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use aquifer::kernel::probe::Probes;
use aquifer::mesh::FailureMode;
use aquifer::net::{Namespace, socket};
use aquifer_common::Cause;
use aquifer_tests::{PATIENCE, process};
use bare::{Bare, BarePod, dial, until};

/// Dials the application as the data plane does, and waits until it is connected.
fn application(pod: &BarePod, caller: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let known = pod.as_pod();
    let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for _ in 0..16 {
        let (socket, _) = socket::transparent_from(&known, caller.ip(), to, |from, to| {
            pod.redirects.inbound_taken(known.cookie, from, to)
        })?;
        pod.redirects.adopt(std::os::fd::AsFd::as_fd(&socket))?;
        match socket.connect_timeout(&to.into(), PATIENCE) {
            Ok(()) => {
                let stream = TcpStream::from(socket);
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) if error.raw_os_error() == Some(nix::libc::EADDRNOTAVAIL) => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}

#[test]
fn whatever_port_is_dialled_from_outside_reaches_the_proxy() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("server")?;
    let caller = bare.stranger("caller")?;
    let outside = Namespace::open(caller.netns.path())?;
    let server = pod.listen(pod.net.at(8080))?;
    for to in [
        pod.net.at(8080),
        pod.net.at(15008),
        pod.net.at6(8080),
        pod.net.at6(1),
    ] {
        let client = dial(&outside, to, |_| Ok(()))?;
        let accepted = pod.accept_inbound()?;
        assert_eq!(
            accepted.local_addr()?,
            to,
            "the local address is what was dialled"
        );
        assert_eq!(accepted.peer_addr()?, client.local_addr()?);
    }
    server.set_nonblocking(true)?;
    assert_eq!(
        server.accept().unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    assert_eq!(bare.counted(Cause::CapturedInboundV4)?, 2);
    assert_eq!(bare.counted(Cause::CapturedInboundV6)?, 2);
    Ok(())
}

#[test]
fn link_local_and_second_addresses_are_captured_too() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("server")?;
    let caller = bare.stranger("caller")?;
    let outside = Namespace::open(caller.netns.path())?;
    // An address that enrolment never heard of, on the pod and on the caller's link.
    for (name, address) in [
        (pod.net.netns.name(), "10.77.0.1/24"),
        (caller.netns.name(), "10.77.0.2/24"),
    ] {
        process::output(
            "ip",
            &["-netns", name, "address", "add", address, "dev", "eth0"],
        )?;
    }
    // The kernel gives it once it has noticed that the link is up.
    until("the pod has a link-local address", || {
        has_link_local(&pod.netns)
    })?;
    let text = process::output(
        "ip",
        &[
            "-netns",
            pod.net.netns.name(),
            "-6",
            "-json",
            "address",
            "show",
            "dev",
            "eth0",
            "scope",
            "link",
        ],
    )?;
    let shown: serde_json::Value = serde_json::from_str(&text)?;
    let link_local: Ipv6Addr = shown[0]["addr_info"]
        .as_array()
        .and_then(|all| all.iter().find_map(|one| one["local"].as_str()))
        .context("eth0 has no link-local address")?
        .parse()?;
    // Duplicate address detection ends by itself; the dial's retransmissions bridge it.
    let device = outside.run(|| nix::net::if_::if_nametoindex("eth0"))??;
    until("the caller has a link-local address", || {
        has_link_local(&outside)
    })?;
    for to in [
        "10.77.0.1:8080".parse()?,
        SocketAddr::V6(SocketAddrV6::new(link_local, 8080, 0, device)),
    ] {
        let _server = pod.listen(match to {
            SocketAddr::V4(_) => "0.0.0.0:8080".parse()?,
            SocketAddr::V6(_) => "[::]:8081".parse()?,
        })?;
        let _client = dial(&outside, to, |_| Ok(()))?;
        let accepted = pod.accept_inbound()?;
        assert_eq!(accepted.local_addr()?.ip(), to.ip());
    }
    Ok(())
}

fn has_link_local(netns: &Namespace) -> Result<bool> {
    let table = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6"))??;
    Ok(table
        .lines()
        .any(|line| line.starts_with("fe80") && line.ends_with("eth0")))
}

#[test]
fn the_application_sees_the_caller() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("server")?;
    let caller = bare.stranger("caller")?;
    let outside = Namespace::open(caller.netns.path())?;
    for to in [pod.net.at(8080), pod.net.at6(8080)] {
        let server = pod.listen(to)?;
        let mut client = dial(&outside, to, |_| Ok(()))?;
        let mut accepted = pod.accept_inbound()?;
        let mut upstream = application(&pod, accepted.peer_addr()?, to)?;
        let (mut application, peer) = server.accept()?;
        assert_eq!(peer.ip(), client.local_addr()?.ip());
        assert_ne!(
            peer.port(),
            client.local_addr()?.port(),
            "that port is the caller's"
        );
        assert_eq!(application.local_addr()?, to);

        client.write_all(b"question")?;
        let mut bytes = [0; 8];
        accepted.read_exact(&mut bytes)?;
        upstream.write_all(&bytes)?;
        application.read_exact(&mut bytes)?;
        assert_eq!(&bytes, b"question");
        application.write_all(b"answered")?;
        application.shutdown(Shutdown::Write)?;
        let mut all = Vec::new();
        upstream.read_to_end(&mut all)?;
        assert_eq!(all, b"answered");
    }
    Ok(())
}

#[test]
fn a_dial_to_a_closed_port_is_refused_at_once() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("server")?;
    let caller = bare.stranger("caller")?;
    for (from, to) in [
        (caller.at(0), pod.net.at(9)),
        (caller.at6(0), pod.net.at6(9)),
    ] {
        let error = application(&pod, from, to).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{to}");
    }
    Ok(())
}

#[test]
fn a_pod_that_calls_itself_is_left_alone() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("server")?;
    for at in [pod.net.at(8080), pod.net.at6(8080)] {
        let server = pod.listen(at)?;
        let client = pod.dial(at)?;
        assert_eq!(server.accept()?.1, client.local_addr()?);
    }
    assert_eq!(bare.counted(Cause::PassedOwnAddress)?, 2);
    assert_eq!(bare.counted(Cause::CapturedInboundV4)?, 0);
    assert_eq!(bare.counted(Cause::CapturedInboundV6)?, 0);
    Ok(())
}

#[test]
fn an_excluded_inbound_port_goes_to_the_application() -> Result<()> {
    let bare = Bare::new()?;
    let net = bare.stranger("server")?;
    let pod = bare.enrol(net, |rules| rules.exclude_inbound_ports = vec![9090])?;
    let caller = bare.stranger("caller")?;
    let outside = Namespace::open(caller.netns.path())?;
    let server = pod.listen(pod.net.at(9090))?;
    let client = dial(&outside, pod.net.at(9090), |_| Ok(()))?;
    assert_eq!(server.accept()?.1, client.local_addr()?);
    Ok(())
}

#[test]
fn without_a_proxy_the_failure_mode_decides() -> Result<()> {
    let bare = Bare::new()?;
    let caller = bare.stranger("caller")?;
    let outside = Namespace::open(caller.netns.path())?;
    for (mode, passes) in [(FailureMode::Closed, false), (FailureMode::Open, true)] {
        let net = bare.stranger(if passes { "open" } else { "closed" })?;
        let mut pod = bare.enrol(net, |rules| rules.failure_mode = mode)?;
        let server = pod.listen(pod.net.at(8080))?;
        bare.close_listeners(&mut pod)?;
        let socket = outside
            .run(|| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None))??;
        // Dropped, not refused: what never arrives has no event to wait for.
        let dialled = socket.connect_timeout(&pod.net.at(8080).into(), Duration::from_millis(1500));
        if passes {
            dialled?;
            server.accept()?;
            assert_eq!(bare.counted(Cause::PassedInboundOpen)?, 1);
        } else {
            assert!(dialled.is_err());
            assert!(bare.counted(Cause::DroppedInboundClosed)? >= 1);
        }
    }
    Ok(())
}

#[test]
fn a_probe_of_the_host_reaches_the_application_and_a_stranger_does_not() -> Result<()> {
    let bare = Bare::new()?;
    let mut pod = bare.pod("server")?;
    let host = Namespace::open(bare.lab.node.path())?;
    let mut probes = Probes::open(&bare.pins())?;
    let server = pod.listen(pod.net.at(8080))?;

    // Another process of the host, as any stranger.
    let _stranger = dial(&host, pod.net.at(8080), |_| Ok(()))?;
    pod.accept_inbound()?;

    probes.set(&[std::process::id()].into())?;
    let probe = dial(&host, pod.net.at(8080), |_| Ok(()))?;
    assert_eq!(server.accept()?.1, probe.local_addr()?);
    let closed = dial(&host, pod.net.at(9), |_| Ok(())).unwrap_err();
    assert_eq!(
        closed.kind(),
        io::ErrorKind::ConnectionRefused,
        "a probe of a closed port fails"
    );

    // Also with a dead proxy in closed mode.
    bare.close_listeners(&mut pod)?;
    let probe = dial(&host, pod.net.at(8080), |_| Ok(()))?;
    assert_eq!(server.accept()?.1, probe.local_addr()?);

    // The exemption ends with the probe's socket: its port is worth nothing to the next.
    let from = probe.local_addr()?;
    socket::reset(probe);
    probes.set(&Default::default())?;
    pod.listen_again()?;
    pod.write(bare.kernel().as_mut().context("unloaded")?)?;
    // It may live on for a moment, as `until` says.
    let mut stranger = None;
    until("its port is free", || {
        let again = dial(&host, pod.net.at(8080), |socket| {
            socket.set_reuse_address(true)?;
            socket.bind(&from.into())
        });
        match again {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(false),
            again => {
                stranger = Some(again?);
                Ok(true)
            }
        }
    })?;
    assert_eq!(pod.accept_inbound()?.peer_addr()?, from);
    Ok(())
}

/// The accepted connection holds (pod:port, caller:cport) in the namespace in which the dial needs
/// (caller:port, pod:port): a dial that picks cport meets it and hangs.
#[test]
fn ten_thousand_dials_beside_two_thousand_connections_meet_none() -> Result<()> {
    const OPEN: usize = 2000;
    const DIALS: usize = 10_000;
    raise_descriptor_limit()?;
    let bare = Bare::new()?;
    let pod = bare.pod("server")?;
    let caller = bare.stranger("caller")?;
    let outside = Namespace::open(caller.netns.path())?;
    let to = pod.net.at(8080);
    let server = pod.listen(to)?;
    let application_end = std::thread::spawn(move || serve(&server, DIALS));

    let mut open = HashMap::new();
    while open.len() < OPEN {
        let from = SocketAddr::new(caller.v4.into(), rand::random_range(1024..=u16::MAX));
        if open.contains_key(&from) {
            continue;
        }
        let client = dial(&outside, to, |socket| socket.bind(&from.into()))?;
        open.insert(from, (client, pod.accept_inbound()?));
    }
    for number in 0..DIALS {
        let mut upstream = application(&pod, caller.at(0), to)
            .with_context(|| format!("dial {number} of {DIALS}"))?;
        let mut byte = [0];
        upstream.write_all(b"?")?;
        upstream
            .read_exact(&mut byte)
            .with_context(|| format!("dial {number} of {DIALS}"))?;
        socket::reset(upstream);
    }
    application_end.join().expect("the application's thread")?;
    // Nothing of it has gone astray into the open connections.
    for (client, accepted) in open.values() {
        for stream in [client, accepted] {
            stream.set_nonblocking(true)?;
            let mut bytes = [0; 1];
            let error = stream.peek(&mut bytes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
    }
    Ok(())
}

fn serve(server: &TcpListener, connections: usize) -> Result<()> {
    for _ in 0..connections {
        let (mut stream, _) = server.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
        // Until it is reset: the test's side closes first.
        let _ = stream.read(&mut byte);
    }
    Ok(())
}

/// The other way round: the caller picks, for a connection from outside, the port that one of the
/// proxy's dials bears already.
#[test]
fn a_caller_may_pick_the_port_of_a_dial() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("server")?;
    let caller = bare.stranger("caller")?;
    let outside = Namespace::open(caller.netns.path())?;
    for (to, from) in [
        (pod.net.at(8080), caller.at(0)),
        (pod.net.at6(8080), caller.at6(0)),
    ] {
        let server = pod.listen(to)?;
        let mut upstream = application(&pod, from, to)?;
        let (mut application_end, taken) = server.accept()?;
        application_end.set_read_timeout(Some(PATIENCE))?;
        let mut client = dial(&outside, to, |socket| socket.bind(&taken.into()))
            .with_context(|| format!("from {taken}, which a dial of the proxy's bears"))?;
        let mut accepted = pod.accept_inbound()?;
        assert_eq!(accepted.peer_addr()?, taken);
        // Each pair has its own bytes.
        upstream.write_all(b"inside")?;
        client.write_all(b"outside")?;
        let mut bytes = [0; 6];
        application_end.read_exact(&mut bytes)?;
        assert_eq!(&bytes, b"inside");
        let mut bytes = [0; 7];
        accepted.read_exact(&mut bytes)?;
        assert_eq!(&bytes, b"outside");
        application_end.write_all(b"answer")?;
        accepted.write_all(b"reply!")?;
        let mut bytes = [0; 6];
        upstream.read_exact(&mut bytes)?;
        assert_eq!(&bytes, b"answer");
        client.read_exact(&mut bytes)?;
        assert_eq!(&bytes, b"reply!");
    }
    assert_eq!(bare.counted(Cause::UnboundApplication)?, 0);
    Ok(())
}

fn raise_descriptor_limit() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}
