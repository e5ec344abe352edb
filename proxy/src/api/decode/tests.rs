//! Mistakes in objects, and what is said about each.

use super::*;
use crate::api::yaml;

/// Every finding of `text` as `severity field@line: message`.
fn findings(text: &str) -> Vec<String> {
    yaml::read(text)
        .expect("valid YAML")
        .into_iter()
        .flat_map(decode)
        .flat_map(|decoded| {
            let lines = decoded.lines;
            decoded.findings.into_iter().map(move |one| {
                let severity = format!("{:?}", one.severity).to_lowercase();
                format!(
                    "{severity} {}@{}: {}",
                    one.field,
                    lines.find(&one.field),
                    one.message
                )
            })
        })
        .collect()
}

fn virtual_service(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: web}}\nspec:\n  {}\n",
        spec.replace('\n', "\n  ")
    )
}

#[test]
fn one_clear_finding_for_each_mistake() {
    for (name, spec, expected) in [
        (
            "nothing wrong",
            "hosts: [web]\nhttp:\n- route: [{destination: {host: web}}]",
            "",
        ),
        (
            "no hosts: a delegate",
            "http:\n- route: [{destination: {host: web}}]",
            "",
        ),
        (
            "no hosts and no delegate",
            "hosts:\ngateways: [gw]\nhttp:\n- route: [{destination: {host: web}}]",
            "error spec.hosts@5: at least one host is required: without any it is a delegate, which can't have gateways",
        ),
        (
            "hosts of the wrong type",
            "hosts: web\nhttp: []",
            "error spec.hosts@5: invalid type: string \"web\", expected a sequence",
        ),
        (
            "a host of the wrong type",
            "hosts: [1]\nhttp: []",
            "error spec.hosts[0]@5: invalid type: integer `1`, expected a string",
        ),
        (
            "a bad host",
            "hosts: ['a b']\nhttp:\n- route: [{destination: {host: web}}]",
            "error spec.hosts[0]@5: \"a b\" is not a host name (a name, a name after \"*.\", \"*\" or an IP address)",
        ),
        (
            "overlapping hosts",
            "hosts: ['*.com', a.com]\nhttp:\n- route: [{destination: {host: web}}]",
            "error spec.hosts[1]@5: \"a.com\" overlaps with \"*.com\"",
        ),
        (
            "everything",
            "hosts: ['*']\nhttp:\n- route: [{destination: {host: web}}]",
            "error spec.hosts[0]@5: \"*\" can't be used for mesh traffic; name the hosts or a domain",
        ),
        (
            "everything at a gateway",
            "hosts: ['*']\ngateways: [gw]\nhttp:\n- route: [{destination: {host: web}}]",
            "",
        ),
        (
            "no routes",
            "hosts: [web]",
            "error spec@4: no routes: http, tcp or tls is required",
        ),
        (
            "no destination",
            "hosts: [web]\nhttp:\n- name: a",
            "error spec.http[0].route@7: the rule has no destination",
        ),
        (
            "destination missing",
            "hosts: [web]\nhttp:\n- route: [{weight: 1}]",
            "error spec.http[0].route[0].destination@7: a destination is required",
        ),
        (
            "destination without a host",
            "hosts: [web]\nhttp:\n- route: [{destination: {}}]",
            "error spec.http[0].route[0].destination.host@7: a host is required",
        ),
        (
            "negative weight",
            "hosts: [web]\nhttp:\n- route:\n  - destination: {host: web}\n    weight: -1",
            "error spec.http[0].route[0].weight@9: -1 is negative; weights start at 0",
        ),
        (
            "weight is no number",
            "hosts: [web]\nhttp:\n- route:\n  - destination: {host: web}\n    weight: lots",
            "error spec.http[0].route[0].weight@9: invalid type: string \"lots\", expected i32",
        ),
        (
            "weight is not whole",
            "hosts: [web]\nhttp:\n- route: [{destination: {host: web}, weight: 1.5}]",
            "error spec.http[0].route[0].weight@7: invalid type: floating point `1.5`, expected i32",
        ),
        (
            "weight is not a number at all",
            "hosts: [web]\nhttp:\n- route: [{destination: {host: web}, weight: .nan}]",
            "error spec.http[0].route[0].weight@7: invalid type: floating point `NaN`, expected i32",
        ),
        (
            "weight is enormous",
            "hosts: [web]\nhttp:\n- route: [{destination: {host: web}, weight: 99999999999}]",
            "error spec.http[0].route[0].weight@7: invalid value: integer `99999999999`, expected i32",
        ),
        (
            "weight is empty",
            "hosts: [web]\nhttp:\n- route: [{destination: {host: web}, weight: }]",
            "",
        ),
        (
            "weights all zero",
            "hosts: [web]\nhttp:\n- route: [{destination: {host: a}}, {destination: {host: b}, weight: 0}]",
            "error spec.http[0].route@7: the weights of several destinations must add up to more than 0",
        ),
        (
            "port out of range",
            "hosts: [web]\nhttp:\n- route: [{destination: {host: web, port: {number: 65536}}}]",
            "error spec.http[0].route[0].destination.port.number@7: invalid value: integer `65536`, expected u16",
        ),
        (
            "port zero",
            "hosts: [web]\nhttp:\n- route: [{destination: {host: web, port: {number: 0}}}]",
            "error spec.http[0].route[0].destination.port.number@7: a port is a number from 1 to 65535",
        ),
        (
            "two kinds of match",
            "hosts: [web]\nhttp:\n- match: [{uri: {exact: /a, prefix: /b}}]\n  route: [{destination: {host: web}}]",
            "error spec.http[0].match[0].uri@7: only one of exact, prefix and regex may be given",
        ),
        (
            "null header",
            "hosts: [web]\nhttp:\n- match: [{headers: {x: }}]\n  route: [{destination: {host: web}}]",
            "error spec.http[0].match[0].headers.x@7: a condition is required; {} asks for presence",
        ),
        (
            "null header, without",
            "hosts: [web]\nhttp:\n- match: [{withoutHeaders: {x: }}]\n  route: [{destination: {host: web}}]",
            "",
        ),
        (
            "empty prefix of a header",
            "hosts: [web]\nhttp:\n- match: [{headers: {x: {prefix: ''}}}]\n  route: [{destination: {host: web}}]",
            "error spec.http[0].match[0].headers.x.prefix@7: must not be empty",
        ),
        (
            "bad header name",
            "hosts: [web]\nhttp:\n- match: [{headers: {'a b': {}}}]\n  route: [{destination: {host: web}}]",
            "error spec.http[0].match[0].headers.a b@7: \"a b\" is not the name of a header",
        ),
        (
            "reserved header name",
            "hosts: [web]\nhttp:\n- match: [{headers: {uri: {exact: /a}}}]\n  route: [{destination: {host: web}}]",
            "warning spec.http[0].match[0].headers.uri@7: uri is not read as a header and has no effect here; use the field uri",
        ),
        (
            "a number where text is due",
            "hosts: [web]\nhttp:\n- match: [{uri: {exact: 1}}]\n  route: [{destination: {host: web}}]",
            "error spec.http[0].match[0].uri.exact@7: invalid type: integer `1`, expected a string",
        ),
        (
            "unlisted gateway",
            "hosts: [web]\nhttp:\n- match: [{gateways: [gw]}]\n  route: [{destination: {host: web}}]",
            "error spec.http[0].match[0].gateways[0]@7: \"gw\" is not in spec.gateways",
        ),
        (
            "two actions",
            "hosts: [web]\nhttp:\n- redirect: {uri: /}\n  route: [{destination: {host: web}}]",
            "error spec.http[0].redirect@7: a rule can't have both redirect and route",
        ),
        (
            "a timeout of nothing",
            "hosts: [web]\nhttp:\n- redirect: {uri: /}\n  timeout: 1s",
            "warning spec.http[0].timeout@8: has no effect: the rule forwards nothing",
        ),
        (
            "a header of a request that is not sent",
            "hosts: [web]\nhttp:\n- directResponse: {status: 200}\n  headers: {request: {remove: [x]}, response: {remove: [x]}}",
            "warning spec.http[0].headers.request@8: has no effect: the rule forwards nothing",
        ),
        (
            "an unknown field",
            "hosts: [web]\nhttp:\n- tiemout: 1s\n  route: [{destination: {host: web}}]",
            "warning spec.http[0].tiemout@7: unknown field: it has no effect; is timeout meant?",
        ),
        (
            "an unknown field of spec",
            "hosts: [web]\nhosst: [x]\nhttp:\n- route: [{destination: {host: web}}]",
            "warning spec.hosst@6: unknown field: it has no effect; is host meant?",
        ),
        (
            "exportTo",
            "hosts: [web]\nexportTo: ['~', a]\nhttp:\n- route: [{destination: {host: web}}]",
            "error spec.exportTo[0]@6: \"~\" (nobody) must stand alone",
        ),
    ] {
        assert_eq!(
            findings(&virtual_service(spec)).join("\n"),
            expected,
            "{name}"
        );
    }
}

