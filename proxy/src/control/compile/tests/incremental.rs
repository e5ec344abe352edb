//! A series of changes, compiled one after the other, comes to the same as compiling what there is
//! in the end.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::mesh::RouteTable;

/// Objects, and the versions that there are of each. Any may be absent.
const SLOTS: &[&[&str]] = &[
    // Service a/x.
    &[
        "{kind: Service, metadata: {name: x, namespace: a}, spec: {clusterIP: 10.9.0.1, selector: {app: x}, ports: [{port: 80, name: http}]}}",
        "{kind: Service, metadata: {name: x, namespace: a}, spec: {clusterIP: 10.9.0.1, selector: {app: x}, ports: [{port: 80, name: http}, {port: 81, name: tcp-b}]}}",
        "{kind: Service, metadata: {name: x, namespace: a}, spec: {clusterIP: 10.9.0.2, selector: {app: y}, ports: [{port: 8080, name: tls}]}}",
        "{kind: Service, metadata: {name: x, namespace: a}, spec: {type: ExternalName, externalName: e.com}}",
    ],
    // Service a/y, which may have an address of x's.
    &[
        "{kind: Service, metadata: {name: y, namespace: a}, spec: {clusterIP: 10.9.0.3, selector: {app: y}, ports: [{port: 80, name: http}]}}",
        "{kind: Service, metadata: {name: y, namespace: a}, spec: {clusterIP: 10.9.0.1, selector: {app: x}, ports: [{port: 80, name: http}]}}",
        "{kind: Service, metadata: {name: y, namespace: a}, spec: {selector: {app: y}, ports: [{port: 81, name: tcp}, {port: 82, name: http}]}}",
    ],
    // Service b/z.
    &[
        "{kind: Service, metadata: {name: z, namespace: b}, spec: {clusterIP: 10.9.0.4, selector: {app: z}, ports: [{port: 80, name: http}]}}",
        "{kind: Service, metadata: {name: z, namespace: b}, spec: {clusterIPs: [10.1.0.1], ports: [{port: 80, name: grpc}, {port: 90}]}}",
    ],
    // Pods.
    &[
        "{kind: Pod, metadata: {name: p, namespace: a, labels: {app: x, version: v1}}, spec: {nodeName: node-1}, status: {podIP: 10.1.0.1}}",
        "{kind: Pod, metadata: {name: p, namespace: a, labels: {app: y, version: v1}}, status: {podIP: 10.1.0.1}}",
        "{kind: Pod, metadata: {name: p, namespace: a, labels: {app: x}}, status: {podIP: 10.9.0.1}}",
    ],
    &[
        "{kind: Pod, metadata: {name: q, namespace: a, labels: {app: x, version: v2}}, status: {podIP: 10.1.0.2, conditions: [{type: Ready, status: 'True'}]}}",
        "{kind: Pod, metadata: {name: q, namespace: a, labels: {app: x, version: v2}}, status: {podIP: 10.1.0.2, conditions: [{type: Ready, status: 'False'}]}}",
    ],
    // Endpoints of a/x that do not come by its selector.
    &[
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s, namespace: a, labels: {kubernetes.io/service-name: x}}, addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.1.0.1]}, {addresses: [10.1.0.7], targetRef: {kind: Pod, name: q}}]}",
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s, namespace: a, labels: {kubernetes.io/service-name: y}}, addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.1.0.2], conditions: {ready: false}}]}",
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s, namespace: a, labels: {kubernetes.io/service-name: x}}, addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: []}",
    ],
    // Rules for requests.
    &[
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: one, namespace: a}, spec: {hosts: [x], http: [{route: [{destination: {host: y}}]}]}}",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: one, namespace: a}, spec: {hosts: [x, y], http: [{match: [{port: 81}], route: [{destination: {host: x, subset: v1}}]}, {route: [{destination: {host: z.b.svc.cluster.local, subset: v1}, weight: 1}, {destination: {host: x, subset: v2}, weight: 2}]}]}}",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: one, namespace: a}, spec: {hosts: ['*.a.svc.cluster.local'], http: [{route: [{destination: {host: x}}]}]}}",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: one, namespace: a}, spec: {hosts: [x], exportTo: [.], http: [{mirror: {host: y}, route: [{destination: {host: x}}]}]}}",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: one, namespace: a}, spec: {hosts: [x], gateways: [gw], http: [{route: [{destination: {host: x}}]}]}}",
    ],
    &[
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: two, namespace: a, creationTimestamp: '2026-01-01T00:00:00Z'}, spec: {hosts: [x], http: [{route: [{destination: {host: z.b.svc.cluster.local}}]}]}}",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: two, namespace: a}, spec: {hosts: [x], tcp: [{match: [{port: 81}], route: [{destination: {host: y}}]}], tls: [{match: [{sniHosts: [x]}], route: [{destination: {host: z.b.svc.cluster.local, subset: v1}}]}]}}",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: two, namespace: a}, spec: {hosts: [e.com, f.com], http: [{route: [{destination: {host: x}}]}]}}",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: two, namespace: a}, spec: {hosts: ['*.b.svc.cluster.local', '*.com'], http: [{route: [{destination: {host: y, subset: v1}}]}]}}",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: two, namespace: a}, spec: {hosts: [y], http: [{delegate: {name: three}}]}}",
    ],
    &[
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: three, namespace: a}, spec: {http: [{route: [{destination: {host: x, subset: v1}}]}]}}",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: three, namespace: a}, spec: {hosts: [e.com], http: [{route: [{destination: {host: x}}]}]}}",
    ],
    // Rules for endpoints.
    &[
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: one, namespace: a}, spec: {host: x, subsets: [{name: v1, labels: {version: v1}}]}}",
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: one, namespace: a}, spec: {host: x, trafficPolicy: {outlierDetection: {}, portLevelSettings: [{port: {number: 81}, loadBalancer: {simple: RANDOM}}]}, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}}",
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: one, namespace: a}, spec: {host: '*.a.svc.cluster.local', trafficPolicy: {portLevelSettings: [{port: {number: 82}, loadBalancer: {simple: RANDOM}}]}, subsets: [{name: v1, labels: {version: v1}}]}}",
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: one, namespace: a}, spec: {host: x, exportTo: [.], subsets: [{name: v2, labels: {version: v2}}]}}",
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: one, namespace: a}, spec: {host: x, workloadSelector: {matchLabels: {app: y}}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}}",
    ],
    &[
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: two, namespace: a}, spec: {host: x, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}, subsets: [{name: v1, labels: {version: v2}}]}}",
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: two, namespace: a}, spec: {host: z.b.svc.cluster.local, subsets: [{name: v1}]}}",
    ],
    // What much depends on.
    &[
        "{kind: Namespace, metadata: {name: a, labels: {istio.io/dataplane-mode: ambient}}}",
        "{kind: Namespace, metadata: {name: a, annotations: {networking.istio.io/traffic-distribution: PreferClose}}}",
    ],
    &[
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: one, namespace: a}, spec: {rules: [{to: [{operation: {ports: ['80']}}]}]}}",
    ],
];

