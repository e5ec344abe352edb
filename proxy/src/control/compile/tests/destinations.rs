//! Policies, selectors, places and readiness of clusters; and how little is made anew.

use std::time::Duration;

use super::*;
use crate::policy::balance::Algorithm;
use crate::policy::locality;

fn rule(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{host: web.shop.svc.cluster.local, {spec}}}}}"
    )
}

/// The balancer of `subset` at port 80 for a caller in `namespace` with `app: LABEL`.
fn balancer(compiled: &Compiled, namespace: &str, app: &str, subset: Option<&str>) -> String {
    let labels = BTreeMap::from([("app".to_owned(), app.to_owned())]);
    let source = Source {
        namespace,
        labels: &labels,
    };
    let host = Hostname::new("web.shop.svc.cluster.local");
    let name = ClusterName::outbound(80, subset, &host);
    match compiled.snapshot.cluster_for(&name, source) {
        None => "none".to_owned(),
        Some(cluster) => match cluster.policy.balancer {
            Algorithm::LeastRequest => "least".to_owned(),
            Algorithm::RoundRobin => "round".to_owned(),
            Algorithm::Random => "random".to_owned(),
            other => format!("{other:?}"),
        },
    }
}

#[test]
fn a_selector_chooses_by_the_clients_labels() {
    let round = "trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}";
    let random = "trafficPolicy: {loadBalancer: {simple: RANDOM}}";
    let select = |app: &str| format!("workloadSelector: {{matchLabels: {{app: {app}}}}}");
    let clients = "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x, labels: {app: one}}, status: {podIP: 10.3.0.1}}\n---\n{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: x, labels: {app: two}}, status: {podIP: 10.3.0.2}}";
    let compiled = compile(&[
        WEB,
        clients,
        &rule(
            "a",
            "x",
            &format!("{}, {round}, subsets: [{{name: s}}]", select("one")),
        ),
        &rule("b", "x", &format!("{}, {random}", select("two"))),
        &rule("c", "shop", random),
    ]);
    assert_eq!(findings(&compiled), "");
    for (namespace, app, subset, expected) in [
        ("x", "one", None, "round"),
        ("x", "one", Some("s"), "round"),
        ("x", "two", None, "random"),
        ("x", "two", Some("s"), "none"),
        // The namespace has rules of its own, and none of them is for this client.
        ("x", "three", None, "least"),
        ("y", "one", None, "random"),
        ("shop", "one", None, "random"),
        ("y", "one", Some("s"), "none"),
    ] {
        assert_eq!(
            balancer(&compiled, namespace, app, subset),
            expected,
            "{namespace} {app} {subset:?}"
        );
    }
}

#[test]
fn the_oldest_policy_of_merged_rules_counts() {
    let compiled = compile(&[
        WEB,
        &rule("a", "shop", "subsets: [{name: s}]"),
        &rule(
            "b",
            "shop",
            "trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}",
        ),
        &rule(
            "c",
            "shop",
            "trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: s, trafficPolicy: {loadBalancer: {simple: RANDOM}}}]",
        ),
    ]);
    assert_eq!(balancer(&compiled, "y", "", None), "round");
    assert_eq!(balancer(&compiled, "y", "", Some("s")), "round");
}

