//! Who may connect to each local pod: the PeerAuthentications, RequestAuthentications and
//! AuthorizationPolicies that apply to it, and what those say that has no effect.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};

use super::tokens::{ByNamespace, KeptTokens};
use super::{Compiler, ROOT_NAMESPACE, reference};
use crate::api;
use crate::api::Selector;
use crate::api::peer_authentication::{MutualTls, MutualTlsMode};
use crate::control::store::{Key, Objects};
use crate::mesh::snapshot::Providers;
use crate::mesh::{Guard, Workload};
use crate::policy::authorization::{Action, Policy};
use crate::policy::peer_authentication::{Level, Mode, Requirement};
use crate::types::{Finding, ObjectRef};

/// A policy, and out of what it was compiled.
#[derive(Debug)]
pub(super) struct KeptPolicy {
    source: Arc<api::AuthorizationPolicy>,
    policy: Arc<Policy>,
}

/// The guards of a namespace's local pods, by name.
type Guards = HashMap<Arc<str>, HashMap<Arc<str>, Arc<Guard>>>;

/// A PeerAuthentication with a selector, or without one.
struct Peer<'a> {
    source: &'a api::PeerAuthentication,
    level: Level,
}

/// The PeerAuthentications of a namespace, the oldest first.
#[derive(Default)]
struct Peers<'a> {
    all: Option<Peer<'a>>,
    selected: Vec<Peer<'a>>,
}

impl Compiler {
    pub(super) fn guards(
        &mut self,
        objects: &Objects,
        workloads: &[Arc<Workload>],
        providers: &Providers,
        findings: &mut Vec<(ObjectRef, Finding)>,
    ) -> Guards {
        self.compile_policies(objects);
        self.compile_tokens(objects);
        let peers = self.peers(objects, findings);
        let mut by_namespace: BTreeMap<&str, Vec<&KeptPolicy>> = BTreeMap::new();
        for ((namespace, _), kept) in in_order(objects, &self.policies) {
            by_namespace.entry(namespace).or_default().push(kept);
        }
        let tokens = ByNamespace::new(objects, &self.tokens);
        let root = ROOT_NAMESPACE;
        let mut guards = Guards::new();
        for workload in workloads.iter().filter(|one| one.local.is_some()) {
            let own = Some(&*workload.namespace).filter(|own| *own != root);
            let namespaces = std::iter::once(root).chain(own);
            let policies = namespaces.clone().filter_map(|name| by_namespace.get(name));
            let policies = policies.flatten().filter(|one| one.applies(workload));
            let guard = Guard {
                peers: requirement(&peers, workload, root),
                tokens: tokens.of(namespaces, workload),
                policies: policies.map(|one| Arc::clone(&one.policy)).collect(),
            };
            findings.extend(unasked(workload, &guard));
            let before = self.last.guard(workload).filter(|one| one.is_same(&guard));
            let guard = before.cloned().unwrap_or_else(|| Arc::new(guard));
            let namespace = guards.entry(Arc::clone(&workload.namespace)).or_default();
            namespace.insert(Arc::clone(&workload.name), guard);
        }
        self.report_policies(objects, workloads, providers, findings);
        guards
    }

    /// Compiles what is new.
    fn compile_policies(&mut self, objects: &Objects) {
        let mut before = std::mem::take(&mut self.policies);
        for (key, source) in &objects.authorization_policies {
            let kept = before
                .remove(key)
                .filter(|kept| Arc::ptr_eq(&kept.source, source))
                .unwrap_or_else(|| KeptPolicy {
                    source: Arc::clone(source),
                    policy: Arc::new(Policy::compile(source, &self.trust_domains)),
                });
            self.policies.insert(key.clone(), kept);
        }
    }

