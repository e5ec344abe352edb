//! One connection into a local pod: dials the application at the address that the caller asked
//! for, with the caller's own address, and relays.
//!
//! Nothing is decided about the caller yet: whatever reaches the pod's address is passed on.

use std::rc::Rc;

use super::accept::Accepted;
use super::connect::{self, Outbound};
use super::outcome::Connection;
use super::pod::LocalPod;
use super::tcp::Opening;
use super::worker::Worker;
use super::{origin, tcp};
use crate::types::ClusterName;

/// Carries it to its end.
pub(super) async fn serve(worker: &Rc<Worker>, pod: &Rc<LocalPod>, accepted: Accepted) {
    let Some(captured) = origin::inbound(worker, accepted) else {
        return;
    };
    let (source, destination) = (captured.source, captured.destination);
    let cluster = ClusterName::inbound(destination.port());
    let mut log = Connection::begin(worker, source, destination, cluster);
    log.upstream_host = Some(destination);
    let upstream = connect::application(worker, pod, source, destination)
        .await
        .map(|stream| Outbound {
            stream,
            lease: None,
            held: None,
        });
    tcp::proxy(
        worker,
        Opening {
            captured,
            upstream,
            log,
        },
    )
    .await;
    worker
        .redirects
        .inbound_closed(pod.cookie(), source, destination);
}
