//! Who may connect to each local pod: the PeerAuthentications, RequestAuthentications and
//! AuthorizationPolicies that apply to it, and what those say that has no effect.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};

use super::population::{Member, within};
use super::scope::{Scope, namespaces, renew};
use super::tokens::{self, KeptTokens};
use super::told::{List, Told};
use super::{Compiler, ROOT_NAMESPACE, reference};
use crate::api;
use crate::api::peer_authentication::{MutualTls, MutualTlsMode};
use crate::api::{Selector, attachment};
use crate::control::store::{Key, Objects, of_namespace};
use crate::mesh::snapshot::Providers;
use crate::mesh::{Guard, Guards, Workload};
use crate::policy::authorization::{Action, Policy};
use crate::policy::peer_authentication::{Level, Mode, Requirement};
use crate::types::{Finding, ObjectRef};

/// A policy, and out of what it was compiled.
#[derive(Debug)]
pub(super) struct KeptPolicy {
    source: Arc<api::AuthorizationPolicy>,
    policy: Arc<Policy>,
}

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

impl Peers<'_> {
    fn of_all(&self) -> Option<&Level> {
        Some(&self.all.as_ref()?.level)
    }
}

impl Compiler {
    /// The guards of all local pods, of which those of `scope` alone are looked at again.
    pub(super) fn guards(
        &mut self,
        objects: &Objects,
        members: &[Member],
        providers: &Providers,
        scope: Scope,
        told: &mut Told,
    ) -> Arc<Guards> {
        let (mut guards, namespaces) = match scope {
            Scope::All => {
                // Of namespaces that have nothing left, too.
                told.forget_policies();
                self.policies
                    .retain(|key, _| objects.authorization_policies.contains_key(key));
                self.tokens
                    .retain(|key, _| objects.request_authentications.contains_key(key));
                (Arc::default(), namespaces(objects, members))
            }
            Scope::Some(some) if some.is_empty() => return Arc::clone(&self.last.guards),
            Scope::Some(some) => (Arc::clone(&self.last.guards), some),
        };
        let root: Arc<str> = ROOT_NAMESPACE.into();
        // What policies for all reach depends on all Pods.
        let mut reported = namespaces.clone();
        reported.insert(Arc::clone(&root));
        self.compile_policies(objects, &reported);
        self.compile_tokens(objects, &reported);
        let mut findings = List::new();
        let of_root = peers(objects, &root, &mut findings);
        for namespace in &reported {
            let mut findings = if *namespace == root {
                std::mem::take(&mut findings)
            } else {
                List::new()
            };
            if namespaces.contains(namespace) {
                let own = (*namespace != root).then(|| peers(objects, namespace, &mut findings));
                let made = self.guards_of(
                    within(members, namespace),
                    own.as_ref(),
                    &of_root,
                    &mut findings,
                );
                put(&mut guards, namespace, made);
            }
            self.report_policies(objects, members, providers, namespace, &mut findings);
            told.set_policies(namespace, findings);
        }
        guards
    }

    /// The guards of the local ones among the Pods of a namespace.
    fn guards_of(
        &self,
        members: &[Member],
        own: Option<&Peers<'_>>,
        root: &Peers<'_>,
        findings: &mut List,
    ) -> HashMap<Arc<str>, Arc<Guard>> {
        let mut guards = HashMap::new();
        let workloads = members.iter().map(|one| &one.workload);
        for workload in workloads.filter(|one| one.local.is_some()) {
            let own_namespace = &*workload.namespace;
            let own_namespace = Some(own_namespace).filter(|one| *one != ROOT_NAMESPACE);
            let namespaces = std::iter::once(ROOT_NAMESPACE).chain(own_namespace);
            let tokens = tokens::of(&self.tokens, namespaces.clone(), workload);
            let policies = namespaces.flat_map(|one| of_namespace(&self.policies, one));
            let policies = policies.map(|(_, kept)| kept);
            let policies = policies.filter(|one| one.applies(workload));
            let guard = Guard {
                peers: requirement(own, root, workload),
                tokens,
                policies: policies.map(|one| Arc::clone(&one.policy)).collect(),
            };
            findings.extend(unasked(workload, &guard));
            let before = self.last.guard(workload).filter(|one| one.is_same(&guard));
            let guard = before.cloned().unwrap_or_else(|| Arc::new(guard));
            guards.insert(Arc::clone(&workload.name), guard);
        }
        guards
    }

    /// Compiles what is new in `namespaces`, and drops what is gone.
    fn compile_policies(&mut self, objects: &Objects, namespaces: &BTreeSet<Arc<str>>) {
        let trust_domains = &self.trust_domains;
        renew(
            &mut self.policies,
            &objects.authorization_policies,
            namespaces,
            |kept| &kept.source,
            |_, source| KeptPolicy {
                source: Arc::clone(source),
                policy: Arc::new(Policy::compile(source, trust_domains)),
            },
        );
    }

