//! Every field of VirtualService and DestinationRule with values of the wrong type, negative, zero,
//! enormous, not a number, empty and missing: each mistake is one error that names the field.

use super::*;

mod shape;

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

use Takes::{
    Anything, Bool, Code, Count, Duration, DurationOrZero, Factor, Integer, Large, List, Mapping,
    Nothing, Percent, Port, Prime, Seconds, Share, Status, Text, Word,
};

/// A template whose `%` is the field's value; the field; what it takes.
type Row = (String, String, Takes);

/// Fields of a rule of `http` that forwards.
const RULES: &[(&str, &str, Takes)] = &[
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
        Status,
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
    ("fault: {delay: %}", "fault.delay", Mapping),
    (
        "fault: {delay: {fixedDelay: 1s, percentage: %}}",
        "fault.delay.percentage",
        Mapping,
    ),
    ("fault: {abort: %}", "fault.abort", Mapping),
    (
        "fault: {abort: {httpStatus: 503, percentage: %}}",
        "fault.abort.percentage",
        Mapping,
    ),
    (
        "mirror: {host: web}, mirrorPercentage: %",
        "mirrorPercentage",
        Mapping,
    ),
    (
        "mirrors: [{destination: {host: web}, percentage: %}]",
        "mirrors[0].percentage",
        Mapping,
    ),
    (
        "corsPolicy: {allowOrigin: %}",
        "corsPolicy.allowOrigin",
        List,
    ),
    ("match: [{name: %}]", "match[0].name", Text),
    ("match: [{port: %}]", "match[0].port", Count),
    ("match: [{headers: %}]", "match[0].headers", Mapping),
    (
        "match: [{withoutHeaders: %}]",
        "match[0].withoutHeaders",
        Mapping,
    ),
    ("match: [{queryParams: %}]", "match[0].queryParams", Mapping),
    (
        "fault: {delay: {fixedDelay: 1s, percentage: {value: 1}, exponentialDelay: %}}",
        "fault.delay.exponentialDelay",
        Nothing,
    ),
    (
        "fault: {abort: {percentage: {value: 1}, http2Error: %}}",
        "fault.abort.http2Error",
        Nothing,
    ),
];

/// The others of a VirtualService.
const VIRTUAL_SERVICES: &[(&str, &str, Takes)] = &[
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
        "spec.http[0].redirect.uri",
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
        Status,
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
    (
        "hosts: [web], http: [{route: %}]",
        "spec.http[0].route",
        List,
    ),
    (
        "hosts: [web], http: [{redirect: %}]",
        "spec.http[0].redirect",
        Mapping,
    ),
    (
        "hosts: [web], http: [{match: [{uri: {prefix: /}}], redirect: {prefixRewrite: %, port: 80}}]",
        "spec.http[0].redirect.prefixRewrite",
        Text,
    ),
    (
        "hosts: [web], http: [{redirect: {uri: /, authority: %}}]",
        "spec.http[0].redirect.authority",
        Text,
    ),
    (
        "hosts: [web], http: [{directResponse: %}]",
        "spec.http[0].directResponse",
        Mapping,
    ),
    (
        "hosts: [web], http: [{directResponse: {status: 200, body: %}}]",
        "spec.http[0].directResponse.body",
        Mapping,
    ),
    (
        "hosts: [web], http: [{directResponse: {status: 200, body: {bytes: %}}}]",
        "spec.http[0].directResponse.body.bytes",
        Text,
    ),
    (
        "hosts: [web], http: [{delegate: %}]",
        "spec.http[0].delegate",
        Mapping,
    ),
    (
        "hosts: [web], http: [{delegate: {name: a, namespace: %}}]",
        "spec.http[0].delegate.namespace",
        Text,
    ),
    (
        "hosts: [web], tls: [{match: %, route: [{destination: {host: web}}]}]",
        "spec.tls[0].match",
        List,
    ),
    (
        "hosts: [web], tls: [{match: [{sniHosts: [web]}], route: %}]",
        "spec.tls[0].route",
        List,
    ),
    (
        "hosts: [web], tls: [{match: [{sniHosts: [web]}], route: [{destination: {host: web}, weight: %}]}]",
        "spec.tls[0].route[0].weight",
        Count,
    ),
    (
        "hosts: [web], tcp: [{match: %, route: [{destination: {host: web}}]}]",
        "spec.tcp[0].match",
        List,
    ),
    ("hosts: [web], tcp: [{route: %}]", "spec.tcp[0].route", List),
    (
        "hosts: [web], tcp: [{match: [{sourceSubnet: %}], route: [{destination: {host: web}}]}]",
        "spec.tcp[0].match[0].sourceSubnet",
        Text,
    ),
];

