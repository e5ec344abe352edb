//! Weights, balancers, hashes, localities, readiness.

use crate::differential::scenario::{Endpoints, Scenario, http, plain, policy};

/// Consistent hashing over five endpoints.
fn hash(name: &str, hash: &str) -> Scenario {
    policy(
        name,
        &format!("loadBalancer: {{consistentHash: {{{hash}}}}}"),
    )
    .over(5)
}

/// A policy over the endpoints that have localities.
fn located(name: &str, text: &str) -> Scenario {
    policy(name, text).endpoints(Endpoints::Located)
}

/// Of two endpoints the second joins when the first is warm; it gets a quarter for about five seconds,
/// and then rises steeply.
fn slow_start(name: &str, balancer: &str) -> Scenario {
    let warmup = "duration: 6s, minimumPercent: 25, aggression: 0.1";
    policy(
        name,
        &format!("loadBalancer: {{simple: {balancer}, warmup: {{{warmup}}}}}"),
    )
    .endpoints(Endpoints::Joining(2))
    .ask("GET /", "200 @0")
    .ask("after=6500 GET /", "200 @0")
}

fn unready(name: &str, text: &str, of: usize, unready: usize) -> Scenario {
    policy(name, text).endpoints(Endpoints::Unready { of, unready })
}

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        http("weight-90-10", "{route: [{V1, weight: 90}, {V2, weight: 10}]}").over(2).ask("500x GET /", "200 -").shares(),
        http("weight-not-100", "{route: [{V1, weight: 1}, {V2, weight: 3}]}").over(2).ask("400x GET /", "200 -").shares(),
        http("weight-zero", "{route: [{V1, weight: 0}, {V2, weight: 5}]}").over(2).ask("10x GET /", "200 h1 @1"),
        http("weight-single-zero", "{route: [{V1, weight: 0}]}").over(2).ask("5x GET /", "200 h1 @0"),
        http("weight-subset-gone", "{route: [{V1, weight: 50}, {V3, weight: 50}]}").over(2).ask("200x GET /", "").shares(),
        policy("balance-round-robin", "loadBalancer: {simple: ROUND_ROBIN}").over(4).ask("40x GET /", "200 h4").any_endpoint(),
        policy("balance-random", "loadBalancer: {simple: RANDOM}").over(4).ask("300x GET /", "200 h4").shares(),
        policy("balance-least-request", "loadBalancer: {simple: LEAST_REQUEST}").over(4).ask("300x GET /", "200 h4").shares(),
        policy("balance-least-busy", "loadBalancer: {simple: LEAST_REQUEST}").over(2).up("0= 200,wait=1500; 200,wait=20").ask("8& GET /", "200"),
        hash("hash-header", "httpHeaderName: x-k").ask("40x GET / | x-k: key-{}", "200 h5"),
        hash("hash-header-missing", "httpHeaderName: x-k").ask("200x GET /", "200 h5").shares(),
        hash("hash-header-repeated", "httpHeaderName: x-k").ask("GET / | x-k: b | x-k: a", "200 x1").ask("GET / | x-k: a | x-k: b", "200 x1").ask("GET / | x-k: a,b", "200 x1"),
        hash("hash-query", "httpQueryParameterName: k").ask("20x GET /?k={}&j=1", "200").ask("GET /?K=1&k=a&k=b", "200"),
        hash("hash-source", "useSourceIp: true").ask("10x GET /", "200 h1").any_endpoint(),
        hash("hash-cookie", "httpCookie: {name: user, ttl: 60s, path: /p}").ask("GET /", "200 set-cookie~Max-Age=60").ask("jar 5x GET /", "200 h1 !set-cookie").any_endpoint(),
        hash("hash-cookie-given", "httpCookie: {name: user, ttl: 0s}").ask("20x GET / | cookie: a=b; user=u{}", "200 !set-cookie"),
        hash("hash-cookie-session", "httpCookie: {name: user, ttl: 0s}").ask("GET /", "200 set-cookie~HttpOnly").any_endpoint(),
        hash("hash-cookie-plain", "httpCookie: {name: user}").ask("GET /", "200 !set-cookie").any_endpoint(),
        hash("hash-cookie-attributes", "httpCookie: {name: user, ttl: 5s, attributes: [{name: SameSite, value: Strict}, {name: Secure}]}").ask("GET /", "200 set-cookie~SameSite").any_endpoint(),
        hash("hash-ring-size", "httpHeaderName: x-k, ringHash: {minimumRingSize: 16}").ask("40x GET / | x-k: key-{}", "200"),
        hash("hash-maglev", "httpHeaderName: x-k, maglev: {tableSize: 65537}").ask("40x GET / | x-k: key-{}", "200 h5"),
        hash("hash-maglev-small", "httpHeaderName: x-k, maglev: {tableSize: 101}").ask("40x GET / | x-k: key-{}", "200"),
        located("locality-off", "loadBalancer: {simple: ROUND_ROBIN}").ask("40x GET /", "200 h4").any_endpoint(),
        located("locality-near", "outlierDetection: {consecutive5xxErrors: 5}").ask("20x GET /", "200 h1 @0"),
        located("locality-disabled", "outlierDetection: {consecutive5xxErrors: 5}, loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {enabled: false}}").ask("40x GET /", "200 h4").any_endpoint(),
        located("locality-distribute", "loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {distribute: [{from: r1/z1/*, to: {'r1/z1/*': 80, 'r2/z1/*': 20}}]}}").ask("300x GET /", "200 h2").shares(),
        located("locality-failover", "outlierDetection: {consecutive5xxErrors: 1, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100}").up("0= 500; 200").ask("GET /", "500 @0").ask("after=100 10x GET /", "200 h1 @1"),
        located("locality-failover-region", "outlierDetection: {consecutive5xxErrors: 1, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100}, loadBalancer: {localityLbSetting: {failover: [{from: r1, to: r3}]}}").up("0= 500; 1= 500; 200").ask("GET /", "500 @0").ask("after=1200 GET /", "500 @1").ask("after=1200 10x GET /", "200 h1 @3"),
        located("locality-failover-labels", "outlierDetection: {consecutive5xxErrors: 1, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100}, loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {failoverPriority: [topology.kubernetes.io/region]}}").up("0= 500,wait=100; 1= 500,wait=100; 200").ask("6& GET /", "500 h2").ask("after=1200 10x GET /", "200 h2").any_endpoint(),
        located("locality-failover-two-labels", "outlierDetection: {consecutive5xxErrors: 1, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100}, loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {failoverPriority: [topology.kubernetes.io/region, topology.kubernetes.io/zone]}}").up("0= 500; 1= 500; 200").ask("GET /", "500 @0").ask("after=1200 GET /", "500 @1").ask("after=1200 10x GET /", "200 h2").any_endpoint(),
        http("retry-near", "{TO, retries: {attempts: 3, retryOn: 5xx}}").policy("outlierDetection: {consecutive5xxErrors: 0}").endpoints(Endpoints::Located).up("0= 503; 200").ask("GET /", "503 URX x4 h1 @0"),
        http("retry-remote-localities", "{TO, retries: {attempts: 3, retryOn: 5xx, retryRemoteLocalities: true}}").policy("outlierDetection: {consecutive5xxErrors: 0}").endpoints(Endpoints::Located).up("0= 503; 200").ask("GET /", "200 - x3 @1"),
        http("retry-remote-localities-further", "{TO, retries: {attempts: 5, retryOn: 5xx, retryRemoteLocalities: true}}").policy("outlierDetection: {consecutive5xxErrors: 0}").endpoints(Endpoints::Located).up("0= 503; 1= 503; 200").ask("GET /", "200 - x5 h3").any_endpoint(),
        slow_start("slow-start-round-robin", "ROUND_ROBIN").ask("join 400x GET /", "200 @1:50-110").shares(),
        slow_start("slow-start-least-request", "LEAST_REQUEST").ask("join 400x GET /", "200 @1:50-110").shares(),
        slow_start("slow-start-over", "ROUND_ROBIN").ask("join GET /", "200").ask("after=6500 400x GET /", "200 @1:160-240").shares(),
        policy("join-no-slow-start", "loadBalancer: {simple: ROUND_ROBIN}").endpoints(Endpoints::Joining(2)).ask("GET /", "200 @0").ask("join 40x GET /", "200 h2").any_endpoint(),
        policy("passthrough", "loadBalancer: {simple: PASSTHROUGH}").endpoints(Endpoints::Dialled).ask("GET /", "200 - x1").ask("h2 GET /", "200 - x1"),
        policy("passthrough-http2", "loadBalancer: {simple: PASSTHROUGH}").http2().endpoints(Endpoints::Dialled).ask("GET /", "200 - x1 >version=HTTP/2"),
        policy("passthrough-down", "loadBalancer: {simple: PASSTHROUGH}").endpoints(Endpoints::Dialled).up("refuse").ask("GET /", "503 URX,UF x0"),
        policy("passthrough-not", "loadBalancer: {simple: RANDOM}").endpoints(Endpoints::Dialled).ask("GET /", "503 URX,UF x0"),
        plain("allow-any").endpoints(Endpoints::Unknown).ask("GET / | host: nowhere.example", "200 - x1 >host=nowhere.example").ask("h2 POST / | =x", "200 - x1"),
        plain("allow-any-no-retry").endpoints(Endpoints::Unknown).up("200,h.grpc-status=14 200").ask("GET /", "200 x1"),
        unready("unready-skipped", "loadBalancer: {simple: ROUND_ROBIN}", 4, 2).ask("20x GET /", "200 h2").any_endpoint(),
        unready("unready-all", "loadBalancer: {simple: ROUND_ROBIN}", 2, 2).ask("GET /", "503 UH x0 body=no+healthy+upstream"),
        unready("unready-hash", "loadBalancer: {consistentHash: {httpHeaderName: x-k}}", 5, 2).ask("20x GET / | x-k: {}", "200 h3"),
    ]
}
