//! Manifests in, routes and endpoints out.

use std::path::Path;

use http::{HeaderMap, Method};

use super::*;
use crate::api::{decode, yaml};
use crate::control::store::{Content, File, Store};
use std::collections::BTreeMap;

use crate::mesh::{Action, Choice, FailureMode, Owner};
use crate::policy::matcher::{Request, Source};
use crate::types::{Protocol, Severity};

/// Objects that are changed one after the other, as files are.
struct Fixture {
    store: Store,
    compiler: Compiler,
    now: SystemTime,
}

impl Fixture {
    fn new() -> Self {
        Self {
            store: Store::new("cluster.local"),
            compiler: Compiler::new("node-1", "cluster.local"),
            now: SystemTime::UNIX_EPOCH,
        }
    }

    /// One file per text.
    fn apply(&mut self, texts: &[&str]) -> Compiled {
        let compiled = self.apply_anyway(texts);
        let errors = self.store.problems().iter();
        let errors: Vec<_> = errors
            .filter(|one| one.severity == Severity::Error)
            .collect();
        assert!(errors.is_empty(), "the fixture is valid: {errors:?}");
        compiled
    }

    /// The same of what may not be valid.
    fn apply_anyway(&mut self, texts: &[&str]) -> Compiled {
        let files = texts.iter().enumerate().map(|(index, text)| File {
            path: Path::new(&format!("{index}.yaml")).into(),
            content: Content::Objects(
                yaml::read(text)
                    .expect("valid YAML")
                    .into_iter()
                    .flat_map(decode)
                    .collect(),
            ),
        });
        self.store.update(files.collect());
        self.compiler.compile(self.store.objects(), self.now)
    }
}

fn compile(texts: &[&str]) -> Compiled {
    Fixture::new().apply(texts)
}

fn findings(compiled: &Compiled) -> String {
    let lines = compiled.findings.iter();
    let mut lines: Vec<String> = lines
        .map(|(object, finding)| format!("{object} {}: {}", finding.field, finding.message))
        .collect();
    lines.sort();
    lines.join("\n")
}

fn endpoints(compiled: &Compiled, cluster: &str) -> String {
    let Some(cluster) = compiled.snapshot.clusters.get(cluster) else {
        return "none".to_owned();
    };
    let list = cluster.endpoints.iter().filter(|one| one.ready);
    list.map(|one| one.address.to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Where `GET target` at `host`:`port` goes for a caller in `namespace`: the rule's name and its
/// clusters with their weights.
fn route(compiled: &Compiled, namespace: &str, host: &str, port: u16, target: &str) -> String {
    let snapshot = &compiled.snapshot;
    let Some(table) = snapshot.route_table(host, namespace, port) else {
        return "no host".to_owned();
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let headers = HeaderMap::new();
    let request = Request {
        method: &Method::GET,
        path,
        query,
        authority: host,
        headers: &headers,
        scheme: "http",
        source: Source {
            namespace,
            labels: &BTreeMap::new(),
        },
    };
    let Some(Choice { rule, .. }) = table.choose(&request) else {
        return "no route".to_owned();
    };
    match &rule.action {
        Action::Forward(forward) => {
            let shares = forward.destinations.iter().zip(forward.weights.iter());
            let to = shares.map(|(one, weight)| format!("{weight} {}", one.cluster));
            format!("{}: {}", rule.name, to.collect::<Vec<_>>().join(", "))
        }
        Action::Redirect(redirect) => format!("{}: redirect {}", rule.name, redirect.status),
        Action::Respond(response) => format!("{}: respond {}", rule.name, response.status),
    }
}

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, 'fd00::1']
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: tcp-db, port: 5432, targetPort: 15432}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web, version: v1}}
spec:
  containers: [{name: web, ports: [{name: http, containerPort: 8080}]}]
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd01::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-2, namespace: shop, labels: {app: web, version: v2}}
spec:
  containers: [{name: web, ports: [{name: http, containerPort: 9090}]}]
status:
  podIP: 10.0.0.2
  conditions: [{type: Ready, status: 'True'}]
