//! gRPC: what the proxy says itself, and what it makes of statuses.

use crate::differential::scenario::{Scenario, http, plain, policy};

const CALL: &str = "h2 POST /a.B/C | content-type: application/grpc | te: trailers | =x";

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        plain("grpc-trailers").http2().up("200,h.content-type=application/grpc,t.grpc-status=0,t.grpc-message=fine").ask(CALL, "200 - x1 t.grpc-status=0 t.grpc-message=fine >te=trailers"),
        plain("grpc-status-in-headers").http2().up("200,h.content-type=application/grpc,h.grpc-status=5,body=").ask(CALL, "200 - grpc-status=5"),
        http("grpc-no-route", "{match: [{uri: {exact: /x}}], TO}").http2().ask(CALL, "200 NR x0 grpc-status=12"),
        http("grpc-no-cluster", "{route: [{destination: {host: nowhere}}]}").http2().ask(CALL, "200 NC grpc-status=14"),
        plain("grpc-no-endpoint").http2().over(0).ask(CALL, "200 UH grpc-status=14 grpc-message=no+healthy+upstream"),
        plain("grpc-refused").http2().up("refuse").ask(CALL, "200 grpc-status=14 grpc-message~connect"),
        http("grpc-timeout-route", "{TO, timeout: 300ms}").http2().up("200,wait=2000").ask(CALL, "200 UT grpc-status=14 took=300").timed(),
        http("grpc-timeout-shorter", "{TO, timeout: 1s}").http2().up("200,wait=2000").ask("h2 POST / | content-type: application/grpc | grpc-timeout: 200m | =x", "200 UT grpc-status=14").timed(),
        plain("grpc-timeout-alone").http2().up("200,wait=2000").ask("h2 POST / | content-type: application/grpc | grpc-timeout: 200m | =x", "200 UT grpc-status=14").timed(),
        plain("grpc-timeout-not-grpc").up("200,wait=400").ask("GET / | grpc-timeout: 100m", "200 -"),
        http("grpc-retry-unavailable", "{TO, retries: {attempts: 1, retryOn: unavailable}}").http2().up("200,h.content-type=application/grpc,h.grpc-status=14 200").ask(CALL, "200 - x2"),
        http("grpc-retry-trailers", "{TO, retries: {attempts: 1, retryOn: unavailable}}").http2().up("200,h.content-type=application/grpc,t.grpc-status=14 200").ask(CALL, "200 - x1"),
        http("grpc-retry-deadline", "{TO, retries: {attempts: 1, retryOn: deadline-exceeded}}").http2().up("200,h.grpc-status=4 200").ask(CALL, "200 - x2"),
        http("grpc-retry-internal", "{TO, retries: {attempts: 1, retryOn: internal}}").http2().up("200,h.grpc-status=13 200").ask(CALL, "200 - x2"),
        http("grpc-retry-exhausted-resource", "{TO, retries: {attempts: 1, retryOn: resource-exhausted}}").http2().up("200,h.grpc-status=8 200").ask(CALL, "200 - x2"),
        http("grpc-retry-not-grpc", "{TO, retries: {attempts: 1, retryOn: internal}}").up("200,h.grpc-status=13 200").ask("GET /", "200 - x2"),
        plain("grpc-upstream-503").http2().up("503").ask(CALL, "503 - x1"),
        plain("grpc-reset").http2().up("cancel").ask(CALL, "200 UR grpc-status=14"),
        plain("grpc-web-is-not-grpc").http2().up("refuse").ask("h2 POST / | content-type: application/grpc-web | =x", "503"),
        policy("grpc-overflow", "connectionPool: {http: {http2MaxRequests: 1}}").http2().up("200,wait=300").ask("h2 3& POST / | content-type: application/grpc | =x", "200 UO x1"),
        plain("grpc-over-http1").ask("POST / | content-type: application/grpc | =x", "200 x1"),
    ]
}
