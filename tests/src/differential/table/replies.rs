//! What the client gets when the upstream fails, without retries.

use super::RESETS;
use crate::differential::scenario::{Scenario, http};

/// A rule without retries.
fn once(name: &str) -> Scenario {
    http(name, "{TO, retries: {attempts: 0}}").counts(RESETS)
}

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        once("reply-refused").up("refuse").ask("GET /", "503 UF x0 body~remote+connection+failure").ask("h2 GET /", "503 UF").ask("HEAD /", "503 UF body="),
        once("reply-refused-http2").http2().up("refuse").ask("GET /", "503 UF x0"),
        once("reply-no-endpoint").over(0).ask("GET /", "503 UH x0 body=no+healthy+upstream details=no_healthy_upstream"),
        once("reply-closed").up("close").ask("GET /", "503 UC x1 body~connection+termination"),
        once("reply-reset").up("reset").ask("GET /", "503 UC x1"),
        once("reply-closed-late").up("close,wait=100").ask("POST / | #100000", "503 UC x1"),
        once("reply-garbage").up("garbage").ask("GET /", "502 UPE x1 body~protocol+error"),
        once("reply-half").up("half").ask("GET /", "502 UPE x1"),
        once("reply-reset-http2").http2().up("reset").ask("GET /", "503 UR x1 body~remote+reset"),
        once("reply-refused-stream").http2().up("refused").ask("GET /", "503 UR x1 body~refused"),
        once("reply-cancel-http2").http2().up("cancel").ask("GET /", "503 UR x1"),
        once("reply-goaway").http2().up("goaway").ask("GET /", "503 x1"),
        once("reply-closed-http2").http2().up("close").ask("GET /", "503 x1"),
        once("reply-protocol-http2").http2().up("garbage").ask("GET /", "x1"),
        once("reply-http2-spoken-http1").http2().up("200").ask("GET /", "200"),
        once("reply-cut").up("200,bytes=100,cut").ask("GET /", "200 x1 end=broken UPE"),
        once("reply-cut-http2").up("200,bytes=100,cut").ask("h2 GET /", "200 x1 end=broken"),
        once("reply-cut-chunked").up("200,bytes=100,chunked,cut").ask("GET /", "200 x1 end=broken"),
        once("reply-abort").up("200,bytes=100,abort").ask("GET /", "200 x1 end=broken UPE"),
        once("reply-abort-http2").http2().up("200,bytes=100,abort").ask("h2 GET /", "200 x1 end=broken UR"),
        once("reply-cut-upstream-http2").http2().up("200,bytes=100,cut").ask("h2 GET /", "200 x1 end=broken").ask("GET /", "200 end=broken"),
        once("reply-cancel-in-body").http2().up("200,bytes=100,cancel").ask("h2 GET /", "200 x1 end=broken").ask("GET /", "200 end=broken"),
        once("reply-early").up("413,early,last").ask("POST / | ~6x50", "413 x1"),
        once("reply-early-http2").http2().up("413,early").ask("h2 POST / | ~6x50", "413 x1"),
        once("reply-next-request").up("close 200").ask("GET /", "503").ask("GET /", "200"),
        once("reply-keep-alive-after-503").up("refuse").ask("3x GET /", "503 UF"),
        once("reply-service-time").up("200,wait=200").ask("GET /", "200 x-envoy-upstream-service-time~2"),
        once("reply-stale-connection").up("200,last").ask("3x GET /", "200 x3").connections(),
    ]
}
