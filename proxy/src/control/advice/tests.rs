//! Valid configuration, and what is said about it.

use super::*;
use crate::api::{Object, decode, yaml};
use crate::types::{Finding, Severity};

/// Every finding about an object of `kind` as `field: message`.
fn advice(kind: &str, spec: &str) -> String {
    let lines: Vec<String> = findings(kind, spec)
        .iter()
        .map(|one| format!("{}: {}", one.field, one.message))
        .collect();
    lines.join("\n")
}

fn findings(kind: &str, spec: &str) -> Vec<Finding> {
    let text = format!(
        "{{apiVersion: networking.istio.io/v1, kind: {kind}, metadata: {{name: a}}, spec: {{{spec}}}}}"
    );
    let documents = yaml::read(&text).expect("valid YAML");
    let objects = documents.into_iter().flat_map(decode);
    let findings = objects.flat_map(|one| match one.object {
        Some(Object::VirtualService(one)) => virtual_service(&one),
        Some(Object::DestinationRule(one)) => destination_rule(&one),
        _ => panic!("{spec}: {:?}", one.findings),
    });
    findings.collect()
}

#[test]
fn rules_that_do_not_do_what_they_seem_to() {
    let to = "route: [{destination: {host: web}}]";
    for (name, http, expected) in [
        ("nothing to say", format!("[{{timeout: 5s, retries: {{attempts: 1, perTryTimeout: 2s}}, {to}}}]"), ""),
        (
            "attempts that don't fit",
            format!("[{{timeout: 5s, retries: {{attempts: 3, perTryTimeout: 2s}}, {to}}}]"),
            "spec.http[0].retries.attempts: 4 attempts of 2s each need up to 8s, but timeout ends them after 5s: 2 can finish",
        ),
        (
            "an attempt that is as long as all of them",
            format!("[{{timeout: 2s, retries: {{attempts: 3, perTryTimeout: 2s}}, {to}}}]"),
            "spec.http[0].retries.perTryTimeout: 2s is not shorter than timeout (2s) and has no effect: a request that hangs is never tried again",
        ),
        (
            "no retries",
            format!("[{{timeout: 2s, retries: {{attempts: 0}}, fault: {{abort: {{httpStatus: 500, percentage: {{value: 1}}}}}}, {to}}}]"),
            "",
        ),
        (
            "faults beside retries",
            format!("[{{retries: {{attempts: 2}}, fault: {{abort: {{httpStatus: 500, percentage: {{value: 1}}}}}}, {to}}}]"),
            "spec.http[0].fault: beside retries: an aborted request is not tried again, and never reaches the upstream that retries are for",
        ),
        (
            "weights",
            "[{route: [{destination: {host: a}, weight: 90}, {destination: {host: b}, weight: 20}]}]".to_owned(),
            "spec.http[0].route: the weights add up to 110, not to 100: each destination gets its share of 110",
        ),
        (
            "a mirror to itself",
            format!("[{{mirror: {{host: web}}, {to}}}]"),
            "spec.http[0].mirror: mirrors to where the requests go themselves: web gets some of them twice",
        ),
        ("a mirror to another subset", format!("[{{mirror: {{host: web, subset: v2}}, {to}}}]"), ""),
        ("the weight of one", "[{route: [{destination: {host: a}, weight: 90}]}]".to_owned(), ""),
        (
            "two slashes",
            format!("[{{match: [{{uri: {{prefix: /v2}}}}], rewrite: {{uri: /}}, {to}}}]"),
            "spec.http[0].rewrite.uri: /v2/x becomes //x: match the prefix /v2/ (and /v2 exactly) as well, or rewrite to \"\"",
        ),
        ("slash for slash", format!("[{{match: [{{uri: {{prefix: /v2/}}}}], rewrite: {{uri: /}}, {to}}}]"), ""),
        (
            "after everything",
            format!("[{{{to}}}, {{{to}}}]"),
            "spec.http[1]: is never reached: spec.http[0] takes every request (IST0130)",
        ),
        (
            "after every path",
            format!("[{{match: [{{uri: {{prefix: /}}}}], {to}}}, {{match: [{{uri: {{prefix: /a}}}}], {to}}}]"),
            "spec.http[1]: is never reached: spec.http[0] takes every request (IST0130)",
        ),
        ("after every path of one port", format!("[{{match: [{{uri: {{prefix: /}}, port: 80}}], {to}}}, {{{to}}}]"), ""),
        (
            "the same twice",
            format!("[{{match: [{{headers: {{x: {{exact: a}}}}}}], {to}}}, {{match: [{{name: n, headers: {{x: {{exact: a}}}}}}], {to}}}]"),
            "spec.http[1].match[0]: is never reached: it asks for the same as spec.http[0].match[0] (IST0131)",
        ),
        (
            "a prefix before what it covers",
            format!("[{{match: [{{uri: {{prefix: /a}}}}], {to}}}, {{match: [{{uri: {{exact: /ab}}, method: {{exact: GET}}}}], {to}}}]"),
            "spec.http[1].match[0]: is never reached: spec.http[0].match[0] takes every path that it asks for (IST0131)",
        ),
        ("within one rule", format!("[{{match: [{{uri: {{prefix: /a}}}}, {{uri: {{prefix: /ab}}}}], {to}}}]"), ""),
        (
            "an answer of its own",
            "[{directResponse: {status: 200}, headers: {request: {set: {x: y}}, response: {set: {x: y}}}}]".to_owned(),
            "",
        ),
        (
            "a client asked about beside gateways",
            format!("[{{match: [{{gateways: [mesh], sourceLabels: {{a: b}}, sourceNamespace: x}}, {{sourceNamespace: x}}], {to}}}]"),
            "spec.http[0].match[0].sourceLabels: has no effect in a block that has gateways (nor in Istio): leave gateways out of it
spec.http[0].match[0].sourceNamespace: has no effect in a block that has gateways (nor in Istio): leave gateways out of it",
        ),
        (
            "the case of an expression",
            format!("[{{match: [{{uri: {{regex: /a}}, ignoreUriCase: true}}, {{uri: {{exact: /a}}, ignoreUriCase: true}}], {to}}}]"),
            "spec.http[0].match[0].ignoreUriCase: has no effect: it is for uri.exact and uri.prefix (an expression may begin with (?i))",
        ),
        (
            "words that cover nothing",
            format!("[{{retries: {{attempts: 1, retryOn: 'reset,retriable-headers,http3-post-connect-failure,retriable-status-codes'}}, {to}}}]"),
            "spec.http[0].retries.retryOn: retriable-status-codes has no effect: no status is listed; write it, as in 503
spec.http[0].retries.retryOn: retriable-headers has no effect: a VirtualService can't say which headers are meant
spec.http[0].retries.retryOn: http3-post-connect-failure has no effect: there is no HTTP/3 here",
        ),
        (
            "words that cover something",
            format!("[{{retries: {{attempts: 1, retryOn: 'retriable-status-codes,503'}}, {to}}}, {{match: [{{port: 1}}], retries: {{attempts: 1}}, {to}}}]"),
            "spec.http[1]: is never reached: spec.http[0] takes every request (IST0130)",
        ),
        (
            "operators without a value",
            "[{headers: {response: {add: {x: '%REQ(a)%%METADATA(b)%'}}}, route: [{destination: {host: web}, headers: {request: {set: {y: '%CEL(x)%', host: '%CEL(x)%'}}}}]}]".to_owned(),
            "spec.http[0].headers.response.add.x: %METADATA% never has a value here: this proxy has nothing of the kind
spec.http[0].route[0].headers.request.set.host: %CEL% never has a value here: this proxy has nothing of the kind
spec.http[0].route[0].headers.request.set.y: %CEL% never has a value here: this proxy has nothing of the kind",
        ),
        ("in any case", format!("[{{match: [{{uri: {{prefix: /a}}}}], {to}}}, {{match: [{{uri: {{prefix: /ab}}, ignoreUriCase: true}}], {to}}}]"), ""),
    ] {
        let gateways = if http.contains("gateways: [mesh]") {
            "gateways: [mesh],"
        } else {
            ""
        };
        let found = advice(
            "VirtualService",
            &format!("hosts: [web], {gateways} http: {http}"),
        );
        assert_eq!(found, expected, "{name}");
    }
}