---
apiVersion: v1
kind: Pod
metadata: {name: web-3, namespace: shop, labels: {app: web, version: v2}}
status:
  podIP: 10.0.0.3
  conditions: [{type: Ready, status: 'False'}]
---
apiVersion: v1
kind: Pod
metadata: {name: elsewhere, namespace: other, labels: {app: web}}
status: {podIP: 10.0.0.4}
";

const CANARY: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec:
  host: web
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - {name: all}
  - {name: v9, labels: {version: v9}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http:
  - name: v2
    match: [{uri: {prefix: /v2}}, {name: query, queryParams: {v: {exact: '2'}}}]
    route: [{destination: {host: web, subset: v2, port: {number: 80}}}]
  - match: [{port: 5432}]
    route: [{destination: {host: web, subset: v1}}]
  - route:
    - {destination: {host: web, subset: v1, port: {number: 80}}, weight: 90}
    - {destination: {host: web, subset: v2, port: {number: 80}}, weight: 10}
    - {destination: {host: web, subset: all, port: {number: 80}}, weight: 0}
";

#[test]
fn a_service_selects_its_endpoints() {
    let compiled = compile(&[WEB]);
    assert_eq!(findings(&compiled), "");
    for (cluster, expected) in [
        // The target port by name is each pod's own; a pod that has none such is no endpoint.
        (
            "outbound|80||web.shop.svc.cluster.local",
            "10.0.0.1:8080 10.0.0.2:9090 [fd01::1]:8080",
        ),
        (
            "outbound|5432||web.shop.svc.cluster.local",
            "10.0.0.1:15432 10.0.0.2:15432 [fd01::1]:15432",
        ),
        ("outbound|53||web.shop.svc.cluster.local", "none"),
    ] {
        assert_eq!(endpoints(&compiled, cluster), expected, "{cluster}");
    }
    let service = &compiled.snapshot.services["web.shop.svc.cluster.local"];
    assert_eq!(service.vips.len(), 2);
    assert_eq!(service.ports[0].protocol, Protocol::Http);
    assert_eq!(service.ports[1].protocol, Protocol::Tcp);
    for (host, expected) in [
        ("web", "default: 1 outbound|80||web.shop.svc.cluster.local"),
        (
            "web.shop:80",
            "default: 1 outbound|80||web.shop.svc.cluster.local",
        ),
        (
            "10.96.0.1",
            "default: 1 outbound|80||web.shop.svc.cluster.local",
        ),
        ("web.other", "no host"),
    ] {
        assert_eq!(route(&compiled, "shop", host, 80, "/"), expected, "{host}");
    }
    assert_eq!(route(&compiled, "other", "web", 80, "/"), "no host");
}

#[test]
fn addresses_have_owners() {
    let compiled = compile(&[WEB]);
    let owner = |text: &str| match compiled
        .snapshot
        .addresses
        .get(&text.parse().expect("address"))
    {
        None => "none".to_owned(),
        Some(Owner::Service(service)) => format!("service {}", service.name),
        Some(Owner::Workload(workload, services)) => {
            let services: Vec<&str> = services.iter().map(|one| &*one.name).collect();
            format!("pod {} of [{}]", workload.name, services.join(" "))
        }
    };
    for (address, expected) in [
        ("10.96.0.1", "service web"),
        ("fd00::1", "service web"),
        ("10.0.0.1", "pod web-1 of [web]"),
        ("fd01::1", "pod web-1 of [web]"),
        ("10.0.0.3", "pod web-3 of []"),
        ("10.0.0.4", "pod elsewhere of []"),
        ("10.0.0.9", "none"),
    ] {
        assert_eq!(owner(address), expected, "{address}");
    }
}

#[test]
fn slices_come_before_the_selector() {
    let slices = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-a, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 7070}]
