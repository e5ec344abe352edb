//! The scenarios, a table for each subject. `@` is the Service; `TO`, `V1`, `V2`, `V3` destinations.

use super::scenario::Scenario;

/// How requests come to an end before their answers do.
const RESETS: &[&str] = &[
    "upstream_rq_rx_reset",
    "upstream_rq_tx_reset",
    "upstream_rq_cancelled",
    "upstream_rq_pending_failure_eject",
];

mod balancing;
mod cors;
mod faults;
mod grpc;
mod headers;
mod limits;
mod matching;
mod mirrors;
mod origination;
mod outliers;
mod paths;
mod protocols;
mod redirects;
mod replies;
mod retries;
mod tcp;
mod timeouts;
mod workers;

/// All of them.
pub fn all() -> Vec<Scenario> {
    [
        matching::table(),
        redirects::table(),
        paths::table(),
        headers::table(),
        cors::table(),
        timeouts::table(),
        retries::table(),
        faults::table(),
        mirrors::table(),
        balancing::table(),
        limits::table(),
        outliers::table(),
        grpc::table(),
        protocols::table(),
        replies::table(),
        origination::table(),
        tcp::table(),
        workers::table(),
    ]
    .concat()
}
