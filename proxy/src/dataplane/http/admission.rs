//! What may answer a request before its rule acts: an injected fault, a CORS preflight.

use std::rc::Rc;
use std::sync::Arc;

use super::canonical::Canonical;
use super::finish::Finish;
use super::reply;
use crate::dataplane::outcome::Exchange;
use crate::policy::{cors, fault};
use crate::types::ResponseFlags;

/// Delays and aborts as the rule's `fault` says. The reply, where the request is aborted.
pub(super) async fn inject(
    policy: &fault::Policy,
    exchange: &mut Exchange,
    grpc: bool,
) -> Option<reply::Local> {
    let worker = Rc::clone(exchange.worker());
    let injected = policy.inject([worker.draw(), worker.draw()]);
    if let Some(delay) = injected.delay {
        worker.counters.fault_delays_injected.increment();
        exchange.flags = exchange.flags | ResponseFlags::DELAY_INJECTED;
        tokio::time::sleep(delay).await;
    }
    let abort = injected.abort?;
    worker.counters.fault_aborts_injected.increment();
    exchange.flags = exchange.flags | ResponseFlags::FAULT_INJECTED;
    Some(reply::Local::aborted(abort, grpc))
}

/// Asks the rule's `corsPolicy`. The reply, where it answers a preflight.
pub(super) fn admit(
    policy: &Arc<cors::Policy>,
    exchange: &mut Exchange,
    canonical: &Canonical,
) -> Option<reply::Local> {
    let counters = &exchange.worker().counters;
    match policy.decide(&canonical.parts.method, &canonical.parts.headers) {
        cors::Decision::Unconcerned => None,
        cors::Decision::Foreign => {
            counters.cors_origin_invalid.increment();
            None
        }
        cors::Decision::Allowed(origin) => {
            counters.cors_origin_valid.increment();
            exchange.finish.grant(policy, origin);
            None
        }
        cors::Decision::Answered { allowed, headers } => {
            if allowed {
                counters.cors_origin_valid.increment();
            } else {
                counters.cors_origin_invalid.increment();
            }
            exchange.finish = Finish::default();
            Some(reply::Local::preflight(headers))
        }
    }
}
