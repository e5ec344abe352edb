//! All Pods as workloads; those that did not change are taken over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use super::told::Told;
use super::{Build, Compiler, locality, reference, workload};
use crate::api::{Namespace, Node, Pod};
use crate::control::store::{Key, Objects};
use crate::mesh::Workload;
use crate::types::Finding;

/// A Pod with the workload that it became, and out of what.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) pod: Arc<Pod>,
    pub(super) workload: Arc<Workload>,
    /// Since when it is ready, where that is known.
    pub(super) since: Option<SystemTime>,
    namespace: Option<Arc<Namespace>>,
    node: Option<Arc<Node>>,
    findings: Box<[Finding]>,
}

/// A Pod that was looked at again: as it was, and as it is.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) before: Option<Member>,
    pub(super) now: Option<Member>,
}

impl Member {
    /// Its namespace and name, by which Pods are sorted.
    pub(super) fn key(&self) -> (&str, &str) {
        (&self.workload.namespace, &self.workload.name)
    }

    fn is_of(&self, pod: &Arc<Pod>, objects: &Objects) -> bool {
        let (namespace, node) = surroundings(pod, objects);
        Arc::ptr_eq(&self.pod, pod)
            && same(self.namespace.as_ref(), namespace)
            && same(self.node.as_ref(), node)
    }
}

/// Those of a namespace, of Pods that are sorted.
pub(super) fn within<'a>(members: &'a [Member], namespace: &str) -> &'a [Member] {
    let start = members.partition_point(|one| *one.workload.namespace < *namespace);
    let here = &members[start..];
    &here[..here.partition_point(|one| *one.workload.namespace <= *namespace)]
}

/// Where there is a Pod, or where it would be.
pub(super) fn find(members: &[Member], key: (&str, &str)) -> Result<usize, usize> {
    members.binary_search_by(|one| one.key().cmp(&key))
}

impl Compiler {
    /// Every Pod, sorted by namespace and name.
    pub(super) fn population(
        &mut self,
        objects: &Objects,
        now: SystemTime,
        build: &mut Build,
        told: &mut Told,
    ) -> Vec<Member> {
        for (name, namespace) in &objects.namespaces {
            report_namespace(name, Some(namespace), told);
        }
        let mut before = std::mem::take(&mut self.members).into_iter().peekable();
        let mut members = Vec::with_capacity(objects.pods.len());
        for (key, pod) in &objects.pods {
            let key = (&*key.0, &*key.1);
            while before.next_if(|one| one.key() < key).is_some() {}
            let before = before.next_if(|one| one.key() == key);
            members.push(self.member(pod, before, objects, now, build, told));
        }
        members
    }

    /// Looks again at the Pods of these names.
    pub(super) fn repopulate(
        &self,
        members: &mut Vec<Member>,
        keys: &BTreeSet<Key>,
        objects: &Objects,
        now: SystemTime,
        build: &mut Build,
        told: &mut Told,
    ) -> Vec<Moved> {
        let moved = keys.iter().map(|key| {
            let at = find(members, (&*key.0, &*key.1));
            let before = at.ok().map(|at| members[at].clone());
            let pod = objects.pods.get(key);
            let now = pod.map(|pod| self.member(pod, before.clone(), objects, now, build, told));
            match (at, &now) {
                (Ok(at), Some(now)) => members[at] = now.clone(),
                (Ok(at), None) => {
                    members.remove(at);
                    told.set_own(reference("Pod", &key.0, &key.1), Vec::new());
                }
                (Err(at), Some(now)) => members.insert(at, now.clone()),
                (Err(_), None) => {}
            }
            Moved { before, now }
        });
        moved.collect()
    }

    /// What `pod` is now: what it was before, where all that it is made of is the same.
    fn member(
        &self,
        pod: &Arc<Pod>,
        before: Option<Member>,
        objects: &Objects,
        now: SystemTime,
        build: &mut Build,
        told: &mut Told,
    ) -> Member {
        let before = match before {
            Some(before) if before.is_of(pod, objects) => Ok(before),
            before => Err(before),
        };
        let member = before.unwrap_or_else(|before| {
            build.work.workloads += 1;
            self.make_member(pod, before, objects, now)
        });
        let (namespace, name) = member.key();
        let found = member.findings.to_vec();
        told.set_own(reference("Pod", namespace, name), found);
        member
    }

    fn make_member(
        &self,
        pod: &Arc<Pod>,
        before: Option<Member>,
        objects: &Objects,
        now: SystemTime,
    ) -> Member {
        let mut findings = Vec::new();
        let (namespace, node) = surroundings(pod, objects);
        let place = Arc::new(locality::of_pod(pod, node.map(|one| &**one)));
        let within = namespace.map(|one| &**one);
        let workload = workload::compile(pod, within, &self.node, place, &mut findings);
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
        Member {
            pod: Arc::clone(pod),
            workload,
            since,
            namespace: namespace.cloned(),
            node: node.cloned(),
            findings: findings.into(),
        }
    }
}

/// What is wrong with a Namespace by itself, or nothing where it is gone.
pub(super) fn report_namespace(name: &str, namespace: Option<&Arc<Namespace>>, told: &mut Told) {
    let mut found = Vec::new();
    if let Some(namespace) = namespace {
        workload::check_namespace(namespace, &mut found);
    }
    told.set_own(reference("Namespace", "", name), found);
}

/// The Namespace and the Node of a Pod.
fn surroundings<'a>(
    pod: &Pod,
    objects: &'a Objects,
) -> (Option<&'a Arc<Namespace>>, Option<&'a Arc<Node>>) {
    let node = pod.spec.node_name.as_ref();
    (
        objects.namespaces.get(&pod.metadata.namespace),
        node.and_then(|name| objects.nodes.get(name)),
    )
}

fn same<T>(before: Option<&Arc<T>>, now: Option<&Arc<T>>) -> bool {
    match (before, now) {
        (Some(before), Some(now)) => Arc::ptr_eq(before, now),
        (None, None) => true,
        _ => false,
    }
}