/// Fields of `trafficPolicy`.
const POLICIES: &[(&str, &str, Takes)] = &[
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
        Prime,
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
        "loadBalancer.localityLbSetting.distribute[0].to.b",
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
        Code,
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
    (
        "{loadBalancer: {warmup: %}}",
        "loadBalancer.warmup",
        Mapping,
    ),
    (
        "{loadBalancer: {zoneAwareLbSetting: %}}",
        "loadBalancer.zoneAwareLbSetting",
        Anything,
    ),
    (
        "{loadBalancer: {consistentHash: {httpCookie: {name: %}}}}",
        "loadBalancer.consistentHash.httpCookie.name",
        Text,
    ),
    (
        "{loadBalancer: {consistentHash: {httpCookie: {name: a, attributes: %}}}}",
        "loadBalancer.consistentHash.httpCookie.attributes",
        List,
    ),
    (
        "{loadBalancer: {consistentHash: {httpCookie: {name: a, attributes: [{name: %}]}}}}",
        "loadBalancer.consistentHash.httpCookie.attributes[0].name",
        Text,
    ),
    (
        "{loadBalancer: {consistentHash: {httpCookie: {name: a, attributes: [{name: b, value: %}]}}}}",
        "loadBalancer.consistentHash.httpCookie.attributes[0].value",
        Text,
    ),
    (
        "{loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: %}}}",
        "loadBalancer.consistentHash.minimumRingSize",
        Large,
    ),
    (
        "{loadBalancer: {consistentHash: {useSourceIp: true, ringHash: %}}}",
        "loadBalancer.consistentHash.ringHash",
        Mapping,
    ),
    (
        "{loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: %}}}}",
        "loadBalancer.consistentHash.ringHash.minimumRingSize",
        Large,
    ),
    (
        "{loadBalancer: {consistentHash: {useSourceIp: true, maglev: %}}}",
        "loadBalancer.consistentHash.maglev",
        Mapping,
    ),
    (
        "{loadBalancer: {localityLbSetting: %}}",
        "loadBalancer.localityLbSetting",
        Mapping,
    ),
    (
        "{loadBalancer: {localityLbSetting: {distribute: %}}}",
        "loadBalancer.localityLbSetting.distribute",
        List,
    ),
    (
        "{loadBalancer: {localityLbSetting: {distribute: [{from: %, to: {b: 100}}]}}}",
        "loadBalancer.localityLbSetting.distribute[0].from",
        Text,
    ),
    (
        "{loadBalancer: {localityLbSetting: {distribute: [{from: a, to: %}]}}}",
        "loadBalancer.localityLbSetting.distribute[0].to",
        Mapping,
    ),
    (
        "{loadBalancer: {localityLbSetting: {failover: %}}}",
        "loadBalancer.localityLbSetting.failover",
        List,
    ),
    (
        "{loadBalancer: {localityLbSetting: {failover: [{from: %, to: b}]}}}",
        "loadBalancer.localityLbSetting.failover[0].from",
        Text,
    ),
    (
        "{loadBalancer: {localityLbSetting: {failover: [{from: a, to: %}]}}}",
        "loadBalancer.localityLbSetting.failover[0].to",
        Text,
    ),
    ("{connectionPool: %}", "connectionPool", Mapping),
    ("{connectionPool: {tcp: %}}", "connectionPool.tcp", Mapping),
    (
        "{connectionPool: {tcp: {tcpKeepalive: %}}}",
        "connectionPool.tcp.tcpKeepalive",
        Mapping,
    ),
    (
        "{connectionPool: {http: %}}",
        "connectionPool.http",
        Mapping,
    ),
    (
        "{connectionPool: {http: {http2KeepAlive: %}}}",
        "connectionPool.http.http2KeepAlive",
        Mapping,
    ),
    ("{outlierDetection: %}", "outlierDetection", Mapping),
    (
        "{outlierDetection: {consecutiveErrors: %}}",
        "outlierDetection.consecutiveErrors",
        Integer,
    ),
    (
        "{outlierDetection: {outlierDetectionHttpErrorCodes: %}}",
        "outlierDetection.outlierDetectionHttpErrorCodes",
        List,
    ),
    ("{retryBudget: %}", "retryBudget", Mapping),
    ("{tls: %}", "tls", Mapping),
    (
        "{tls: {clientCertificate: %}}",
        "tls.clientCertificate",
        Text,
    ),
    ("{tls: {privateKey: %}}", "tls.privateKey", Text),
    ("{tls: {caCertificates: %}}", "tls.caCertificates", Text),
    ("{tls: {caCrl: %}}", "tls.caCrl", Text),
    ("{tls: {credentialName: %}}", "tls.credentialName", Text),
    ("{tls: {sni: %}}", "tls.sni", Text),
    ("{tls: {subjectAltNames: %}}", "tls.subjectAltNames", List),
    ("{tunnel: %}", "tunnel", Mapping),
    (
        "{tunnel: {protocol: %, targetHost: a, targetPort: 1}}",
        "tunnel.protocol",
        Text,
    ),
    (
        "{tunnel: {targetHost: %, targetPort: 1}}",
        "tunnel.targetHost",
        Text,
    ),
    ("{proxyProtocol: %}", "proxyProtocol", Mapping),
    (
        "{portLevelSettings: [{port: %}]}",
        "portLevelSettings[0].port",
        Mapping,
    ),
];