    /// Policies of `namespace` that have no effect, or another than their authors may think.
    fn report_policies(
        &self,
        objects: &Objects,
        members: &[Member],
        providers: &Providers,
        namespace: &str,
        findings: &mut List,
    ) {
        let members = if namespace == ROOT_NAMESPACE {
            members
        } else {
            within(members, namespace)
        };
        let reach = |selector: Option<&Selector>| {
            let all = members.iter().map(|one| &one.workload);
            let mut any = false;
            for one in all.filter(|one| selector.is_none_or(|by| by.selects(&one.labels))) {
                if one.enrolled {
                    return None;
                }
                any = true;
            }
            Some(if any {
                "none of the pods it is for is in the mesh: it has no effect"
            } else {
                "there is no pod that it is for: it has no effect"
            })
        };
        let mut tell = |kind: &str, key: &Key, finding: Finding| {
            findings.push((reference(kind, &key.0, &key.1), finding));
        };
        for (key, source) in of_namespace(&objects.peer_authentications, namespace) {
            let selector = source
                .spec
                .selector
                .as_ref()
                .filter(|one| selects(Some(one)));
            if selector.is_some() && namespace == ROOT_NAMESPACE {
                continue;
            }
            if let Some(message) = reach(selector) {
                tell("PeerAuthentication", key, Finding::warning(FIELD, message));
            }
        }
        for (key, kept) in of_namespace(&self.policies, namespace) {
            for finding in kept.report(providers) {
                tell("AuthorizationPolicy", key, finding);
            }
            if kept.source.target_field().is_none()
                && let Some(message) = reach(kept.source.spec.selector.as_ref())
            {
                tell("AuthorizationPolicy", key, Finding::warning(FIELD, message));
            }
        }
        for (key, kept) in of_namespace(&self.tokens, namespace) {
            for finding in kept.report() {
                tell(KeptTokens::KIND, key, finding);
            }
            if kept.source().target_field().is_none()
                && let Some(message) = reach(kept.source().spec.selector.as_ref())
            {
                tell(KeptTokens::KIND, key, Finding::warning(FIELD, message));
            }
        }
    }
}

/// Puts the guards of a namespace in the place of those that there were, if they are others.
fn put(all: &mut Arc<Guards>, namespace: &Arc<str>, made: HashMap<Arc<str>, Arc<Guard>>) {
    let before = all.get(namespace);
    let same = before.is_none_or(|one| one.len() == made.len())
        && made.iter().all(|(name, guard)| {
            let before = before.and_then(|one| one.get(name));
            before.is_some_and(|one| Arc::ptr_eq(one, guard))
        });
    if same {
        return;
    }
    if made.is_empty() {
        Arc::make_mut(all).remove(namespace);
    } else {
        Arc::make_mut(all).insert(Arc::clone(namespace), made);
    }
}

/// The PeerAuthentications of a namespace.
fn peers<'a>(objects: &'a Objects, namespace: &'a str, findings: &mut List) -> Peers<'a> {
    let sources = of_namespace(&objects.peer_authentications, namespace);
    let mut sources: Vec<&api::PeerAuthentication> = sources.map(|(_, one)| &**one).collect();
    sources.sort_by(|one, other| one.metadata.age().cmp(&other.metadata.age()));
    let mut peers = Peers::default();
    for source in sources {
        let level = level(source);
        let object = level.policy.clone();
        if selects(source.spec.selector.as_ref()) {
            if namespace == ROOT_NAMESPACE {
                let message = format!(
                    "in {namespace} a PeerAuthentication is for the whole mesh: one with a selector has no effect"
                );
                findings.push((object, Finding::warning("spec.selector", message)));
            } else {
                peers.selected.push(Peer { source, level });
            }
        } else if let Some(older) = &peers.all {
            let message = format!(
                "{} is older and for the same workloads: this one has no effect",
                older.level.policy
            );
            findings.push((object, Finding::warning("", message)));
        } else {
            peers.all = Some(Peer { source, level });
        }
    }
    peers
}

/// Where it is told that a policy reaches nobody.
const FIELD: &str = "spec.selector";

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
            findings.push(Finding::warning(field, attachment::NOT_IN_FORCE));
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

/// What applies to `workload`: of its namespace, unless that is the root, and of the root.
fn requirement(own: Option<&Peers<'_>>, root: &Peers<'_>, workload: &Workload) -> Requirement {
    let selected = own.into_iter().flat_map(|own| &own.selected).find(|one| {
        let selector = one.source.spec.selector.as_ref();
        selector.is_some_and(|one| one.selects(&workload.labels))
    });
    Requirement::resolve(
        selected.map(|one| &one.level),
        own.and_then(Peers::of_all),
        root.of_all(),
    )
}
