//! Connection pools and circuit breakers.

use crate::differential::scenario::{Scenario, http, policy};

/// A pool with these settings.
fn pool(name: &str, pool: &str) -> Scenario {
    policy(name, &format!("connectionPool: {{{pool}}}"))
}

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        pool("limit-pending", "tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}").up("200,wait=600").ask("5&80 GET /", "200*2,503*3 UO x2").counts(&["upstream_rq_pending_overflow", "upstream_cx_overflow"]),
        pool("limit-connections", "tcp: {maxConnections: 2}").up("200,wait=300").ask("6& GET /", "200 x6").timed(),
        pool("limit-requests", "http: {http2MaxRequests: 2}").up("200,wait=400").ask("5& GET /", "200*2,503*3 UO x2").counts(&["upstream_rq_active_overflow", "upstream_rq_pending_overflow"]),
        pool("limit-requests-http2", "http: {http2MaxRequests: 2}").http2().up("200,wait=400").ask("5& GET /", "200*2,503*3 UO x2"),
        pool("limit-overflow-reply", "http: {http2MaxRequests: 1}").up("200,wait=400").ask("3& GET /", "200*1,503*2 UO"),
        http("limit-overflow-not-retried", "{TO, retries: {attempts: 3, retryOn: '5xx,reset'}}").policy("connectionPool: {http: {http2MaxRequests: 1}}").up("200,wait=400").ask("3& GET /", "200*1,503*2 UO x1").counts(&["upstream_rq_retry"]),
        http("limit-retries", "{TO, retries: {attempts: 1, retryOn: 5xx, backoff: 200ms}}").policy("connectionPool: {http: {maxRetries: 1}}").up("503,wait=100").ask("3& GET /", "503 x4").counts(&["upstream_rq_retry_overflow"]),
        pool("limit-one-request-a-connection", "http: {maxRequestsPerConnection: 1}").ask("4x GET /", "200 x4").connections(),
        pool("limit-two-requests-a-connection", "http: {maxRequestsPerConnection: 2}").ask("6x GET /", "200 x6").connections(),
        pool("limit-requests-a-connection-http2", "http: {maxRequestsPerConnection: 2}").http2().ask("6x GET /", "200 x6").connections(),
        pool("pool-reuse", "tcp: {maxConnections: 100}").ask("5x GET /", "200 x5").connections(),
        pool("pool-idle", "http: {idleTimeout: 200ms}").ask("GET /", "200").ask("after=500 GET /", "200").connections(),
        pool("pool-idle-tcp", "tcp: {idleTimeout: 200ms}").ask("GET /", "200").ask("after=500 GET /", "200").connections(),
        pool("pool-duration", "tcp: {maxConnectionDuration: 200ms}").ask("GET /", "200").ask("after=500 GET /", "200").connections(),
        pool("pool-http2-shares", "tcp: {maxConnections: 100}").http2().ask("5x GET /", "200 x5").connections(),
        pool("pool-streams", "http: {maxConcurrentStreams: 1}").http2().up("200,wait=200").ask("3& GET /", "200 x3").connections(),
        pool("connect-timeout", "tcp: {connectTimeout: 250ms}").up("blackhole").ask("GET /", "503 x0 body~connection+timeout").timed().counts(&["upstream_cx_connect_timeout"]),
        policy("retry-budget", "retryBudget: {percent: 0, minRetryConcurrency: 1}").up("200,h.grpc-status=14 200").ask("GET /", "200 x2"),
    ]
}
