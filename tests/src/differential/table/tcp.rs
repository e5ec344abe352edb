//! Ports that carry bytes.

use crate::differential::scenario::{Endpoints, Scenario, plain, policy};

fn tcp(name: &str, route: &str) -> Scenario {
    plain(name).tcp(&format!("[{{route: [{route}]}}]"))
}

/// Two endpoints, each a subset.
fn versions(scenario: Scenario) -> Scenario {
    let one = |n| format!("{{name: v{n}, labels: {{version: v{n}}}}}");
    scenario.subsets(&format!("{}, {}", one(1), one(2))).over(2)
}

/// Rules that begin with the first endpoint for these subnets and go on with the second for those; what
/// neither takes is the whole Service's.
fn subnets(name: &str, first: &str, second: &str) -> Scenario {
    let rule = |n, subnets: &str| {
        format!(
            "{{match: [{{destinationSubnets: [{subnets}]}}], route: [{{destination: {{host: @, subset: v{n}}}}}]}}"
        )
    };
    versions(plain(name).tcp(&format!("[{}, {}]", rule(1, first), rule(2, second))))
}

/// TLS to the first endpoint by these names, to the second by those.
fn names(name: &str, first: &str, second: &str) -> Scenario {
    let rule = |n, names: &str| {
        format!(
            "{{match: [{{sniHosts: [{names}]}}], route: [{{destination: {{host: @, subset: v{n}}}}}]}}"
        )
    };
    versions(plain(name).tls(&format!("[{}, {}]", rule(1, first), rule(2, second))))
}

