//! Every field of VirtualService and DestinationRule with values of the wrong type, negative, zero,
//! enormous, not a number, empty and missing: each mistake is one error that names the field.

use super::*;

mod destination_rule;
mod shape;
mod virtual_service;

/// What a field takes.
#[derive(Clone, Copy, Debug)]
enum Takes {
    /// At least a millisecond.
    Duration,
    /// Zero too.
    DurationOrZero,
    /// Whole seconds.
    Seconds,
    /// A whole number from 0.
    Count,
    /// The same, with room for 64 bits.
    Large,
    /// A whole number.
    Integer,
    /// A prime number.
    Prime,
    /// 200 to 599.
    Status,
    /// 100 to 599.
    Code,
    /// 0 to 100, whole.
    Percent,
    /// 0 to 100.
    Share,
    /// A number greater than 0.
    Factor,
    /// A truth value.
    Bool,
    /// Text.
    Text,
    /// A list.
    List,
    /// A mapping.
    Mapping,
    /// 1 to 65535.
    Port,
    /// One of some words.
    Word(&'static str),
    /// Whatever it is, it has no effect.
    Anything,
    /// Nothing: it is in the proto alone.
    Nothing,
}

impl Takes {
    fn refused(self) -> &'static [&'static str] {
        match self {
            Self::Duration => &[
                "0s",
                "5",
                "x",
                "''",
                "-1s",
                "0.5ms",
                "1e3s",
                ".nan",
                "999999999h",
                "true",
                "[]",
                "{}",
            ],
            Self::DurationOrZero => &["5", "x", "''", "-1s", ".nan", "999999999h", "[]", "{}"],
            Self::Seconds => &["1500ms", "5", "x", "-1s", "[]"],
            Self::Count => &[
                "x",
                "''",
                "'1'",
                "-1",
                "1.5",
                ".nan",
                ".inf",
                "99999999999",
                "true",
                "[]",
                "{}",
            ],
            Self::Large => &[
                "x",
                "''",
                "'1'",
                "-1",
                "1.5",
                ".nan",
                ".inf",
                "99999999999999999999",
                "true",
                "[]",
                "{}",
            ],
            Self::Integer => &[
                "x",
                "''",
                "'1'",
                "1.5",
                ".nan",
                ".inf",
                "99999999999",
                "true",
                "[]",
                "{}",
            ],
            Self::Prime => &[
                "x",
                "''",
                "0",
                "-1",
                "65536",
                "5000011",
                "1.5",
                ".nan",
                "99999999999",
                "true",
                "[]",
                "{}",
            ],
            Self::Status => &[
                "x",
                "''",
                "0",
                "-1",
                "199",
                "600",
                "200.5",
                ".nan",
                "99999999999",
                "true",
                "[]",
                "{}",
            ],
            Self::Code => &[
                "x",
                "''",
                "0",
                "-1",
                "99",
                "600",
                "200.5",
                ".nan",
                "99999999999",
                "true",
                "[]",
                "{}",
            ],
            Self::Anything => &[],
            Self::Nothing => &["x", "1s", "1", "true", "[]", "{}"],
            Self::Percent => &["x", "-1", "101", "1.5", ".nan", "99999999999", "[]"],
            Self::Share => &[
                "x",
                "-1",
                "-0.0001",
                "100.0001",
                "1e9",
                ".nan",
                ".inf",
                "-.inf",
                "[]",
                "{}",
                "{value: 20}",
            ],
            Self::Factor => &["x", "0", "-1", ".nan", ".inf", "true", "[]", "{}"],
            Self::Bool => &["x", "yes", "'true'", "0", "1", ".nan", "[]", "{}"],
            Self::Text => &["1", "true", "1.5", ".nan", "[]", "{}"],
            Self::List => &["x", "1", "true", "{}", "[1]"],
            Self::Mapping => &["x", "1", "true", "[]", "[1]", "[{}]"],
            Self::Port => &[
                "x",
                "0",
                "-1",
                "65536",
                "1.5",
                ".nan",
                "99999999999",
                "[]",
                "{}",
            ],
            Self::Word(_) => &["x", "''", "1", "true", "[]"],
        }
    }

    fn accepted(self) -> &'static [&'static str] {
        match self {
            Self::Duration | Self::Seconds => &["1s", "1h30m"],
            Self::DurationOrZero => &["0s", "1ms"],
            Self::Count => &["0", "1"],
            Self::Large => &["0", "99999999999"],
            Self::Integer => &["-1", "0", "1"],
            Self::Prime => &["65537"],
            Self::Status => &["200", "599"],
            Self::Code => &["100", "599"],
            Self::Anything => &["x", "1", "[]", "{}"],
            Self::Percent => &["1"],
            Self::Share => &["0", "0.0001", "100"],
            Self::Factor => &["0.5", "1", "20"],
            Self::Bool => &["true", "false"],
            Self::Text | Self::List | Self::Mapping | Self::Word(_) | Self::Nothing => &[],
            Self::Port => &["1", "65535"],
        }
    }
}

