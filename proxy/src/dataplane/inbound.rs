//! One connection into a local pod: dials the application at the address that the caller asked
//! for, with the caller's own address, and relays.
//!
//! Port 15008 is HBONE's, see [`hbone`]. Anything else is plain text, or TLS that the application terminates: nobody has proved who the caller is.
//! What the pod's policies refuse is reset, and an open connection too once they refuse it.

use std::rc::Rc;

use super::accept::Accepted;
use super::authorize::{self, Admitted, Arrival};
use super::connect;
use super::hbone;
use super::origin::{self, Captured};
use super::outcome::Connection;
use super::pod::LocalPod;
use super::relay::{End, Limits, relay_until};
use super::worker::Worker;
use crate::net::socket;
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
    match authorize::admit(worker, pod, arrival) {
        Ok(admitted) => carry(worker, pod, captured, &admitted, &mut log).await,
        Err(denial) => {
            tracing::debug!(%source, %destination, %denial, "refused");
            log.deny(&denial);
            socket::reset(captured.stream);
        }
    }
}

/// Relays for as long as the caller is allowed to.
async fn carry(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    captured: Captured,
    admitted: &Admitted,
    log: &mut Connection,
) {
    let (source, destination) = (captured.source, captured.destination);
    let dialled = tokio::select! {
        dialled = connect::application(worker, pod, source, destination) => dialled,
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
    match relay_until(captured.stream, stream, log.meter(), limits, revoked).await {
        End::Closed | End::Stopped => {}
        End::Downstream => log.flags = ResponseFlags::DOWNSTREAM_CLOSED,
        End::Upstream => log.flags = ResponseFlags::UPSTREAM_CLOSED,
        End::Idle | End::Old => log.flags = ResponseFlags::LOCAL_RESET,
    }
    if let Some(denial) = denial {
        log.deny(&denial);
    }
}
