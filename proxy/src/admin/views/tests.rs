//! Rows out of a snapshot made by hand.

use std::sync::Arc;

use foldhash::HashMap;

use super::*;
use crate::mesh::service::Private;
use crate::mesh::{Clusters, Destination, Endpoint, Forward, Rule, Variants};
use crate::policy::matcher::{Case, Match, Pattern};
use crate::policy::split::Weights;
use crate::types::{ClusterName, Hostname, ObjectRef, Protocol};

fn host() -> Hostname {
    Hostname::new("web.shop.svc.cluster.local")
}

fn cluster(subset: Option<&str>, addresses: &[&str]) -> Arc<Cluster> {
    let endpoints = addresses
        .iter()
        .map(|address| Endpoint::new(address.parse().expect("an address")));
    Arc::new(Cluster {
        name: ClusterName::outbound(80, subset, &host()),
        hostname: host(),
        port: 80,
        protocol: Protocol::Http,
        endpoints: endpoints.collect(),
        policy: Arc::default(),
    })
}

fn table(name: &str, subsets: &[(Option<&str>, u32)]) -> Arc<RouteTable> {
    let destinations = subsets.iter().map(|(subset, _)| Destination {
        cluster: ClusterName::outbound(80, *subset, &host()),
        headers: None,
        names_port: true,
    });
    let source = ObjectRef {
        kind: "VirtualService".into(),
        namespace: "shop".into(),
        name: name.into(),
    };
    let forward = Forward {
        destinations: destinations.collect(),
        weights: Weights::new(subsets.iter().map(|(_, weight)| *weight)).expect("positive"),
        ..Forward::to(ClusterName::passthrough(), Arc::default())
    };
    let rule = Rule {
        name: name.into(),
        matches: [Match {
            path: Some(Pattern::Prefix("/a".into(), Case::Sensitive)),
            ..Match::default()
        }]
        .into(),
        action: Action::Forward(Arc::new(forward)),
        headers: Arc::default(),
        cors: None,
        fault: None,
        stat_prefix: None,
    };
    Arc::new(RouteTable::new(Some(source.into()), vec![Arc::new(rule)]))
}

/// A service with a subset v2 that callers in `other` do not have, and rules of their own there.
fn snapshot() -> Snapshot {
    let service = Arc::new(Service {
        hostname: host(),
        name: "web".into(),
        namespace: "shop".into(),
        vips: Box::default(),
        ports: Box::new([ServicePort {
            number: 80,
            name: "http".into(),
            protocol: Protocol::Http,
            cluster: ClusterName::outbound(80, None, &host()),
            routes: table("all", &[(None, 90), (Some("v2"), 10)]),
            exceptions: Private {
                routes: BTreeMap::from([("other".into(), table("own", &[(Some("v2"), 1)]))]),
                l4: BTreeMap::new(),
            }
            .boxed(),
            l4: None,
        }]),
    });
    let clusters = [
        cluster(None, &["10.0.0.1:80", "10.0.0.2:80"]),
        cluster(Some("v2"), &["10.0.0.2:80"]),
    ];
    let none = Variants {
        others: Some(None),
        ..Variants::default()
    };
    let hidden = HashMap::from_iter([(ClusterName::outbound(80, Some("v2"), &host()), none)]);
    Snapshot {
        services: HashMap::from_iter([(host(), service)]).into(),
        clusters: Clusters::from_iter(clusters).into(),
        private_clusters: HashMap::from_iter([("other".into(), hidden)]).into(),
        ..Snapshot::default()
    }
}

fn filter(query: &str) -> Filter {
    Filter::from_query(Some(query)).expect("valid")
}

#[test]
fn routes_are_filtered() {
    let describe = |query| {
        let rows = routes(&snapshot(), &filter(query));
        let lines = rows.iter().map(|row| {
            let to = row
                .destinations
                .iter()
                .map(|one| format!("{}:{:?}", one.weight, one.endpoints));
            format!(
                "{} {} {}",
                row.name,
                row.matches.join("|"),
                to.collect::<Vec<_>>().join(" ")
            )
        });
        lines.collect::<Vec<_>>().join("; ")
    };
    let all = "all uri prefix /a 90:Some(2) 10:Some(1)";
    let own = "own uri prefix /a 1:None";
    for (query, expected) in [
        ("", format!("{all}; {own}")),
        ("pod=shop/x", all.to_owned()),
        ("pod=other/x", own.to_owned()),
        ("host=web.shop", format!("{all}; {own}")),
        ("host=api", String::new()),
        ("port=81", String::new()),
    ] {
        assert_eq!(describe(query), expected, "{query}");
    }
}

#[test]
fn clusters_and_endpoints_are_filtered() {
    for (query, clusters_expected, endpoints_expected) in [
        ("", 2, 3),
        ("subset=v2", 1, 1),
        ("pod=other/x", 1, 0),
        ("pod=shop/x", 2, 0),
        ("port=1", 0, 0),
    ] {
        let filter = filter(query);
        assert_eq!(
            clusters(&snapshot(), &filter).len(),
            clusters_expected,
            "{query}"
        );
        assert_eq!(
            endpoints(&snapshot(), &filter).len(),
            endpoints_expected,
            "{query}"
        );
    }
}

/// Scripts read these names.
#[test]
fn the_field_names_stay() {
    let row = &routes(&snapshot(), &filter("pod=shop/x"))[0];
    assert_eq!(
        serde_json::to_string(row).expect("representable"),
        r#"{"host":"web.shop.svc.cluster.local","port":80,"kind":"http","source":"VirtualService shop/all","order":1,"name":"all","matches":["uri prefix /a"],"destinations":[{"cluster":"outbound|80||web.shop.svc.cluster.local","weight":90,"endpoints":2},{"cluster":"outbound|80|v2|web.shop.svc.cluster.local","weight":10,"endpoints":1}]}"#
    );
}
