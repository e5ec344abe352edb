//! Every field of VirtualService and DestinationRule with values of the wrong type, negative, zero,
//! enormous, not a number, empty and missing: each mistake is one error that names the field.

use super::*;

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
            Self::Mapping => &["x", "1", "true", "[1]"],
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
            Self::Percent => &["1"],
            Self::Share => &["0", "0.0001", "100"],
            Self::Factor => &["0.5", "1", "20"],
            Self::Bool => &["true", "false"],
            Self::Text | Self::List | Self::Mapping | Self::Word(_) => &[],
            Self::Port => &["1", "65535"],
        }
    }
}

/// For each value: the errors, as the fields that they name.
fn errors(kind: &str, spec: &str) -> Vec<String> {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{{spec}}}\n"
    );
    let documents = yaml::read(&text).expect(&text);
    let decoded: Vec<Decoded> = documents.into_iter().flat_map(decode).collect();
    let findings = decoded.iter().flat_map(|one| &one.findings);
    let errors: Vec<String> = findings
        .filter(|one| one.severity == crate::types::Severity::Error)
        .map(|one| one.field.clone())
        .collect();
    // An object with a mistake is not in force, one without is.
    assert_eq!(decoded[0].object.is_none(), !errors.is_empty(), "{text}");
    errors
}

fn check(kind: &str, spec: &str, field: &str, takes: Takes) {
    for value in takes.refused() {
        let errors = errors(kind, &spec.replace('%', value));
        let names = |one: &String| {
            one.starts_with(field) || field.starts_with(one.as_str()) && !one.is_empty()
        };
        assert!(
            !errors.is_empty() && errors.iter().any(names),
            "{field}: {value} ({takes:?}) gives {errors:?}"
        );
        assert_eq!(
            errors.len(),
            1,
            "{field}: {value} ({takes:?}) gives {errors:?}"
        );
    }
    let words = match takes {
        Takes::Word(word) => vec![word],
        _ => Vec::new(),
    };
    // Null is as good as absent, wherever absence is.
    for value in takes.accepted().iter().chain(&words) {
        let errors = errors(kind, &spec.replace('%', value));
        assert!(
            errors.is_empty(),
            "{field}: {value} ({takes:?}) gives {errors:?}"
        );
    }
}