fn object(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{{spec}}}\n"
    )
}

/// The errors, as the fields that they name.
fn errors(kind: &str, spec: &str) -> Vec<String> {
    let text = object(kind, spec);
    errors_of(yaml::read(&text).expect(&text).remove(0))
}

fn errors_of(document: Node) -> Vec<String> {
    let decoded = decode(document);
    let findings = decoded.iter().flat_map(|one| &one.findings);
    let errors: Vec<String> = findings
        .filter(|one| one.severity == crate::types::Severity::Error)
        .map(|one| one.field.clone())
        .collect();
    // An object with a mistake is not in force, one without is.
    assert_eq!(
        decoded[0].object.is_none(),
        !errors.is_empty(),
        "{errors:?}"
    );
    errors
}

/// Whether an error is about a field: at it, inside of it, or at what it is directly in.
fn names(error: &str, field: &str) -> bool {
    let inside = error.strip_prefix(field);
    let parent = field.rsplit_once('.').map_or("", |(parent, _)| parent);
    inside.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])) || error == parent
}

fn check(kind: &str, spec: &str, field: &str, takes: Takes, wrong: &mut Vec<String>) {
    for value in takes.refused() {
        let errors = errors(kind, &spec.replace('%', value));
        if errors.len() != 1 || !names(&errors[0], field) {
            wrong.push(format!("{field}: {value} ({takes:?}) gives {errors:?}"));
        }
    }
    let words = match takes {
        Takes::Word(word) => vec![word],
        _ => Vec::new(),
    };
    for value in takes.accepted().iter().chain(&words) {
        let errors = errors(kind, &spec.replace('%', value));
        if !errors.is_empty() {
            wrong.push(format!("{field}: {value} ({takes:?}) gives {errors:?}"));
        }
    }
}

/// A template whose `%` is the field's value; the field; what it takes.
type Row = (String, String, Takes);

#[test]
fn a_bad_value_of_any_field_is_one_error_that_names_it() {
    let mut wrong = Vec::new();
    for (kind, rows) in [
        ("VirtualService", virtual_service::rows()),
        ("DestinationRule", destination_rule::rows()),
    ] {
        for (spec, field, takes) in rows {
            check(kind, &spec, &field, takes, &mut wrong);
            check_absent(kind, &spec, &field, &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{} complaints: {wrong:#?}", wrong.len());
}

/// Null is as good as absent; where something is required, either is one error that names it.
fn check_absent(kind: &str, spec: &str, field: &str, wrong: &mut Vec<String>) {
    let text = object(kind, &spec.replace('%', "null"));
    let mut document = yaml::read(&text).expect("valid YAML").remove(0);
    let null = errors_of(document.clone());
    // What is absent may be told at another field beside it, which is required then.
    let parent = field.rsplit_once('.').map_or("", |(parent, _)| parent);
    if null.len() > 1 || !null.iter().all(|one| one.starts_with(parent)) {
        wrong.push(format!("{field}: null gives {null:?}"));
    }
    // Of a user's own key there is no absence, nor of an item of a list.
    let Some((parent, key)) = field.rsplit_once('.').filter(|(_, key)| key.len() > 1) else {
        return;
    };
    if key.ends_with(']') {
        return;
    }
    let Value::Fields(all) = &mut at(&mut document, parent).value else {
        panic!("{parent} is a mapping");
    };
    let before = all.len();
    all.retain(|(name, _)| **name != *key);
    let removed = all.len() < before;
    let absent = errors_of(document);
    if !removed || absent != null {
        wrong.push(format!("{field}: absent gives {absent:?}, null {null:?}"));
    }
}

/// The value at a field.
fn at<'a>(node: &'a mut Node, field: &str) -> &'a mut Node {
    fn inner<'a>(node: &'a mut Node, name: &str) -> &'a mut Node {
        let Value::Fields(all) = &mut node.value else {
            panic!("a mapping with {name}");
        };
        let found = all.iter_mut().find(|(one, _)| **one == *name);
        &mut found.expect("a field").1
    }
    let parts = field.split('.');
    parts.fold(node, |node, part| match part.split_once('[') {
        Some((key, index)) => {
            let index: usize = index.trim_end_matches(']').parse().expect("an index");
            let Value::List(items) = &mut inner(node, key).value else {
                panic!("{key} is a list");
            };
            &mut items[index]
        }
        None => inner(node, part),
    })
}

