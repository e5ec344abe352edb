//! Recovers what a captured connection was meant for.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::accept::Accepted;
use super::pod::LocalPod;
use super::worker::Worker;
use crate::net::descriptors::Permit;
use crate::net::socket;
use crate::wire::proxy_protocol::Ends;

/// A connection with its two ends known.
#[derive(Debug)]
pub(super) struct Captured {
    /// The socket.
    pub stream: TcpStream,
    /// The client's address.
    pub source: SocketAddr,
    /// What the client asked for.
    pub destination: SocketAddr,
    /// Descriptors of the connection and its upstream.
    pub permit: Permit,
}

impl Captured {
    /// Its ends.
    pub(super) fn ends(&self) -> Ends {
        Ends {
            source: self.source,
            destination: self.destination,
        }
    }
}

/// Looks up where an outbound connection was going. `None`: nobody knows (a process of the pod
/// dialled the listener itself, or the entry was evicted); the client is reset.
pub(super) fn outbound(worker: &Worker, pod: &LocalPod, accepted: Accepted) -> Option<Captured> {
    let Accepted {
        stream,
        peer,
        permit,
    } = accepted;
    let Some(destination) = worker.redirects.take(pod.cookie(), peer) else {
        worker.counters.downstream_cx_no_origin.increment();
        tracing::debug!(%peer, "a connection to the outbound listener has no original destination");
        socket::reset(stream);
        return None;
    };
    let destination = unmapped(destination);
    Some(Captured {
        stream,
        source: own_address(pod, unmapped(peer), destination),
        destination,
        permit,
    })
}

/// The pod's address instead of its loopback, where the capture put the socket: what the connection
/// would have come from, and what means something to whoever reads it.
fn own_address(pod: &LocalPod, peer: SocketAddr, destination: SocketAddr) -> SocketAddr {
    let pod = pod.pod();
    let own = pod
        .workload
        .addresses
        .iter()
        .find(|own| own.is_ipv4() == destination.is_ipv4());
    match own {
        Some(own) if peer.ip().is_loopback() => SocketAddr::new(*own, peer.port()),
        _ => peer,
    }
}

/// What an inbound connection dialled is its socket's own local address (`sk_lookup` assigns
/// connections without rewriting them). `None` where that is the listener itself: a process of the
/// pod dialled it, and the client is reset.
pub(super) fn inbound(worker: &Worker, accepted: Accepted) -> Option<Captured> {
    let Accepted {
        stream,
        peer,
        permit,
    } = accepted;
    match stream.local_addr() {
        Ok(destination) if !destination.ip().to_canonical().is_loopback() => Some(Captured {
            stream,
            source: unmapped(peer),
            destination: unmapped(destination),
            permit,
        }),
        _ => {
            worker.counters.downstream_cx_no_origin.increment();
            tracing::debug!(%peer, "a connection to the inbound listener was not meant for the pod");
            socket::reset(stream);
            None
        }
    }
}

fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