#[test]
fn fields_of_virtual_services() {
    use Takes::*;
    let to = "route: [{destination: {host: web}}]";
    for (rule, field, takes) in [
        ("name: %", "name", Text),
        ("timeout: %", "timeout", Duration),
        ("retries: %", "retries", Mapping),
        ("retries: {attempts: %}", "retries.attempts", Count),
        (
            "retries: {attempts: 1, perTryTimeout: %}",
            "retries.perTryTimeout",
            Duration,
        ),
        (
            "retries: {attempts: 1, backoff: %}",
            "retries.backoff",
            Duration,
        ),
        (
            "retries: {attempts: 1, retryOn: %}",
            "retries.retryOn",
            Text,
        ),
        (
            "retries: {attempts: 1, retryRemoteLocalities: %}",
            "retries.retryRemoteLocalities",
            Bool,
        ),
        (
            "retries: {attempts: 1, retryIgnorePreviousHosts: %}",
            "retries.retryIgnorePreviousHosts",
            Bool,
        ),
        ("rewrite: %", "rewrite", Mapping),
        ("rewrite: {uri: %}", "rewrite.uri", Text),
        ("rewrite: {authority: %}", "rewrite.authority", Text),
        (
            "rewrite: {uriRegexRewrite: %}",
            "rewrite.uriRegexRewrite",
            Mapping,
        ),
        (
            "rewrite: {uriRegexRewrite: {match: %, rewrite: a}}",
            "rewrite.uriRegexRewrite.match",
            Text,
        ),
        (
            "rewrite: {uriRegexRewrite: {match: a, rewrite: %}}",
            "rewrite.uriRegexRewrite.rewrite",
            Text,
        ),
        ("fault: %", "fault", Mapping),
        (
            "fault: {delay: {fixedDelay: %, percentage: {value: 1}}}",
            "fault.delay.fixedDelay",
            Duration,
        ),
        (
            "fault: {delay: {fixedDelay: 1s, percentage: {value: %}}}",
            "fault.delay.percentage.value",
            Share,
        ),
        (
            "fault: {delay: {fixedDelay: 1s, percent: %}}",
            "fault.delay.percent",
            Percent,
        ),
        (
            "fault: {abort: {httpStatus: %, percentage: {value: 1}}}",
            "fault.abort.httpStatus",
            Word("503"),
        ),
        (
            "fault: {abort: {grpcStatus: %, percentage: {value: 1}}}",
            "fault.abort.grpcStatus",
            Word("UNAVAILABLE"),
        ),
        (
            "fault: {abort: {httpStatus: 503, percentage: {value: %}}}",
            "fault.abort.percentage.value",
            Share,
        ),
        ("mirror: %", "mirror", Mapping),
        (
            "mirror: {host: web, port: {number: %}}",
            "mirror.port.number",
            Port,
        ),
        (
            "mirror: {host: web}, mirrorPercentage: {value: %}",
            "mirrorPercentage.value",
            Share,
        ),
        (
            "mirror: {host: web}, mirrorPercent: %",
            "mirrorPercent",
            Percent,
        ),
        ("mirrors: %", "mirrors", List),
        (
            "mirrors: [{destination: {host: web}, percentage: {value: %}}]",
            "mirrors[0].percentage.value",
            Share,
        ),
        ("corsPolicy: %", "corsPolicy", Mapping),
        (
            "corsPolicy: {allowOrigins: %}",
            "corsPolicy.allowOrigins",
            List,
        ),
        (
            "corsPolicy: {allowMethods: %}",
            "corsPolicy.allowMethods",
            List,
        ),
        (
            "corsPolicy: {allowHeaders: %}",
            "corsPolicy.allowHeaders",
            List,
        ),
        (
            "corsPolicy: {exposeHeaders: %}",
            "corsPolicy.exposeHeaders",
            List,
        ),
        ("corsPolicy: {maxAge: %}", "corsPolicy.maxAge", Seconds),
        (
            "corsPolicy: {allowCredentials: %}",
            "corsPolicy.allowCredentials",
            Bool,
        ),
        (
            "corsPolicy: {unmatchedPreflights: %}",
            "corsPolicy.unmatchedPreflights",
            Word("IGNORE"),
        ),
        ("headers: %", "headers", Mapping),
        (
            "headers: {request: {set: %}}",
            "headers.request.set",
            Mapping,
        ),
        (
            "headers: {request: {set: {a: %}}}",
            "headers.request.set.a",
            Text,
        ),
        (
            "headers: {request: {add: {a: %}}}",
            "headers.request.add.a",
            Text,
        ),
        (
            "headers: {response: {remove: %}}",
            "headers.response.remove",
            List,
        ),
        ("match: %", "match", List),
        ("match: [{uri: %}]", "match[0].uri", Mapping),
        (
            "match: [{scheme: {exact: %}}]",
            "match[0].scheme.exact",
            Text,
        ),
        (
            "match: [{method: {prefix: %}}]",
            "match[0].method.prefix",
            Text,
        ),
        (
            "match: [{authority: {regex: %}}]",
            "match[0].authority.regex",
            Text,
        ),
        (
            "match: [{headers: {x: {exact: %}}}]",
            "match[0].headers.x.exact",
            Text,
        ),
        (
            "match: [{withoutHeaders: {x: {exact: %}}}]",
            "match[0].withoutHeaders.x.exact",
            Text,
        ),
        (
            "match: [{queryParams: {x: {exact: %}}}]",
            "match[0].queryParams.x.exact",
            Text,
        ),
        (
            "match: [{ignoreUriCase: %}]",
            "match[0].ignoreUriCase",
            Bool,
        ),
        (
            "match: [{sourceLabels: %}]",
            "match[0].sourceLabels",
            Mapping,
        ),
        (
            "match: [{sourceLabels: {a: %}}]",
            "match[0].sourceLabels.a",
            Text,
        ),
        (
            "match: [{sourceNamespace: %}]",
            "match[0].sourceNamespace",
            Text,
        ),
        ("match: [{gateways: %}]", "match[0].gateways", List),
        ("match: [{statPrefix: %}]", "match[0].statPrefix", Text),
    ] {
        let spec = format!("hosts: [web], http: [{{{rule}, {to}}}]");
        check(
            "VirtualService",
            &spec,
            &format!("spec.http[0].{field}"),
            takes,
        );
    }
    for (spec, field, takes) in [
        (
            "hosts: %, http: [{route: [{destination: {host: web}}]}]",
            "spec.hosts",
            List,
        ),
        (
            "hosts: [web], gateways: %, http: [{route: [{destination: {host: web}}]}]",
            "spec.gateways",
            List,
        ),
        (
            "hosts: [web], exportTo: %, http: [{route: [{destination: {host: web}}]}]",
            "spec.exportTo",
            List,
        ),
        ("hosts: [web], http: %", "spec.http", List),
        ("hosts: [web], tcp: %", "spec.tcp", List),
        ("hosts: [web], tls: %", "spec.tls", List),
        (
            "hosts: [web], http: [{route: [{destination: {host: %}}]}]",
            "spec.http[0].route[0].destination.host",
            Text,
        ),
        (
            "hosts: [web], http: [{route: [{destination: {host: web, port: {number: %}}}]}]",
            "spec.http[0].route[0].destination.port.number",
            Port,
        ),
        (
            "hosts: [web], http: [{route: [{destination: {host: web}, weight: %}]}]",
            "spec.http[0].route[0].weight",
            Count,
        ),
        (
            "hosts: [web], http: [{route: [{destination: {host: web}, headers: %}]}]",
            "spec.http[0].route[0].headers",
            Mapping,
        ),
        (
            "hosts: [web], http: [{redirect: {uri: %}}]",
            "spec.http[0].redirect",
            Text,
        ),
        (
            "hosts: [web], http: [{redirect: {port: %}}]",
            "spec.http[0].redirect.port",
            Port,
        ),
        (
            "hosts: [web], http: [{redirect: {derivePort: %}}]",
            "spec.http[0].redirect.derivePort",
            Word("FROM_REQUEST_PORT"),
        ),
        (
            "hosts: [web], http: [{redirect: {uri: /, scheme: %}}]",
            "spec.http[0].redirect.scheme",
            Text,
        ),
        (
            "hosts: [web], http: [{redirect: {uri: /, redirectCode: %}}]",
            "spec.http[0].redirect.redirectCode",
            Word("308"),
        ),
        (
            "hosts: [web], http: [{directResponse: {status: %}}]",
            "spec.http[0].directResponse.status",
            Word("503"),
        ),
        (
            "hosts: [web], http: [{directResponse: {status: 200, body: {string: %}}}]",
            "spec.http[0].directResponse.body.string",
            Text,
        ),
        (
            "hosts: [web], http: [{delegate: {name: %}}]",
            "spec.http[0].delegate.name",
            Text,
        ),
        (
            "hosts: [web], tcp: [{match: [{port: 80, destinationSubnets: %}], route: [{destination: {host: web}}]}]",
            "spec.tcp[0].match[0].destinationSubnets",
            List,
        ),
        (
            "hosts: [web], tcp: [{route: [{destination: {host: web}, weight: %}]}]",
            "spec.tcp[0].route[0].weight",
            Count,
        ),
        (
            "hosts: [web], tls: [{match: [{sniHosts: %}], route: [{destination: {host: web}}]}]",
            "spec.tls[0].match[0].sniHosts",
            List,
        ),
        (
            "hosts: [web], tls: [{match: [{sniHosts: [web], sourceNamespace: %}], route: [{destination: {host: web}}]}]",
            "spec.tls[0].match[0].sourceNamespace",
            Text,
        ),
    ] {
        check("VirtualService", spec, field, takes);
    }
}