#[test]
fn other_kinds_say_what_is_wrong_too() {
    for (name, text, expected) in [
        (
            "a list where a word belongs",
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: a\n  subsets:\n  - name: b\n    trafficPolicy:\n      tls: {mode: [SIMPLE]}",
            "error spec.subsets[0].trafficPolicy.tls.mode@9: invalid type: sequence, expected one of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL",
        ),
        (
            "a field that nobody knows, inside of lists, beside a mistake",
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: a\n  nothing:\n  subsets:\n  - name: b\n    extra: [{x: 1}]\n  - {name: []}",
            "error spec.subsets[1].name@10: invalid type: sequence, expected a string\nwarning spec.subsets[0].extra@9: unknown field: it has no effect",
        ),
        (
            "a list",
            "- a",
            "error @1: not a Kubernetes object: apiVersion, kind and metadata are required",
        ),
        (
            "text",
            "hello",
            "error @1: not a Kubernetes object: apiVersion, kind and metadata are required",
        ),
        (
            "no kind",
            "a: 1",
            "error @1: not a Kubernetes object: apiVersion, kind and metadata are required",
        ),
        ("nothing", "---\n", ""),
        (
            "no business of ours",
            "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}",
            "",
        ),
        (
            "a kind to come",
            "{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {name: a}}",
            "warning @1: Telemetry is not implemented yet: it has no effect",
        ),
        (
            "no metadata",
            "{apiVersion: v1, kind: Pod}",
            "error metadata.name@1: a name is required",
        ),
        (
            "no name",
            "{apiVersion: v1, kind: Pod, metadata: {labels: {}}}",
            "error metadata.name@1: a name is required",
        ),
        (
            "a bad name",
            "{apiVersion: v1, kind: Service, metadata: {name: a.b}}",
            "error metadata.name@1: \"a.b\" is not a name Kubernetes accepts (a-z, 0-9, - and .)",
        ),
        (
            "a bad version",
            "{apiVersion: networking.istio.io/v9, kind: DestinationRule, metadata: {name: a}, spec: {host: a}}",
            "error apiVersion@1: version v9 of DestinationRule is not known; use networking.istio.io/v1",
        ),
        (
            "no spec",
            "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: a}}",
            "error @1: missing field `spec`",
        ),
        (
            "a label that is a number",
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    app.kubernetes.io/version: 1",
            "error metadata.labels.app.kubernetes.io/version@6: invalid type: integer `1`, expected a string",
        ),
        (
            "a bad address",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus:\n  podIPs:\n  - ip: 10.0.0\n",
            "error status.podIPs[0].ip@6: \"10.0.0\" is not an IP address",
        ),
        (
            "a bad target port",
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80, targetPort: 70000}]}}",
            "error spec.ports[0].targetPort@1: expected a port number or the name of a container's port",
        ),
        (
            "a port twice",
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80, name: a}, {port: 80, name: b}]}}",
            "error spec.ports[1].port@1: port 80 is given twice",
        ),
        (
            "a name elsewhere",
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ExternalName}}",
            "warning spec.type@1: ExternalName is not implemented yet: the Service has no effect",
        ),
        (
            "a subset without a name",
            "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: a}, spec: {host: a, subsets: [{labels: {}}]}}",
            "error spec.subsets[0].name@1: a subset needs a name",
        ),
        (
            "TLS by a Secret",
            "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: a}, spec: {host: a, trafficPolicy: {tls: {mode: SIMPLE, credentialName: a}}}}",
            "warning spec.trafficPolicy.tls.credentialName@1: Secrets are not read: connections fail, none is made in plain text; name files instead",
        ),
        (
            "TLS without a mode",
            "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: a}, spec: {host: a, trafficPolicy: {tls: {credentialName: a}}}}",
            "warning spec.trafficPolicy.tls@1: has no effect without a mode: DISABLE, plain text, is the default",
        ),
        (
            "what Kubernetes adds",
            "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: a, uid: x, managedFields: []}, spec: {host: a}, status: {x: y}}",
            "",
        ),
        (
            "an item of a List",
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}}\n- {apiVersion: v1, kind: Service, metadata: {name: b.c}}",
            "error metadata.name@5: \"b.c\" is not a name Kubernetes accepts (a-z, 0-9, - and .)",
        ),
    ] {
        let mut found = findings(text);
        found.sort();
        assert_eq!(found.join("\n"), expected, "{name}");
    }
}