    /// The PeerAuthentications by namespace.
    fn peers<'a>(
        &self,
        objects: &'a Objects,
        findings: &mut Vec<(ObjectRef, Finding)>,
    ) -> BTreeMap<&'a str, Peers<'a>> {
        let mut sources: Vec<&api::PeerAuthentication> = objects
            .peer_authentications
            .values()
            .map(|one| &**one)
            .collect();
        sources.sort_by(|one, other| one.metadata.age().cmp(&other.metadata.age()));
        let mut peers: BTreeMap<&str, Peers<'_>> = BTreeMap::new();
        for source in sources {
            let namespace = &*source.metadata.namespace;
            let level = level(source);
            let object = level.policy.clone();
            let of_namespace = peers.entry(namespace).or_default();
            if selects(source.spec.selector.as_ref()) {
                if namespace == ROOT_NAMESPACE {
                    let message = format!(
                        "in {namespace} a PeerAuthentication is for the whole mesh: one with a selector has no effect"
                    );
                    findings.push((object, Finding::warning("spec.selector", message)));
                } else {
                    of_namespace.selected.push(Peer { source, level });
                }
            } else if let Some(older) = &of_namespace.all {
                let message = format!(
                    "{} is older and for the same workloads: this one has no effect",
                    older.level.policy
                );
                findings.push((object, Finding::warning("", message)));
            } else {
                of_namespace.all = Some(Peer { source, level });
            }
        }
        peers
    }

    /// Policies that have no effect, or another than their authors may think.
    fn report_policies(
        &self,
        objects: &Objects,
        workloads: &[Arc<Workload>],
        providers: &Providers,
        findings: &mut Vec<(ObjectRef, Finding)>,
    ) {
        let mut pods: BTreeMap<&str, Vec<&Workload>> = BTreeMap::new();
        for workload in workloads {
            pods.entry(&workload.namespace).or_default().push(workload);
        }
        let reach = |namespace: &str, selector: Option<&Selector>| {
            let everywhere = namespace == ROOT_NAMESPACE;
            let own = pods.get(namespace).map(Vec::as_slice).unwrap_or_default();
            let selected = |one: &&&Workload| selector.is_none_or(|by| by.selects(&one.labels));
            let (mut any, mut enrolled) = (false, false);
            if everywhere {
                for one in workloads
                    .iter()
                    .map(|one| &**one)
                    .filter(|one| selected(&one))
                {
                    any = true;
                    enrolled |= one.enrolled;
                    if enrolled {
                        break;
                    }
                }
            } else {
                any = own.iter().any(|one| selected(&one));
                enrolled = own.iter().any(|one| one.enrolled && selected(&one));
            }
            match (any, enrolled) {
                (_, true) => None,
                (true, false) => {
                    Some("none of the pods it is for is in the mesh: it has no effect")
                }
                (false, false) => Some("there is no pod that it is for: it has no effect"),
            }
        };
        let mut tell = |kind: &str, key: &Key, finding: Finding| {
            findings.push((reference(kind, &key.0, &key.1), finding));
        };
        for (key, source) in &objects.peer_authentications {
            let selector = source
                .spec
                .selector
                .as_ref()
                .filter(|one| selects(Some(one)));
            if selector.is_some() && *key.0 == *ROOT_NAMESPACE {
                continue;
            }
            if let Some(message) = reach(&key.0, selector) {
                tell("PeerAuthentication", key, Finding::warning(FIELD, message));
            }
        }
        for (key, kept) in in_order(objects, &self.policies) {
            for finding in kept.report(providers) {
                tell("AuthorizationPolicy", key, finding);
            }
            if kept.source.target_field().is_none()
                && let Some(message) = reach(&key.0, kept.source.spec.selector.as_ref())
            {
                tell("AuthorizationPolicy", key, Finding::warning(FIELD, message));
            }
        }
        for (key, source) in &objects.request_authentications {
            let found = self.tokens.get(key).map(KeptTokens::report);
            for finding in found.into_iter().flatten() {
                tell("RequestAuthentication", key, finding);
            }
            if source.target_field().is_none()
                && let Some(message) = reach(&key.0, source.spec.selector.as_ref())
            {
                tell(
                    "RequestAuthentication",
                    key,
                    Finding::warning(FIELD, message),
                );
            }
        }
    }
}

