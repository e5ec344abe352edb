//! Envoy with two workers: what they share. What it leaves to chance, since each worker opens one
//! connection for HTTP whatever the limit says, is not here.

use crate::differential::scenario::{Scenario, http, policy};

/// A pool with these settings.
fn pool(name: &str, pool: &str) -> Scenario {
    policy(name, &format!("connectionPool: {{{pool}}}")).two_workers()
}

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        pool("workers-limit-requests", "http: {http2MaxRequests: 2}").up("200,wait=400").ask("5& GET /", "200*2,503*3 UO x2").counts(&["upstream_rq_active_overflow", "upstream_rq_pending_overflow"]),
        pool("workers-limit-requests-http2", "http: {http2MaxRequests: 2}").http2().up("200,wait=400").ask("5& GET /", "200*2,503*3 UO x2"),
        pool("workers-limit-connections", "tcp: {maxConnections: 2}").up("200,wait=300").ask("6& GET /", "200 x6"),
        pool("workers-one-request-a-connection", "http: {maxRequestsPerConnection: 1}").ask("6& GET /", "200 x6").connections(),
        pool("workers-tcp-overflow", "tcp: {maxConnections: 2}").bytes().up("200,wait=400").ask("5& TCP hello", "UO x2 end~").counts(&["upstream_cx_overflow"]),
        http("workers-limit-retries", "{TO, retries: {attempts: 1, retryOn: 5xx, backoff: 200ms}}").policy("connectionPool: {http: {maxRetries: 1}}").two_workers().up("503,wait=100").ask("3& GET /", "503 x4").counts(&["upstream_rq_retry", "upstream_rq_retry_overflow"]),
        http("workers-retry-budget", "{TO, retries: {attempts: 1, retryOn: 5xx, backoff: 200ms}}").policy("retryBudget: {percent: 0, minRetryConcurrency: 1}").two_workers().up("503,wait=100").ask("3& GET /", "503 x4").counts(&["upstream_rq_retry_overflow"]),
        http("workers-counters", "{TO, retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}}").two_workers().up("503 200 200").ask("1x GET /", "200").ask("12& GET /", "200").counts(&["upstream_rq_retry", "upstream_rq_retry_success", "upstream_rq_total", "upstream_rq_2xx", "retry.upstream_rq_5xx"]),
        policy("workers-outlier", "outlierDetection: {consecutive5xxErrors: 4, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100}").two_workers().up("500").ask("4& GET /", "500 x4").ask("after=200 4& GET /", "503 UH x0").counts(&["outlier_detection.ejections_enforced_total", "outlier_detection.ejections_enforced_consecutive_5xx"]),
        policy("workers-round-robin", "loadBalancer: {simple: ROUND_ROBIN}").two_workers().over(4).ask("40& GET /", "200 h4").any_endpoint(),
        policy("workers-hash", "loadBalancer: {consistentHash: {httpHeaderName: x-k}}").two_workers().over(5).ask("20& GET / | x-k: a", "200 h1").ask("GET / | x-k: b", "200"),
    ]
}