endpoints:
- {addresses: [10.0.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: web-1}}
- {addresses: [10.0.0.9]}
- {addresses: [10.0.0.8], conditions: {ready: false}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-b, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 7070}]
endpoints: [{addresses: ['fd01::1']}]
";
    let compiled = compile(&[WEB, CANARY, slices]);
    for (cluster, expected) in [
        (
            "outbound|80||web.shop.svc.cluster.local",
            "10.0.0.1:7070 10.0.0.9:7070 [fd01::1]:7070",
        ),
        (
            "outbound|80|v1|web.shop.svc.cluster.local",
            "10.0.0.1:7070 [fd01::1]:7070",
        ),
        ("outbound|5432||web.shop.svc.cluster.local", ""),
    ] {
        assert_eq!(endpoints(&compiled, cluster), expected, "{cluster}");
    }
}

#[test]
fn a_panic_meets_no_endpoint_that_is_not_ready() {
    let slice = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-a, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 7070}]
endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.8], conditions: {ready: false}}]
";
    let name = "outbound|80||web.shop.svc.cluster.local";
    for (percent, expected) in [(0, 2), (50, 1)] {
        let rule = format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, \
             metadata: {{name: web, namespace: shop}}, spec: {{host: web, \
             trafficPolicy: {{outlierDetection: {{minHealthPercent: {percent}}}}}}}}}"
        );
        let compiled = compile(&[WEB, slice, &rule]);
        let cluster = compiled.snapshot.clusters.get(name);
        let endpoints = &cluster.expect("a service has a cluster").endpoints;
        assert_eq!(endpoints.len(), expected, "{percent} %");
    }
}

const EMPTY_SUBSET: &str = "DestinationRule shop/web spec.subsets[3].labels: no endpoint of web.shop.svc.cluster.local has these labels: requests to the subset are answered 503 (UH)";

#[test]
fn a_canary_is_split() {
    let compiled = compile(&[WEB, CANARY]);
    assert_eq!(
        findings(&compiled),
        format!(
            "{EMPTY_SUBSET}\nVirtualService shop/web spec.http[1].match[0].port: port 5432 is not declared as HTTP: this block never applies"
        )
    );
    let v1 = "outbound|80|v1|web.shop.svc.cluster.local";
    let v2 = "outbound|80|v2|web.shop.svc.cluster.local";
    for (port, target, expected) in [
        (80, "/", format!("default: 90 {v1}, 10 {v2}")),
        (80, "/v2/x", format!("v2: 1 {v2}")),
        (80, "/?v=2", format!("v2.query: 1 {v2}")),
        (
            5432,
            "/",
            "default: 1 outbound|5432|v1|web.shop.svc.cluster.local".to_owned(),
        ),
    ] {
        assert_eq!(
            route(&compiled, "shop", "web", port, target),
            expected,
            "{port} {target}"
        );
    }
    for (subset, expected) in [
        ("v1", "10.0.0.1:8080 [fd01::1]:8080"),
        ("v2", "10.0.0.2:9090"),
        ("all", "10.0.0.1:8080 10.0.0.2:9090 [fd01::1]:8080"),
        ("v9", ""),
        ("v0", "none"),
    ] {
        let cluster = format!("outbound|80|{subset}|web.shop.svc.cluster.local");
        assert_eq!(endpoints(&compiled, &cluster), expected, "{subset}");
    }
}

/// A VirtualService `name` in `namespace` whose only rule leads to the path's own cluster.
fn rules(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}"
    )
}

const TO_V1: &str = "http: [{name: to-v1, route: [{destination: {host: web.shop.svc.cluster.local, port: {number: 80}}}]}]";

