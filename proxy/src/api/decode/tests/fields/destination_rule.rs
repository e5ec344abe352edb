//! Every field of DestinationRule, and what it takes.

use super::Row;
use super::Takes::{
    self, Anything, Bool, Code, Count, Duration, DurationOrZero, Factor, Integer, Large, List,
    Mapping, Percent, Port, Prime, Share, Text, Word,
};

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

/// A row for each field.
pub(super) fn rows() -> Vec<Row> {
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