/// Once for each object, and not as something wrong.
#[test]
fn gateways_are_not_served() {
    let to = "route: [{destination: {host: web}}]";
    for (gateways, expected) in [
        ("[]", ""),
        ("[mesh]", ""),
        (
            "[mesh, a, b]",
            "spec.gateways[1]: no gateway is served yet: the rules count for clients in the mesh alone",
        ),
        (
            "[a, b]",
            "spec.gateways: the rules are for gateways alone, and none is served yet: they have no effect",
        ),
    ] {
        let spec = format!("hosts: [web], gateways: {gateways}, http: [{{{to}}}]");
        assert_eq!(advice("VirtualService", &spec), expected, "{gateways}");
        for finding in findings("VirtualService", &spec) {
            assert_eq!(finding.severity, Severity::Info, "{gateways}");
        }
    }
}

#[test]
fn policies_that_do_not_do_what_they_seem_to() {
    for (name, policy, expected) in [
        ("nothing to say", "loadBalancer: {simple: RANDOM}", ""),
        (
            "a budget that ports don't have",
            "retryBudget: {percent: 20}, portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}, {port: {number: 81}, loadBalancer: {simple: RANDOM}}]",
            "spec.trafficPolicy.retryBudget: has no effect at port 80 and 81: portLevelSettings stand in the place of the whole policy there; a subset's own retryBudget counts at every port",
        ),
        (
            "a PROXY protocol that a port doesn't have",
            "proxyProtocol: {}, portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]",
            "spec.trafficPolicy.proxyProtocol: has no effect at port 80: portLevelSettings stand in the place of the whole policy there; a subset's own proxyProtocol counts at every port",
        ),
        (
            "what a tunnel is for",
            "tunnel: {targetHost: a, targetPort: 1}",
            "spec.trafficPolicy.tunnel: counts for connections that a tcp or tls rule sends to this host alone (as in Istio); everything else goes to it as it is",
        ),
        (
            "LEAST_CONN",
            "loadBalancer: {simple: LEAST_CONN}",
            "spec.trafficPolicy.loadBalancer.simple: LEAST_CONN is deprecated, and the same as LEAST_REQUEST: write that",
        ),
        (
            "LEAST_CONN of a port",
            "portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: LEAST_CONN}}]",
            "spec.trafficPolicy.portLevelSettings[0].loadBalancer.simple: LEAST_CONN is deprecated, and the same as LEAST_REQUEST: write that",
        ),
        (
            "a warm-up that warms nothing",
            "loadBalancer: {simple: RANDOM, warmup: {duration: 5s}}",
            "spec.trafficPolicy.loadBalancer.warmup: has no effect: only LEAST_REQUEST and ROUND_ROBIN warm endpoints up",
        ),
        (
            "two limits of retries",
            "retryBudget: {percent: 10}, connectionPool: {http: {maxRetries: 3}}",
            "spec.trafficPolicy.connectionPool.http.maxRetries: has no effect beside retryBudget",
        ),
        (
            "failover without detection",
            "loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}",
            "spec.trafficPolicy.loadBalancer.localityLbSetting.failover: has no effect without outlierDetection in the same policy (nor in Istio): endpoints that nobody ejects never fail over",
        ),
        (
            "failover by labels without detection",
            "outlierDetection: {}, portLevelSettings: [{port: {number: 80}, loadBalancer: {localityLbSetting: {failoverPriority: [a]}}}]",
            "spec.trafficPolicy.portLevelSettings[0].loadBalancer.localityLbSetting.failoverPriority: has no effect without outlierDetection in the same policy (nor in Istio): endpoints that nobody ejects never fail over",
        ),
        (
            "failover with detection",
            "outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}",
            "",
        ),
        (
            "distribution needs none",
            "loadBalancer: {localityLbSetting: {distribute: [{from: a/*, to: {'a/*': 100}}]}}",
            "",
        ),
        (
            "distribution turned off",
            "loadBalancer: {localityLbSetting: {enabled: false, distribute: [{from: a/*, to: {'a/*': 100}}]}}",
            "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute: has no effect: enabled is false",
        ),
        (
            "a cookie that is never made",
            "loadBalancer: {consistentHash: {httpCookie: {name: a, path: /, attributes: [{name: b}]}}}",
            "spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.path: has no effect: without ttl no cookie is made
spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.attributes: has no effect: without ttl no cookie is made",
        ),
        (
            "a cookie that is made",
            "loadBalancer: {consistentHash: {httpCookie: {name: a, path: /, ttl: 1s}}}",
            "",
        ),
        (
            "gateway errors are 5xx",
            "outlierDetection: {consecutiveGatewayErrors: 5}",
            "spec.trafficPolicy.outlierDetection.consecutiveGatewayErrors: has no effect: consecutive5xxErrors, which counts them too, is 5 where it is absent; write less, or consecutive5xxErrors: 0",
        ),
        (
            "gateway errors alone",
            "outlierDetection: {consecutiveGatewayErrors: 5, consecutive5xxErrors: 0}",
            "",
        ),
        (
            "fewer gateway errors",
            "outlierDetection: {consecutiveGatewayErrors: 2, consecutive5xxErrors: 7}",
            "",
        ),
    ] {
        let spec = format!("host: web, trafficPolicy: {{{policy}}}");
        assert_eq!(advice("DestinationRule", &spec), expected, "{name}");
    }
}

/// What a subset lacks is the rule's.
#[test]
fn subsets_inherit_the_detection_of_outliers() {
    let subset = "subsets: [{name: v1, trafficPolicy: {loadBalancer: {localityLbSetting: {failoverPriority: [a]}}}}]";
    for (policy, expected) in [
        ("trafficPolicy: {outlierDetection: {}}", ""),
        (
            "trafficPolicy: {loadBalancer: {simple: RANDOM}}",
            "spec.subsets[0].trafficPolicy.loadBalancer.localityLbSetting.failoverPriority: has no effect without outlierDetection in the same policy (nor in Istio): endpoints that nobody ejects never fail over",
        ),
    ] {
        let found = advice("DestinationRule", &format!("host: web, {policy}, {subset}"));
        assert_eq!(found, expected, "{policy}");
    }
}