#[test]
fn whose_rules_apply() {
    let to = |name: &str| TO_V1.replace("to-v1", name);
    let host = "hosts: [web.shop.svc.cluster.local]";
    for (name, services, client, expected) in [
        (
            "a full name from elsewhere",
            vec![("a", "other", format!("{host}, {}", to("a")))],
            "shop",
            "a",
        ),
        (
            "a short name is of the own namespace",
            vec![("a", "other", format!("hosts: [web], {}", to("a")))],
            "shop",
            "default",
        ),
        (
            "a dotted name is not completed",
            vec![("a", "shop", format!("hosts: [web.shop], {}", to("a")))],
            "shop",
            "default",
        ),
        (
            "a wildcard",
            vec![(
                "a",
                "shop",
                format!("hosts: ['*.shop.svc.cluster.local'], {}", to("a")),
            )],
            "shop",
            "a",
        ),
        (
            "exact beats wildcard, whatever the age",
            vec![
                ("a", "shop", format!("hosts: ['*.local'], {}", to("a"))),
                ("b", "shop", format!("{host}, {}", to("b"))),
            ],
            "shop",
            "b",
        ),
        (
            "the first by name where none has a time",
            vec![
                ("b", "shop", format!("{host}, {}", to("b"))),
                ("a", "shop", format!("{host}, {}", to("a"))),
            ],
            "shop",
            "a",
        ),
        (
            "for a gateway only",
            vec![("a", "shop", format!("{host}, gateways: [gw], {}", to("a")))],
            "shop",
            "default",
        ),
        (
            "for a gateway and the mesh",
            vec![(
                "a",
                "shop",
                format!("{host}, gateways: [gw, mesh], {}", to("a")),
            )],
            "shop",
            "a",
        ),
        (
            "private, to the owner",
            vec![("a", "shop", format!("{host}, exportTo: ['.'], {}", to("a")))],
            "shop",
            "a",
        ),
        (
            "private, to another",
            vec![("a", "shop", format!("{host}, exportTo: ['.'], {}", to("a")))],
            "other",
            "default",
        ),
        (
            "exported by name",
            vec![(
                "a",
                "shop",
                format!("{host}, exportTo: [other], {}", to("a")),
            )],
            "other",
            "a",
        ),
        (
            "exported to nobody",
            vec![("a", "shop", format!("{host}, exportTo: ['~'], {}", to("a")))],
            "shop",
            "default",
        ),
        (
            "the older one is not seen",
            vec![
                (
                    "a",
                    "other",
                    format!("{host}, exportTo: ['.'], {}", to("a")),
                ),
                ("b", "shop", format!("{host}, {}", to("b"))),
            ],
            "shop",
            "b",
        ),
        (
            "the older one is seen by its own",
            vec![
                (
                    "a",
                    "other",
                    format!("{host}, exportTo: ['.'], {}", to("a")),
                ),
                ("b", "shop", format!("{host}, {}", to("b"))),
            ],
            "other",
            "a",
        ),
    ] {
        let texts: Vec<String> = services
            .iter()
            .map(|(name, namespace, spec)| rules(name, namespace, spec))
            .collect();
        let mut all = vec![WEB];
        all.extend(texts.iter().map(String::as_str));
        let compiled = compile(&all);
        let route = route(&compiled, client, "web.shop", 80, "/");
        assert_eq!(route.split(':').next(), Some(expected), "{name}");
    }
}

#[test]
fn age_decides_between_equals() {
    let older = rules(
        "z",
        "shop",
        &format!("hosts: [web], {}", TO_V1.replace("to-v1", "older")),
    )
    .replace(
        "name: z,",
        "name: z, creationTimestamp: '2024-01-01T00:00:00Z',",
    );
    let younger = rules(
        "a",
        "shop",
        &format!("hosts: [web], {}", TO_V1.replace("to-v1", "younger")),
    )
    .replace(
        "name: a,",
        "name: a, creationTimestamp: '2025-01-01T00:00:00Z',",
    );
    let compiled = compile(&[WEB, &younger, &older]);
    assert!(route(&compiled, "shop", "web", 80, "/").starts_with("older:"));
    assert_eq!(
        findings(&compiled),
        "VirtualService shop/a spec.hosts[0]: web.shop.svc.cluster.local already has the rules of VirtualService shop/z: these have no effect for it"
    );
}

