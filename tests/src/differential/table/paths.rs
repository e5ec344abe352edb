//! Rewrites, and how paths are normalised.

use crate::differential::scenario::{Scenario, http, plain};

/// A rule with a match and a rewrite.
fn rewrite(name: &str, uri: &str, rewrite: &str) -> Scenario {
    let matching = if uri.is_empty() {
        String::new()
    } else {
        format!("match: [{{uri: {{{uri}}}}}], ")
    };
    http(name, &format!("{{{matching}rewrite: {{{rewrite}}}, TO}}"))
}

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        rewrite("rewrite-prefix", "prefix: /v1", "uri: /v2").ask("GET /v1/a?b=c", "200 >:path=/v2/a?b=c >x-envoy-original-path=/v1/a?b=c").ask("GET /v1x", "200 >:path=/v2x"),
        rewrite("rewrite-prefix-slashes", "prefix: /v1/", "uri: /").ask("GET /v1/a", "200 >:path=/a"),
        rewrite("rewrite-prefix-doubled", "prefix: /v1", "uri: /").ask("GET /v1/a", "200 >:path=//a").ask("GET /v1", "200 >:path=/"),
        rewrite("rewrite-exact", "exact: /a", "uri: /b").ask("GET /a?q", "200 >:path=/b?q"),
        rewrite("rewrite-regex-match", "regex: '/a/.*'", "uri: /b").ask("GET /a/x?q", "200 >:path=/b?q"),
        rewrite("rewrite-no-match", "", "uri: /b").ask("GET /a", "200 >:path=/ba"),
        rewrite("rewrite-ignore-case", "prefix: /Old}, ignoreUriCase: true, method: {exact: GET", "uri: /v2").ask("GET /oLD/a", "200 >:path=/v2/a"),
        rewrite("rewrite-regex", "prefix: /", "uriRegexRewrite: {match: '^/user/([^/]+)(.*)$', rewrite: '/u\\2/\\1'}").ask("GET /user/me/x?y", "200 >:path=/u/x/me?y").ask("GET /other", "200 >:path=/other"),
        rewrite("rewrite-regex-global", "prefix: /", "uriRegexRewrite: {match: a, rewrite: b}").ask("GET /aXa?a", "200 >:path=/bXb?a"),
        rewrite("rewrite-regex-whole", "prefix: /", "uriRegexRewrite: {match: '/(.*)', rewrite: '/x/\\0'}").ask("GET /a", "200 >:path=/x//a"),
        rewrite("rewrite-authority", "", "authority: other.example").ask("GET /a", "200 >host=other.example >x-envoy-original-host=rewrite-authority").ask("h2 GET /a", "200 >host=other.example"),
        rewrite("rewrite-both", "prefix: /a", "uri: /b, authority: other.example").ask("GET /a", "200 >host=other.example >:path=/b"),
        plain("path-dots").ask("GET /a/../b", "200 >:path=/b").ask("GET /a/./b", "200 >:path=/a/b").ask("GET /a/%2e%2e/b", "200 >:path=/b").ask("GET /../../x", "200 >:path=/x"),
        plain("path-escapes").ask("GET /%61/%7Eu", "200 >:path=/a/~u").ask("GET /a%2Fb%5Cc", "200 >:path=/a%2Fb%5Cc").ask("GET /%zz/%", "200 >:path=/%zz/%").ask("GET /%c3%a4", "200"),
        plain("path-slashes").ask("GET //a///b", "200 >:path=//a///b").ask("GET /a\\b", "200 >:path=/a/b"),
        plain("path-odd").ask("GET /a|b", "200 >:path=/a%7Cb").ask("GET /a?b|c", "200").ask("GET /%00", "400"),
        plain("path-query").ask("GET /?", "200 >:path=/?").ask("GET /a?/../b", "200 >:path=/a?/../b").ask("GET /a?b=%2e%61", "200"),
        plain("path-http2").ask("h2 GET /a/../%61?x", "200 >:path=/a?x"),
        http("path-match-normalised", "{match: [{uri: {prefix: /admin}}], directResponse: {status: 403}}, {TO}").ask("GET /x/../admin", "403 x0").ask("GET /%61dmin", "403").ask("GET /a%2F..%2Fadmin", "200"),
    ]
}
