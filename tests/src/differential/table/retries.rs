//! Retries: every condition against every outcome, and all that bounds them.

use crate::differential::scenario::{Scenario, http, plain};

/// What an upstream does at first, and the conditions that retry it.
const OUTCOMES: &[(&str, &str, &[&str])] = &[
    ("500", "500", &["5xx", "500"]),
    ("502", "502", &["5xx", "gateway-error"]),
    ("503", "503", &["5xx", "gateway-error", "503"]),
    ("409", "409", &["retriable-4xx"]),
    ("429", "429", &[]),
    ("reset", "reset", &["5xx", "gateway-error", "reset"]),
    ("close", "close", &["5xx", "gateway-error", "reset"]),
    ("garbage", "garbage", &["5xx", "gateway-error", "reset"]),
    ("grpc-14", "200,h.grpc-status=14", &["unavailable"]),
    ("grpc-1", "200,h.grpc-status=1", &["cancelled"]),
    (
        "limited",
        "503,h.x-envoy-ratelimited=1",
        &["envoy-ratelimited"],
    ),
];

/// The conditions that are tried with each outcome.
const CONDITIONS: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "connect-failure",
    "refused-stream",
    "retriable-4xx",
    "503",
    "cancelled",
    "unavailable",
    "envoy-ratelimited",
];

