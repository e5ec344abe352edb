//! A snapshot after a few changes of objects: what these have to do with is looked at again, and
//! everything else is as it was.
//!
//! What is made of an object depends on the hosts that it speaks of, so the changes are followed by
//! host: from a changed object to its hosts, from there to whoever is for them or leads to them.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::HashMap;

use super::endpoint::{Index, Member};
use super::l4::KeptL4;
use super::rules::Routes;
use super::service::{KeptTable, TableKey};
use super::told::{List, Told};
use super::world::World;
use super::{Build, Compiler, Work, address, reference};
use crate::api::{DestinationRule, EndpointSlice};
use crate::control::store::{Change, Objects};
use crate::mesh::Snapshot;
use crate::types::{Hostname, ObjectRef};

/// What changes are about.
#[derive(Debug, Default)]
pub(super) struct Touched {
    changes: Vec<Change>,
    /// Hosts of which anything may be another than before, by name.
    hosts: BTreeSet<Hostname>,
    /// Those among them whose Service came, went or is another: its ports may be others.
    services: BTreeSet<Hostname>,
}

impl Compiler {
    /// What changed since the last compilation; `None` where that may be anything: more changes than
    /// are remembered, objects that many others depend on, and hosts that are whole domains.
    pub(super) fn touched(&self, objects: &Objects) -> Option<Touched> {
        if self.last.version == 0 {
            return None;
        }
        let changes = objects.changes_since(self.generation)?;
        let mut touched = Touched {
            changes: changes.to_vec(),
            ..Touched::default()
        };
        for change in changes {
            match change {
                Change::Service((namespace, name)) => {
                    let host = Hostname::resolve(name, namespace, &self.cluster_domain);
                    touched.services.insert(host.clone());
                    touched.hosts.insert(host);
                }
                Change::EndpointSlice(before, now) => {
                    let hosts = before
                        .iter()
                        .chain(now)
                        .filter_map(|one| self.service_of(one));
                    touched.hosts.extend(hosts);
                }
                Change::VirtualService(before, now) => {
                    for one in before.iter().chain(now) {
                        if self.is_delegate(one) {
                            return None;
                        }
                        touched.hosts.extend(hosts(one)?);
                    }
                }
                Change::DestinationRule(before, now) => {
                    for one in before.iter().chain(now) {
                        let host = self.host_of(one);
                        if host.as_str().starts_with('*') {
                            return None;
                        }
                        touched.hosts.insert(host);
                    }
                }
                Change::Other => return None,
            }
        }
        // Otherwise it may be about the tables of every host under a domain.
        let wide = self
            .world
            .users(touched.services.iter())
            .any(|one| is_wide(one));
        (!wide).then_some(touched)
    }

    /// Looks at nothing but what was touched.
    pub(super) fn compile_some(&mut self, objects: &Objects, touched: &Touched) -> Work {
        let mut world = std::mem::take(&mut self.world);
        let mut told = std::mem::take(&mut self.told);
        let members = std::mem::take(&mut self.members);
        forget(&touched.changes, &mut told);
        self.change(&mut world, &touched.changes, objects);
        let mut build = Build::on(self);

        let services = touched
            .hosts
            .iter()
            .filter_map(|one| world.services.get(one));
        let namespaces = services
            .map(|one| Arc::clone(&one.metadata.namespace))
            .collect();
        let pods = Index::of(&namespaces, &members, objects);
        for host in &touched.hosts {
            match world.services.get(host) {
                Some(service) => {
                    self.clusters_of(host, service, objects, &pods, &world, &mut build);
                }
                None => drop(self.drop_clusters(host, &mut build)),
            }
        }
        // Which cluster a rule leads to depends on the ports of its service.
        let users = world.users(touched.services.iter());
        let mut hosts: BTreeSet<&Hostname> = users.flat_map(|one| &one.hosts).collect();
        hosts.extend(&touched.hosts);
        for host in &hosts {
            self.put_service(host, &world, &mut build);
            self.put_virtual_host(host, &world, &mut build);
        }
        for (suffix, _) in world.routes.domains() {
            if ends_with(&touched.services, suffix) {
                let domain = Hostname::new(&format!("*{suffix}"));
                self.put_virtual_host(&domain, &world, &mut build);
            }
        }
        let patched = told.addresses.is_empty();
        let patched = patched.then(|| address::patch(&self.last, &build, hosts.iter().copied()));
        let addresses = patched.flatten().unwrap_or_else(|| {
            let mut findings = List::new();
            let owners = address::owners(&build, &members, &mut findings);
            told.addresses = findings;
            owners.into()
        });
        report(touched, &world, &build, &members, &mut told);

        let work = build.work;
        self.keep_tables(&hosts, touched, build.tables, build.l4_tables);
        self.last = Arc::new(Snapshot {
            version: build.version,
            services: build.services,
            addresses,
            clusters: build.clusters,
            private_clusters: build.private_clusters,
            virtual_hosts: build.virtual_hosts,
            ..Snapshot::clone(&self.last)
        });
        (self.members, self.world, self.told) = (members, world, told);
        work
    }

