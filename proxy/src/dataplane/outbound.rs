//! One captured connection of a local pod, from accept to close. Each hop takes the value the
//! previous one made, so the order cannot be changed by accident.

use std::rc::Rc;

use super::accept::Accepted;
use super::pod::LocalPod;
use super::protocol::{self, Protocol};
use super::worker::Worker;
use super::{http, origin, resolve, tcp};

/// Carries it to its end.
pub(super) async fn serve(worker: &Rc<Worker>, pod: &Rc<LocalPod>, accepted: Accepted) {
    let Some(captured) = origin::outbound(worker, pod, accepted) else {
        return;
    };
    let target = resolve::destination(&worker.snapshot(), captured.destination);
    match protocol::detect(worker, pod, captured, &target).await {
        Some(Protocol::Http(captured, version, first)) => {
            http::proxy(worker, pod, (captured, first), target, version).await;
        }
        Some(Protocol::Opaque(opening)) => tcp::proxy(worker, *opening).await,
        // The client left, or was reset, before there was anything to carry.
        None => {}
    }
}