/// One scenario a pair that says something: each outcome with each condition.
fn pairs() -> Vec<Scenario> {
    let mut all = Vec::new();
    for (outcome, script, retried_by) in OUTCOMES {
        for condition in CONDITIONS {
            let retried = retried_by.contains(condition);
            let expected = if retried { "200 - x2" } else { "x1" };
            let rules = format!("{{TO, retries: {{attempts: 1, retryOn: '{condition}'}}}}");
            let ask = "POST / | content-type: text/plain | =body";
            let name = format!("retry-{outcome}-on-{condition}");
            all.push(
                http(name, &rules)
                    .up(&format!("{script} 200"))
                    .ask(ask, expected),
            );
        }
    }
    all
}

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    let mut all = pairs();
    all.extend([
        http("retry-503", "{TO, retries: {attempts: 2, retryOn: '503'}}").up("503 200").ask("GET /", "200 - x2 >x-envoy-attempt-count=2").counts(&["upstream_rq_retry", "upstream_rq_retry_success"]),
        http("retry-5xx-exhausted", "{TO, retries: {attempts: 2, retryOn: 5xx}}").up("500").ask("GET /", "500 URX x3 body=upstream+500").counts(&["upstream_rq_retry", "upstream_rq_retry_limit_exceeded"]),
        http("retry-reset-exhausted", "{TO, retries: {attempts: 1, retryOn: reset}}").up("reset").ask("GET /", "503 URX,UC x2 body~retried+and+the+latest"),
        http("retry-codes", "{TO, retries: {attempts: 3, retryOn: '409,429,retriable-4xx'}}").up("429 409 200").ask("GET /", "200 x3"),
        http("retry-code-not-local", "{TO, retries: {attempts: 1, retryOn: '503'}}").up("refuse").ask("GET /", "503 UF x0 body~reset+reason"),
        http("retry-connect", "{TO, retries: {attempts: 2, retryOn: connect-failure}}").up("refuse").ask("GET /", "503 URX,UF x0 body~retried").counts(&["upstream_rq_retry", "upstream_cx_connect_fail"]),
        http("retry-connect-other-host", "{TO, retries: {attempts: 3, retryOn: connect-failure}}").over(2).up("0= refuse; 200").ask("10x GET /", "200 - h1").shares(),
        http("retry-connect-timeout", "{TO, retries: {attempts: 1, retryOn: connect-failure}}").policy("connectionPool: {tcp: {connectTimeout: 200ms}}").up("blackhole").ask("GET /", "503 URX,UF x0").timed(),
        http("retry-none", "{TO, retries: {attempts: 0}}").up("refuse").ask("GET /", "503 UF x0").counts(&["upstream_rq_retry"]),
        http("retry-attempts-missing", "{TO, retries: {}}").up("refuse").ask("GET /", "503 UF x0").counts(&["upstream_rq_retry"]),
        http("retry-attempts-only", "{TO, retries: {attempts: 3}}").up("503 200").ask("GET /", "503 - x1"),
        plain("retry-default-refused").up("refuse").ask("GET /", "503 URX,UF x0 body~connect").counts(&["upstream_rq_retry", "upstream_cx_connect_fail"]),
        plain("retry-default-503").up("503 200").ask("GET /", "503 - x1"),
        plain("retry-default-reset").up("reset 200").ask("GET /", "503 UC x1"),
        plain("retry-default-unavailable").up("200,h.grpc-status=14 200").ask("GET /", "200 - x2"),
        plain("retry-default-refused-stream").http2().up("refused 200").ask("GET /", "200 - x2"),
        http("retry-refused-stream", "{TO, retries: {attempts: 1, retryOn: refused-stream}}").http2().up("refused 200").ask("h2 GET /", "200 - x2"),
        http("retry-refused-stream-5xx", "{TO, retries: {attempts: 1, retryOn: 5xx}}").http2().up("refused 200").ask("h2 GET /", "200 - x2"),
        http("retry-cancel-reset", "{TO, retries: {attempts: 1, retryOn: reset}}").http2().up("cancel 200").ask("GET /", "200 - x2"),
        http("retry-goaway", "{TO, retries: {attempts: 1, retryOn: reset}}").http2().up("goaway 200").ask("GET /", "200 - x2"),
        http("retry-before-request-refused", "{TO, retries: {attempts: 1, retryOn: reset-before-request}}").up("refuse").ask("GET /", "503 URX,UF x0"),
        http("retry-before-request-reset", "{TO, retries: {attempts: 1, retryOn: reset-before-request}}").up("reset 200").ask("GET /", "503 UC x1"),
        http("retry-body", "{TO, retries: {attempts: 1, retryOn: 5xx}}").up("503 200").ask("POST / | #60000", "200 x2").ask("POST / | ~3x20", "200 x1"),
        http("retry-body-large", "{TO, retries: {attempts: 1, retryOn: 5xx}}").up("503 200").ask("POST / | #1500000", "503 x1").ask("POST / | #1500000", "200").counts(&["retry_or_shadow_abandoned"]),
        http("retry-body-large-needless", "{TO, retries: {attempts: 1, retryOn: 5xx}}").ask("POST / | #1500000", "200").counts(&["retry_or_shadow_abandoned"]),
        http("retry-body-early", "{TO, retries: {attempts: 1, retryOn: 5xx}}").up("503,early,last 200").ask("POST / | ~4x100", "200 x2"),
        http("retry-headers-again", "{TO, headers: {request: {add: {x-a: b}}}, retries: {attempts: 1, retryOn: 5xx}}").up("503 200").ask("GET / | x-a: 1", "200 x2 >x-a=1,b"),
        http("retry-rewrite-again", "{match: [{uri: {prefix: /a}}], rewrite: {uri: /a/a}, TO, retries: {attempts: 2, retryOn: 5xx}}").up("503 503 200").ask("GET /a", "200 x3 >:path=/a/a"),
        http("retry-not-after-headers", "{TO, retries: {attempts: 1, retryOn: '5xx,reset'}}").up("200,bytes=100,abort 200").ask("GET /", "200 x1 end=broken"),
        // Envoy draws five times at most for another one: of five, it misses it once in a hundred plays.
        http("retry-other-hosts", "{TO, retries: {attempts: 2, retryOn: 5xx}}").over(5).up("500").ask("GET /", "500 x3").any_endpoint(),
        http("retry-same-host", "{TO, retries: {attempts: 3, retryOn: 5xx, retryIgnorePreviousHosts: false}}").policy("loadBalancer: {consistentHash: {httpHeaderName: x-k}}").over(3).up("500").ask("GET / | x-k: 1", "500 x4 h1"),
        http("retry-hash-same-host", "{TO, retries: {attempts: 3, retryOn: 5xx}}").policy("loadBalancer: {consistentHash: {httpHeaderName: x-k}}").over(3).up("500").ask("GET / | x-k: 1", "500 x4 h1"),
        http("retry-backoff", "{TO, retries: {attempts: 3, retryOn: 5xx, backoff: 1ms}}").up("500").ask("GET /", "500 x4"),
        http("retry-stays-in-destination", "{route: [{V1, weight: 1}, {V2, weight: 0}], retries: {attempts: 2, retryOn: 5xx}}").over(2).up("500").ask("GET /", "500 x3 h1 @0"),
        http("retry-controls", "{TO, retries: {attempts: 1, retryOn: connect-failure}}").up("503 200").ask("GET / | x-envoy-retry-on: 5xx | x-envoy-max-retries: 5", "503 x1"),
        http("retry-head", "{TO, retries: {attempts: 1, retryOn: 5xx}}").up("503 200").ask("HEAD /", "200 x2"),
        http("retry-response-headers", "{TO, headers: {response: {set: {x-a: b}}}, retries: {attempts: 1, retryOn: 5xx}}").up("500").ask("GET /", "500 x2 x-a=b"),
    ]);
    all
}
