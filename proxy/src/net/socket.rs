//! Sockets of a pod's connections, made inside its network namespace and not yet connected.
//!
//! Whoever dials connects them, and first has them adopted by the kernel side: marks serve routing
//! and tell nobody who we are.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd;
use std::time::Duration;

use aquifer_common::{MARK_DIAL, MARK_TRANSPARENT};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::Pod;

/// How often a random source port is drawn before [`transparent_from`] gives up. At 2,000 open
/// connections of one caller a draw fails once in thirty; 64 in a row do not.
const DRAWS: u32 = 64;

/// Ports from 1024 that Linux gives to no caller by itself (`ip_local_port_range` is 32768 to 60999
/// by default): 1024 to 32767 and 61000 to 65535.
const SOURCE_PORTS: u16 = (32768 - 1024) + (65535 - 60999);

/// The port at `index` of [`SOURCE_PORTS`].
const fn source_port(index: u16) -> u16 {
    let port = 1024 + index;
    if port < 32768 {
        port
    } else {
        port + (61000 - 32768)
    }
}

/// A socket with which the proxy calls `to` on behalf of the pod: in the pod's namespace,
/// nonblocking, marked 0x539, without Nagle's delay.
pub fn outbound(pod: &Pod, to: SocketAddr) -> io::Result<Socket> {
    let socket = pod.netns.run(|| stream(to))??;
    socket.set_mark(MARK_DIAL)?;
    Ok(socket)
}

/// A socket with which the proxy calls the application of the pod at `to`, and which the
/// application sees as `from`: transparent, marked 0x53a, bound to `lo` and to `from`.
///
/// Bound to the device because a connection to the pod's own address counts as coming from eth0
/// otherwise and would be given to the proxy again. `from`'s port must be one with which that caller
/// has no connection to `to` (`transparent_from` chooses it).
pub fn transparent(pod: &Pod, from: SocketAddr, to: SocketAddr) -> io::Result<Socket> {
    let socket = pod.netns.run(|| stream(to))??;
    socket.set_mark(MARK_TRANSPARENT)?;
    match to {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    // The application may bind the same port for itself: only the whole path must be our own.
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(b"lo"))?;
    socket.bind(&from.into())?;
    Ok(socket)
}

/// [`transparent`] from a port of the caller's that is free: drawn at random from the ports that
/// callers don't take by themselves, asking `taken` (caller, local) and the pod's connections from
/// before its enrolment. Returns the socket and the address it is bound to.
///
/// `connect` may still answer `EADDRNOTAVAIL` (a dial of our own to the same `to` has that port, or
/// had it a moment ago): call again.
pub fn transparent_from(
    pod: &Pod,
    caller: IpAddr,
    to: SocketAddr,
    mut taken: impl FnMut(SocketAddr, SocketAddr) -> bool,
) -> io::Result<(Socket, SocketAddr)> {
    let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..DRAWS {
        let from = SocketAddr::new(caller, source_port(rand::random_range(0..SOURCE_PORTS)));
        if pod.older.contains(&(from, to)) || taken(from, to) {
            continue;
        }
        match transparent(pod, from, to) {
            Ok(socket) => return Ok((socket, from)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}

/// The kernel's largest values for probes, and for the seconds before and between them (Linux,
/// `include/net/tcp.h`); it refuses larger ones, and less than 1.
const MOST_PROBES: u32 = 127;
const MOST_SECONDS: u64 = 32_767;

/// Has the kernel probe an idle connection: after `time`, every `interval`, until `probes` of them went
/// unanswered. What is absent is the system's. What the kernel would refuse becomes the nearest that
/// it takes, and a fraction of a second a whole one: no connection fails over it.
pub fn keep_alive(
    socket: &Socket,
    probes: Option<u32>,
    time: Option<Duration>,
    interval: Option<Duration>,
) -> io::Result<()> {
    let seconds = |given: Duration| {
        let whole = given
            .as_secs()
            .saturating_add(u64::from(given.subsec_nanos() > 0));
        Duration::from_secs(whole.clamp(1, MOST_SECONDS))
    };
    let mut keepalive = TcpKeepalive::new();
    if let Some(probes) = probes {
        keepalive = keepalive.with_retries(probes.clamp(1, MOST_PROBES));
    }
    if let Some(time) = time {
        keepalive = keepalive.with_time(seconds(time));
    }
    if let Some(interval) = interval {
        keepalive = keepalive.with_interval(seconds(interval));
    }
    socket.set_tcp_keepalive(&keepalive)
}

/// Lets the last packet of a handshake wait for the first bytes that are sent: one packet instead of
/// two, and an application that wakes up once instead of twice. Before `connect`.
pub fn acknowledge_with_bytes<S: AsFd>(socket: &S) {
    // An error means that it goes by itself.
    let _ = SockRef::from(socket).set_tcp_quickack(false);
}

/// Sends an acknowledgement that waits (the kernel does so after 40 to 200 ms).
pub fn acknowledge<S: AsFd>(socket: &S) {
    // An error means that the connection has ended.
    let _ = SockRef::from(socket).set_tcp_quickack(true);
}

/// Closes a connection with a reset instead of a FIN, whatever was left unread or unsent.
pub fn reset<S: AsFd>(socket: S) {
    reset_on_close(&socket);
    drop(socket);
}

/// The same, for when it will be closed.
pub fn reset_on_close<S: AsFd>(socket: &S) {
    // An error means that the peer has reset it already.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// An address without the IPv4-mapped form: what an IPv6 socket accepted from an IPv4 peer.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The wildcard of `to`'s family.
pub fn unspecified(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        SocketAddr::V6(_) => SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0).into(),
    }
}

fn stream(to: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_ports_leave_out_what_callers_take() {
        for (index, port) in [
            (0, 1024),
            (31743, 32767),
            (31744, 61000),
            (SOURCE_PORTS - 1, 65535),
        ] {
            assert_eq!(source_port(index), port);
        }
    }

    #[test]
    fn the_kernel_takes_every_keepalive() {
        let secs = Duration::from_secs;
        for (probes, time, interval, expected) in [
            (3, secs(100), secs(7), (3, 100, 7)),
            (1, secs(1), secs(1), (1, 1, 1)),
            (127, secs(32_767), secs(32_767), (127, 32_767, 32_767)),
            (128, secs(32_768), secs(32_768), (127, 32_767, 32_767)),
            (
                u32::MAX,
                Duration::MAX,
                Duration::MAX,
                (127, 32_767, 32_767),
            ),
            (0, Duration::ZERO, Duration::from_millis(1), (1, 1, 1)),
            (2, Duration::from_millis(1500), secs(2), (2, 2, 2)),
        ] {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            keep_alive(&socket, Some(probes), Some(time), Some(interval)).expect("taken");
            let found = (
                socket.tcp_keepalive_retries().expect("known"),
                socket.tcp_keepalive_time().expect("known").as_secs(),
                socket.tcp_keepalive_interval().expect("known").as_secs(),
            );
            assert_eq!(found, expected, "{probes} {time:?} {interval:?}");
            assert!(socket.keepalive().expect("known"));
        }
        // What is absent is the system's.
        let fresh = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let (socket, plain) = (fresh(), fresh());
        keep_alive(&socket, None, None, None).expect("taken");
        assert!(socket.keepalive().expect("known") && !plain.keepalive().expect("known"));
        let of = |socket: &Socket| {
            let interval = socket.tcp_keepalive_interval().expect("known");
            (socket.tcp_keepalive_time().expect("known"), interval)
        };
        assert_eq!(of(&socket), of(&plain));
    }
}
