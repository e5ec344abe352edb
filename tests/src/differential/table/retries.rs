//! Retries: every condition against every outcome.

use crate::differential::scenario::{Scenario, http, plain};

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        http("retry-503", "{TO, retries: {attempts: 2, retryOn: '503'}}").up("503 200").ask("GET /", "200 - x2 >x-envoy-attempt-count=2"),
        http("retry-5xx-exhausted", "{TO, retries: {attempts: 2, retryOn: 5xx}}").up("500").ask("GET /", "500 URX x3").counts(&["upstream_rq_retry", "upstream_rq_retry_limit_exceeded"]),
        plain("retry-default-refused").up("refuse").ask("GET /", "503 URX,UF x0 body~connect"),
        plain("retry-default-503").up("503 200").ask("GET /", "503 - x1"),
        http("timeout-route", "{TO, timeout: 300ms}").up("200,wait=2000").ask("GET /", "504 UT x1 took=300").timed(),
        http("retry-reset", "{TO, retries: {attempts: 1, retryOn: reset}}").up("reset 200").ask("GET /", "200 - x2"),
    ]
}
