//! A pod's listeners: on the loopback of its own namespace, one socket a worker, all of one port.
//!
//! Does not know who takes the connections, nor how the kernel brings them here.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted, a socket. A flood must fit: a client whose SYN is dropped
/// tries again a second later at the earliest.
const BACKLOG: i32 = 65_535;

/// The kernel's cap of every backlog in a namespace, read when a socket begins to listen.
const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";

/// The sockets of one port.
#[derive(Debug)]
pub struct Group {
    /// The address they share.
    pub address: SocketAddr,
    /// One a worker, nonblocking, listening.
    pub sockets: Vec<TcpListener>,
}

/// Listens with `workers` sockets on the first free port of `ports`, in the calling thread's
/// namespace. `None` where the namespace has no such address (IPv6 is off).
///
/// The first socket is bound *without* SO_REUSEPORT, so that it conflicts with every other
/// process's group: two proxies that shared a port would share its connections too.
pub fn bind(
    loopback: IpAddr,
    ports: RangeInclusive<u16>,
    workers: usize,
) -> io::Result<Option<Group>> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in ports {
        match group(SocketAddr::new(loopback, port), workers) {
            Ok(group) => return Ok(Some(group)),
            Err(error) => match error.raw_os_error() {
                Some(nix::libc::EADDRINUSE) => last = error,
                Some(nix::libc::EADDRNOTAVAIL | nix::libc::EAFNOSUPPORT) => return Ok(None),
                _ => return Err(error),
            },
        }
    }
    Err(last)
}

/// The loopback addresses on which a pod's listeners are, IPv4 first.
pub const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

fn group(address: SocketAddr, workers: usize) -> io::Result<Group> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        Ok(socket)
    };
    let mut sockets = Vec::with_capacity(workers);
    for index in 0..workers.max(1) {
        let socket = open()?;
        if index == 0 {
            socket.bind(&address.into())?;
            socket.set_reuse_port(true)?;
        } else {
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
        }
        // Accepted connections inherit it. They bear the application's own port, and without it
        // they would keep an application that restarts from binding that port again.
        socket.set_reuse_address(true)?;
        // Likewise: no Nagle's delay.
        socket.set_tcp_nodelay(true)?;
        sockets.push(socket);
    }
    let _cap = Uncapped::new();
    for socket in &sockets {
        socket.listen(BACKLOG)?;
    }
    Ok(Group {
        address,
        sockets: sockets.into_iter().map(TcpListener::from).collect(),
    })
}

/// The calling thread's namespace with its cap of backlogs out of the way, as long as this lives:
/// the setting is the pod's own and stays what it was.
struct Uncapped(
    Option<String>,
    #[allow(dead_code, reason = "held")] MutexGuard<'static, ()>,
);

impl Uncapped {
    fn new() -> Self {
        // Two at once would take the other's value for the one to set back.
        static ONE: Mutex<()> = Mutex::new(());
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let before = fs::read_to_string(SOMAXCONN).ok();
        // Where it can't be written (a read-only /proc/sys) the cap holds for us too.
        let written = before.filter(|_| fs::write(SOMAXCONN, BACKLOG.to_string()).is_ok());
        Self(written, one)
    }
}

impl Drop for Uncapped {
    fn drop(&mut self) {
        if let Some(before) = &self.0
            && let Err(error) = fs::write(SOMAXCONN, before)
        {
            tracing::warn!(%error, "a pod's {SOMAXCONN} can't be set back to {before}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_groups_never_share_a_port() {
        let ports = 25100..=25120;
        let one = bind(LOOPBACK[0], ports.clone(), 2).unwrap().unwrap();
        let other = bind(LOOPBACK[0], ports, 2).unwrap().unwrap();
        assert_eq!(one.sockets.len(), 2);
        assert_ne!(one.address.port(), other.address.port());
        for socket in &one.sockets {
            assert_eq!(socket.local_addr().unwrap(), one.address);
        }
    }

    #[test]
    fn what_is_accepted_needs_no_option_of_its_own() {
        let group = bind(LOOPBACK[0], 25140..=25149, 1).unwrap().unwrap();
        let _client = std::net::TcpStream::connect(group.address).unwrap();
        group.sockets[0].set_nonblocking(false).unwrap();
        let (accepted, _) = group.sockets[0].accept().unwrap();
        let socket = socket2::SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap(), "inherited");
        assert!(socket.reuse_address().unwrap(), "inherited");
    }

    #[test]
    fn no_free_port_is_an_error() {
        let port = 25130;
        let _one = bind(LOOPBACK[0], port..=port, 1).unwrap().unwrap();
        let error = bind(LOOPBACK[0], port..=port, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