/// One file a slot.
fn texts(chosen: &[usize]) -> Vec<String> {
    let all = chosen.iter().zip(SLOTS);
    all.map(|(version, slot)| match slot.get(*version) {
        Some(text) if text.contains("apiVersion") => (*text).to_owned(),
        Some(text) => text.replacen('{', "{apiVersion: v1, ", 1),
        None => String::new(),
    })
    .collect()
}

fn apply(fixture: &mut Fixture, chosen: &[usize]) -> Compiled {
    let texts = texts(chosen);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    fixture.apply(&texts)
}

fn table(table: &RouteTable) -> String {
    format!("{:?} {:?}", table.source, table.rules())
}

fn cluster(cluster: &Cluster) -> String {
    let endpoints = cluster.endpoints.iter().map(|one| {
        // Since when it is ready depends on when it came.
        let workload = one.workload.as_ref().map(|one| &one.name);
        format!(
            "{} {workload:?} {} {:?} {}",
            one.address, one.weight, one.locality, one.ready
        )
    });
    format!(
        "{} {:?} {:?} {:?} {:?}",
        cluster.name,
        cluster.subset,
        cluster.protocol,
        endpoints.collect::<Vec<_>>(),
        cluster.policy
    )
}

/// All that a snapshot says, and what was found, in an order of its own.
fn dump(compiled: &Compiled) -> String {
    let snapshot = &compiled.snapshot;
    let mut lines = Vec::new();
    for (host, service) in snapshot.services.iter() {
        let mut line = format!("service {host} {} {:?}", service.namespace, service.vips);
        for port in &service.ports {
            let private = port.private_routes.iter();
            let private: Vec<_> = private.map(|(who, one)| (who, table(one))).collect();
            let _ = write!(
                line,
                "\n  {} {} {:?} {} {}\n  {private:?}\n  {:?} {:?}",
                port.number,
                port.name,
                port.protocol,
                port.cluster,
                table(&port.routes),
                port.l4,
                port.private_l4
            );
        }
        lines.push(line);
    }
    for (name, one) in snapshot.clusters.iter() {
        lines.push(format!("cluster {name} {}", cluster(one)));
    }
    for (namespace, all) in snapshot.private_clusters.iter() {
        assert!(!all.is_empty(), "{namespace} has clusters of its own");
        for (name, variants) in all {
            let selected = variants.selected.iter();
            let selected = selected.map(|(who, one)| (who, one.as_deref().map(cluster)));
            let others = variants.others.as_ref();
            lines.push(format!(
                "private {namespace} {name} {:?} {:?}",
                selected.collect::<Vec<_>>(),
                others.map(|one| one.as_deref().map(cluster))
            ));
        }
    }
    for (host, one) in snapshot.virtual_hosts.iter() {
        let routes = one.routes.as_deref().map(table);
        let private = one.private.iter();
        let private = private.map(|(who, one)| (who, one.as_deref().map(table)));
        lines.push(format!(
            "host {host} {routes:?} {:?}",
            private.collect::<Vec<_>>()
        ));
    }
    // Whoever is told of twice is the same allocation.
    let known = |one: &Arc<Service>| {
        assert!(Arc::ptr_eq(one, &snapshot.services[&one.hostname]));
        one.hostname.to_string()
    };
    for (address, owner) in snapshot.addresses.iter() {
        lines.push(match owner {
            Owner::Service(service) => format!("address {address} {}", known(service)),
            Owner::Workload(workload, services) => {
                let services: Vec<String> = services.iter().map(known).collect();
                format!("address {address} {} {services:?}", workload.name)
            }
        });
    }
    lines.push(format!("pods {:?}", snapshot.workloads));
    for (namespace, guards) in snapshot.guards.iter() {
        for (pod, guard) in guards {
            lines.push(format!("guard {namespace} {pod} {guard:?}"));
        }
    }
    lines.sort();
    lines.push(findings(compiled));
    lines.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 2))]

    #[test]
    fn a_series_of_changes_comes_to_the_same_as_its_end(
        start in prop::collection::vec(0..6_usize, SLOTS.len()),
        series in prop::collection::vec(
            prop::collection::vec((0..SLOTS.len(), 0..6_usize), 1..3),
            1..16,
        ),
    ) {
        let mut chosen = start;
        let mut fixture = Fixture::new();
        apply(&mut fixture, &chosen);
        for changes in series {
            for (slot, version) in changes {
                chosen[slot] = version;
            }
            let incremental = dump(&apply(&mut fixture, &chosen));
            let anew = dump(&apply(&mut Fixture::new(), &chosen));
            prop_assert_eq!(incremental, anew);
        }
    }
}

