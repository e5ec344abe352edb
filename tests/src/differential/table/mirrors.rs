//! Mirroring: the primary is the first endpoint, the mirror the second.

use crate::differential::scenario::{Scenario, http};

const ABANDONED: &[&str] = &["retry_or_shadow_abandoned"];

/// A rule to `v1` with a mirror.
fn mirror(name: &str, mirror: &str) -> Scenario {
    http(name, &format!("{{route: [{{V1}}], {mirror}}}"))
        .over(3)
        .unordered()
}

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        mirror("mirror-all", "mirror: {host: @, subset: v2}").ask("GET /a?b", "200 x2 h2"),
        mirror("mirror-body", "mirror: {host: @, subset: v2}").ask("POST / | =some body", "200 x2 h2").ask("POST / | ~3x30", "200 x2 h2"),
        mirror("mirror-none", "mirror: {host: @, subset: v2}, mirrorPercentage: {value: 0}").ask("5x GET /", "200 x5 h1"),
        mirror("mirror-some", "mirror: {host: @, subset: v2}, mirrorPercentage: {value: 30}").ask("300x GET /", "").shares(),
        mirror("mirror-two", "mirrors: [{destination: {host: @, subset: v2}}, {destination: {host: @, subset: v3}, percentage: {value: 100}}]").ask("GET /", "200 x3 h3"),
        mirror("mirror-fails", "mirror: {host: @, subset: v2}").up("1= 500; 200").ask("GET /", "200 - x2"),
        mirror("mirror-refuses", "mirror: {host: @, subset: v2}").up("1= refuse; 200").ask("GET /", "200 - x1"),
        mirror("mirror-slow", "mirror: {host: @, subset: v2}").up("1= 200,wait=700; 200").ask("GET /", "200 - x2").timed(),
        mirror("mirror-unknown", "mirror: {host: @, subset: v9}").ask("GET /", "200 - x1"),
        mirror("mirror-headers", "headers: {request: {set: {x-a: b, host: other.example}}}, mirror: {host: @, subset: v2}").ask("GET / | x-a: 1", "200 x2"),
        mirror("mirror-not-retried", "retries: {attempts: 2, retryOn: 5xx}, mirror: {host: @, subset: v2}").up("0= 503 200; 503").ask("GET /", "200 x3"),
        mirror("mirror-http2", "mirror: {host: @, subset: v2}").http2().ask("h2 POST / | =x", "200 x2"),
        mirror("mirror-forwarded", "mirror: {host: @, subset: v2}").ask("GET / | x-forwarded-for: 1.1.1.1", "200 x2").ask("GET / | x-forwarded-for: 10.1.1.1, 10.2.2.2 | x-envoy-internal: false", "200 x2"),
        mirror("mirror-rewritten", "rewrite: {uri: /b, authority: other.example}, mirror: {host: @, subset: v2}").ask("GET /a", "200 x2"),
        mirror("mirror-per-try", "timeout: 2s, retries: {attempts: 1, retryOn: 5xx, perTryTimeout: 500ms}, mirror: {host: @, subset: v2}").ask("GET /", "200 x2"),
        mirror("mirror-per-try-alone", "retries: {attempts: 1, retryOn: 5xx, perTryTimeout: 500ms}, mirror: {host: @, subset: v2}").ask("GET /", "200 x2"),
        mirror("mirror-grpc", "timeout: 3s, mirror: {host: @, subset: v2}").http2().ask("h2 POST / | content-type: application/grpc | grpc-timeout: 2S | te: trailers | =x", "200 x2"),
        mirror("mirror-body-large", "mirror: {host: @, subset: v2}").ask("POST / | #1500000", "200").counts(ABANDONED),
        mirror("mirror-timeout", "timeout: 300ms, mirror: {host: @, subset: v2}").up("1= 200,wait=2000; 200").ask("GET /", "200 - x2"),
    ]
}