/// The others of a DestinationRule.
const DESTINATION_RULES: &[(&str, &str, Takes)] = &[
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
    (
        "host: web, workloadSelector: {matchLabels: %}",
        "spec.workloadSelector.matchLabels",
        Mapping,
    ),
    (
        "host: web, subsets: [{name: a, labels: %}]",
        "spec.subsets[0].labels",
        Mapping,
    ),
];

/// Conditions on text, `exact`, `prefix` and `regex` each.
const CONDITIONS: &[(&str, &str)] = &[
    ("match: [{uri: %}]", "match[0].uri"),
    ("match: [{scheme: %}]", "match[0].scheme"),
    ("match: [{method: %}]", "match[0].method"),
    ("match: [{authority: %}]", "match[0].authority"),
    ("match: [{headers: {x: %}}]", "match[0].headers.x"),
    (
        "match: [{withoutHeaders: {x: %}}]",
        "match[0].withoutHeaders.x",
    ),
    ("match: [{queryParams: {x: %}}]", "match[0].queryParams.x"),
    (
        "corsPolicy: {allowOrigins: [%]}",
        "corsPolicy.allowOrigins[0]",
    ),
];

/// Where a destination stands.
const DESTINATIONS: &[(&str, &str)] = &[
    (
        "http: [{route: [{destination: %}]}]",
        "http[0].route[0].destination",
    ),
    (
        "http: [{mirror: %, route: [{destination: {host: web}}]}]",
        "http[0].mirror",
    ),
    (
        "http: [{mirrors: [{destination: %}], route: [{destination: {host: web}}]}]",
        "http[0].mirrors[0].destination",
    ),
    (
        "tcp: [{route: [{destination: %}]}]",
        "tcp[0].route[0].destination",
    ),
    (
        "tls: [{match: [{sniHosts: [web]}], route: [{destination: %}]}]",
        "tls[0].route[0].destination",
    ),
];

/// Where header operations stand.
const OPERATIONS: &[(&str, &str)] = &[
    (
        "headers: %, route: [{destination: {host: web}}]",
        "http[0].headers",
    ),
    (
        "route: [{headers: %, destination: {host: web}}]",
        "http[0].route[0].headers",
    ),
];

/// What `tls` and `tcp` rules ask about alike, where `&` is what else the block has.
const L4: &[(&str, &str, Takes)] = &[
    ("destinationSubnets: %", "destinationSubnets", List),
    ("port: %", "port", Count),
    ("sourceLabels: %", "sourceLabels", Mapping),
    ("sourceLabels: {a: %}", "sourceLabels.a", Text),
    ("sourceNamespace: %", "sourceNamespace", Text),
    ("gateways: %", "gateways", List),
];