    /// Keeps the tables for the next time, but those of rules that are gone.
    fn keep_tables(
        &mut self,
        hosts: &BTreeSet<&Hostname>,
        touched: &Touched,
        tables: HashMap<TableKey, KeptTable>,
        l4_tables: HashMap<(Hostname, u16), Vec<KeptL4>>,
    ) {
        self.tables = tables;
        let gone: Vec<usize> = touched
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::VirtualService(before, _) => Some(Arc::as_ptr(before.as_ref()?).addr()),
                _ => None,
            })
            .collect();
        if !gone.is_empty() {
            self.tables.retain(|(routes, _), _| !gone.contains(routes));
        }
        if !self.l4_tables.is_empty() {
            self.l4_tables.retain(|(host, _), _| !hosts.contains(host));
        }
        self.l4_tables.extend(l4_tables);
    }

    fn service_of(&self, slice: &EndpointSlice) -> Option<Hostname> {
        let namespace = &slice.metadata.namespace;
        let name = slice.service()?;
        Some(Hostname::resolve(name, namespace, &self.cluster_domain))
    }
}

/// The hosts of a VirtualService, where it is by itself: neither for domains nor a part of another.
fn hosts(routes: &Arc<Routes>) -> Option<impl Iterator<Item = Hostname>> {
    let alone = !routes.source.spec.is_delegate() && !routes.delegates() && !is_wide(routes);
    alone.then(|| routes.hosts.iter().cloned())
}

/// Whether a host of it is a domain.
pub(super) fn is_wide(routes: &Routes) -> bool {
    routes
        .hosts
        .iter()
        .any(|host| host.as_str().starts_with('*'))
}

/// Forgets what was found of objects that are gone.
fn forget(changes: &[Change], told: &mut Told) {
    for change in changes {
        match change {
            Change::VirtualService(Some(before), _) => {
                told.set_routes(&before.reference, List::new());
            }
            Change::DestinationRule(Some(before), _) => {
                told.set_rule(&of_rule(before), List::new());
            }
            _ => {}
        }
    }
}

fn report(touched: &Touched, world: &World, build: &Build, members: &[Member], told: &mut Told) {
    for routes in world.users(touched.hosts.iter()) {
        told.set_routes(&routes.reference, world.report(routes, build));
    }
    for host in &touched.hosts {
        world.report_rules(host, build, members, told);
        world.report_merged(host, told);
    }
    for (suffix, rules) in world.destination_rules.domains() {
        if ends_with(&touched.services, suffix) {
            world.report_domain(suffix, rules, members, told);
        }
    }
}

fn ends_with(hosts: &BTreeSet<Hostname>, suffix: &str) -> bool {
    hosts.iter().any(|host| host.as_str().ends_with(suffix))
}

/// The name of a DestinationRule.
pub(super) fn of_rule(rule: &DestinationRule) -> ObjectRef {
    let metadata = &rule.metadata;
    reference("DestinationRule", &metadata.namespace, &metadata.name)
}
