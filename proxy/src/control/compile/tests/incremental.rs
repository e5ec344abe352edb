//! A series of changes, compiled one after the other, comes to the same as compiling what there is
//! in the end.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::mesh::{Cluster, RouteTable};

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
        "{kind: Pod, metadata: {name: p, namespace: a, labels: {app: x}, annotations: {aquifer.io/netns: /run/p, aquifer.io/exclude-inbound-ports: '9'}}, spec: {nodeName: node-1}, status: {podIP: 10.1.0.7}}",
        "{kind: Pod, metadata: {name: p, namespace: a, labels: {app: x}}, spec: {hostNetwork: true, nodeName: node-1}, status: {podIP: 10.2.0.1}}",
        "{kind: Pod, metadata: {name: p, namespace: a, labels: {app: x, aquifer.io/mesh: maybe}}, status: {podIP: 10.1.0.2, phase: Succeeded}}",
        "{kind: Pod, metadata: {name: p, namespace: a, labels: {app: x, version: v1}}, spec: {nodeName: node-1}, status: {podIP: 10.1.0.1, phase: Failed}}",
    ],
    &[
        "{kind: Pod, metadata: {name: q, namespace: a, labels: {app: x, version: v2}}, status: {podIP: 10.1.0.2, conditions: [{type: Ready, status: 'True'}]}}",
        "{kind: Pod, metadata: {name: q, namespace: a, labels: {app: x, version: v2}}, status: {podIP: 10.1.0.2, conditions: [{type: Ready, status: 'False'}]}}",
        "{kind: Pod, metadata: {name: q, namespace: a, labels: {app: y, aquifer.io/mesh: enabled}, annotations: {aquifer.io/netns: /run/q}}, status: {podIPs: [{ip: 10.1.0.2}, {ip: 10.1.0.7}]}}",
        "{kind: Pod, metadata: {name: q, namespace: a, labels: {app: x}}, spec: {hostNetwork: true}, status: {podIP: 10.2.0.1}}",
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
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: one, namespace: a}, spec: {selector: {matchLabels: {app: y}}}}",
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: one, namespace: a}, spec: {action: AUDIT, selector: {matchLabels: {app: none}}}}",
    ],
    &[
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: all, namespace: istio-system}, spec: {action: DENY, rules: [{to: [{operation: {ports: ['81']}}]}]}}",
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: all, namespace: istio-system}, spec: {action: DENY, selector: {matchLabels: {app: y}}, rules: [{to: [{operation: {ports: ['81']}}]}]}}",
    ],
    &[
        "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: one, namespace: a}, spec: {mtls: {mode: STRICT}}}",
        "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: one, namespace: a}, spec: {selector: {matchLabels: {app: y}}, mtls: {mode: STRICT}}}",
    ],
    &[
        "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: two, namespace: istio-system}, spec: {mtls: {mode: STRICT}}}",
        "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: two, namespace: istio-system}, spec: {selector: {matchLabels: {app: y}}}}",
        "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: two, namespace: a, creationTimestamp: '2026-01-01T00:00:00Z'}, spec: {mtls: {mode: PERMISSIVE}}}",
    ],
    &[
        "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: one, namespace: a}, spec: {jwtRules: [{issuer: e, jwksUri: 'https://e/keys'}]}}",
        "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: one, namespace: a}, spec: {selector: {matchLabels: {app: y}}, jwtRules: [{issuer: f, jwks: '{\"keys\": [{\"kty\": \"oct\"}]}'}, {issuer: e, fromHeaders: [{name: x}]}]}}",
        "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: one, namespace: a}, spec: {targetRef: {kind: Service, name: x}, jwtRules: [{issuer: e}]}}",
    ],
    &[
        "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: two, namespace: istio-system}, spec: {selector: {matchLabels: {app: y}}, jwtRules: [{issuer: e, jwksUri: 'https://e/keys'}]}}",
        "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: two, namespace: istio-system}, spec: {jwtRules: [{issuer: a, jwks: '{\"keys\": [{\"kty\": \"oct\"}]}'}]}}",
        "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: two, namespace: a}, spec: {}}",
    ],
    // Whom CUSTOM policies ask, and such policies.
    &[
        "{kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: '{extensionProviders: [{name: opa, envoyExtAuthzGrpc: {service: z.b.svc.cluster.local, port: 80}}]}'}}",
        "{kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: '{extensionProviders: [{name: opa, envoyExtAuthzHttp: {service: x.a.svc.cluster.local, port: 80}}, {name: other, envoyExtAuthzGrpc: {service: e.com, port: 80}}]}'}}",
        "{kind: ConfigMap, metadata: {name: istio, namespace: a}, data: {mesh: '{extensionProviders: [{name: other, envoyExtAuthzGrpc: {service: e.com, port: 80}}]}'}}",
        "{kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {}}",
    ],
    &[
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: ask, namespace: a}, spec: {action: CUSTOM, provider: {name: opa}, rules: [{}]}}",
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: ask, namespace: a}, spec: {action: CUSTOM, provider: {name: other}, selector: {matchLabels: {app: y}}, rules: [{to: [{operation: {methods: [GET]}}]}]}}",
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: ask, namespace: istio-system}, spec: {action: CUSTOM, provider: {name: other}, rules: [{}]}}",
    ],
    &[
        "{kind: Node, metadata: {name: node-1, labels: {topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z}}}",
        "{kind: Node, metadata: {name: node-1, labels: {topology.kubernetes.io/region: other}}}",
    ],
    // More Pods: of another namespace, and sharing the address of a node.
    &[
        "{kind: Pod, metadata: {name: r, namespace: b, labels: {app: z}}, spec: {nodeName: node-1}, status: {podIP: 10.1.0.9}}",
        "{kind: Pod, metadata: {name: r, namespace: b, labels: {app: z}}, spec: {hostNetwork: true, nodeName: node-1}, status: {podIP: 10.2.0.1}}",
        "{kind: Pod, metadata: {name: r, namespace: istio-system, labels: {app: y, aquifer.io/mesh: enabled}, annotations: {aquifer.io/netns: /run/r}}, status: {podIP: 10.1.0.9}}",
    ],
    &[
        "{kind: Pod, metadata: {name: s, namespace: b, labels: {app: z}}, spec: {hostNetwork: true, nodeName: node-1}, status: {podIP: 10.2.0.1}}",
        "{kind: Pod, metadata: {name: s, namespace: b, labels: {app: z}}, status: {podIP: 10.2.0.1}}",
    ],
    // Endpoints that are Pods of another namespace, or none.
    &[
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: t, namespace: b, labels: {kubernetes.io/service-name: z}}, addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.1.0.1]}, {addresses: [10.2.0.1], nodeName: node-1}, {addresses: [10.1.0.2], targetRef: {kind: Pod, name: p, namespace: a}}]}",
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: t, namespace: b, labels: {kubernetes.io/service-name: z}}, addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.8.0.1], nodeName: node-1}]}",
    ],
    // Rules for everything, and who delegates to whom.
    &[
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: all, namespace: istio-system}, spec: {host: '*.local', trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, portLevelSettings: [{port: {number: 90}, loadBalancer: {simple: RANDOM}}]}}}",
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: all, namespace: b}, spec: {host: '*.b.svc.cluster.local', workloadSelector: {matchLabels: {app: z}}, subsets: [{name: v1}]}}",
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: all, namespace: a}, spec: {host: '*', subsets: [{name: v1}]}}",
    ],
    &[
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: four, namespace: b}, spec: {hosts: [z], http: [{match: [{uri: {prefix: /a}}], delegate: {name: three, namespace: a}}, {delegate: {name: five}}]}}",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: four, namespace: b}, spec: {hosts: ['*.com'], http: [{delegate: {name: five}}, {route: [{destination: {host: x.a.svc.cluster.local}}]}]}}",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: four, namespace: b}, spec: {hosts: [z], gateways: [gw], http: [{delegate: {name: five}}]}}",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: four, namespace: b}, spec: {hosts: ['*.local'], tcp: [{route: [{destination: {host: z}}]}], http: [{route: [{destination: {host: y.a.svc.cluster.local, subset: v1}}]}]}}",
    ],
    &[
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: five, namespace: b}, spec: {http: [{match: [{uri: {prefix: /a/b}}], route: [{destination: {host: z}}]}]}}",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: five, namespace: b}, spec: {exportTo: [a], http: [{route: [{destination: {host: z}}]}]}}",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: five, namespace: b}, spec: {http: [{route: [{destination: {host: x.a.svc.cluster.local, port: {number: 81}}}]}]}}",
    ],
];