fn virtual_services() -> Vec<Row> {
    let to = "route: [{destination: {host: web}}]";
    let rule = |rule: &str, field: &str, takes| {
        let spec = format!("hosts: [web], http: [{{{rule}, {to}}}]");
        (spec, format!("spec.http[0].{field}"), takes)
    };
    let mut rows: Vec<Row> = Vec::new();
    rows.extend(
        RULES
            .iter()
            .map(|(text, field, takes)| rule(text, field, *takes)),
    );
    for (text, field) in CONDITIONS {
        rows.push(rule(text, field, Mapping));
        for kind in ["exact", "prefix", "regex"] {
            let text = text.replace('%', &format!("{{{kind}: %}}"));
            rows.push(rule(&text, &format!("{field}.{kind}"), Text));
        }
    }
    for (text, at) in DESTINATIONS {
        for (value, field, takes) in [
            ("%", "", Mapping),
            ("{host: %}", ".host", Text),
            ("{host: web, subset: %}", ".subset", Text),
            ("{host: web, port: %}", ".port", Mapping),
            ("{host: web, port: {number: %}}", ".port.number", Port),
        ] {
            let spec = format!("hosts: [web], {}", text.replace('%', value));
            rows.push((spec, format!("spec.{at}{field}"), takes));
        }
    }
    for (text, at) in OPERATIONS {
        let mut row = |value: &str, field: &str, takes| {
            let spec = format!("hosts: [web], http: [{{{}}}]", text.replace('%', value));
            rows.push((spec, format!("spec.{at}{field}"), takes));
        };
        row("%", "", Mapping);
        for side in ["request", "response"] {
            row(&format!("{{{side}: %}}"), &format!(".{side}"), Mapping);
            for kind in ["set", "add"] {
                let field = format!(".{side}.{kind}");
                row(&format!("{{{side}: {{{kind}: %}}}}"), &field, Mapping);
                row(
                    &format!("{{{side}: {{{kind}: {{a: %}}}}}}"),
                    &format!("{field}.a"),
                    Text,
                );
            }
            row(
                &format!("{{{side}: {{remove: %}}}}"),
                &format!(".{side}.remove"),
                List,
            );
        }
    }
    for (kind, more) in [("tls", "sniHosts: [web], "), ("tcp", "")] {
        for (text, field, takes) in L4 {
            let spec = format!("hosts: [web], {kind}: [{{match: [{{{more}{text}}}], {to}}}]");
            rows.push((spec, format!("spec.{kind}[0].match[0].{field}"), *takes));
        }
    }
    let others = VIRTUAL_SERVICES.iter();
    rows.extend(others.map(|(spec, field, takes)| ((*spec).into(), (*field).into(), *takes)));
    rows
}

fn destination_rules() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (policy, field, takes) in POLICIES {
        let block = field.split('.').next().unwrap_or_default();
        let of_ports =
            ["loadBalancer", "connectionPool", "outlierDetection", "tls"].contains(&block);
        let inner = policy.trim_start_matches('{');
        let of_a_port = format!("{{portLevelSettings: [{{port: {{number: 80}}, {inner}]}}");
        let mut forms = vec![((*policy).to_owned(), (*field).to_owned())];
        if of_ports {
            forms.push((of_a_port, format!("portLevelSettings[0].{field}")));
        }
        for (policy, field) in forms {
            for (spec, at, end) in [
                ("host: web, trafficPolicy: ", "spec.trafficPolicy", ""),
                (
                    "host: web, subsets: [{name: v1, trafficPolicy: ",
                    "spec.subsets[0].trafficPolicy",
                    "}]",
                ),
            ] {
                let field = format!("{at}.{field}");
                let field = field.trim_end_matches('.').to_owned();
                rows.push((format!("{spec}{policy}{end}"), field, *takes));
            }
        }
    }
    let others = DESTINATION_RULES.iter();
    rows.extend(others.map(|(spec, field, takes)| ((*spec).into(), (*field).into(), *takes)));
    rows
}

#[test]
fn a_bad_value_of_any_field_is_one_error_that_names_it() {
    let mut wrong = Vec::new();
    for (kind, rows) in [
        ("VirtualService", virtual_services()),
        ("DestinationRule", destination_rules()),
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
            virtual_services(),
        ),
        (
            shape::fields::<DestinationRuleSpec>("spec"),
            destination_rules(),
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
