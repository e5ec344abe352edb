//! Valid configuration, and what is said about it.

use super::*;
use crate::api::{Object, decode, yaml};

/// Every finding about an object of `kind` as `field: message`.
fn advice(kind: &str, spec: &str) -> String {
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
    let lines: Vec<String> = findings
        .map(|one| format!("{}: {}", one.field, one.message))
        .collect();
    lines.join("\n")
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
        ("in any case", format!("[{{match: [{{uri: {{prefix: /a}}}}], {to}}}, {{match: [{{uri: {{prefix: /ab}}, ignoreUriCase: true}}], {to}}}]"), ""),
    ] {
        let found = advice("VirtualService", &format!("hosts: [web], http: {http}"));
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn policies_that_do_not_do_what_they_seem_to() {
    for (name, policy, expected) in [
        ("nothing to say", "loadBalancer: {simple: RANDOM}", ""),
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
    ] {
        let spec = format!("host: web, trafficPolicy: {{{policy}}}");
        assert_eq!(advice("DestinationRule", &spec), expected, "{name}");
    }
}