#[test]
fn blocks_that_cannot_apply_are_left_out() {
    let target = "route: [{destination: {host: web, port: {number: 80}}}]";
    for (name, http, expected) in [
        (
            "no rule for this port",
            format!("[{{match: [{{port: 81}}], {target}}}]"),
            "no route",
        ),
        (
            "a rule for this port",
            format!("[{{name: a, match: [{{port: 81}}, {{port: 80}}], {target}}}]"),
            "a",
        ),
        (
            "a block for a gateway",
            format!("[{{match: [{{gateways: [gw]}}], {target}}}]"),
            "no route",
        ),
        (
            "a block for the mesh",
            format!("[{{name: a, match: [{{gateways: [mesh]}}], {target}}}]"),
            "a",
        ),
        (
            "first hit wins",
            format!("[{{name: a, {target}}}, {{name: b, {target}}}]"),
            "a",
        ),
        (
            "a named block of a nameless rule",
            format!("[{{match: [{{name: x}}], {target}}}]"),
            "default",
        ),
    ] {
        let text = rules(
            "web",
            "shop",
            &format!("hosts: [web], gateways: [mesh, gw], http: {http}"),
        );
        let compiled = compile(&[WEB, &text]);
        let route = route(&compiled, "shop", "web", 80, "/");
        assert_eq!(route.split(':').next(), Some(expected), "{name}");
    }
}

#[test]
fn destinations_resolve_their_port() {
    let single = "{apiVersion: v1, kind: Service, metadata: {name: one, namespace: shop}, spec: {ports: [{port: 8080}]}}";
    for (destination, port, expected) in [
        (
            "{host: one}",
            80,
            "outbound|8080||one.shop.svc.cluster.local",
        ),
        (
            "{host: one, port: {number: 9}}",
            80,
            "outbound|9||one.shop.svc.cluster.local",
        ),
        ("{host: web}", 80, "outbound|80||web.shop.svc.cluster.local"),
        (
            "{host: web}",
            5432,
            "outbound|5432||web.shop.svc.cluster.local",
        ),
        (
            "{host: gone, subset: x}",
            80,
            "outbound|80|x|gone.shop.svc.cluster.local",
        ),
        ("{host: example.com}", 80, "outbound|80||example.com"),
    ] {
        let text = rules(
            "web",
            "shop",
            &format!(
                "hosts: [web], http: [{{route: [{{destination: {destination}, weight: 0}}]}}]"
            ),
        );
        let compiled = compile(&[WEB, single, &text]);
        let route = route(&compiled, "shop", "web", port, "/");
        assert_eq!(route, format!("default: 1 {expected}"), "{destination}");
    }
}

#[test]
fn destinations_that_lead_nowhere_are_told() {
    let text = rules(
        "web",
        "shop",
        "hosts: [web, nobody], http: [{route: [{destination: {host: gone}, weight: 1}, {destination: {host: web, port: {number: 81}}, weight: 1}, {destination: {host: web, subset: v7}, weight: 1}, {destination: {host: web, subset: v1}, weight: 1}]}]",
    );
    let rule = CANARY.split("---").next().expect("the DestinationRule");
    assert_eq!(
        findings(&compile(&[WEB, rule, &text])),
        format!("{EMPTY_SUBSET}
VirtualService shop/web spec.hosts[1]: no Service has the name nobody.shop.svc.cluster.local: the rules count for requests to port 80 alone
VirtualService shop/web spec.http[0].route[0].destination.host: no Service has the name gone.shop.svc.cluster.local; requests are answered 503 (NC)
VirtualService shop/web spec.http[0].route[1].destination.port.number: web.shop.svc.cluster.local has no port 81; requests are answered 503 (NC)
VirtualService shop/web spec.http[0].route[2].destination.subset: no DestinationRule gives web.shop.svc.cluster.local a subset v7; requests are answered 503 (NC)")
    );
}

/// `namespace/name host subset exportTo`, one DestinationRule a line.
fn destination_rules(lines: &str) -> String {
    lines
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (namespace, name) = words[0].split_once('/').expect("namespace/name");
            format!(
                "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{host: '{}', subsets: [{{name: {}}}], exportTo: [{}]}}}}\n---\n",
                words[1], words[2], words.get(3).map(|one| format!("'{one}'")).unwrap_or_default(),
            )
        })
        .collect()
}

