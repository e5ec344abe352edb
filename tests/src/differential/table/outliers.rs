//! Outlier detection and panic. Requests keep a little apart: Envoy ejects a host by way of its main
//! thread, while its workers go on.

use crate::differential::scenario::{Endpoints, Scenario, http, policy};

/// Detection with no release while the scenario lasts.
fn outlier(name: &str, settings: &str) -> Scenario {
    policy(
        name,
        &format!("outlierDetection: {{interval: 60s, baseEjectionTime: 60s, {settings}}}"),
    )
}

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    let all = "maxEjectionPercent: 100";
    vec![
        outlier("outlier-5xx", &format!("consecutive5xxErrors: 2, {all}")).up("500").ask("6x40 GET /", "500*2,503*4 UH x2").counts(&["outlier_detection.ejections_enforced_consecutive_5xx", "outlier_detection.ejections_active", "outlier_detection.ejections_enforced_total"]),
        outlier("outlier-default-count", all).up("500").ask("8x40 GET /", "500*5,503*3 UH x5"),
        outlier("outlier-success-resets", &format!("consecutive5xxErrors: 2, {all}")).up("500 200 500 200 500 200").ask("6x40 GET /", "500*3,200*3 x6"),
        outlier("outlier-zero-disables", &format!("consecutive5xxErrors: 0, {all}")).up("500").ask("8x40 GET /", "500 - x8"),
        outlier("outlier-ten-percent", "consecutive5xxErrors: 1").over(3).up("500").ask("30x20 GET /", "500 - x30").any_endpoint().counts(&["outlier_detection.ejections_overflow", "outlier_detection.ejections_enforced_total"]),
        outlier("outlier-ten-of-ten", "consecutive5xxErrors: 1}, loadBalancer: {simple: ROUND_ROBIN").over(10).up("500").ask("30x20 GET /", "500 - h10").any_endpoint().counts(&["outlier_detection.ejections_enforced_total"]),
        outlier("outlier-half", "consecutive5xxErrors: 1, maxEjectionPercent: 50").over(4).up("500").ask("20x20 GET /", "500 - x20").any_endpoint().counts(&["outlier_detection.ejections_enforced_total"]),
        outlier("outlier-gateway", &format!("consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, {all}")).up("503 500 502 504").ask("6x40 GET /", "").counts(&["outlier_detection.ejections_enforced_consecutive_gateway_failure"]),
        outlier("outlier-gateway-first", &format!("consecutive5xxErrors: 5, consecutiveGatewayErrors: 2, {all}")).up("503").ask("5x40 GET /", "503 UH x2").counts(&["outlier_detection.ejections_enforced_consecutive_gateway_failure", "outlier_detection.ejections_detected_consecutive_5xx"]),
        outlier("outlier-4xx", &format!("consecutive5xxErrors: 1, {all}")).up("404").ask("5x40 GET /", "404 - x5"),
        outlier("outlier-connect", &format!("consecutive5xxErrors: 3, {all}")).up("refuse").ask("GET /", "503 URX,UF").ask("after=40 GET /", "503 UH").counts(&["outlier_detection.ejections_enforced_consecutive_5xx"]),
        outlier("outlier-reset", &format!("consecutive5xxErrors: 2, {all}")).up("reset").ask("4x40 GET /", "503 UH x2"),
        outlier("outlier-one-of-two", &format!("consecutive5xxErrors: 2, {all}")).over(2).up("0= 500; 200").ask("30x20 GET /", "500*2,200*28").any_endpoint(),
        outlier("outlier-split-local", &format!("splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, consecutive5xxErrors: 1, {all}")).up("refuse").ask("after=40 GET /", "503 UH").ask("after=40 GET /", "503 UH").counts(&["outlier_detection.ejections_enforced_consecutive_local_origin_failure"]),
        outlier("outlier-split-reset", &format!("splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, consecutive5xxErrors: 1, {all}")).up("reset").ask("4x40 GET /", "503 UC x4"),
        outlier("outlier-split-external", &format!("splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, consecutive5xxErrors: 3, {all}")).up("500").ask("5x40 GET /", "500*3,503*2 UH x3"),
        outlier("outlier-grpc", &format!("consecutive5xxErrors: 2, {all}")).http2().up("200,h.grpc-status=13,h.content-type=application/grpc").ask("h2 4x40 POST / | content-type: application/grpc | =x", "200 UH x2"),
        outlier("outlier-grpc-trailers", &format!("consecutive5xxErrors: 2, {all}")).http2().up("200,t.grpc-status=13,h.content-type=application/grpc").ask("h2 4x40 POST / | content-type: application/grpc | =x", "200"),
        outlier("outlier-panic", "consecutive5xxErrors: 1, maxEjectionPercent: 100, minHealthPercent: 50").over(2).up("500").ask("10x20 GET /", "500 - x10").any_endpoint(),
        outlier("outlier-overflow-not-counted", &format!("consecutive5xxErrors: 1, {all}}}, connectionPool: {{http: {{http2MaxRequests: 1}}")).up("200,wait=300").ask("3& GET /", "200*1,503*2 UO").ask("GET /", "200 -"),
        http("outlier-timeout", "{TO, timeout: 150ms}").policy("outlierDetection: {interval: 60s, baseEjectionTime: 60s, consecutive5xxErrors: 2, maxEjectionPercent: 100}").up("200,wait=1000").ask("GET /", "504 UT").ask("GET /", "504 UT").ask("after=40 GET /", "503 UH"),
        // Envoy merges what changes in the health of hosts within a second (`update_merge_window`).
        policy("outlier-release", "outlierDetection: {interval: 200ms, baseEjectionTime: 300ms, consecutive5xxErrors: 1, maxEjectionPercent: 100}").up("500 200").ask("GET /", "500").ask("after=40 GET /", "503 UH").ask("after=1600 GET /", "200 -"),
        policy("panic-not-for-unready", "outlierDetection: {minHealthPercent: 60}, loadBalancer: {simple: ROUND_ROBIN}").endpoints(Endpoints::Unready { of: 4, unready: 3 }).ask("20x20 GET /", "200 h1").counts(&["lb_healthy_panic"]),
        policy("panic-not-yet", "outlierDetection: {minHealthPercent: 40}, loadBalancer: {simple: ROUND_ROBIN}").endpoints(Endpoints::Unready { of: 4, unready: 2 }).ask("20x20 GET /", "200 h2").any_endpoint(),
    ]
}