#[test]
fn what_is_deprecated_or_without_effect_is_told() {
    let to = "route: [{destination: {host: web}}]";
    let l4 = "tcp: [{match: [{sourceSubnet: 10.0.0.0/8}], route: [{destination: {host: web}}]}]";
    let without_mode = "has no effect without a mode: DISABLE, plain text, is the default";
    let service = |spec: String| ("VirtualService", spec);
    let rule = |policy: &str| {
        let spec = format!("host: web, trafficPolicy: {{{policy}}}");
        ("DestinationRule", spec)
    };
    for ((kind, spec), field, message) in [
        (
            service(format!(
                "http: [{{mirror: {{host: a}}, mirrorPercent: 5, {to}}}]"
            )),
            "http[0].mirrorPercent",
            "deprecated; use mirrorPercentage",
        ),
        (
            service(format!(
                "http: [{{fault: {{delay: {{fixedDelay: 1s, percent: 5}}}}, {to}}}]"
            )),
            "http[0].fault.delay.percent",
            "deprecated; use percentage",
        ),
        (
            service(format!(
                "http: [{{corsPolicy: {{allowOrigin: [a]}}, {to}}}]"
            )),
            "http[0].corsPolicy.allowOrigin",
            "deprecated; use allowOrigins",
        ),
        (
            service(format!("hosts: [web], {l4}")),
            "tcp[0].match[0].sourceSubnet",
            "has no effect (nor in Istio); use sourceLabels or sourceNamespace",
        ),
        (
            rule(
                "portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE, privateKey: /a, \
                 clientCertificate: /a}}]",
            ),
            "trafficPolicy.portLevelSettings[0].tls.clientCertificate",
            "has no effect with mode SIMPLE: it is MUTUAL that shows one",
        ),
        (
            rule("tls: {mode: SIMPLE, clientCertificate: /a}"),
            "trafficPolicy.tls.clientCertificate",
            "has no effect with mode SIMPLE: it is MUTUAL that shows one",
        ),
        (
            rule("tls: {mode: SIMPLE, sni: '*.a'}"),
            "trafficPolicy.tls.sni",
            "is no host's name: connections fail unless subjectAltNames says whom to expect",
        ),
        (
            rule("tls: {mode: SIMPLE, subjectAltNames: [a], insecureSkipVerify: true}"),
            "trafficPolicy.tls.insecureSkipVerify",
            "whoever answers is accepted: caCertificates, caCrl and subjectAltNames have no effect",
        ),
        (
            rule("tls: {subjectAltNames: [a]}"),
            "trafficPolicy.tls",
            without_mode,
        ),
        (
            rule("tls: {insecureSkipVerify: false}"),
            "trafficPolicy.tls",
            without_mode,
        ),
        (
            rule("loadBalancer: {zoneAwareLbSetting: {enabled: true}}"),
            "trafficPolicy.loadBalancer.zoneAwareLbSetting",
            "is not supported (nor by Istio without sidecars) and has no effect; use localityLbSetting",
        ),
        (
            rule("loadBalancer: {warmupDurationSecs: 5s}"),
            "trafficPolicy.loadBalancer.warmupDurationSecs",
            "deprecated; use warmup: {duration: ...}",
        ),
        (
            rule("connectionPool: {tcp: {tcpKeepalive: {probes: 128, time: 32767s}}}"),
            "trafficPolicy.connectionPool.tcp.tcpKeepalive.probes",
            "is more than the kernel's largest, 127, which is used instead",
        ),
        (
            rule("connectionPool: {tcp: {tcpKeepalive: {probes: 127, time: 10h}}}"),
            "trafficPolicy.connectionPool.tcp.tcpKeepalive.time",
            "is more than the kernel's longest, 32767s, which is used instead",
        ),
        (
            rule("outlierDetection: {consecutiveErrors: 3}"),
            "trafficPolicy.outlierDetection.consecutiveErrors",
            "deprecated, and has no effect (nor in Istio): consecutive5xxErrors counts, 5 where it is absent",
        ),
    ] {
        let text = format!(
            "{{apiVersion: networking.istio.io/v1, kind: {kind}, metadata: {{name: a}}, spec: {{{spec}}}}}"
        );
        let expected = format!("warning spec.{field}@1: {message}");
        assert_eq!(findings(&text), [expected], "{spec}");
    }
}

#[test]
fn names_are_complete() {
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: a}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: b, namespace: x}}";
    let decoded: Vec<Decoded> = yaml::read(text)
        .expect("valid")
        .into_iter()
        .flat_map(decode)
        .collect();
    let names: Vec<String> = decoded
        .iter()
        .map(|one| one.reference.as_ref().expect("named").to_string())
        .collect();
    assert_eq!(names, ["Pod default/a", "Namespace b"]);
    let Some(Object::Pod(pod)) = &decoded[0].object else {
        panic!("a Pod");
    };
    assert_eq!(&*pod.metadata.namespace, "default");
}

mod fields;
mod security;
