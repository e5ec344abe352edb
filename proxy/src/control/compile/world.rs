//! What the objects say, by what it is looked up by. Kept from one compilation to the next.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::HashMap;

use super::rules::{Routes, delegate};
use super::told::List;
use super::{Compiler, l4, route, subset};
use crate::api::{self, DestinationRule};
use crate::control::store::{Change, Key, Objects};
use crate::types::{Finding, Hostname, ObjectRef};

/// What the objects say, by what it is looked up by.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) services: HashMap<Hostname, Arc<api::Service>>,
    /// Those for mesh traffic, delegates in their places.
    pub(super) routes: route::Rules,
    pub(super) l4_routes: l4::Rules,
    pub(super) destination_rules: subset::Rules,
    /// VirtualServices by each name that they are for or lead to.
    users: HashMap<Hostname, Vec<Arc<Routes>>>,
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
    /// The world of all objects.
    pub(super) fn world(&mut self, objects: &Objects, findings: &mut List) -> World {
        let mut world = World::default();
        for one in objects.services.values() {
            world.put_service(self.hostname(one), one);
        }
        for routes in self.expanded(objects, findings) {
            world.index(&routes, |index, host, one| index.insert(host, one));
        }
        world.routes.sort(route::order);
        world.l4_routes.sort(route::order);
        for rule in objects.destination_rules.values() {
            let host = self.host_of(rule);
            world.destination_rules.insert(&host, Arc::clone(rule));
        }
        world.destination_rules.sort(subset::order);
        world
    }

    /// Brings the world up to date with changes that [`Self::touched`] said something about.
    pub(super) fn change(&self, world: &mut World, changes: &[Change], objects: &Objects) {
        for change in changes {
            match change {
                Change::Service(key) => {
                    let host = Hostname::resolve(&key.1, &key.0, &self.cluster_domain);
                    match objects.services.get(key) {
                        Some(one) if !one.is_external_name() => {
                            world.services.insert(host, Arc::clone(one));
                        }
                        _ => drop(world.services.remove(&host)),
                    }
                }
                Change::VirtualService(before, now) => {
                    if let Some(before) = before {
                        world.remove(before);
                    }
                    if let Some(now) = now.as_ref().filter(|one| one.source.spec.is_for_mesh()) {
                        world.index(now, |index, host, one| index.put(host, one, route::order));
                    }
                }
                Change::DestinationRule(before, now) => {
                    let rules = &mut world.destination_rules;
                    if let Some(before) = before {
                        rules.remove(&self.host_of(before), |one| Arc::ptr_eq(one, before));
                    }
                    if let Some(now) = now {
                        rules.put(&self.host_of(now), Arc::clone(now), subset::order);
                    }
                }
                Change::EndpointSlice(..) | Change::Other => {}
            }
        }
    }

    /// The name of a Service.
    pub(super) fn hostname(&self, service: &api::Service) -> Hostname {
        let metadata = &service.metadata;
        Hostname::resolve(&metadata.name, &metadata.namespace, &self.cluster_domain)
    }

    /// The host of a rule in full, or the domain.
    pub(super) fn host_of(&self, rule: &DestinationRule) -> Hostname {
        let namespace = &rule.metadata.namespace;
        Hostname::resolve(&rule.spec.host, namespace, &self.cluster_domain)
    }

    /// Whether a VirtualService for mesh traffic delegates to this one, or tries to.
    pub(super) fn is_delegate(&self, routes: &Routes) -> bool {
        let ObjectRef {
            namespace, name, ..
        } = &routes.reference;
        self.expansions.values().any(|kept| {
            let mut names = delegate::names(&kept.root);
            names.any(|(_, key)| key.0 == *namespace && key.1 == *name)
        })
    }

    /// The VirtualServices for mesh traffic, with the rules of their delegates.
    fn expanded(&mut self, objects: &Objects, findings: &mut List) -> Vec<Arc<Routes>> {
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

impl World {
    fn put_service(&mut self, host: Hostname, service: &Arc<api::Service>) {
        if !service.is_external_name() {
            self.services.insert(host, Arc::clone(service));
        }
    }

    fn index(
        &mut self,
        routes: &Arc<Routes>,
        put: impl Fn(&mut route::Rules, &Hostname, Arc<Routes>),
    ) {
        for host in &routes.hosts {
            // One that routes TCP or TLS alone says nothing about HTTP.
            if !routes.source.spec.http.is_empty() {
                put(&mut self.routes, host, Arc::clone(routes));
            }
            if !routes.l4.is_empty() {
                put(&mut self.l4_routes, host, Arc::clone(routes));
            }
        }
        for name in names(routes) {
            let users = self.users.entry(name.clone());
            let users = users.or_insert_with(|| Vec::with_capacity(1));
            if !users.iter().any(|one| Arc::ptr_eq(one, routes)) {
                users.push(Arc::clone(routes));
            }
        }
    }

    /// Forgets a VirtualService that is not for domains.
    fn remove(&mut self, routes: &Arc<Routes>) {
        let gone = |one: &Arc<Routes>| Arc::ptr_eq(one, routes);
        for host in &routes.hosts {
            self.routes.remove(host, gone);
            self.l4_routes.remove(host, gone);
        }
        for name in names(routes) {
            if let Some(users) = self.users.get_mut(name) {
                users.retain(|one| !gone(one));
                if users.is_empty() {
                    self.users.remove(name);
                }
            }
        }
    }

    /// The VirtualServices that are for one of `hosts` or lead to it, each once.
    pub(super) fn users<'a>(
        &'a self,
        hosts: impl Iterator<Item = &'a Hostname>,
    ) -> impl Iterator<Item = &'a Arc<Routes>> {
        let users = hosts.filter_map(|host| self.users.get(host)).flatten();
        let mut known = BTreeSet::new();
        users.filter(move |one| known.insert(Arc::as_ptr(one)))
    }

    /// Every VirtualService for mesh traffic.
    pub(super) fn all_routes(&self) -> impl Iterator<Item = &Arc<Routes>> {
        let mut known = foldhash::HashSet::default();
        let all = self.users.values().flatten();
        all.filter(move |one| known.insert(Arc::as_ptr(one)))
    }

    /// Whether `host` belongs to VirtualServices alone: a name that no service has, or a domain under
    /// which there is none.
    pub(super) fn is_virtual(&self, host: &Hostname) -> bool {
        if self.routes.of(host).is_empty() {
            return false;
        }
        match host.as_str().strip_prefix('*') {
            None => !self.services.contains_key(host),
            Some(suffix) => {
                let mut names = self.services.keys();
                !names.any(|name| name.as_str().ends_with(suffix))
            }
        }
    }

    /// The hosts for which there are HTTP rules.
    pub(super) fn routed(&self) -> impl Iterator<Item = Hostname> {
        let exact = self.routes.exact().map(|(host, _)| host.clone());
        let domains = self.routes.domains();
        exact.chain(domains.map(|(suffix, _)| Hostname::new(&format!("*{suffix}"))))
    }

    pub(super) fn only_port_of(&self, service: &api::Service) -> Option<u16> {
        let mut ports = service.spec.ports.iter().filter(|port| port.is_tcp());
        let first = ports.next()?;
        ports.next().is_none().then_some(first.port)
    }
}

/// Every name that `routes` are for or lead to; domains too.
fn names(routes: &Routes) -> impl Iterator<Item = &Hostname> {
    let http = routes.rules.iter().flat_map(|rule| rule.places());
    let l4 = routes.l4.iter().flat_map(|rule| &rule.targets);
    let places = http.chain(l4.map(|target| &target.place));
    routes.hosts.iter().chain(places.map(|place| &place.host))
}

impl route::Ports for World {
    fn only_port(&self, host: &Hostname) -> Option<u16> {
        self.only_port_of(self.services.get(host)?)
    }
}