#[test]
fn fields_of_destination_rules() {
    use Takes::*;
    for (policy, field, takes) in [
        ("%", "", Mapping),
        ("{loadBalancer: %}", "loadBalancer", Mapping),
        (
            "{loadBalancer: {simple: %}}",
            "loadBalancer.simple",
            Word("ROUND_ROBIN"),
        ),
        (
            "{loadBalancer: {warmupDurationSecs: %}}",
            "loadBalancer.warmupDurationSecs",
            Duration,
        ),
        (
            "{loadBalancer: {warmup: {duration: %}}}",
            "loadBalancer.warmup.duration",
            Duration,
        ),
        (
            "{loadBalancer: {warmup: {duration: 1s, minimumPercent: %}}}",
            "loadBalancer.warmup.minimumPercent",
            Share,
        ),
        (
            "{loadBalancer: {warmup: {duration: 1s, aggression: %}}}",
            "loadBalancer.warmup.aggression",
            Factor,
        ),
        (
            "{loadBalancer: {consistentHash: %}}",
            "loadBalancer.consistentHash",
            Mapping,
        ),
        (
            "{loadBalancer: {consistentHash: {httpHeaderName: %}}}",
            "loadBalancer.consistentHash.httpHeaderName",
            Text,
        ),
        (
            "{loadBalancer: {consistentHash: {httpQueryParameterName: %}}}",
            "loadBalancer.consistentHash.httpQueryParameterName",
            Text,
        ),
        (
            "{loadBalancer: {consistentHash: {useSourceIp: %}}}",
            "loadBalancer.consistentHash.useSourceIp",
            Bool,
        ),
        (
            "{loadBalancer: {consistentHash: {httpCookie: %}}}",
            "loadBalancer.consistentHash.httpCookie",
            Mapping,
        ),
        (
            "{loadBalancer: {consistentHash: {httpCookie: {name: a, ttl: %}}}}",
            "loadBalancer.consistentHash.httpCookie.ttl",
            DurationOrZero,
        ),
        (
            "{loadBalancer: {consistentHash: {httpCookie: {name: a, path: %}}}}",
            "loadBalancer.consistentHash.httpCookie.path",
            Text,
        ),
        (
            "{loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: %}}}}",
            "loadBalancer.consistentHash.maglev.tableSize",
            Word("65537"),
        ),
        (
            "{loadBalancer: {localityLbSetting: {enabled: %}}}",
            "loadBalancer.localityLbSetting.enabled",
            Bool,
        ),
        (
            "{loadBalancer: {localityLbSetting: {failoverPriority: %}}}",
            "loadBalancer.localityLbSetting.failoverPriority",
            List,
        ),
        (
            "{loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: %}}]}}}",
            "loadBalancer.localityLbSetting.distribute[0].to",
            Word("100"),
        ),
        (
            "{connectionPool: {tcp: {maxConnections: %}}}",
            "connectionPool.tcp.maxConnections",
            Count,
        ),
        (
            "{connectionPool: {tcp: {connectTimeout: %}}}",
            "connectionPool.tcp.connectTimeout",
            Duration,
        ),
        (
            "{connectionPool: {tcp: {idleTimeout: %}}}",
            "connectionPool.tcp.idleTimeout",
            DurationOrZero,
        ),
        (
            "{connectionPool: {tcp: {maxConnectionDuration: %}}}",
            "connectionPool.tcp.maxConnectionDuration",
            Duration,
        ),
        (
            "{connectionPool: {tcp: {tcpKeepalive: {probes: %}}}}",
            "connectionPool.tcp.tcpKeepalive.probes",
            Count,
        ),
        (
            "{connectionPool: {tcp: {tcpKeepalive: {time: %}}}}",
            "connectionPool.tcp.tcpKeepalive.time",
            Duration,
        ),
        (
            "{connectionPool: {tcp: {tcpKeepalive: {interval: %}}}}",
            "connectionPool.tcp.tcpKeepalive.interval",
            Duration,
        ),
        (
            "{connectionPool: {http: {http1MaxPendingRequests: %}}}",
            "connectionPool.http.http1MaxPendingRequests",
            Count,
        ),
        (
            "{connectionPool: {http: {http2MaxRequests: %}}}",
            "connectionPool.http.http2MaxRequests",
            Count,
        ),
        (
            "{connectionPool: {http: {maxRequestsPerConnection: %}}}",
            "connectionPool.http.maxRequestsPerConnection",
            Count,
        ),
        (
            "{connectionPool: {http: {maxRetries: %}}}",
            "connectionPool.http.maxRetries",
            Count,
        ),
        (
            "{connectionPool: {http: {maxConcurrentStreams: %}}}",
            "connectionPool.http.maxConcurrentStreams",
            Count,
        ),
        (
            "{connectionPool: {http: {idleTimeout: %}}}",
            "connectionPool.http.idleTimeout",
            Duration,
        ),
        (
            "{connectionPool: {http: {h2UpgradePolicy: %}}}",
            "connectionPool.http.h2UpgradePolicy",
            Word("UPGRADE"),
        ),
        (
            "{connectionPool: {http: {useClientProtocol: %}}}",
            "connectionPool.http.useClientProtocol",
            Bool,
        ),
        (
            "{connectionPool: {http: {http2KeepAlive: {interval: %, timeout: 1s}}}}",
            "connectionPool.http.http2KeepAlive.interval",
            Duration,
        ),
        (
            "{connectionPool: {http: {http2KeepAlive: {interval: 1s, timeout: %}}}}",
            "connectionPool.http.http2KeepAlive.timeout",
            Duration,
        ),
        (
            "{outlierDetection: {consecutive5xxErrors: %}}",
            "outlierDetection.consecutive5xxErrors",
            Count,
        ),
        (
            "{outlierDetection: {consecutiveGatewayErrors: %}}",
            "outlierDetection.consecutiveGatewayErrors",
            Count,
        ),
        (
            "{outlierDetection: {interval: %}}",
            "outlierDetection.interval",
            Duration,
        ),
        (
            "{outlierDetection: {baseEjectionTime: %}}",
            "outlierDetection.baseEjectionTime",
            Duration,
        ),
        (
            "{outlierDetection: {maxEjectionPercent: %}}",
            "outlierDetection.maxEjectionPercent",
            Percent,
        ),
        (
            "{outlierDetection: {minHealthPercent: %}}",
            "outlierDetection.minHealthPercent",
            Percent,
        ),
        (
            "{outlierDetection: {splitExternalLocalOriginErrors: %}}",
            "outlierDetection.splitExternalLocalOriginErrors",
            Bool,
        ),
        (
            "{outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: %}}",
            "outlierDetection.consecutiveLocalOriginFailures",
            Count,
        ),
        (
            "{outlierDetection: {outlierDetectionHttpErrorCodes: [%]}}",
            "outlierDetection.outlierDetectionHttpErrorCodes[0]",
            Word("429"),
        ),
        ("{retryBudget: {percent: %}}", "retryBudget.percent", Share),
        (
            "{retryBudget: {minRetryConcurrency: %}}",
            "retryBudget.minRetryConcurrency",
            Count,
        ),
        (
            "{retryBudget: {budgetInterval: %}}",
            "retryBudget.budgetInterval",
            DurationOrZero,
        ),
        ("{tls: {mode: %}}", "tls.mode", Word("SIMPLE")),
        (
            "{tls: {insecureSkipVerify: %}}",
            "tls.insecureSkipVerify",
            Bool,
        ),
        (
            "{tunnel: {targetHost: a, targetPort: %}}",
            "tunnel.targetPort",
            Port,
        ),
        (
            "{proxyProtocol: {version: %}}",
            "proxyProtocol.version",
            Word("V2"),
        ),
        ("{portLevelSettings: %}", "portLevelSettings", List),
        (
            "{portLevelSettings: [{port: {number: %}}]}",
            "portLevelSettings[0].port.number",
            Port,
        ),
        (
            "{portLevelSettings: [{port: {number: 80}, outlierDetection: {interval: %}}]}",
            "portLevelSettings[0].outlierDetection.interval",
            Duration,
        ),
    ] {
        for (spec, at) in [
            ("host: web, trafficPolicy: ", "spec.trafficPolicy"),
            (
                "host: web, subsets: [{name: v1, trafficPolicy: ",
                "spec.subsets[0].trafficPolicy",
            ),
        ] {
            let end = if spec.contains('[') { "}]" } else { "" };
            let field = if field.is_empty() {
                at.to_owned()
            } else {
                format!("{at}.{field}")
            };
            check(
                "DestinationRule",
                &format!("{spec}{policy}{end}"),
                &field,
                takes,
            );
        }
    }
    for (spec, field, takes) in [
        ("host: %", "spec.host", Text),
        ("host: web, exportTo: %", "spec.exportTo", List),
        (
            "host: web, workloadSelector: %",
            "spec.workloadSelector",
            Mapping,
        ),
        (
            "host: web, workloadSelector: {matchLabels: {a: %}}",
            "spec.workloadSelector.matchLabels.a",
            Text,
        ),
        ("host: web, subsets: %", "spec.subsets", List),
        (
            "host: web, subsets: [{name: %}]",
            "spec.subsets[0].name",
            Text,
        ),
        (
            "host: web, subsets: [{name: a, labels: {a: %}}]",
            "spec.subsets[0].labels.a",
            Text,
        ),
    ] {
        check("DestinationRule", spec, field, takes);
    }
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
