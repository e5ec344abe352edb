//! Which rule a request meets: every field of a match block, and the authorities of a Service.

use crate::differential::scenario::{Scenario, http, plain};

/// A rule for what `block` matches goes to `v1`, the rest to `v2`.
fn split(name: &str, block: &str) -> Scenario {
    let rules = format!("{{match: [{block}], route: [{{V1}}]}}, {{route: [{{V2}}]}}");
    http(name, &rules).over(2)
}

/// What is counted of a route with a `statPrefix`.
const ROUTE: &[&str] = &[
    "route.some.upstream_rq_total",
    "route.some.upstream_rq_completed",
    "route.some.upstream_rq_200",
    "route.some.upstream_rq_2xx",
    "route.some.upstream_rq_500",
    "route.some.upstream_rq_5xx",
    "route.some.upstream_rq_retry",
    "route.some.upstream_rq_retry_limit_exceeded",
    "route.some.upstream_rq_timeout",
];

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        http("match-stat-prefix", "{match: [{statPrefix: some, uri: {prefix: /}}], TO, retries: {attempts: 2, retryOn: 5xx}}").up("503 200 204 500").ask("GET /", "200 x2").ask("GET /", "204 x1").ask("GET /", "500 URX x3").counts(ROUTE),
        plain("plain").ask("GET /a?b=c", "200 - x1 body=ok >:path=/a?b=c >x-envoy-attempt-count=1"),
        split("match-uri-exact", "{uri: {exact: /a}}").ask("GET /a?q", "200 - x1 @0").ask("GET /a/", "200 @1"),
        split("match-uri-prefix", "{uri: {prefix: /api}}").ask("GET /apix", "200 @0").ask("GET /ap", "200 @1"),
        split("match-uri-prefix-slash", "{uri: {prefix: /api/}}").ask("GET /api/", "200 @0").ask("GET /api", "200 @1"),
        split("match-uri-regex", "{uri: {regex: '/v[0-9]+'}}").ask("GET /v12", "200 @0").ask("GET /v12/", "200 @1"),
        split("match-uri-regex-query", "{uri: {regex: '/a.*'}}").ask("GET /a?b", "200 @0").ask("GET /?/a", "200 @1"),
        split("match-uri-regex-anchored", "{uri: {regex: '^/health(z)?$'}}").ask("GET /healthz", "200 @0").ask("GET /health/z", "200 @1"),
        split("match-uri-ignore-case", "{uri: {prefix: /Api}, ignoreUriCase: true}").ask("GET /aPI/x", "200 @0").ask("GET /b", "200 @1"),
        split("match-uri-ignore-case-exact", "{uri: {exact: /Api}, ignoreUriCase: true}").ask("GET /aPI?x", "200 @0").ask("GET /api/", "200 @1"),
        split("match-uri-ignore-case-regex", "{uri: {regex: /Api}, ignoreUriCase: true}").ask("GET /Api", "200 @0").ask("GET /api", "200 @1"),
        split("match-method", "{method: {exact: POST}}").ask("POST / | =x", "200 @0").ask("GET /", "200 @1"),
        split("match-method-regex", "{method: {regex: 'GET|HEAD'}}").ask("HEAD /", "200 @0").ask("PUT / | =x", "200 @1"),
        split("match-scheme", "{scheme: {exact: http}}").ask("GET /", "200 @0").ask("h2 GET /", "200 @0"),
        split("match-scheme-other", "{scheme: {exact: https}}").ask("GET /", "200 @1"),
        split("match-authority", "{authority: {prefix: '@.default'}}").ask("GET / | host: @.default:80", "200 @0").ask("GET /", "200 @1"),
        split("match-authority-exact", "{authority: {exact: '@'}}").ask("GET / | host: @:80", "200 @1").ask("GET /", "200 @0").ask("h2 GET /", "200 @0"),
        split("match-header-exact", "{headers: {x-a: {exact: b}}}").ask("GET / | x-a: b", "200 @0").ask("GET / | x-a: B", "200 @1").ask("GET / | x-a: c | x-a: b", "200 @0").ask("GET / | x-a: b,c", "200 @1"),
        split("match-header-prefix", "{headers: {X-A: {prefix: b}}}").ask("GET / | x-a: bc", "200 @0").ask("GET /", "200 @1"),
        split("match-header-regex", "{headers: {x-a: {regex: 'b.*d'}}}").ask("GET / | x-a: bcd", "200 @0").ask("GET / | x-a: abcd", "200 @1"),
        split("match-header-present", "{headers: {x-a: {}}}").ask("GET / | x-a: ", "200 @0").ask("GET /", "200 @1"),
        split("match-header-two", "{headers: {x-a: {exact: b}, x-c: {exact: d}}}").ask("GET / | x-a: b | x-c: d", "200 @0").ask("GET / | x-a: b", "200 @1"),
        split("match-header-pseudo", "{headers: {':method': {exact: PUT}}}").ask("PUT / | =x", "200 @0").ask("GET /", "200 @1"),
        split("match-header-cookie", "{headers: {cookie: {regex: '.*beta=true.*'}}}").ask("GET / | cookie: a=b; beta=true", "200 @0").ask("GET / | cookie: beta=false", "200 @1").ask("h2 GET / | cookie: a=b | cookie: beta=true", "200 @0"),
        split("match-without-value", "{withoutHeaders: {x-a: {exact: b}}}").ask("GET /", "200 @0").ask("GET / | x-a: c", "200 @0").ask("GET / | x-a: b", "200 @1").ask("GET / | x-a: c | x-a: b", "200 @1"),
        split("match-without-prefix", "{withoutHeaders: {x-a: {prefix: b}}}").ask("GET / | x-a: ab", "200 @0").ask("GET / | x-a: bc", "200 @1"),
        split("match-without-presence", "{withoutHeaders: {x-a: {}}}").ask("GET /", "200 @0").ask("GET / | x-a: ", "200 @1"),
        split("match-query-exact", "{queryParams: {v: {exact: '2'}}}").ask("GET /?v=2", "200 @0").ask("GET /?v=%32", "200 @1").ask("GET /?v=1&v=2", "200 @1").ask("GET /?w=1;v=2", "200 @1"),
        split("match-query-prefix", "{queryParams: {v: {prefix: a}}}").ask("GET /?x&v=ab", "200 @0").ask("GET /?v=ba", "200 @1"),
        split("match-query-regex", "{queryParams: {v: {regex: '[0-9]+'}}}").ask("GET /?v=12", "200 @0").ask("GET /?v=12a", "200 @1").ask("GET /", "200 @1"),
        split("match-query-present", "{queryParams: {v: {}}}").ask("GET /?v", "200 @0").ask("GET /?V=1", "200 @1"),
        split("match-query-empty", "{queryParams: {v: {exact: ''}}}").ask("GET /?v=", "200 @0").ask("GET /?v=1", "200 @1"),
        split("match-port", "{port: 80}").ask("GET /", "200 @0"),
        split("match-port-other", "{port: 8080}").ask("GET /", "200 @1"),
        split("match-source-labels", "{sourceLabels: {app: client}}").ask("GET /", "200 @0"),
        split("match-source-labels-other", "{sourceLabels: {app: client, x: y}}").ask("GET /", "200 @1"),
        split("match-source-namespace", "{sourceNamespace: default}").ask("GET /", "200 @0"),
        split("match-source-namespace-other", "{sourceNamespace: other}").ask("GET /", "200 @1"),
        split("match-and", "{uri: {prefix: /a}, headers: {x-a: {exact: b}}}").ask("GET /a | x-a: b", "200 @0").ask("GET /a", "200 @1").ask("GET / | x-a: b", "200 @1"),
        split("match-or", "{uri: {prefix: /a}}, {headers: {x-a: {exact: b}}}").ask("GET /a", "200 @0").ask("GET / | x-a: b", "200 @0").ask("GET /", "200 @1"),
        http("match-first-wins", "{match: [{uri: {prefix: /a}}], route: [{V1}]}, {match: [{uri: {exact: /a/b}}], route: [{V2}]}, {route: [{V3}]}").over(3).ask("GET /a/b", "200 @0").ask("GET /b", "200 @2"),
        http("match-names", "{name: rule, match: [{name: one, uri: {prefix: /a}}, {uri: {prefix: /b}}], TO}, {name: last, TO}").ask("GET /a", "200 route=rule.one").ask("GET /b", "200 route=rule").ask("GET /", "200 route=last"),
        http("match-nothing", "{match: [{uri: {prefix: /a}}], TO}").ask("GET /b", "404 NR x0 body= details=route_not_found").ask("h2 GET /b", "404 NR").ask("HEAD /b", "404 NR"),
        http("no-cluster", "{route: [{destination: {host: nowhere}}]}").ask("GET /", "503 NC x0 body= details=cluster_not_found"),
        http("no-cluster-port", "{route: [{destination: {host: @, port: {number: 81}}}]}").ask("GET /", "503 NC x0"),
        http("no-subset", "{route: [{destination: {host: @, subset: v9}}]}").ask("GET /", "503 NC x0"),
        http("no-endpoint-of-subset", "{route: [{V2}]}").ask("GET /", "503 UH x0 body=no+healthy+upstream"),
        plain("authority-forms").ask("GET / | host: @.default", "200 x1").ask("GET / | host: @.default.svc", "200 x1").ask("GET / | host: @.default.svc.cluster.local", "200 x1").ask("GET / | host: @.default.svc.cluster.local.", "200 x1").ask("GET / | host: @:80", "200 x1 >host~:80").ask("GET / | host: @.DEFAULT", "200 x1"),
    ]
}
