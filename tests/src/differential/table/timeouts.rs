//! Limits of time.

use super::RESETS;
use crate::differential::scenario::{Scenario, http, plain};

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        http("timeout-route", "{TO, timeout: 300ms}").up("200,wait=2000").ask("GET /", "504 UT x1 took=300 body=upstream+request+timeout").timed().counts(&["upstream_rq_timeout"]).counts(RESETS),
        http("timeout-not-met", "{TO, timeout: 2s}").up("200,wait=100").ask("GET /", "200 - x1 >x-envoy-expected-rq-timeout-ms=2000"),
        http("timeout-http2", "{TO, timeout: 300ms}").up("200,wait=2000").ask("h2 GET /", "504 UT x1").timed(),
        http("timeout-http2-upstream", "{TO, timeout: 300ms}").http2().up("200,wait=2000").ask("GET /", "504 UT x1").timed().counts(RESETS),
        http("timeout-head", "{TO, timeout: 200ms}").up("200,wait=2000").ask("HEAD /", "504 UT x1 body="),
        http("timeout-after-headers", "{TO, timeout: 300ms}").up("200,bytes=100,pause=1500").ask("GET /", "200 UT x1 end=broken").timed().counts(RESETS),
        http("timeout-after-headers-http2", "{TO, timeout: 300ms}").up("200,bytes=100,pause=1500").ask("h2 GET /", "200 UT x1 end=broken").timed(),
        http("timeout-upload", "{TO, timeout: 300ms}").up("200,wait=100").ask("POST / | ~6x100", "200 - x1").timed(),
        http("timeout-upload-then", "{TO, timeout: 300ms}").up("200,wait=2000").ask("POST / | ~4x100", "504 UT x1 took=700").timed().counts(RESETS),
        http("timeout-controls", "{TO, timeout: 1s}").up("200,wait=300").ask("GET / | x-envoy-upstream-rq-timeout-ms: 50 | x-envoy-upstream-rq-per-try-timeout-ms: 50", "200 - x1"),
        plain("timeout-none").up("200,wait=400").ask("GET / | x-envoy-upstream-rq-timeout-ms: 50", "200 - x1 >!x-envoy-expected-rq-timeout-ms"),
        http("timeout-covers-retries", "{TO, timeout: 500ms, retries: {attempts: 5, retryOn: 5xx}}").up("503,wait=200").ask("GET /", "504 UT x3 took=500").timed(),
        http("timeout-per-try", "{TO, retries: {attempts: 2, retryOn: 5xx, perTryTimeout: 200ms}}").up("200,wait=2000").ask("GET /", "504 URX,UT x3").timed().counts(&["upstream_rq_per_try_timeout", "upstream_rq_retry"]),
        http("timeout-per-try-helps", "{TO, retries: {attempts: 2, retryOn: reset, perTryTimeout: 200ms}}").up("200,wait=2000 200").ask("GET /", "200 - x2 >x-envoy-expected-rq-timeout-ms=200").timed(),
        http("timeout-per-try-unretried", "{TO, retries: {attempts: 2, retryOn: connect-failure, perTryTimeout: 200ms}}").up("200,wait=2000").ask("GET /", "504 UT x1 took=200").timed().counts(RESETS),
        http("timeout-per-try-longer", "{TO, timeout: 200ms, retries: {attempts: 2, retryOn: 5xx, perTryTimeout: 1s}}").up("200,wait=2000").ask("GET /", "504 UT x1 took=200").timed(),
        http("timeout-both", "{TO, timeout: 500ms, retries: {attempts: 9, retryOn: 5xx, perTryTimeout: 200ms}}").up("200,wait=2000").ask("GET /", "504 UT x3").timed(),
        http("timeout-per-try-after-headers", "{TO, retries: {attempts: 2, retryOn: 5xx, perTryTimeout: 200ms}}").up("200,bytes=20,pause=500").ask("GET /", "200 - x1").timed(),
        http("timeout-connecting", "{TO, timeout: 300ms}").up("blackhole").ask("GET /", "504 UT x0").timed().counts(RESETS),
        http("timeout-connecting-http2", "{TO, timeout: 300ms}").http2().up("blackhole").ask("GET /", "504 UT x0").timed().counts(RESETS),
        http("timeout-after-headers-upstream-http2", "{TO, timeout: 300ms}").http2().up("200,bytes=100,pause=1500").ask("GET /", "200 UT x1 end=broken").counts(RESETS),
        http("timeout-slow-reader", "{TO, timeout: 900ms}").up("200,bytes=30000000").ask("GET / | %60", "200 UT x1 end=broken"),
        http("timeout-slow-reader-http2", "{TO, timeout: 900ms}").up("200,bytes=30000000").ask("h2 GET / | %60", "200 UT x1 end=broken"),
        http("timeout-direct", "{directResponse: {status: 200}, timeout: 1ms}").ask("GET /", "200 x0"),
    ]
}