#[test]
fn destination_rules_are_found_by_level() {
    let host = "web.shop.svc.cluster.local";
    for (name, rules, client, expected) in [
        ("of the service", format!("shop/a {host} s"), "x", "s"),
        (
            "of the client, before the service's",
            format!("shop/a {host} s\nx/a {host} c"),
            "x",
            "c",
        ),
        (
            "of the client, seen by no other",
            format!("shop/a {host} s\nx/a {host} c"),
            "y",
            "s",
        ),
        ("of a stranger, exported", format!("y/a {host} c"), "x", ""),
        (
            "of the root namespace",
            format!("istio-system/a {host} r"),
            "x",
            "r",
        ),
        (
            "the service's hides the root's",
            format!("istio-system/a *.local r\nshop/a {host} s"),
            "x",
            "s",
        ),
        (
            "a hidden one leads on to the root",
            format!("istio-system/a *.local r\nshop/a {host} s ."),
            "x",
            "r",
        ),
        (
            "a hidden one is seen at home",
            format!("istio-system/a *.local r\nshop/a {host} s ."),
            "shop",
            "s",
        ),
        (
            "exact beats wildcard",
            format!("shop/a *.svc.cluster.local w\nshop/b {host} s"),
            "x",
            "s",
        ),
        (
            "longest wildcard",
            "shop/a *.local w\nshop/b *.shop.svc.cluster.local l".to_owned(),
            "x",
            "l",
        ),
        (
            "several are merged",
            format!("shop/a {host} s\nshop/b {host} t"),
            "x",
            "s t",
        ),
        (
            "a narrower one is not merged",
            format!("shop/a {host} s\nshop/b {host} t ."),
            "shop",
            "s",
        ),
        ("exported by name", format!("shop/a {host} s x"), "x", "s"),
        ("exported to another", format!("shop/a {host} s x"), "y", ""),
    ] {
        let compiled = compile(&[WEB, &destination_rules(&rules)]);
        let found: Vec<&str> = ["s", "c", "r", "w", "l", "t"]
            .into_iter()
            .filter(|subset| {
                let name = ClusterName::outbound(80, Some(subset), &Hostname::new(host));
                let labels = BTreeMap::new();
                let client = Source {
                    namespace: client,
                    labels: &labels,
                };
                compiled.snapshot.cluster_for(&name, client).is_some()
            })
            .collect();
        assert_eq!(found.join(" "), expected, "{name}");
    }
}

fn pod(labels: &str, annotations: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: shop, labels: {{{labels}}}, annotations: {{{annotations}}}}}, spec: {{{spec}}}, status: {{podIP: 10.0.0.7}}}}"
    )
}

#[test]
fn labels_enrol() {
    let netns = "aquifer.io/netns: /run/netns/p";
    for (name, namespace, labels, spec, enrolled, local) in [
        ("nothing said", "", "", "", false, false),
        (
            "the namespace",
            "aquifer.io/mesh: enabled",
            "",
            "",
            true,
            true,
        ),
        (
            "the namespace, Istio's way",
            "istio.io/dataplane-mode: ambient",
            "",
            "",
            true,
            true,
        ),
        (
            "aquifer's label before Istio's",
            "aquifer.io/mesh: disabled, istio.io/dataplane-mode: ambient",
            "",
            "",
            false,
            false,
        ),
        (
            "the pod opts out",
            "aquifer.io/mesh: enabled",
            "aquifer.io/mesh: disabled",
            "",
            false,
            false,
        ),
        (
            "the pod opts out, Istio's way",
            "aquifer.io/mesh: enabled",
            "istio.io/dataplane-mode: none",
            "",
            false,
            false,
        ),
        (
            "the pod opts in",
            "",
            "aquifer.io/mesh: enabled",
            "",
            true,
            true,
        ),
        (
            "a word that means nothing",
            "aquifer.io/mesh: enabled",
            "aquifer.io/mesh: perhaps",
            "",
            true,
            true,
        ),
        (
            "the host's network",
            "aquifer.io/mesh: enabled",
            "",
            "hostNetwork: true",
            false,
            false,
        ),
        (
            "this node",
            "aquifer.io/mesh: enabled",
            "",
            "nodeName: node-1",
            true,
            true,
        ),
        (
            "another node",
            "aquifer.io/mesh: enabled",
            "",
            "nodeName: node-2",
            true,
            false,
        ),
    ] {
        let namespace = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, labels: {{{namespace}}}}}}}"
        );
        let compiled = compile(&[&namespace, &pod(labels, netns, spec)]);
        let workload = &compiled.snapshot.workloads[0];
        assert_eq!(
            (workload.enrolled, workload.local.is_some()),
            (enrolled, local),
            "{name}"
        );
    }
}

