//! Redirects and direct responses.

use crate::differential::scenario::{Scenario, http};

fn redirect(name: &str, redirect: &str) -> Scenario {
    http(name, &format!("{{redirect: {{{redirect}}}}}"))
}

fn direct(name: &str, direct: &str) -> Scenario {
    http(name, &format!("{{directResponse: {{{direct}}}}}"))
}

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        redirect("redirect-uri", "uri: /new").ask("GET /old?q=1", "301 - x0 location~/new?q=1 details=direct_response body="),
        redirect("redirect-uri-query", "uri: '/new?a=b'").ask("GET /old?q=1", "301 location~/new?a=b"),
        redirect("redirect-uri-relative", "uri: new").ask("GET /old", "301 location~/new"),
        redirect("redirect-authority", "authority: example.com").ask("GET /x?q", "301 location=http://example.com/x?q").ask("GET /x | host: @:80", "301 location=http://example.com/x"),
        redirect("redirect-port", "port: 8443").ask("GET /x", "301 location~:8443/x").ask("GET / | host: @:8080", "301 location~:8443/"),
        redirect("redirect-port-default", "port: 80").ask("GET /x | host: @:80", "301"),
        redirect("redirect-scheme", "scheme: https").ask("GET /x", "301 location~https://").ask("GET /x | host: @:80", "301 location~https://").ask("GET /x | host: @:8080", "301 location~:8080"),
        redirect("redirect-scheme-port", "scheme: https, port: 443").ask("GET /x | host: @:80", "301 location~https://"),
        redirect("redirect-derive-default", "authority: a.b, derivePort: FROM_PROTOCOL_DEFAULT").ask("GET /x | host: @:8080", "301 location=http://a.b/x"),
        redirect("redirect-derive-request", "scheme: https, derivePort: FROM_REQUEST_PORT").ask("GET /x", "301 location~:80/x"),
        redirect("redirect-302", "uri: /n, redirectCode: 302").ask("GET /", "302 location~/n"),
        redirect("redirect-303", "uri: /n, redirectCode: 303").ask("POST / | =x", "303 location~/n"),
        redirect("redirect-307", "uri: /n, redirectCode: 307").ask("POST / | =x", "307 location~/n"),
        redirect("redirect-308", "uri: /n, redirectCode: 308").ask("GET /", "308 location~/n"),
        redirect("redirect-all", "uri: /n, authority: a.b, scheme: https, port: 9443").ask("GET /x?y", "301 location=https://a.b:9443/n?y"),
        http("redirect-prefix", "{match: [{uri: {prefix: /old}}], redirect: {prefixRewrite: /new}}").ask("GET /old/a?b", "301 location~/new/a?b").ask("GET /oldest", "301 location~/newest"),
        http("redirect-headers", "{redirect: {uri: /n}, headers: {response: {set: {x-a: b}}}}").ask("GET /", "301 x-a=b"),
        redirect("redirect-http2", "authority: a.b").ask("h2 GET /x", "301 location=http://a.b/x"),
        redirect("redirect-normalised", "authority: a.b").ask("GET /a/../b/%7e", "301 location=http://a.b/b/~"),
        direct("direct-body", "status: 200, body: {string: hello}").ask("GET /", "200 - x0 body=hello content-type=text/plain details=direct_response"),
        direct("direct-empty", "status: 503").ask("GET /", "503 - x0 body= !content-type"),
        direct("direct-bytes", "status: 418, body: {bytes: aGVsbG8=}").ask("GET /", "418 body=hello"),
        direct("direct-head", "status: 200, body: {string: hello}").ask("HEAD /", "200 body="),
        direct("direct-post", "status: 200, body: {string: hello}").ask("POST / | #20000", "200 body=hello").ask("h2 POST / | #20000", "200 body=hello"),
        http("direct-headers", "{directResponse: {status: 200, body: {string: '{}'}}, headers: {response: {set: {content-type: application/json}, add: {x-a: b}}}}").ask("GET /", "200 content-type=application/json x-a=b"),
        direct("direct-grpc", "status: 503, body: {string: down}").ask("h2 POST / | content-type: application/grpc | =x", "200 grpc-status=14 grpc-message=down"),
    ]
}
