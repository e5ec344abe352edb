//! What the objects say, by what it is looked up by. Kept from one compilation to the next.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::HashMap;

use super::rules::Routes;
use super::{Compiler, l4, route, subset};
use crate::api::{self, DestinationRule};
use crate::control::store::{Change, Objects};
use crate::types::Hostname;

/// What the objects say, by what it is looked up by.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) services: HashMap<Hostname, Arc<api::Service>>,
    /// Those for mesh traffic, delegates in their places.
    pub(super) routes: route::Rules,
    pub(super) l4_routes: l4::Rules,
    pub(super) destination_rules: subset::Rules,
    /// VirtualServices by the names that they lead to, but those of hosts that they are for.
    leads: HashMap<Hostname, Vec<Arc<Routes>>>,
}

impl Compiler {
    /// The world of all objects; `routes` are the VirtualServices for mesh traffic.
    pub(super) fn world(&self, objects: &Objects, routes: Vec<Arc<Routes>>) -> World {
        let mut world = World::default();
        for one in objects.services.values() {
            if !one.is_external_name() {
                world.services.insert(self.hostname(one), Arc::clone(one));
            }
        }
        for routes in routes {
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

    /// Brings the world up to date with changes of Services and DestinationRules.
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
                Change::DestinationRule(before, now) => {
                    let rules = &mut world.destination_rules;
                    if let Some(before) = before {
                        rules.remove(&self.host_of(before), |one| Arc::ptr_eq(one, before));
                    }
                    if let Some(now) = now {
                        rules.put(&self.host_of(now), Arc::clone(now), subset::order);
                    }
                }
                _ => {}
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
}

impl World {
    /// Takes a VirtualService.
    pub(super) fn put_routes(&mut self, routes: &Arc<Routes>) {
        self.index(routes, |index, host, one| {
            index.put(host, one, route::order);
        });
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
        for name in leads(routes) {
            let users = self.leads.entry(name.clone());
            let users = users.or_insert_with(|| Vec::with_capacity(1));
            users.push(Arc::clone(routes));
        }
    }

    /// Forgets a VirtualService.
    pub(super) fn remove_routes(&mut self, routes: &Arc<Routes>) {
        let gone = |one: &Arc<Routes>| Arc::ptr_eq(one, routes);
        for host in &routes.hosts {
            self.routes.remove(host, gone);
            self.l4_routes.remove(host, gone);
        }
        for name in leads(routes) {
            if let Some(users) = self.leads.get_mut(name) {
                users.retain(|one| !gone(one));
                if users.is_empty() {
                    self.leads.remove(name);
                }
            }
        }
    }

    /// The VirtualServices that are for one of `hosts` or lead to it, each once.
    pub(super) fn users<'a>(
        &'a self,
        hosts: impl Iterator<Item = &'a Hostname>,
    ) -> impl Iterator<Item = &'a Arc<Routes>> {
        let users = hosts.flat_map(|host| {
            let own = self.routes.of(host).iter().chain(self.l4_routes.of(host));
            own.chain(self.leads.get(host).into_iter().flatten())
        });
        let mut known = BTreeSet::new();
        users.filter(move |one| known.insert(Arc::as_ptr(one)))
    }

    /// Every VirtualService for mesh traffic.
    pub(super) fn all_routes(&self) -> impl Iterator<Item = &Arc<Routes>> {
        let mut known = foldhash::HashSet::default();
        let own = self.routes.all().chain(self.l4_routes.all());
        let all = own.chain(self.leads.values().flatten());
        all.filter(move |one| known.insert(Arc::as_ptr(one)))
    }

    /// `host`, and where it is a domain, every host under it that a service has or a VirtualService
    /// is for.
    pub(super) fn reach(&self, host: &Hostname, into: &mut BTreeSet<Hostname>) {
        if let Some(suffix) = host.as_str().strip_prefix('*') {
            let services = self.services.keys();
            let under = services.filter(|one| one.as_str().ends_with(suffix));
            into.extend(under.cloned());
            let routed = self.routed();
            into.extend(routed.filter(|one| one.as_str().ends_with(suffix)));
        }
        into.insert(host.clone());
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

/// The names that `routes` lead to and under which they are not filed anyway; and those that they are
/// for, where they have nothing to file.
fn leads(routes: &Routes) -> BTreeSet<&Hostname> {
    let http = routes.rules.iter().flat_map(|rule| rule.places());
    let l4 = routes.l4.iter().flat_map(|rule| &rule.targets);
    let places = http.chain(l4.map(|target| &target.place));
    let mut names: BTreeSet<&Hostname> = places.map(|place| &place.host).collect();
    let filed = !routes.source.spec.http.is_empty() || !routes.l4.is_empty();
    for host in &routes.hosts {
        match filed {
            true => drop(names.remove(host)),
            false => drop(names.insert(host)),
        }
    }
    names
}

impl route::Ports for World {
    fn only_port(&self, host: &Hostname) -> Option<u16> {
        self.only_port_of(self.services.get(host)?)
    }
}