#[test]
fn pods_that_istio_has_captured_are_of_the_mesh() {
    for (labels, annotation, spec, enrolled) in [
        ("", "enabled", "", true),
        ("", "disabled", "", false),
        ("", "pending", "", false),
        ("istio.io/dataplane-mode: none", "enabled", "", false),
        ("", "enabled", "hostNetwork: true", false),
    ] {
        let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}";
        let annotations =
            format!("aquifer.io/netns: /run/netns/p, ambient.istio.io/redirection: {annotation}");
        let compiled = compile(&[namespace, &pod(labels, &annotations, spec)]);
        let workload = &compiled.snapshot.workloads[0];
        // Reached by HBONE; captured by whoever captured it.
        assert_eq!(
            (workload.enrolled, workload.local.is_some()),
            (enrolled, false),
            "{labels} {annotation} {spec}"
        );
    }
}

#[test]
fn annotations_say_how() {
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {aquifer.io/mesh: enabled}, annotations: {aquifer.io/failure-mode: open}}}";
    let annotations = "aquifer.io/netns: /run/netns/p, aquifer.io/exclude-outbound-ports: '80, 443,x', traffic.sidecar.istio.io/excludeOutboundPorts: '22,80', aquifer.io/exclude-inbound-ports: '0', traffic.sidecar.istio.io/excludeOutboundIPRanges: '10.1.2.3/8,fd00::/8,1.2.3.4', traffic.sidecar.istio.io/includeInboundPorts: '*'";
    let compiled = compile(&[namespace, &pod("", annotations, "")]);
    let local = compiled.snapshot.workloads[0]
        .local
        .as_ref()
        .expect("local");
    assert_eq!(local.failure_mode, FailureMode::Open);
    assert_eq!(local.exclude_outbound_ports, [22, 80, 443]);
    assert_eq!(local.exclude_inbound_ports, [0_u16; 0]);
    let ranges: Vec<String> = local
        .exclude_outbound_ranges
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(ranges, ["1.2.3.4/32", "10.0.0.0/8", "fd00::/8"]);
    assert_eq!(
        findings(&compiled),
        "Pod shop/p metadata.annotations.aquifer.io/exclude-inbound-ports: \"0\" is not a port from 1 to 65535 and has no effect
Pod shop/p metadata.annotations.aquifer.io/exclude-outbound-ports: \"x\" is not a port from 1 to 65535 and has no effect
Pod shop/p metadata.annotations.traffic.sidecar.istio.io/includeInboundPorts: not implemented: it has no effect"
    );
}

#[test]
fn what_did_not_change_is_the_same_allocation() {
    let mut fixture = Fixture::new();
    let first = fixture.apply(&[WEB, CANARY]).snapshot;
    let host = "web.shop.svc.cluster.local";
    let cluster = |snapshot: &Snapshot, subset| {
        let name = ClusterName::outbound(80, subset, &Hostname::new(host));
        Arc::clone(snapshot.cluster(&name).expect("known"))
    };

    assert!(Arc::ptr_eq(&fixture.apply(&[WEB, CANARY]).snapshot, &first));
    let other =
        "{apiVersion: v1, kind: Service, metadata: {name: other}, spec: {ports: [{port: 80}]}}";
    let more = fixture.apply(&[WEB, CANARY, other]);
    let expected = Work {
        clusters: 1,
        tables: 1,
        ..Work::default()
    };
    assert_eq!(more.work, expected);
    let same = more.snapshot;
    assert_eq!(same.version, first.version + 1);
    assert!(Arc::ptr_eq(&same.services[host], &first.services[host]));
    assert!(Arc::ptr_eq(
        &cluster(&same, Some("v1")),
        &cluster(&first, Some("v1"))
    ));

    let weights = CANARY
        .replace("weight: 90", "weight: 80")
        .replace("weight: 10", "weight: 20");
    let shifted = fixture.apply(&[WEB, &weights]).snapshot;
    assert!(!Arc::ptr_eq(&shifted.services[host], &first.services[host]));
    assert!(Arc::ptr_eq(
        &cluster(&shifted, Some("v2")),
        &cluster(&first, Some("v2"))
    ));
    assert!(Arc::ptr_eq(&shifted.workloads[0], &first.workloads[0]));

    let unready = WEB.replace("status: 'True'", "status: 'False'");
    let shrunk = fixture.apply(&[&unready, &weights]).snapshot;
    assert!(Arc::ptr_eq(&shrunk.services[host], &shifted.services[host]));
    assert!(Arc::ptr_eq(
        &cluster(&shrunk, Some("v1")),
        &cluster(&first, Some("v1"))
    ));
    assert!(
        cluster(&shrunk, Some("v2"))
            .endpoints
            .iter()
            .all(|one| !one.ready)
    );
}

