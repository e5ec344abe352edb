//! Hosts without a service, and rules for connections that are not HTTP.

use super::*;
use crate::mesh::{L4Choice, L4Request};

#[test]
fn hosts_that_no_service_has_are_routed_at_port_80() {
    let to = "http: [{name: HOST, route: [{destination: {host: web.shop.svc.cluster.local, port: {number: 80}}}]}]";
    let one = |name: &str, host: &str, more: &str| {
        rules(
            name,
            "shop",
            &format!("hosts: ['{host}'], {more} {}", to.replace("HOST", name)),
        )
    };
    let compiled = compile(&[
        WEB,
        &one("exact", "books.example.com", ""),
        &one("domain", "*.example.com", ""),
        &one("private", "own.example.com", "exportTo: ['.'],"),
        &one("services", "*.cluster.local", ""),
    ]);
    for (namespace, host, port, expected) in [
        ("x", "books.example.com", 80, "exact"),
        ("x", "Books.Example.com:8080", 80, "exact"),
        ("x", "books.example.com", 81, "no host"),
        ("x", "a.example.com", 80, "domain"),
        ("x", "a.b.example.com", 80, "domain"),
        ("x", "example.com", 80, "no host"),
        ("x", "own.example.com", 80, "domain"),
        ("shop", "own.example.com", 80, "private"),
        // The domain has services: it is for these alone.
        ("x", "nobody.cluster.local", 80, "no host"),
        ("x", "web.shop", 80, "services"),
    ] {
        let route = route(&compiled, namespace, host, port, "/");
        assert_eq!(
            route.split(':').next(),
            Some(expected),
            "{namespace} {host} {port}"
        );
    }
}

const L4: &str = "
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec:
  clusterIP: 10.96.0.7
  ports: [{name: tcp, port: 5432}, {name: tls, port: 443}, {name: any, port: 9000}, {name: http, port: 80}]
";

/// Where a connection to `db` goes: the rule, and its clusters with their weights.
fn choose(
    compiled: &Compiled,
    namespace: &str,
    labels: &[(&str, &str)],
    port: u16,
    server_name: Option<&str>,
) -> String {
    let snapshot = &compiled.snapshot;
    let service = &snapshot.services["db.shop.svc.cluster.local"];
    let port = service.port(port).expect("known");
    let Some(table) = snapshot.l4(port, namespace) else {
        return "none".to_owned();
    };
    let labels = labels.iter();
    let labels = labels
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect();
    let request = L4Request {
        source: Source {
            namespace,
            labels: &labels,
        },
        destination: "10.96.0.7".parse().expect("an address"),
        server_name,
    };
    match table.choose(&request) {
        L4Choice::Rule(rule) => {
            let shares = rule.destinations.iter().zip(rule.weights.iter());
            let to = shares.map(|(one, weight)| format!("{weight} {}", one.cluster));
            format!("{}: {}", rule.name, to.collect::<Vec<_>>().join(", "))
        }
        L4Choice::Plain => "plain".to_owned(),
        L4Choice::Refused => "refused".to_owned(),
    }
}

#[test]
fn tcp_and_tls_rules_are_of_their_ports() {
    let web = |weight| {
        format!(
            "{{destination: {{host: web.shop.svc.cluster.local, port: {{number: 80}}}}, weight: {weight}}}"
        )
    };
    let own = "{destination: {host: db.shop.svc.cluster.local}, weight: 1}";
    let tcp = rules(
        "tcp",
        "shop",
        &format!(
            "hosts: [db], tcp: [{{match: [{{port: 5432, sourceNamespace: other}}], route: [{}]}}, {{match: [{{destinationSubnets: [10.96.0.7]}}], route: [{own}, {}]}}]",
            web(1),
            web(3)
        ),
    );
    let tls = rules(
        "tls",
        "x",
        &format!(
            "hosts: [db.shop.svc.cluster.local, '*.db.example.com'], tls: [{{match: [{{sniHosts: ['*.db.example.com']}}], route: [{}]}}]",
            web(1)
        ),
    );
    let compiled = compile(&[WEB, L4, &tcp, &tls]);
    let choose =
        |namespace: &str, port, server_name| choose(&compiled, namespace, &[], port, server_name);
    let web = "outbound|80||web.shop.svc.cluster.local";
    let split = |port| format!("tcp[1]: 1 outbound|{port}||db.shop.svc.cluster.local, 3 {web}");
    for (namespace, port, name, expected) in [
        ("shop", 5432, None, split(5432)),
        ("other", 5432, None, format!("tcp[0]: 1 {web}")),
        ("shop", 9000, None, split(9000)),
        ("shop", 80, None, "none".to_owned()),
        (
            "shop",
            443,
            Some("a.db.example.com"),
            format!("tls[0]: 1 {web}"),
        ),
        ("shop", 443, Some("db.example.com"), "refused".to_owned()),
    ] {
        assert_eq!(
            choose(namespace, port, name),
            expected,
            "{namespace} {port} {name:?}"
        );
    }
}

