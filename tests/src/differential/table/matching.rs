//! Which rule a request meets: every field of a match block.

use crate::differential::scenario::{Scenario, http, plain};

/// A rule for what `block` matches goes to `v1`, the rest to `v2`.
fn split(name: &'static str, block: &str) -> Scenario {
    let rules = format!("{{match: [{block}], route: [{{V1}}]}}, {{route: [{{V2}}]}}");
    http(name, &rules).over(2)
}

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        plain("plain").ask("GET /a?b=c", "200 - x1 body=ok >:path=/a?b=c >x-envoy-attempt-count=1"),
        split("match-uri-exact", "{uri: {exact: /a}}").ask("GET /a?q", "200 - x1 @0").ask("GET /a/", "200 @1"),
        split("match-uri-prefix", "{uri: {prefix: /api}}").ask("GET /apix", "200 @0").ask("GET /ap", "200 @1"),
        split("match-uri-regex", "{uri: {regex: '/v[0-9]+'}}").ask("GET /v12", "200 @0").ask("GET /v12/", "200 @1"),
        split("match-uri-ignore-case", "{uri: {prefix: /Api}, ignoreUriCase: true}").ask("GET /aPI/x", "200 @0").ask("GET /b", "200 @1"),
        split("match-method", "{method: {exact: POST}}").ask("POST / | =x", "200 @0").ask("GET /", "200 @1"),
        split("match-authority", "{authority: {prefix: '@.default'}}").ask("GET / | host: match-authority.default:80", "200 @0").ask("GET /", "200 @1"),
        split("match-header-exact", "{headers: {x-a: {exact: b}}}").ask("GET / | x-a: b", "200 @0").ask("GET / | x-a: B", "200 @1").ask("GET / | x-a: c | x-a: b", "200 @0").ask("GET / | x-a: b,c", "200 @1"),
        split("match-header-prefix", "{headers: {X-A: {prefix: b}}}").ask("GET / | x-a: bc", "200 @0").ask("GET /", "200 @1"),
        split("match-header-regex", "{headers: {x-a: {regex: 'b.*d'}}}").ask("GET / | x-a: bcd", "200 @0").ask("GET / | x-a: abcd", "200 @1"),
        split("match-header-present", "{headers: {x-a: {}}}").ask("GET / | x-a: ", "200 @0").ask("GET /", "200 @1"),
        split("match-query-exact", "{queryParams: {v: {exact: '2'}}}").ask("GET /?v=2", "200 @0").ask("GET /?v=%32", "200 @1").ask("GET /?v=1&v=2", "200 @1"),
        http("match-nothing", "{match: [{uri: {prefix: /a}}], TO}").ask("GET /b", "404 NR x0 body= details=route_not_found"),
        http("no-cluster", "{route: [{destination: {host: nowhere}}]}").ask("GET /", "503 NC x0 details=cluster_not_found"),
    ]
}
