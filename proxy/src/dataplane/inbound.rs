//! One connection into a local pod: dials the application at the address that the caller asked
//! for, with the caller's own address, and relays.
//!
//! Port 15008 is HBONE's, see [`hbone`]. Anything else is plain text, or TLS that the application
//! terminates: nobody has proved who the caller is.
//! What the pod's policies refuse is reset, and an open connection too once they refuse it. Where
//! they ask about requests, those of HTTP are judged each by itself ([`http::inbound`]).

use std::rc::Rc;

use tokio::net::TcpStream;

use super::accept::Accepted;
use super::authorize::{self, Admitted, Arrival, Met, Unseen};
use super::origin::{self, Captured};
use super::outcome::Connection;
use super::pod::LocalPod;
use super::protocol::{self, Gone, Seen};
use super::relay::{Limits, relay_until};
use super::worker::Worker;
use super::{connect, hbone, http};
use crate::net::gather::Gather;
use crate::net::socket;
use crate::policy::authorization::Denial;
use crate::types::{ClusterName, ResponseFlags};

/// Carries it to its end.
pub(super) async fn serve(worker: &Rc<Worker>, pod: &Rc<LocalPod>, accepted: Accepted) {
    let Some(captured) = origin::inbound(worker, accepted) else {
        return;
    };
    let (source, destination) = (captured.source, captured.destination);
    if destination.port() == hbone::PORT {
        hbone::server::serve(worker, pod, captured).await;
    } else {
        plain(worker, pod, captured).await;
    }
    worker
        .redirects
        .inbound_closed(pod.cookie(), source, destination);
}

/// A connection that nobody has proved to be anybody's.
async fn plain(worker: &Rc<Worker>, pod: &Rc<LocalPod>, captured: Captured) {
    let (source, destination) = (captured.source, captured.destination);
    let cluster = ClusterName::inbound(destination.port());
    let mut log = Connection::begin(worker, source, destination, cluster);
    log.upstream_host = Some(destination);
    let arrival = Arrival {
        peer: None,
        source,
        destination,
    };
    match authorize::meet(worker, pod, arrival) {
        Ok(Met::Admitted(admitted)) => {
            carry(worker, pod, captured, None, &admitted, &mut log).await;
        }
        // On the heap: few pods have policies about requests.
        Ok(Met::Unseen(unseen)) => Box::pin(look(worker, pod, captured, unseen, log)).await,
        Err(denial) => refuse(captured, &denial, &mut log),
    }
}

fn refuse(captured: Captured, denial: &Denial, log: &mut Connection) {
    let Captured {
        stream,
        source,
        destination,
        ..
    } = captured;
    tracing::debug!(%source, %destination, %denial, "refused");
    log.deny(denial);
    socket::reset(stream);
}

/// Looks whether it is HTTP, whose requests are judged each by itself.
async fn look(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    captured: Captured,
    unseen: Unseen,
    mut log: Connection,
) {
    let (source, destination) = (captured.source, captured.destination);
    let mut early = None;
    let seen = tokio::select! {
        biased;
        seen = protocol::arriving(&captured.stream, unseen.wanted()) => seen,
        denial = unseen.revoked() => return refuse(captured, &denial, &mut log),
        () = connect::spoken(worker, pod, (source, destination), &mut early),
            if unseen.wanted().early => Ok(Seen::Bytes(None)),
    };
    match seen {
        Ok(Seen::Requests(version)) => {
            log.discard();
            let Captured {
                stream,
                permit: _permit,
                ..
            } = captured;
            let arriving = http::inbound::Arriving {
                admitted: unseen.requests(),
                version,
                certificate: None,
                encrypted: false,
                application: early,
            };
            http::inbound::serve(worker, pod, Gather(stream), arriving).await;
        }
        Ok(Seen::Bytes(name)) => {
            let Ok(stream) = protocol::afresh(captured.stream) else {
                return;
            };
            let captured = Captured { stream, ..captured };
            log.server_name.clone_from(&name);
            match unseen.bytes(worker, name) {
                Ok(admitted) => carry(worker, pod, captured, early, &admitted, &mut log).await,
                Err(denial) => refuse(captured, &denial, &mut log),
            }
        }
        Err(Gone) => log.flags = ResponseFlags::DOWNSTREAM_CLOSED,
    }
}

/// Relays for as long as the caller is allowed to. `early`: the application, where it was dialled
/// already.
async fn carry(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    captured: Captured,
    early: Option<TcpStream>,
    admitted: &Admitted,
    log: &mut Connection,
) {
    let (source, destination) = (captured.source, captured.destination);
    let dialled = async {
        match early {
            Some(application) => Ok(application),
            None => connect::application(worker, pod, source, destination).await,
        }
    };
    let dialled = tokio::select! {
        dialled = dialled => dialled,
        denial = admitted.revoked() => {
            log.deny(&denial);
            socket::reset(captured.stream);
            return;
        }
    };
    let stream = match dialled {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%source, %destination, %error, "not connected: the caller is reset");
            log.fail(&error);
            socket::reset(captured.stream);
            return;
        }
    };
    log.upstream_local = stream.local_addr().ok();
    let mut denial = None;
    let revoked = async { denial = Some(admitted.revoked().await) };
    let limits = Limits::default();
    let end = relay_until(captured.stream, stream, log.meter(), limits, revoked).await;
    log.ended(end, denial.as_ref());
}
