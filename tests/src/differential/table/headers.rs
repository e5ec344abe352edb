//! Header operations and the operators in their values.

use crate::differential::scenario::{Scenario, http, plain};

/// A rule with these header operations.
fn edit(name: &str, headers: &str) -> Scenario {
    http(name, &format!("{{headers: {{{headers}}}, TO}}"))
}

/// A rule that sets the request's `x-v` to this value.
fn value(name: &str, value: &str) -> Scenario {
    edit(name, &format!("request: {{set: {{x-v: '{value}'}}}}"))
}

/// A rule that sets the response's `x-v` to this value.
fn back(name: &str, value: &str) -> Scenario {
    edit(name, &format!("response: {{set: {{x-v: '{value}'}}}}"))
}

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        edit("header-set", "request: {set: {x-a: b}}").ask("GET / | x-a: 1 | x-a: 2", "200 >x-a=b").ask("GET /", "200 >x-a=b"),
        edit("header-add", "request: {add: {x-a: b}}").ask("GET / | x-a: 1", "200 >x-a=1,b").ask("GET /", "200 >x-a=b"),
        edit("header-remove", "request: {remove: [x-a, X-B]}").ask("GET / | x-a: 1 | x-b: 2 | x-c: 3", "200 >!x-a >!x-b >x-c=3"),
        edit("header-order", "request: {remove: [x-a], set: {x-a: s}, add: {x-a: a}}").ask("GET / | x-a: 1", "200 >x-a=s,a"),
        edit("header-empty", "request: {set: {x-a: ''}, add: {x-b: ''}}").ask("GET / | x-a: 1", "200 >x-a=1 >!x-b"),
        edit("header-response-set", "response: {set: {x-a: b}}").up("200,h.x-a=1").ask("GET /", "200 x-a=b"),
        edit("header-response-add", "response: {add: {x-a: b}}").up("200,h.x-a=1").ask("GET /", "200 x-a=1,b"),
        edit("header-response-remove", "response: {remove: [x-a]}").up("200,h.x-a=1,h.x-b=2").ask("GET /", "200 !x-a x-b=2"),
        edit("header-response-local", "response: {set: {x-a: b}}").up("refuse").ask("GET /", "503 x-a=b"),
        http("header-response-no-route", "{match: [{uri: {exact: /a}}], headers: {response: {set: {x-a: b}}}, TO}").ask("GET /b", "404 !x-a"),
        edit("header-host", "request: {set: {host: other.example}}").ask("GET /", "200 >host=other.example >x-envoy-original-host=header-host"),
        edit("header-authority", "request: {set: {':authority': other.example}}").ask("GET /", "200 >host=other.example"),
        http("header-one-destination", "{headers: {request: {set: {x-a: rule}, add: {x-b: rule}}}, route: [{destination: {host: @}, headers: {request: {set: {x-a: to}, add: {x-b: to}}, response: {set: {x-c: to}}}}]}").ask("GET /", "200 >x-a=to >x-b=rule,to x-c=to"),
        http("header-two-destinations", "{headers: {request: {set: {x-a: rule}, add: {x-b: rule}}}, route: [{V1, weight: 1, headers: {request: {set: {x-a: to}, add: {x-b: to}}, response: {set: {x-c: to}}}}, {V1, weight: 1, headers: {request: {set: {x-a: to}, add: {x-b: to}}, response: {set: {x-c: to}}}}]}").ask("GET /", "200 >x-a=rule >x-b=to,rule x-c=to"),
        edit("header-envoy-controls", "request: {set: {x-b: '1'}}").up("500").ask("GET / | x-envoy-max-retries: 3 | x-envoy-retry-on: 5xx | x-envoy-upstream-rq-timeout-ms: 100", "500 x1 >!x-envoy-retry-on >!x-envoy-max-retries >!x-envoy-upstream-rq-timeout-ms"),
        value("operator-protocol", "%PROTOCOL%").ask("GET /", "200 >x-v=HTTP/1.1").ask("h2 GET /", "200 >x-v=HTTP/2"),
        value("operator-req", "%REQ(x-a)%").ask("GET / | x-a: 1", "200 >x-v=1").ask("GET /", "200 >!x-v").ask("GET / | x-a: 1 | x-a: 2", "200"),
        value("operator-req-other", "%REQ(x-a?x-b)%").ask("GET / | x-b: 2", "200 >x-v=2").ask("GET / | x-a: 1 | x-b: 2", "200 >x-v=1"),
        value("operator-req-cut", "%REQ(x-a):2%").ask("GET / | x-a: 12345", "200 >x-v=12"),
        value("operator-req-pseudo", "%REQ(:METHOD)% %REQ(:AUTHORITY)%%REQ(:PATH)%").ask("GET /a?b", "200 >x-v=GET+operator-req-pseudo/a?b"),
        value("operator-mixed", "a %REQ(x-none)% b").ask("GET /", "200 >x-v~a"),
        value("operator-percent", "100%% %PROTOCOL%").ask("GET /", "200 >x-v=100%+HTTP/1.1"),
        value("operator-remote", "%DOWNSTREAM_REMOTE_ADDRESS%").ask("GET /", "200 >x-v~:"),
        value("operator-remote-bare", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%").ask("GET /", "200 >x-v~198.").ask("GET / | x-forwarded-for: 1.2.3.4", "200 >x-v=1.2.3.4"),
        value("operator-remote-forwarded", "%DOWNSTREAM_REMOTE_ADDRESS%").ask("GET / | x-forwarded-for: 10.1.1.1, 10.2.2.2", "200 >x-v=10.2.2.2:0").ask("GET / | x-forwarded-for: 10.1.1.1", "200 >x-v=10.1.1.1:0").ask("GET / | x-forwarded-for: 1.1.1.1, nonsense", "200").ask("GET / | x-forwarded-for: fd00::1", "200").ask("GET / | x-forwarded-for: 1.2.3.4:5", "200").ask("GET / | x-forwarded-for: 1.2.3.4 | x-forwarded-for: 5.6.7.8", "200"),
        value("operator-remote-port", "%DOWNSTREAM_REMOTE_PORT%").ask("GET / | x-forwarded-for: 10.2.2.2", "200"),
        back("operator-remote-back", "%DOWNSTREAM_REMOTE_ADDRESS%").ask("GET / | x-forwarded-for: 10.2.2.2", "200"),
        value("operator-direct-remote", "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%").ask("GET / | x-forwarded-for: 1.2.3.4", "200 >x-v~198."),
        value("operator-local", "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_PORT%").ask("GET /", "200 >x-v~:80+80"),
        value("operator-cluster", "%UPSTREAM_CLUSTER%").ask("GET /", "200"),
        value("operator-no-tls", "%DOWNSTREAM_PEER_URI_SAN%%DOWNSTREAM_PEER_CERT_V_START%%DOWNSTREAM_TLS_VERSION%%REQUESTED_SERVER_NAME%").ask("GET /", "200"),
        value("operator-route", "%ROUTE_NAME%").ask("GET /", "200"),
        edit("operator-time", "request: {set: {x-when: '%START_TIME%', x-when-s: '%START_TIME(%s.%3f)%', x-when-f: '%START_TIME(%Y-%m-%dT%H:%M:%S.%6f)%'}}").ask("GET /", "200 >x-when~Z >x-when-s~."),
        back("operator-response-code", "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%").up("404 200").ask("GET /", "404 x-v~404").ask("GET /", "200"),
        back("operator-response-local", "%RESPONSE_CODE% %RESPONSE_FLAGS%").up("refuse").ask("GET /", "503"),
        back("operator-resp", "%RESP(x-a)% %RESP(x-n)%").up("200,h.x-a=1").ask("GET /", "200"),
        back("operator-response-req", "%REQ(x-a)%").ask("GET / | x-a: 1", "200 x-v=1"),
        back("operator-response-upstream", "%UPSTREAM_CLUSTER% %UPSTREAM_HOST%").ask("GET /", "200 x-v~:2"),
        plain("header-hop").ask("GET / | connection: close, x-a | x-a: 1 | keep-alive: 5 | te: gzip", "200 >!connection >!keep-alive"),
        plain("header-forwarded").ask("GET / | x-forwarded-for: 1.1.1.1, 2.2.2.2 | x-forwarded-proto: https", "200 >x-forwarded-for=1.1.1.1,+2.2.2.2 >x-forwarded-proto=https"),
        plain("header-case").up("200,h.X-Camel=1").ask("GET / | X-Camel: 1", "200 >x-camel=1"),
        plain("header-repeated").up("200,h.set-cookie=a=1,h.set-cookie=b=2,h.x-a=1,h.x-a=2").ask("GET / | x-a: 1 | x-a: 2", "200 set-cookie=a=1,b=2 >x-a=1,2"),
        plain("header-server").up("200,h.server=mine,h.date=x,h.via=y").ask("GET / | user-agent: u", "200 server=envoy >user-agent=u"),
    ]
}