/// Most changes are of this kind, and nothing is made anew that has nothing to do with them.
#[test]
fn what_a_change_does_not_touch_is_shared() {
    // All objects, each in its first version.
    let mut chosen = vec![0; SLOTS.len()];
    // But that the delegate is by itself.
    chosen[8] = 1;
    let mut fixture = Fixture::new();
    let mut before = apply(&mut fixture, &chosen).snapshot;
    for (name, slot, version, expected) in [
        ("the rules of a host", 6, 9, "clusters guards pods"),
        ("the rules of another", 7, 9, "clusters guards pods"),
        ("a DestinationRule", 10, 9, "services addresses guards pods"),
        ("endpoints", 5, 9, "services guards pods"),
        ("a Service", 2, 9, "guards pods"),
        ("a Pod", 4, 9, ""),
    ] {
        chosen[slot] = version;
        let now = apply(&mut fixture, &chosen).snapshot;
        let shared = [
            ("services", Arc::ptr_eq(&before.services, &now.services)),
            ("clusters", Arc::ptr_eq(&before.clusters, &now.clusters)),
            ("addresses", Arc::ptr_eq(&before.addresses, &now.addresses)),
            ("guards", Arc::ptr_eq(&before.guards, &now.guards)),
            ("pods", Arc::ptr_eq(&before.workloads, &now.workloads)),
        ];
        let shared = shared.iter().filter(|(_, same)| *same);
        let shared: Vec<&str> = shared.map(|(part, _)| *part).collect();
        assert_eq!(shared.join(" "), expected, "{name}");
        before = now;
    }
}
