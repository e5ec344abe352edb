//! How long choosing a route takes: at 1, 100 and 10,000 services, and at 1, 100 and 5,000 rules of
//! one VirtualService, each as exact paths, prefixes, expressions and header values.
//! `cargo bench -p aquifer --bench route`; nanoseconds of CPU a choice.
//!
//! A plain program: the services are those that the compiler makes of manifests.

#![allow(clippy::print_stderr, reason = "what it measures goes to the terminal")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use aquifer::api::{decode, yaml};
use aquifer::clock;
use aquifer::control::compile::Compiler;
use aquifer::control::store::{Content, File, Store};
use aquifer::mesh::Snapshot;
use aquifer::policy::matcher::{Request, Source};
use http::{HeaderMap, HeaderValue, Method};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// Choices of one measurement.
const CHOICES: u32 = 1_000_000;

fn main() {
    for services in [1, 100, 10_000] {
        let snapshot = compile(&mesh(services));
        let nanos = measure(&snapshot, |n| Asked {
            host: format!("svc-{}.ns.svc.cluster.local", n % services),
            path: "/v1/items".to_owned(),
            header: None,
        });
        eprintln!("{nanos:>8.0} ns  {services} services, two rules each");
    }
    for kind in ["exact", "prefix", "regex", "header"] {
        for rules in [1, 100, 5_000] {
            let snapshot = compile(&one_service(kind, rules));
            let nanos = measure(&snapshot, |n| {
                let rule = n * 7919 % rules;
                Asked {
                    host: "svc-0.ns.svc.cluster.local".to_owned(),
                    path: format!("/r{rule}/x"),
                    header: Some(HeaderValue::from(rule)),
                }
            });
            eprintln!("{nanos:>8.0} ns  {rules} rules by {kind}");
        }
    }
}

struct Asked {
    host: String,
    path: String,
    header: Option<HeaderValue>,
}

fn measure(snapshot: &Snapshot, ask: impl Fn(u32) -> Asked) -> f64 {
    let labels = BTreeMap::new();
    let asked: Vec<(Asked, HeaderMap)> = (0..1024)
        .map(|n| {
            let asked = ask(n);
            let mut headers = HeaderMap::new();
            headers.insert("user-agent", HeaderValue::from_static("bench"));
            headers.insert("accept", HeaderValue::from_static("*/*"));
            headers.extend(
                asked
                    .header
                    .clone()
                    .map(|value| (http::header::HeaderName::from_static("x-rule"), value)),
            );
            (asked, headers)
        })
        .collect();
    let source = Source {
        namespace: "ns",
        labels: &labels,
    };
    let choose = |at: usize| {
        let (asked, headers) = &asked[at % asked.len()];
        let table = snapshot
            .route_table(&asked.host, source.namespace, 80)
            .expect("every host is known");
        let request = Request {
            method: &Method::GET,
            path: &asked.path,
            query: None,
            authority: &asked.host,
            headers,
            scheme: "http",
            source,
        };
        let choice = table.choose(&request).expect("a rule matches");
        black_box(choice.rule);
    };
    (0..1024).for_each(choose);
    let started = cpu();
    (0..CHOICES as usize).for_each(choose);
    (cpu() - started) * 1e9 / f64::from(CHOICES)
}

/// Seconds of CPU that the process has used: the machine may have other things to do.
fn cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process may ask about itself");
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn compile(text: &str) -> Arc<Snapshot> {
    let documents = yaml::read(text).expect("the generated manifests are valid");
    let mut store = Store::new("cluster.local");
    store.update(vec![File {
        path: Path::new("mesh.yaml").into(),
        content: Content::Objects(documents.into_iter().flat_map(decode).collect()),
    }]);
    let mut compiler = Compiler::new("node-1", "cluster.local");
    compiler.compile(store.objects(), clock::wall()).snapshot
}

fn service(n: u32) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: svc-{n}\n  namespace: ns\nspec:\n  clusterIP: 100.{}.{}.{}\n  ports:\n  - name: http\n    port: 80\n",
        n >> 16,
        (n >> 8) & 255,
        n & 255
    )
}

fn mesh(services: u32) -> String {
    let mut text = String::new();
    for n in 0..services {
        text += &service(n);
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: svc-{n}\n  namespace: ns\nspec:\n  hosts:\n  - svc-{n}\n  http:\n  - match:\n    - uri:\n        prefix: /v2\n    route:\n    - destination:\n        host: svc-{n}\n  - route:\n    - destination:\n        host: svc-{n}\n"
        );
    }
    text
}

fn one_service(kind: &str, rules: u32) -> String {
    let mut text = service(0);
    text += "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: svc-0\n  namespace: ns\nspec:\n  hosts:\n  - svc-0\n  http:\n";
    for n in 0..rules {
        let condition = match kind {
            "exact" => format!("uri: {{exact: /r{n}/x}}"),
            "prefix" => format!("uri: {{prefix: /r{n}/}}"),
            "regex" => format!("uri: {{regex: '/r{n}/[a-z]+'}}"),
            _ => format!("headers: {{x-rule: {{exact: '{n}'}}}}"),
        };
        let _ = write!(
            text,
            "  - match:\n    - {condition}\n    route:\n    - destination: {{host: svc-0}}\n"
        );
    }
    text
}