#[test]
fn rules_for_connections_that_there_are_not_are_told() {
    let to = "route: [{destination: {host: web.shop.svc.cluster.local, port: {number: 80}}}]";
    let none = "no port of web.shop.svc.cluster.local is declared as";
    for (hosts, spec, expected) in [
        ("web", format!("http: [{{match: [{{port: 80}}], {to}}}]"), String::new()),
        (
            "web",
            format!("http: [{{match: [{{port: 80}}, {{port: 81}}, {{port: 0}}], {to}}}]"),
            "spec.http[0].match[1].port: web.shop.svc.cluster.local has no port 81: this block never applies".to_owned(),
        ),
        (
            "web",
            format!("http: [{{match: [{{port: 5432}}], {to}}}]"),
            "spec.http[0].match[0].port: port 5432 is not declared as HTTP: this block never applies".to_owned(),
        ),
        ("web", format!("tcp: [{{match: [{{port: 5432}}], {to}}}]"), String::new()),
        (
            "web",
            format!("tcp: [{{match: [{{port: 80}}], {to}}}]"),
            "spec.tcp[0].match[0].port: port 80 is not declared as TCP: this block never applies".to_owned(),
        ),
        (
            "web",
            format!("tls: [{{match: [{{sniHosts: [web]}}], {to}}}]"),
            format!("spec.tls: {none} TLS: these rules have no effect"),
        ),
        ("db", format!("tls: [{{match: [{{sniHosts: [db], port: 443}}], {to}}}]"), String::new()),
        // An undeclared port carries either.
        ("db", format!("http: [{{match: [{{port: 9000}}], {to}}}], tcp: [{{match: [{{port: 9000}}], {to}}}]"), String::new()),
        // One of the hosts has it.
        ("web, db", format!("http: [{{match: [{{port: 9000}}], {to}}}]"), String::new()),
        // Nobody knows which ports these have.
        ("'*.local'", format!("http: [{{match: [{{port: 81}}], {to}}}]"), String::new()),
    ] {
        let text = rules("r", "shop", &format!("hosts: [{hosts}], {spec}"));
        let found = findings(&compile(&[WEB, L4, &text]));
        let expected = if expected.is_empty() {
            expected
        } else {
            format!("VirtualService shop/r {expected}")
        };
        assert_eq!(found, expected, "{hosts} {spec}");
    }
}

#[test]
fn tcp_and_tls_rules_ask_for_caller_and_gateway() {
    let to = "{destination: {host: db.shop.svc.cluster.local, subset: SUBSET}, weight: SHARE}";
    let to = |subset: &str, share: &str| to.replace("SUBSET", subset).replace("SHARE", share);
    let spec = |kind: &str, first: &str| {
        let sni = if kind == "tls" {
            "sniHosts: [db.shop.svc.cluster.local],"
        } else {
            ""
        };
        let spec = format!(
            "hosts: [db.shop.svc.cluster.local], gateways: [mesh, gw], {kind}: [\
             {{match: [{{{sni} {first}}}], route: [{}, {}]}}, \
             {{match: [{{{sni}}}], route: [{}]}}]",
            to("a", "70"),
            to("b", "30"),
            to("c", "1")
        );
        rules(kind, "shop", &spec)
    };
    let name = "db.shop.svc.cluster.local";
    for (kind, port, server_name) in [("tls", 443, Some(name)), ("tcp", 5432, None)] {
        let first = format!("{kind}[0]: 70 outbound|{port}|a|{name}, 30 outbound|{port}|b|{name}");
        let second = format!("{kind}[1]: 1 outbound|{port}|c|{name}");
        for (conditions, labels, expected) in [
            (
                "sourceLabels: {app: web}",
                &[("app", "web"), ("x", "y")][..],
                &first,
            ),
            ("sourceLabels: {app: web}", &[("app", "db")], &second),
            ("sourceLabels: {app: web}", &[], &second),
            ("sourceLabels: {app: web, x: y}", &[("app", "web")], &second),
            ("gateways: [gw]", &[("app", "web")], &second),
            ("gateways: [mesh]", &[], &first),
            ("gateways: [gw, mesh]", &[], &first),
        ] {
            let compiled = compile(&[L4, &spec(kind, conditions)]);
            let chosen = choose(&compiled, "shop", labels, port, server_name);
            assert_eq!(&chosen, expected, "{kind} {conditions} {labels:?}");
        }
        // Where no rule is for the mesh there is none, whatever gateways have.
        let of_a_gateway = spec(kind, "").replace("gateways: [mesh, gw]", "gateways: [gw]");
        let compiled = compile(&[L4, &of_a_gateway]);
        assert_eq!(choose(&compiled, "shop", &[], port, server_name), "none");
    }
}
