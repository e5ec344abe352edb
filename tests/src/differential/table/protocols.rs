//! Protocols on both sides, upgrades, bodies and trailers.

use crate::differential::scenario::{Scenario, http, plain, policy};

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        plain("http1-to-http1").ask("GET /", "200 >version=HTTP/1.1"),
        plain("http2-to-http1").ask("h2 GET /", "200 >version=HTTP/1.1 >host=http2-to-http1"),
        plain("http1-to-http2").http2().ask("GET /", "200 >version=HTTP/2"),
        plain("http2-to-http2").http2().ask("h2 GET /", "200 >version=HTTP/2"),
        policy("h2-upgrade", "connectionPool: {http: {h2UpgradePolicy: UPGRADE}}").ask("GET /", "200 >version=HTTP/2"),
        policy("h2-no-upgrade", "connectionPool: {http: {h2UpgradePolicy: DO_NOT_UPGRADE}}").ask("h2 GET /", "200 >version=HTTP/1.1"),
        policy("client-protocol", "connectionPool: {http: {useClientProtocol: true}}").ask("GET /", "200 >version=HTTP/1.1").ask("h2 GET /", "200 >version=HTTP/2"),
        plain("post-length").ask("POST / | =hello", "200 >content-length=5 >body=hello"),
        plain("post-chunked").ask("POST / | ~3x10", "200 >body=chunkchunkchunk"),
        plain("post-chunked-http2").http2().ask("POST / | ~3x10", "200 >body=chunkchunkchunk"),
        plain("post-http2-to-http1").ask("h2 POST / | =hello", "200 >body=hello"),
        plain("post-large").ask("POST / | #300000", "200 x1"),
        plain("response-large").up("200,bytes=300000").ask("GET /", "200").ask("h2 GET /", "200"),
        plain("response-chunked").up("200,chunked").ask("GET /", "200 body=ok"),
        plain("response-head").up("200,bytes=500").ask("HEAD /", "200 body= content-length=500"),
        plain("response-204").up("204").ask("GET /", "204 body="),
        plain("response-304").up("304,h.etag=a").ask("GET /", "304 etag=a"),
        plain("response-empty").up("200,body=").ask("GET /", "200 body="),
        plain("response-odd-status").up("299 499 599 600").ask("GET /", "299").ask("GET /", "499").ask("GET /", "599"),
        plain("trailers-http2").http2().up("200,t.x-t=1").ask("h2 POST / | te: trailers | =x | ^x-r: 2", "200 t.x-t=1 >t.x-r=2"),
        plain("upgrade-websocket").up("101").ask("UPGRADE /chat", "101 x1 body=a+word >upgrade=websocket"),
        plain("upgrade-refused").up("403").ask("UPGRADE /", "403 x1"),
        plain("upgrade-not-answered").up("200").ask("UPGRADE /", "200 x1"),
        http("upgrade-timeout", "{TO, timeout: 200ms}").up("200,wait=1000").ask("UPGRADE /", "504 x1"),
        http("upgrade-rewrite", "{match: [{uri: {prefix: /ws}}], rewrite: {uri: /}, TO}").up("101").ask("UPGRADE /ws/a", "101 >:path=//a"),
        http("upgrade-mirrored", "{route: [{V1}], mirror: {host: @, subset: v2}}").over(2).unordered().up("101").ask("UPGRADE /", "101 x2 h2"),
        http("upgrade-retried", "{TO, retries: {attempts: 1, retryOn: 5xx}}").up("503 101").ask("UPGRADE /", "101 x2"),
        plain("upgrade-no-route").up("refuse").ask("UPGRADE /", "503 x0"),
        plain("expect-continue").ask("POST / | expect: 100-continue | =hello", "200 >body=hello"),
        plain("client-gone").up("200,wait=3000").ask("GET / | !200", "DC x1 end=gaveup"),
        plain("client-gone-http2").up("200,wait=3000").ask("h2 GET / | !200", "DR x1 end=gaveup"),
        plain("client-gone-in-body").up("200,bytes=100,hang").ask("GET / | !300", "DC x1 end=gaveup"),
        plain("keep-alive").ask("3x GET /", "200 x3").connections(),
        plain("options").ask("OPTIONS /", "200 x1").ask("DELETE /", "200 x1").ask("PATCH / | =x", "200 x1"),
    ]
}