/// One more than the most versions that there are of an object: the last ones mean that it is absent.
const VERSIONS: usize = 7;

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
        cluster.subset(),
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
            let private = port.private().routes.iter();
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
                port.private().l4
            );
        }
        lines.push(line);
    }
    for one in snapshot.clusters.iter() {
        lines.push(format!("cluster {}", cluster(one)));
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
    for (name, provider) in snapshot.providers.iter() {
        lines.push(format!("provider {name} {provider:?}"));
    }
    lines.sort();
    lines.push(findings(compiled));
    lines.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 2))]

    #[test]
    fn a_series_of_changes_comes_to_the_same_as_its_end(
        start in prop::collection::vec(0..VERSIONS, SLOTS.len()),
        series in prop::collection::vec(
            prop::collection::vec((0..SLOTS.len(), 0..VERSIONS), 1..3),
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
    // And one Pod of the mesh; what many others would depend on is absent.
    chosen[3] = 3;
    for slot in &mut chosen[13..] {
        *slot = VERSIONS;
    }
    let mut fixture = Fixture::new();
    let mut before = apply(&mut fixture, &chosen).snapshot;
    for (name, slot, version, expected) in [
        ("the rules of a host", 6, 9, "services addresses"),
        ("the rules of another", 7, 9, "services addresses"),
        ("a DestinationRule", 10, 9, "clusters"),
        ("endpoints", 5, 9, "clusters addresses"),
        ("a Service", 2, 9, "services clusters addresses"),
        ("a Pod that nothing is about", 21, 0, "addresses pods"),
        (
            "a Pod that is not ready any more",
            4,
            1,
            "clusters addresses",
        ),
        ("a Pod", 4, 9, "clusters addresses pods"),
        ("a policy", 12, 9, "guards"),
        ("a policy for all", 13, 0, "guards"),
        ("a policy that is for nobody here", 14, 1, ""),
        ("tokens", 16, 0, "guards"),
        ("tokens for an object", 16, 2, "guards"),
        ("no tokens for an object", 16, 9, ""),
        ("tokens for all", 17, 1, "guards"),
        ("whom policies may ask", 18, 0, "providers"),
        ("a policy that asks", 19, 0, "guards"),
        ("whom policies do ask", 18, 1, "providers"),
        ("a ConfigMap of somebody else's", 18, 2, "providers"),
        ("its end", 18, 9, ""),
        ("a Node", 20, 0, "clusters addresses pods"),
        ("a Namespace", 11, 9, "clusters addresses guards pods"),
    ] {
        chosen[slot] = version;
        let now = apply(&mut fixture, &chosen).snapshot;
        let shared = [
            ("services", Arc::ptr_eq(&before.services, &now.services)),
            ("clusters", Arc::ptr_eq(&before.clusters, &now.clusters)),
            ("addresses", Arc::ptr_eq(&before.addresses, &now.addresses)),
            ("guards", Arc::ptr_eq(&before.guards, &now.guards)),
            ("pods", Arc::ptr_eq(&before.workloads, &now.workloads)),
            ("providers", Arc::ptr_eq(&before.providers, &now.providers)),
        ];
        let others = shared.iter().filter(|(_, same)| !same);
        let others: Vec<&str> = others.map(|(part, _)| *part).collect();
        assert_eq!(others.join(" "), expected, "{name}");
        before = now;
    }
}