/// serde tells which fields there are, and none of them is without a row above.
#[test]
fn no_field_is_left_out() {
    use crate::api::destination_rule::DestinationRuleSpec;
    use crate::api::virtual_service::VirtualServiceSpec;

    let (mut count, mut missing) = (0, Vec::new());
    for (fields, rows) in [
        (
            shape::fields::<VirtualServiceSpec>("spec"),
            virtual_service::rows(),
        ),
        (
            shape::fields::<DestinationRuleSpec>("spec"),
            destination_rule::rows(),
        ),
    ] {
        for field in fields {
            count += 1;
            // The items of a list of texts are of the list's own row.
            let whole = field.trim_end_matches("[]");
            if !rows
                .iter()
                .any(|(_, row, _)| is(row, &field) || is(row, whole))
            {
                missing.push(field);
            }
        }
    }
    assert!(count > 400, "{count}");
    assert!(
        missing.is_empty(),
        "{} have no row: {missing:#?}",
        missing.len()
    );
}

/// Whether `row`, with an index at each list, is the field that serde asks for.
fn is(row: &str, field: &str) -> bool {
    let (rows, fields): (Vec<_>, Vec<_>) = (row.split('.').collect(), field.split('.').collect());
    rows.len() == fields.len()
        && rows
            .iter()
            .zip(fields)
            .all(|(row, field)| field == "*" || row.replace("[0]", "[]") == field)
}
#[test]
fn the_protos_own_names_are_read_as_well() {
    assert_eq!(
        errors(
            "VirtualService",
            "hosts: [web], http: [{retries: {attempts: 1, per_try_timeout: 0s}, route: [{destination: {host: web}}]}]"
        ),
        ["spec.http[0].retries.perTryTimeout"]
    );
    assert_eq!(
        errors(
            "DestinationRule",
            "host: web, traffic_policy: {connection_pool: {http: {http1_max_pending_requests: -1}}}"
        ),
        ["spec.trafficPolicy.connectionPool.http.http1MaxPendingRequests"]
    );
}

