//! What the objects say, by what it is looked up by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};

use super::rules::{Routes, delegate};
use super::{Compiler, l4, route, subset};
use crate::api;
use crate::control::store::{Key, Objects};
use crate::types::{Finding, Hostname, ObjectRef};

/// What the objects say, by what it is looked up by.
pub(super) struct World<'a> {
    pub(super) services: HashMap<Hostname, &'a Arc<api::Service>>,
    pub(super) namespaces: &'a BTreeMap<Arc<str>, Arc<api::Namespace>>,
    pub(super) routes: route::Rules,
    pub(super) l4_routes: l4::Rules,
    /// Those for mesh traffic, delegates in their places.
    pub(super) all_routes: Vec<Arc<Routes>>,
    pub(super) destination_rules: subset::Rules,
    /// The same, with their hosts in full.
    pub(super) all_rules: Vec<(Hostname, Arc<api::DestinationRule>)>,
}

/// A VirtualService with its delegates in their places, and out of what it was made.
#[derive(Debug)]
pub(super) struct KeptExpansion {
    root: Arc<Routes>,
    delegates: Vec<delegate::Named>,
    routes: Arc<Routes>,
    findings: Vec<Finding>,
}

impl Compiler {
    pub(super) fn world<'a>(
        &mut self,
        objects: &'a Objects,
        findings: &mut Vec<(ObjectRef, Finding)>,
    ) -> World<'a> {
        let services = objects
            .services
            .values()
            .filter(|one| !one.is_external_name());
        let services = services
            .map(|one| {
                let metadata = &one.metadata;
                let name = &metadata.name;
                let hostname = Hostname::resolve(name, &metadata.namespace, &self.cluster_domain);
                (hostname, one)
            })
            .collect();
        let all_routes = self.expanded(objects, findings);
        let rules = objects.destination_rules.values();
        let all_rules: Vec<(Hostname, Arc<api::DestinationRule>)> = rules
            .map(|rule| {
                let namespace = &rule.metadata.namespace;
                let host = Hostname::resolve(&rule.spec.host, namespace, &self.cluster_domain);
                (host, Arc::clone(rule))
            })
            .collect();
        // One that routes TCP or TLS alone says nothing about HTTP.
        let http = all_routes
            .iter()
            .filter(|one| !one.source.spec.http.is_empty());
        let l4 = all_routes.iter().filter(|one| !one.l4.is_empty());
        World {
            services,
            namespaces: &objects.namespaces,
            routes: route::index(http),
            l4_routes: route::index(l4),
            destination_rules: subset::index(&all_rules),
            all_rules,
            all_routes,
        }
    }

    /// The VirtualServices for mesh traffic, with the rules of their delegates.
    fn expanded(
        &mut self,
        objects: &Objects,
        findings: &mut Vec<(ObjectRef, Finding)>,
    ) -> Vec<Arc<Routes>> {
        let all = &objects.virtual_services;
        let mut before = std::mem::take(&mut self.expansions);
        let mut used: BTreeSet<Key> = BTreeSet::new();
        let mut routes = Vec::with_capacity(all.len());
        for (key, root) in all {
            let spec = &root.source.spec;
            if spec.is_delegate() || !spec.is_for_mesh() {
                used.extend(delegate::names(root).map(|(_, name)| name));
                continue;
            }
            if !root.delegates() {
                routes.push(Arc::clone(root));
                continue;
            }
            let mut delegates = Vec::new();
            for (index, name) in delegate::names(root) {
                let found = all.get(&name).cloned();
                used.insert(name);
                delegates.push(delegate::Named { index, found });
            }
            let kept = before
                .remove(key)
                .filter(|kept| kept.is_of(root, &delegates));
            let kept = kept.unwrap_or_else(|| {
                let mut findings = Vec::new();
                let expanded =
                    delegate::expand(root, &delegates, &self.cluster_domain, &mut findings);
                KeptExpansion {
                    root: Arc::clone(root),
                    delegates,
                    routes: Arc::new(expanded),
                    findings,
                }
            });
            let found = kept.findings.iter().cloned();
            findings.extend(found.map(|one| (root.reference.clone(), one)));
            routes.push(Arc::clone(&kept.routes));
            self.expansions.insert(key.clone(), kept);
        }
        for (key, delegate) in all {
            if delegate.source.spec.is_delegate() && !used.contains(key) {
                let message = "without hosts it is a delegate, and no VirtualService delegates to it: it has no effect";
                let finding = Finding::warning("spec.hosts", message);
                findings.push((delegate.reference.clone(), finding));
            }
        }
        routes
    }
}

impl KeptExpansion {
    fn is_of(&self, root: &Arc<Routes>, delegates: &[delegate::Named]) -> bool {
        let same = |(one, other): (&delegate::Named, &delegate::Named)| {
            one.index == other.index
                && match (&one.found, &other.found) {
                    (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                    (None, None) => true,
                    _ => false,
                }
        };
        Arc::ptr_eq(&self.root, root)
            && self.delegates.len() == delegates.len()
            && self.delegates.iter().zip(delegates).all(same)
    }
}

impl World<'_> {
    /// The hosts of VirtualServices that no service has: names, and domains under which there is no
    /// service.
    pub(super) fn virtual_hosts(&self) -> BTreeSet<&Hostname> {
        let with_http = self
            .all_routes
            .iter()
            .filter(|one| !one.source.spec.http.is_empty());
        let mut domains: HashMap<&str, bool> = HashMap::new();
        with_http
            .flat_map(|one| &one.hosts)
            .filter(|host| match host.as_str().strip_prefix('*') {
                None => !self.services.contains_key(*host),
                Some(suffix) => !*domains.entry(suffix).or_insert_with(|| {
                    let mut names = self.services.keys();
                    names.any(|name| name.as_str().ends_with(suffix))
                }),
            })
            .collect()
    }

    pub(super) fn only_port_of(&self, service: &api::Service) -> Option<u16> {
        let mut ports = service.spec.ports.iter().filter(|port| port.is_tcp());
        let first = ports.next()?;
        ports.next().is_none().then_some(first.port)
    }
}

impl route::Ports for World<'_> {
    fn only_port(&self, host: &Hostname) -> Option<u16> {
        self.only_port_of(self.services.get(host)?)
    }
}
