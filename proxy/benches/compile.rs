//! How long a large mesh takes from text to snapshot, and how much it holds: 10,000 Services, each
//! with a VirtualService and a DestinationRule. `cargo bench -p aquifer --bench compile`, or with
//! `-- 2` for two Pods behind each Service (`-- 2 slices`: that EndpointSlices tell of); CPU time in
//! milliseconds, and what the process holds afterwards.
//!
//! A plain program: what it measures takes so long that a framework would add nothing.

#![allow(clippy::print_stderr, reason = "what it measures goes to the terminal")]

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use aquifer::api::{Decoded, decode, yaml};
use aquifer::clock;
use aquifer::control::compile::Compiler;
use aquifer::control::store::{Content, File, Store};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use tikv_jemalloc_ctl::background_thread;
use tikv_jemallocator::Jemalloc;

/// The proxy's own.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

const SERVICES: u32 = 10_000;
/// A single file of them all would be larger than the proxy reads.
const FILES: u32 = 10;

fn main() {
    let pods = std::env::args().find_map(|text| text.parse().ok());
    let pods = pods.unwrap_or(0);
    let slices = std::env::args().any(|text| text == "slices");
    let texts: Vec<String> = (0..FILES)
        .map(|file| manifests(file, pods, slices))
        .collect();
    let size: usize = texts.iter().map(String::len).sum();
    eprintln!("{} MiB of manifests", size >> 20);
    let mut store = Store::new("cluster.local");
    let mut compiler = Compiler::new("node-1", "cluster.local");
    let all: Vec<File> = timed("read and decode", || {
        let texts = texts.iter().enumerate();
        texts
            .map(|(n, text)| file(&name(n), objects(text)))
            .collect()
    });
    timed("check", || store.update(all));
    let before = resident();
    let compiled = timed("compile", || {
        compiler.compile(store.objects(), clock::wall())
    });
    let held = resident().saturating_sub(before);
    eprintln!(
        "{:>8}  bytes a service held by the snapshot",
        held / u64::from(SERVICES)
    );
    drop(compiled);
    let mut again = |what: &str, update: Option<Vec<Decoded>>| {
        let work = timed(what, || {
            if let Some(one) = update {
                let unchanged = (0..texts.len()).map(|n| File {
                    path: Path::new(&name(n)).into(),
                    content: Content::Unchanged,
                });
                let files = unchanged.chain([file("one.yaml", one)]);
                store.update(files.collect());
            }
            compiler.compile(store.objects(), clock::wall()).work
        });
        eprintln!("          {work:?}");
    };
    again("compile, nothing changed", None);
    let one = "{apiVersion: v1, kind: Service, metadata: {name: one}, spec: {ports: [{port: 80}]}}";
    again("one more Service", Some(objects(one)));
    let pod = |ready: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: one, namespace: ns-7, labels: {{app: svc-7}}}}, status: {{podIP: 10.255.0.1, conditions: [{{type: Ready, status: '{ready}'}}]}}}}"
        )
    };
    again("a Pod in its place", Some(objects(&pod("True"))));
    again(
        "the Pod is not ready any more",
        Some(objects(&pod("False"))),
    );
    let policy = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: one, namespace: ns-7}, spec: {rules: [{}]}}";
    again("a policy in its place", Some(objects(policy)));
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: ns-7, labels: {istio.io/dataplane-mode: ambient}}}";
    again("a Namespace in its place", Some(objects(namespace)));
    let rules = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: one, namespace: ns-7}, spec: {hosts: ['*.ns-7.svc.cluster.local'], http: [{route: [{destination: {host: svc-7}}]}]}}";
    again(
        "rules for a domain of 100 Services in its place",
        Some(objects(rules)),
    );
}

fn timed<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let started = cpu();
    let result = work();
    eprintln!("{:>8.1}  {name}", (cpu() - started) * 1000.0);
    result
}

/// Seconds of CPU that the process has used: the machine may have other things to do.
fn cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process may ask about itself");
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// Bytes of memory that the process holds, once the allocator has given back what is free (as it
/// does in the proxy, `memory.rs`).
fn resident() -> u64 {
    let restarted = background_thread::write(false).and_then(|()| background_thread::write(true));
    restarted.expect("jemalloc has threads here");
    std::thread::sleep(Duration::from_secs(2));
    let text = std::fs::read_to_string("/proc/self/statm").expect("proc is mounted");
    let pages = text
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("statm has numbers") * 4096
}

fn name(file: usize) -> String {
    format!("mesh-{file}.yaml")
}

fn file(name: &str, objects: Vec<Decoded>) -> File {
    File {
        path: Path::new(name).into(),
        content: Content::Objects(objects),
    }
}

fn objects(text: &str) -> Vec<Decoded> {
    let documents = yaml::read(text).expect("the generated manifests are valid");
    documents.into_iter().flat_map(decode).collect()
}

/// The manifests of one file.
fn manifests(file: u32, pods: u32, slices: bool) -> String {
    let count = SERVICES / FILES;
    let mut text = String::new();
    let mut add = |object: String| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "---\n{object}");
    };
    let address = |n: u32| format!("{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255);
    for n in file * count..(file + 1) * count {
        let metadata = format!("metadata:\n  name: svc-{n}\n  namespace: ns-{}", n % 100);
        add(format!(
            "apiVersion: v1\nkind: Service\n{metadata}\nspec:\n  clusterIP: 100.{}\n  selector:\n    app: svc-{n}\n  ports:\n  - name: http\n    port: 80\n    targetPort: 8080",
            address(n)
        ));
        for pod in n * pods..(n + 1) * pods {
            add(format!(
                "apiVersion: v1\nkind: Pod\nmetadata:\n  name: pod-{pod}\n  namespace: ns-{}\n  labels:\n    app: svc-{n}\n    version: v{}\nspec:\n  nodeName: node-2\nstatus:\n  podIP: 10.{}",
                n % 100,
                pod % 2,
                address(pod)
            ));
        }
        if slices {
            let endpoints = (n * pods..(n + 1) * pods).map(|pod| {
                format!(
                    "\n- addresses: [10.{}]\n  targetRef: {{kind: Pod, name: pod-{pod}}}",
                    address(pod)
                )
            });
            add(format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n{metadata}\n  labels: {{kubernetes.io/service-name: svc-{n}}}\naddressType: IPv4\nports:\n- name: http\n  port: 8080\nendpoints:{}",
                endpoints.collect::<String>()
            ));
        }
        add(format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n{metadata}\nspec:\n  host: svc-{n}\n  subsets:\n  - name: v0\n    labels:\n      version: v0\n  - name: v1\n    labels:\n      version: v1"
        ));
        add(format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\n{metadata}\nspec:\n  hosts:\n  - svc-{n}\n  http:\n  - match:\n    - uri:\n        prefix: /v1\n    route:\n    - destination:\n        host: svc-{n}\n        subset: v1\n  - route:\n    - destination:\n        host: svc-{n}\n        subset: v0\n      weight: 90\n    - destination:\n        host: svc-{n}\n        subset: v1\n      weight: 10"
        ));
    }
    text
}
