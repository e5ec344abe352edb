//! All Pods as workloads; those that did not change are taken over.

use std::collections::HashMap;
use std::sync::Arc;

use super::endpoint::Member;
use super::{Compiler, reference, workload};
use crate::api;
use crate::control::store::Objects;
use crate::mesh::Workload;
use crate::types::{Finding, ObjectRef};

/// What a Pod became, and out of what.
#[derive(Debug)]
pub(super) struct KeptWorkload {
    pod: Arc<api::Pod>,
    namespace: Option<Arc<api::Namespace>>,
    workload: Arc<Workload>,
    findings: Vec<Finding>,
}

impl Compiler {
    pub(super) fn workloads(
        &mut self,
        objects: &Objects,
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
            let before = self.workloads.remove(key).filter(|before| {
                Arc::ptr_eq(&before.pod, pod)
                    && match (&before.namespace, namespace) {
                        (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                        (None, None) => true,
                        _ => false,
                    }
            });
            let one = before.unwrap_or_else(|| {
                let mut findings = Vec::new();
                let namespace = namespace.cloned();
                let workload =
                    workload::compile(pod, namespace.as_deref(), &self.node, &mut findings);
                KeptWorkload {
                    pod: Arc::clone(pod),
                    namespace,
                    workload: Arc::new(workload),
                    findings,
                }
            });
            for finding in &one.findings {
                findings.push((reference("Pod", &key.0, &key.1), finding.clone()));
            }
            members.push(Member {
                pod: Arc::clone(pod),
                workload: Arc::clone(&one.workload),
            });
            kept.insert(key.clone(), one);
        }
        self.workloads = kept;
        members
    }
}
