//! Ports that carry bytes.

use crate::differential::scenario::{Scenario, plain, policy};

fn tcp(name: &str, route: &str) -> Scenario {
    plain(name).tcp(&format!("[{{route: [{route}]}}]"))
}

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        tcp("tcp-echo", "{destination: {host: @}}").ask("TCP hello", "- x1 body~hello"),
        tcp("tcp-subset", "{destination: {host: @, subset: v2}}").subsets("{name: v2, labels: {version: v2}}").over(2).ask("TCP hello", "x1 @1"),
        tcp("tcp-weights", "{destination: {host: @, subset: v1}, weight: 75}, {destination: {host: @, subset: v2}, weight: 25}").subsets("{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}").over(2).ask("100& TCP hello", "").shares(),
        tcp("tcp-refused", "{destination: {host: @}}").up("refuse").ask("TCP hello", "UF,URX x0 end=broken"),
        tcp("tcp-no-endpoint", "{destination: {host: @}}").over(0).ask("TCP hello", "UH x0 end=broken"),
        tcp("tcp-reset", "{destination: {host: @}}").up("reset").ask("TCP hello", "x1 end=broken"),
        policy("tcp-overflow", "connectionPool: {tcp: {maxConnections: 1}}").tcp("[{route: [{destination: {host: @}}]}]").up("200,wait=400").ask("3& TCP hello", "UO x1 end~broken").counts(&["upstream_cx_overflow"]),
        policy("tcp-connect-timeout", "connectionPool: {tcp: {connectTimeout: 200ms}}").tcp("[{route: [{destination: {host: @}}]}]").up("blackhole").ask("TCP hello", "x0 end=broken"),
        policy("tcp-outlier", "outlierDetection: {consecutive5xxErrors: 2, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100}").tcp("[{route: [{destination: {host: @}}]}]").up("refuse").ask("TCP a", "UF,URX end=broken").ask("TCP b", "UF,URX end=broken").ask("TCP c", "UH end=broken"),
    ]
}