#[test]
fn what_excludes_each_other_is_refused() {
    let to = "route: [{destination: {host: web}}]";
    for (rule, field) in [
        (format!("redirect: {{uri: /}}, {to}"), "redirect"),
        (
            format!("directResponse: {{status: 200}}, {to}"),
            "directResponse",
        ),
        (format!("delegate: {{name: a}}, {to}"), "delegate"),
        (
            "redirect: {uri: /}, directResponse: {status: 200}".to_owned(),
            "directResponse",
        ),
        (
            "redirect: {uri: /}, rewrite: {uri: /}".to_owned(),
            "rewrite",
        ),
        (
            "redirect: {uri: /}, fault: {abort: {httpStatus: 500}}".to_owned(),
            "fault",
        ),
        (
            "directResponse: {status: 200}, rewrite: {uri: /}".to_owned(),
            "rewrite",
        ),
        ("redirect: {}".to_owned(), "redirect"),
        (
            "redirect: {uri: /, prefixRewrite: /}, match: [{uri: {prefix: /}}]".to_owned(),
            "redirect.prefixRewrite",
        ),
        (
            "redirect: {prefixRewrite: /}, match: [{uri: {exact: /}}]".to_owned(),
            "redirect.prefixRewrite",
        ),
        (
            "redirect: {prefixRewrite: /}".to_owned(),
            "redirect.prefixRewrite",
        ),
        (
            "redirect: {port: 80, derivePort: FROM_REQUEST_PORT}".to_owned(),
            "redirect.derivePort",
        ),
        (
            "redirect: {uri: /, redirectCode: 305}".to_owned(),
            "redirect.redirectCode",
        ),
        ("redirect: {scheme: ftp}".to_owned(), "redirect.scheme"),
        (
            "directResponse: {status: 200, body: {string: a, bytes: YQ==}}".to_owned(),
            "directResponse.body",
        ),
        (format!("rewrite: {{}}, {to}"), "rewrite"),
        (
            format!("rewrite: {{uri: /, uriRegexRewrite: {{match: a, rewrite: b}}}}, {to}"),
            "rewrite.uriRegexRewrite",
        ),
        (format!("rewrite: {{uri: '/a b'}}, {to}"), "rewrite.uri"),
        (
            format!("retries: {{perTryTimeout: 1s}}, {to}"),
            "retries.perTryTimeout",
        ),
        (
            format!("retries: {{attempts: 0, retryOn: 5xx}}, {to}"),
            "retries.retryOn",
        ),
        (format!("fault: {{}}, {to}"), "fault"),
        (
            format!("fault: {{delay: {{percentage: {{value: 1}}}}}}, {to}"),
            "fault.delay.fixedDelay",
        ),
        (
            format!("fault: {{delay: {{fixedDelay: 1s, exponentialDelay: 1s}}}}, {to}"),
            "fault.delay.exponentialDelay",
        ),
        (
            format!("fault: {{abort: {{http2Error: x}}}}, {to}"),
            "fault.abort.http2Error",
        ),
        (
            format!("fault: {{abort: {{httpStatus: 500, grpcStatus: OK}}}}, {to}"),
            "fault.abort",
        ),
        (
            format!("mirror: {{host: a}}, mirrors: [{{destination: {{host: a}}}}], {to}"),
            "mirrors",
        ),
        (format!("mirrors: [{{}}], {to}"), "mirrors[0].destination"),
        (
            format!("corsPolicy: {{allowMethods: [get]}}, {to}"),
            "corsPolicy.allowMethods[0]",
        ),
        (
            format!("corsPolicy: {{allowOrigins: [{{}}]}}, {to}"),
            "corsPolicy.allowOrigins[0]",
        ),
        (
            format!("headers: {{request: {{set: {{':path': a}}}}}}, {to}"),
            "headers.request.set.:path",
        ),
        (
            format!("headers: {{request: {{remove: [Host]}}}}, {to}"),
            "headers.request.remove[0]",
        ),
        (
            format!("headers: {{response: {{add: {{'a b': c}}}}}}, {to}"),
            "headers.response.add.a b",
        ),
        (
            format!("headers: {{request: {{set: {{host: a}}}}}}, rewrite: {{authority: b}}, {to}"),
            "",
        ),
    ] {
        let errors = errors(
            "VirtualService",
            &format!("hosts: [web], http: [{{{rule}}}]"),
        );
        let field = format!("spec.http[0].{field}");
        assert_eq!(errors, [field.trim_end_matches('.')], "{rule}");
    }
    for (policy, field) in [
        ("{}", ""),
        ("{connectionPool: {}}", "connectionPool"),
        (
            "{connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}",
            "connectionPool.http.h2UpgradePolicy",
        ),
        (
            "{connectionPool: {http: {http2KeepAlive: {interval: 1s}}}}",
            "connectionPool.http.http2KeepAlive.timeout",
        ),
        (
            "{loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}}",
            "loadBalancer.consistentHash",
        ),
        (
            "{loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: a}}}",
            "loadBalancer.consistentHash",
        ),
        (
            "{loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 1, maglev: {tableSize: 65537}}}}",
            "loadBalancer.consistentHash.minimumRingSize",
        ),
        (
            "{loadBalancer: {consistentHash: {httpCookie: {name: a, attributes: [{name: b}, {name: b}]}}}}",
            "loadBalancer.consistentHash.httpCookie.attributes[1].name",
        ),
        (
            "{loadBalancer: {consistentHash: {httpCookie: {ttl: 0s}}}}",
            "loadBalancer.consistentHash.httpCookie.name",
        ),
        (
            "{loadBalancer: {localityLbSetting: {}, zoneAwareLbSetting: {}}}",
            "loadBalancer.zoneAwareLbSetting",
        ),
        (
            "{loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 100}}], failover: [{from: a, to: b}]}}}",
            "loadBalancer.localityLbSetting.distribute",
        ),
        (
            "{loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 99}}]}}}",
            "loadBalancer.localityLbSetting.distribute[0].to",
        ),
        (
            "{loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 100}}, {from: a/b, to: {b: 100}}]}}}",
            "loadBalancer.localityLbSetting.distribute[1].from",
        ),
        (
            "{loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}}",
            "loadBalancer.localityLbSetting.failover[0].to",
        ),
        (
            "{loadBalancer: {localityLbSetting: {failover: [{from: a/b, to: c}]}}}",
            "loadBalancer.localityLbSetting.failover[0].from",
        ),
        (
            "{loadBalancer: {warmup: {}}}",
            "loadBalancer.warmup.duration",
        ),
        (
            "{outlierDetection: {consecutiveLocalOriginFailures: 3}}",
            "outlierDetection.consecutiveLocalOriginFailures",
        ),
        (
            "{tls: {mode: MUTUAL, privateKey: a}}",
            "tls.clientCertificate",
        ),
        ("{tls: {mode: ISTIO_MUTUAL, sni: a}}", "tls.sni"),
        (
            "{tls: {mode: SIMPLE, credentialName: a, caCertificates: b}}",
            "tls.caCertificates",
        ),
        (
            "{tunnel: {targetHost: a, targetPort: 1}, proxyProtocol: {}}",
            "proxyProtocol",
        ),
        (
            "{tunnel: {protocol: PUT, targetHost: a, targetPort: 1}}",
            "tunnel.protocol",
        ),
    ] {
        let errors = errors(
            "DestinationRule",
            &format!("host: web, trafficPolicy: {policy}"),
        );
        let field = format!("spec.trafficPolicy.{field}");
        assert_eq!(errors, [field.trim_end_matches('.')], "{policy}");
    }
}