/// A rule whose destination is an HTTP proxy.
fn tunnel(name: &str, tunnel: &str) -> Scenario {
    tcp(name, "{destination: {host: @}}").policy(&format!("tunnel: {{{tunnel}}}"))
}

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        tcp("tcp-echo", "{destination: {host: @}}").ask("TCP hello", "- x1 body~hello"),
        tcp("tcp-subset", "{destination: {host: @, subset: v2}}").subsets("{name: v2, labels: {version: v2}}").over(2).ask("TCP hello", "x1 @1"),
        tcp("tcp-weights", "{destination: {host: @, subset: v1}, weight: 75}, {destination: {host: @, subset: v2}, weight: 25}").subsets("{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}").over(2).ask("100& TCP hello", "").shares(),
        subnets("tcp-subnet", "10.97.0.0/16", "10.0.0.0/16").ask("TCP hello", "- x1 @0"),
        subnets("tcp-subnet-other", "10.1.0.0/16", "10.0.0.0/8").ask("TCP hello", "- x1 @1"),
        subnets("tcp-subnet-narrower", "10.0.0.0/8", "10.97.0.0/16").ask("TCP hello", "- x1 @1"),
        subnets("tcp-subnet-none", "10.1.0.0/16", "10.2.0.0/16").ask("40& TCP hello", "- x40 h2").shares(),
        versions(plain("tcp-subnet-then-all").tcp("[{match: [{destinationSubnets: [10.1.0.0/16]}], route: [{destination: {host: @, subset: v1}}]}, {route: [{destination: {host: @, subset: v2}}]}]")).ask("TCP hello", "- x1 @1"),
        names("sni-exact", "@", "x.@.test").ask("SNI @", "- x1 @0").ask("SNI x.@.test", "- x1 @1"),
        names("sni-case", "@", "x.@.test").ask("SNI X.@.TEST", "- x1 @1"),
        names("sni-wildcard", "@", "'*.@.test'").ask("SNI a.b.@.test", "- x1 @1").ask("SNI @", "- x1 @0"),
        names("sni-exact-before-wildcard", "'*.@.test'", "a.@.test").ask("SNI a.@.test", "- x1 @1").ask("SNI b.@.test", "- x1 @0"),
        names("sni-unknown", "@", "x.@.test").ask("SNI other.test", "NR x0 end=broken"),
        names("sni-not-tls", "@", "x.@.test").ask("TCP hello", "NR x0 end=broken"),
        versions(plain("sni-weights").tls("[{match: [{sniHosts: [@]}], route: [{destination: {host: @, subset: v1}, weight: 75}, {destination: {host: @, subset: v2}, weight: 25}]}]")).ask("100& SNI @", "").shares(),
        policy("tcp-hash-source", "loadBalancer: {consistentHash: {useSourceIp: true}}").bytes().over(5).ask("20& TCP hello", "- x20 h1").any_endpoint(),
        policy("tcp-passthrough", "loadBalancer: {simple: PASSTHROUGH}").bytes().endpoints(Endpoints::Dialled).ask("TCP hello", "- x1 body~hello"),
        plain("tcp-dialled-balanced").bytes().endpoints(Endpoints::Dialled).ask("TCP hello", "x0 end=broken"),
        plain("tcp-allow-any").bytes().endpoints(Endpoints::Unknown).ask("TCP hello", "- x1 body~hello"),
        plain("tcp-allow-any-refused").bytes().endpoints(Endpoints::Unknown).up("refuse").ask("TCP hello", "x0 end=broken"),
        tcp("tcp-refused", "{destination: {host: @}}").up("refuse").ask("TCP hello", "UF,URX x0 end=broken"),
        tcp("tcp-no-endpoint", "{destination: {host: @}}").over(0).ask("TCP hello", "UH x0 end=broken"),
        tcp("tcp-reset", "{destination: {host: @}}").up("reset,wait=150").ask("TCP hello", "x1 end=broken"),
        tcp("tcp-closed", "{destination: {host: @}}").up("close,wait=150").ask("TCP hello", "x1 end=broken"),
        tcp("tcp-gone", "{destination: {host: @}}").up("200,wait=2000").ask("TCP hello | !300", "x1 end=gaveup"),
        policy("tcp-proxied", "proxyProtocol: {}").bytes().ask("TCP hello", "- x1 body~hello >proxied~TCP4"),
        policy("tcp-proxied-binary", "proxyProtocol: {version: V2}").bytes().ask("TCP hello", "- x1 body~hello >proxied~21"),
        tunnel("tcp-tunnel", "targetHost: a.test, targetPort: 7").ask("TCP hello", "- x1 body~hello >:method=CONNECT >:path=a.test:7"),
        tunnel("tcp-tunnel-connect", "protocol: CONNECT, targetHost: a.test, targetPort: 7").ask("3& TCP hello", "- x3"),
        tunnel("tcp-tunnel-post", "protocol: POST, targetHost: a.test, targetPort: 7").ask("TCP hello", "- x1 body~hello >:method=POST"),
        tunnel("tcp-tunnel-refused", "targetHost: a.test, targetPort: 7").up("403").ask("TCP hello", "x1 end=broken"),
        tunnel("tcp-tunnel-odd", "targetHost: a.test, targetPort: 7").up("201").ask("TCP hello", "- x1 body~hello"),
        policy("tcp-idle", "connectionPool: {tcp: {idleTimeout: 300ms}}").tcp("[{route: [{destination: {host: @}}]}]").up("200,wait=3000").ask("TCP hello", "x1 end=broken"),
        policy("tcp-duration", "connectionPool: {tcp: {maxConnectionDuration: 300ms}}").tcp("[{route: [{destination: {host: @}}]}]").up("200,wait=3000").ask("TCP hello", "DT x1 end=broken"),
        policy("tcp-overflow", "connectionPool: {tcp: {maxConnections: 1}}").tcp("[{route: [{destination: {host: @}}]}]").up("200,wait=400").ask("3& TCP hello", "UO x1 end~broken").counts(&["upstream_cx_overflow"]),
        policy("tcp-connect-timeout", "connectionPool: {tcp: {connectTimeout: 200ms}}").tcp("[{route: [{destination: {host: @}}]}]").up("blackhole").ask("TCP hello", "x0 end=broken"),
        policy("tcp-outlier", "outlierDetection: {consecutive5xxErrors: 2, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100}").tcp("[{route: [{destination: {host: @}}]}]").up("refuse").ask("TCP a", "UF,URX end=broken").ask("TCP b", "UF,URX end=broken").ask("TCP c", "UH end=broken"),
    ]
}