#[test]
fn a_pod_that_ends_is_known_to_have_ended_though_nothing_else_changes() {
    let mut fixture = Fixture::new();
    for (phase, expected) in [
        ("Pending", false),
        ("Running", false),
        ("Failed", true),
        ("Running", false),
        ("Succeeded", true),
    ] {
        let pod = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a, namespace: shop}}, spec: {{nodeName: node-2}}, status: {{phase: {phase}, podIP: 10.0.0.1}}}}"
        );
        let compiled = fixture.apply(&[&pod]);
        let workloads = &compiled.snapshot.workloads;
        assert_eq!(workloads.len(), 1, "{phase}");
        assert_eq!(workloads[0].ended, expected, "{phase}");
    }
}

#[test]
fn an_address_has_one_owner() {
    let twin = "{apiVersion: v1, kind: Service, metadata: {name: zwin, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}";
    let pods = "
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: shop}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: shop}, status: {podIP: 10.0.0.1, phase: Succeeded}}
---
{apiVersion: v1, kind: Pod, metadata: {name: h1, namespace: shop}, spec: {hostNetwork: true}, status: {podIP: 192.168.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: h2, namespace: shop}, spec: {hostNetwork: true}, status: {podIP: 192.168.0.1}}
";
    assert_eq!(
        findings(&compile(&[WEB, twin, pods])),
        "Pod shop/web-1 status.podIPs: 10.0.0.1 is already the address of Pod shop/a: it has no effect here
Service shop/zwin spec.clusterIPs: 10.96.0.1 is already the address of web.shop.svc.cluster.local: it has no effect here"
    );
}

#[test]
fn hosts_are_found_by_every_name() {
    let headless = "{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: None, ports: [{port: 5432}]}}";
    let compiled = compile(&[WEB, headless]);
    let found = |host: &str, namespace: &str, port| {
        let found = compiled.snapshot.host(host, namespace, port);
        found
            .map_or("none", |(service, _)| &service.name)
            .to_owned()
    };
    for (host, namespace, port, expected) in [
        ("web.shop.svc.cluster.local", "other", 80, "web"),
        ("WEB.Shop.svc.cluster.local.", "other", 80, "web"),
        ("web.shop.svc", "other", 80, "web"),
        ("web.shop", "other", 80, "web"),
        ("web", "shop", 80, "web"),
        ("web:8080", "shop", 80, "web"),
        ("[fd00::1]:80", "other", 80, "web"),
        ("10.96.0.1", "other", 80, "web"),
        ("10.0.0.1", "other", 80, "none"),
        ("web", "shop", 81, "none"),
        ("web", "other", 80, "none"),
        ("", "shop", 80, "none"),
        (".", "shop", 80, "none"),
        ("x.web.shop.svc.cluster.local", "shop", 80, "none"),
        ("db-0.db.shop.svc.cluster.local", "other", 5432, "db"),
        ("example.com", "shop", 80, "none"),
    ] {
        assert_eq!(
            found(host, namespace, port),
            expected,
            "{host} {namespace} {port}"
        );
    }
}

mod delegates;
mod deprecated;
mod destinations;
mod guards;
mod hosts;
mod incremental;