const PLACED: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z1}}
---
apiVersion: v1
kind: Node
metadata: {name: n2, labels: {topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z2}}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {selector: {app: api}, ports: [{port: 80, name: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: p1, namespace: shop, labels: {app: api}}
spec: {nodeName: n1}
status: {podIP: 10.1.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: p2, namespace: shop, labels: {app: api}}
spec: {nodeName: n2}
status: {podIP: 10.1.0.2, conditions: [{type: Ready, status: 'False'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: p3, namespace: shop, labels: {app: api, istio-locality: q.z3.s}}
spec: {nodeName: n2}
status: {podIP: 10.1.0.3}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api, namespace: shop}
spec:
  host: api
  subsets:
  - {name: near, labels: {topology.kubernetes.io/zone: z1}}
  - {name: host, labels: {kubernetes.io/hostname: n2}}
";

#[test]
fn endpoints_have_a_place() {
    let compiled = compile(&[PLACED]);
    let places = |subset| {
        let host = Hostname::new("api.shop.svc.cluster.local");
        let cluster = compiled
            .snapshot
            .cluster(&ClusterName::outbound(80, subset, &host));
        let endpoints = cluster.expect("known").endpoints.iter();
        let lines: Vec<String> = endpoints
            .map(|one| format!("{} {}", one.address.ip(), one.locality))
            .collect();
        lines.join(", ")
    };
    assert!(
        places(None).starts_with("10.1.0.1 r/z1, "),
        "{}",
        places(None)
    );
    assert!(
        places(None).ends_with("10.1.0.3 q/z3/s"),
        "{}",
        places(None)
    );
    assert_eq!(places(Some("near")), "10.1.0.1 r/z1");
    assert!(places(Some("host")).ends_with("10.1.0.3 q/z3/s"));
}

#[test]
fn a_service_may_ask_for_what_is_near() {
    let host = Hostname::new("web.shop.svc.cluster.local");
    let annotated = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, annotations: {networking.istio.io/traffic-distribution: PreferSameNode}}}";
    for (name, text, namespace, expected) in [
        ("nothing", WEB.to_owned(), "", "no"),
        (
            "the Service",
            WEB.replace(
                "  selector: {app: web}",
                "  trafficDistribution: PreferClose\n  selector: {app: web}",
            ),
            "",
            "3",
        ),
        ("the namespace", WEB.to_owned(), annotated, "4"),
    ] {
        let compiled = compile(&[&text, namespace]);
        let cluster = compiled
            .snapshot
            .cluster(&ClusterName::outbound(80, None, &host));
        let found = match &cluster.expect("known").policy.locality {
            locality::Settings::Failover { labels, .. } => labels.len().to_string(),
            _ => "no".to_owned(),
        };
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn who_joins_later_is_new() {
    let mut fixture = Fixture::new();
    let since = |compiled: &Compiled| -> Vec<Option<u64>> {
        let clusters = &compiled.snapshot.clusters;
        let cluster = clusters.get("outbound|80||web.shop.svc.cluster.local");
        let cluster = cluster.expect("a service has a cluster");
        let endpoints = cluster.endpoints.iter();
        endpoints
            .map(|one| {
                Some(
                    one.since?
                        .duration_since(SystemTime::UNIX_EPOCH)
                        .ok()?
                        .as_secs(),
                )
            })
            .collect()
    };
    let first = fixture.apply(&[WEB]);
    assert_eq!(since(&first), [None, None, None]);
    fixture.now += Duration::from_secs(60);
    let more = "{apiVersion: v1, kind: Pod, metadata: {name: web-9, namespace: shop, labels: {app: web}}, spec: {containers: [{ports: [{name: http, containerPort: 1}]}]}, status: {podIP: 10.0.0.9}}";
    assert_eq!(
        since(&fixture.apply(&[WEB, more])),
        [None, None, Some(60), None]
    );
    fixture.now += Duration::from_secs(60);
    let relabelled = more.replace("app: web", "app: web, x: y");
    assert_eq!(
        since(&fixture.apply(&[WEB, &relabelled])),
        [None, None, Some(60), None]
    );
    // Of another service it was before.
    let away = more.replace("app: web", "app: other");
    fixture.apply(&[WEB, &away]);
    fixture.now += Duration::from_secs(60);
    assert_eq!(
        since(&fixture.apply(&[WEB, more])),
        [None, None, Some(180), None]
    );
    let told = more.replace("podIP: 10.0.0.9", "podIP: 10.0.0.9, conditions: [{type: Ready, status: 'True', lastTransitionTime: '1970-01-01T00:00:07Z'}]");
    let mut fresh = Fixture::new();
    assert_eq!(
        since(&fresh.apply(&[WEB, &told])),
        [None, None, Some(7), None]
    );
}

#[test]
fn only_what_depends_on_a_change_is_made_anew() {
    let work = |workloads, clusters, tables| Work {
        workloads,
        clusters,
        tables,
    };
    let other = "
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {selector: {app: api}, ports: [{port: 80, name: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: api-1, namespace: shop, labels: {app: api}}
status: {podIP: 10.1.0.1}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api, namespace: shop}
spec: {hosts: [api], http: [{route: [{destination: {host: api}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api, namespace: shop}
spec: {host: api, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
";
    let mut fixture = Fixture::new();
    // Two services; two ports with rules, and one without any.
    let first = fixture.apply(&[WEB, CANARY, other]).work;
    assert_eq!(first, work(5, 2, 3));
    for (name, texts, expected) in [
        (
            "nothing",
            [WEB.to_owned(), CANARY.to_owned(), other.to_owned()],
            work(0, 0, 0),
        ),
        (
            "a weight",
            [
                WEB.to_owned(),
                CANARY.replace("weight: 90", "weight: 80"),
                other.to_owned(),
            ],
            work(0, 0, 2),
        ),
        (
            "a policy",
            [
                WEB.to_owned(),
                CANARY.replace("weight: 90", "weight: 80"),
                other.replace("RANDOM", "ROUND_ROBIN"),
            ],
            work(0, 1, 0),
        ),
        (
            "a pod",
            [
                WEB.to_owned(),
                CANARY.replace("weight: 90", "weight: 80"),
                other
                    .replace("RANDOM", "ROUND_ROBIN")
                    .replace("10.1.0.1", "10.1.0.2"),
            ],
            work(1, 1, 0),
        ),
        (
            "a port that another's destination takes",
            [
                WEB.to_owned(),
                CANARY.replace("weight: 90", "weight: 80"),
                other
                    .replace("RANDOM", "ROUND_ROBIN")
                    .replace("10.1.0.1", "10.1.0.2")
                    .replace("port: 80, name: http", "port: 81, name: http"),
            ],
            work(0, 1, 1),
        ),
    ] {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(fixture.apply(&texts).work, expected, "{name}");
    }
}

#[test]
fn what_rules_amount_to_is_told() {
    let outlier = |percent| {
        format!(
            "trafficPolicy: {{outlierDetection: {{maxEjectionPercent: {percent}}}}}, subsets: [{{name: v1, labels: {{version: v1}}, trafficPolicy: {{outlierDetection: {{}}}}}}]"
        )
    };
    let v1 = "DestinationRule shop/a spec.subsets[0].trafficPolicy.outlierDetection.maxEjectionPercent: 10% of 1 endpoints is less than one: nobody is ever ejected; write 100 or more";
    for (percent, expected) in [
        (34, v1.to_owned()),
        (
            33,
            format!(
                "{v1}\nDestinationRule shop/a spec.trafficPolicy.outlierDetection.maxEjectionPercent: 33% of 3 endpoints is less than one: nobody is ever ejected; write 34 or more"
            ),
        ),
    ] {
        // One of the three is not ready, and counts nevertheless.
        let web = WEB.replace("labels: {app: web, version: v2}}\nstatus:\n  podIP: 10.0.0.3", "labels: {app: web, version: v2}}\nspec: {containers: [{name: web, ports: [{name: http, containerPort: 9090}]}]}\nstatus:\n  podIP: 10.0.0.3");
        let compiled = compile(&[&web, &rule("a", "shop", &outlier(percent))]);
        assert_eq!(findings(&compiled), expected, "{percent}");
    }
    let nobody = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: a, namespace: shop}, spec: {host: nobody}}";
    assert_eq!(
        findings(&compile(&[nobody])),
        "DestinationRule shop/a spec.host: no Service has the name nobody.shop.svc.cluster.local: the rule has no effect"
    );
}

#[test]
fn clients_and_requests_that_there_are_not_are_told() {
    let told = "DestinationRule shop/a spec";
    let hash = "loadBalancer: {consistentHash: {httpHeaderName: x}}";
    let none = "and there are no requests to hash; use useSourceIp";
    let web = "web.shop.svc.cluster.local";
    let at = |number: u16, policy: &str| {
        format!("portLevelSettings: [{{port: {{number: {number}}}, {policy}}}]")
    };
    for (name, spec, expected) in [
        (
            "a selector of a pod",
            "workloadSelector: {matchLabels: {app: web, version: v1}}".to_owned(),
            String::new(),
        ),
        (
            "a selector of nobody",
            "workloadSelector: {matchLabels: {app: web, version: v9}}".to_owned(),
            format!(
                "{told}.workloadSelector: no pod in namespace shop has these labels: the rule has no effect"
            ),
        ),
        (
            "requests at a port of two",
            format!("trafficPolicy: {{{hash}}}"),
            String::new(),
        ),
        (
            "requests at the port that is left",
            format!(
                "trafficPolicy: {{{hash}, {}}}",
                at(80, "loadBalancer: {simple: RANDOM}")
            ),
            format!(
                "{told}.trafficPolicy.loadBalancer.consistentHash: has no effect: no port of {web} that it is for carries HTTP, {none}"
            ),
        ),
        (
            "requests at the other port",
            format!("trafficPolicy: {{{}}}", at(5432, hash)),
            format!(
                "{told}.trafficPolicy.portLevelSettings[0].loadBalancer.consistentHash: has no effect: port 5432 of {web} does not carry HTTP, {none}"
            ),
        ),
        (
            "the client's address there",
            format!(
                "trafficPolicy: {{{}}}",
                at(5432, "loadBalancer: {consistentHash: {useSourceIp: true}}")
            ),
            String::new(),
        ),
    ] {
        let compiled = compile(&[WEB, &rule("a", "shop", &spec)]);
        assert_eq!(findings(&compiled), expected, "{name}");
    }
}

#[test]
fn parts_of_rules_without_effect_are_told() {
    let ports = |number: u16| {
        format!(
            "trafficPolicy: {{portLevelSettings: [{{port: {{number: {number}}}, loadBalancer: {{simple: RANDOM}}}}]}}"
        )
    };
    let wild = |host: &str, spec: &str| {
        rule("a", "shop", spec).replace("web.shop.svc.cluster.local", host)
    };
    let no_port = |host: &str| {
        format!(
            "DestinationRule shop/a spec.trafficPolicy.portLevelSettings[0].port.number: {host} has no port 8080: these settings have no effect (ports are the Service's, not its Pods')"
        )
    };
    for (name, texts, expected) in [
        ("a port", vec![rule("a", "shop", &ports(5432))], String::new()),
        (
            "the Pods' port",
            vec![rule("a", "shop", &ports(8080))],
            no_port("web.shop.svc.cluster.local"),
        ),
        (
            "UDP",
            vec![rule("a", "shop", &ports(53))],
            no_port("web.shop.svc.cluster.local").replace("8080", "53"),
        ),
        ("a port of a domain", vec![wild("'*.local'", &ports(80))], String::new()),
        (
            "no port of a domain",
            vec![wild("'*.local'", &ports(8080))],
            no_port("*.local"),
        ),
        (
            "nobody's domain",
            vec![wild("'*.com'", "subsets: []")],
            "DestinationRule shop/a spec.host: no Service has a name under *.com: the rule has no effect".to_owned(),
        ),
        (
            "what an older rule has",
            vec![
                rule("a", "shop", "trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1}]"),
                rule("b", "shop", "trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v2}, {name: v1}]"),
            ],
            "DestinationRule shop/b spec.subsets[1]: has no effect: DestinationRule shop/a is for the same host, and its own counts
DestinationRule shop/b spec.trafficPolicy: has no effect: DestinationRule shop/a is for the same host, and its own counts".to_owned(),
        ),
        (
            "what others have for other clients",
            vec![
                rule("a", "shop", "trafficPolicy: {loadBalancer: {simple: RANDOM}}"),
                rule("b", "other", "trafficPolicy: {loadBalancer: {simple: RANDOM}}"),
                rule("c", "shop", "workloadSelector: {matchLabels: {app: web}}, trafficPolicy: {loadBalancer: {simple: RANDOM}}"),
            ],
            String::new(),
        ),
    ] {
        let mut all = vec![WEB];
        all.extend(texts.iter().map(String::as_str));
        assert_eq!(findings(&compile(&all)), expected, "{name}");
    }
}
