//! Every field of VirtualService, and what it takes.

use super::Row;
use super::Takes::{
    self, Bool, Count, Duration, List, Mapping, Nothing, Percent, Port, Seconds, Share, Status,
    Text, Word,
};

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

/// A row for each field.
pub(super) fn rows() -> Vec<Row> {
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