/// What is said of a policy that is attached to an object.
pub(super) const ATTACHED: &str =
    "policies attached to objects are not in force yet: use a selector";

/// Where it is told that a policy reaches nobody.
const FIELD: &str = "spec.selector";

fn in_order<'a>(
    objects: &'a Objects,
    kept: &'a HashMap<Key, KeptPolicy>,
) -> impl Iterator<Item = (&'a Key, &'a KeptPolicy)> {
    let keys = objects.authorization_policies.keys();
    keys.filter_map(|key| Some((key, kept.get(key)?)))
}

impl KeptPolicy {
    fn applies(&self, workload: &Workload) -> bool {
        let selector = self.source.spec.selector.as_ref();
        self.source.target_field().is_none()
            && selector.is_none_or(|one| one.selects(&workload.labels))
    }

    /// What can be said without looking at pods.
    fn report(&self, providers: &Providers) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Some(field) = self.source.target_field() {
            findings.push(Finding::warning(field, ATTACHED));
            return findings;
        }
        match self.policy.action {
            Action::Custom => {
                let name = self.policy.provider.as_deref().unwrap_or_default();
                if !providers.contains_key(name) {
                    let message = format!(
                        "the ConfigMap istio has no external authorizer {name:?} in \
                         extensionProviders: whatever the policy matches is denied"
                    );
                    findings.push(Finding::warning("spec.provider.name", message));
                }
            }
            Action::Allow | Action::Deny | Action::Audit => {}
        }
        findings
    }
}

/// Ports of a pod that has policies, and about which they are never asked.
fn unasked(workload: &Workload, guard: &Guard) -> Option<(ObjectRef, Finding)> {
    let ports = &workload.local.as_ref()?.exclude_inbound_ports;
    if ports.is_empty() || guard.is_open() {
        return None;
    }
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let message = format!(
        "connections to port {} are not captured: the policies of this pod are not asked about them",
        ports.join(" and ")
    );
    let object = reference("Pod", &workload.namespace, &workload.name);
    Some((object, Finding::warning("metadata.annotations", message)))
}

fn selects(selector: Option<&Selector>) -> bool {
    selector.is_some_and(|one| !one.match_labels.is_empty())
}

fn level(source: &api::PeerAuthentication) -> Level {
    let metadata = &source.metadata;
    let ports = source.spec.port_level_mtls.iter();
    Level {
        policy: reference("PeerAuthentication", &metadata.namespace, &metadata.name),
        mode: source.spec.mtls.as_ref().and_then(mode),
        ports: ports
            .filter_map(|(port, tls)| Some((port.number()?, mode(tls))))
            .collect(),
    }
}

fn mode(tls: &MutualTls) -> Option<Mode> {
    match tls.mode {
        MutualTlsMode::Unset => None,
        MutualTlsMode::Disable => Some(Mode::Disable),
        MutualTlsMode::Permissive => Some(Mode::Permissive),
        MutualTlsMode::Strict => Some(Mode::Strict),
    }
}

/// What applies to `workload`.
fn requirement(peers: &BTreeMap<&str, Peers<'_>>, workload: &Workload, root: &str) -> Requirement {
    let all = |namespace: &str| Some(&peers.get(namespace)?.all.as_ref()?.level);
    let own = Some(&*workload.namespace).filter(|own| *own != root);
    let selected = own.and_then(|own| {
        let mut selected = peers.get(own)?.selected.iter();
        selected.find(|one| {
            let selector = one.source.spec.selector.as_ref();
            selector.is_some_and(|one| one.selects(&workload.labels))
        })
    });
    Requirement::resolve(selected.map(|one| &one.level), own.and_then(all), all(root))
}
