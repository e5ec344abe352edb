//! All Pods as workloads; those that did not change are taken over.

use std::sync::Arc;
use std::time::SystemTime;

use foldhash::{HashMap, HashMapExt as _};

use super::endpoint::Member;
use super::{Build, Compiler, locality, reference, workload};
use crate::api;
use crate::control::store::Objects;
use crate::mesh::Workload;
use crate::types::{Finding, ObjectRef};

/// What a Pod became, and out of what.
#[derive(Debug)]
pub(super) struct KeptWorkload {
    pod: Arc<api::Pod>,
    namespace: Option<Arc<api::Namespace>>,
    node: Option<Arc<api::Node>>,
    workload: Arc<Workload>,
    /// Since when it is ready.
    since: Option<SystemTime>,
    findings: Vec<Finding>,
}

impl Compiler {
    pub(super) fn workloads(
        &mut self,
        objects: &Objects,
        now: SystemTime,
        build: &mut Build,
        findings: &mut Vec<(ObjectRef, Finding)>,
    ) -> Vec<Member> {
        for (name, namespace) in &objects.namespaces {
            let mut found = Vec::new();
            workload::check_namespace(namespace, &mut found);
            let object = reference("Namespace", "", name);
            findings.extend(found.into_iter().map(|one| (object.clone(), one)));
        }
        let mut kept = HashMap::with_capacity(objects.pods.len());
        let mut members = Vec::with_capacity(objects.pods.len());
        for (key, pod) in &objects.pods {
            let namespace = objects.namespaces.get(&key.0);
            let node = pod.spec.node_name.as_ref();
            let node = node.and_then(|name| objects.nodes.get(name));
            let before = self.workloads.remove(key);
            let one = match before {
                Some(before)
                    if Arc::ptr_eq(&before.pod, pod)
                        && same(before.namespace.as_ref(), namespace)
                        && same(before.node.as_ref(), node) =>
                {
                    before
                }
                before => {
                    build.work.workloads += 1;
                    self.make_workload(pod, namespace, node, before, now)
                }
            };
            for finding in &one.findings {
                findings.push((reference("Pod", &key.0, &key.1), finding.clone()));
            }
            members.push(Member {
                pod: Arc::clone(pod),
                workload: Arc::clone(&one.workload),
                since: one.since,
            });
            kept.insert(key.clone(), one);
        }
        self.workloads = kept;
        members
    }

    fn make_workload(
        &self,
        pod: &Arc<api::Pod>,
        namespace: Option<&Arc<api::Namespace>>,
        node: Option<&Arc<api::Node>>,
        before: Option<KeptWorkload>,
        now: SystemTime,
    ) -> KeptWorkload {
        let mut findings = Vec::new();
        let namespace = namespace.cloned();
        let place = Arc::new(locality::of_pod(pod, node.map(|one| &**one)));
        let workload =
            workload::compile(pod, namespace.as_deref(), &self.node, place, &mut findings);
        let was_ready = before.as_ref().filter(|before| before.pod.is_ready());
        let since = match was_ready {
            _ if !pod.is_ready() => None,
            Some(before) => before.since,
            None => pod.ready_since().or_else(|| {
                // What is there when the proxy starts has been there for longer than is known.
                (self.last.version > 0).then_some(now)
            }),
        };
        let workload = match before {
            Some(before) if *before.workload == workload => before.workload,
            _ => Arc::new(workload),
        };
        KeptWorkload {
            pod: Arc::clone(pod),
            namespace,
            node: node.cloned(),
            workload,
            since,
            findings,
        }
    }
}

fn same<T>(before: Option<&Arc<T>>, now: Option<&Arc<T>>) -> bool {
    match (before, now) {
        (Some(before), Some(now)) => Arc::ptr_eq(before, now),
        (None, None) => true,
        _ => false,
    }
}
