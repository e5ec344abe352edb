//! A snapshot after a few changes of objects: what these have to do with is looked at again, and
//! everything else is as it was.
//!
//! What is made of an object depends on the hosts that it speaks of, so the changes are followed by
//! host: from a changed object to its hosts, from there to whoever is for them or leads to them. A
//! Pod leads to the services that select it and to those whose slices may mean it; a Namespace and a
//! Node to their Pods; a policy to the local Pods of its namespace; the mesh's ConfigMap to the policies
//! that ask those whom it names.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use foldhash::HashMap;

use super::endpoint::{Index, has_all};
use super::expansion::Replaced;
use super::l4::KeptL4;
use super::population::{self, Member, Moved};
use super::rules::Routes;
use super::scope::Scope;
use super::service::{KeptTable, TableKey};
use super::told::{List, Told};
use super::world::World;
use super::{Build, Compiler, Work, address, provider, reference, workloads};
use crate::api::{DestinationRule, EndpointSlice};
use crate::control::store::{Change, Key, Objects, of_namespace};
use crate::mesh::Snapshot;
use crate::types::{Hostname, ObjectRef};

/// What changes are about.
#[derive(Debug, Default)]
pub(super) struct Touched {
    changes: Vec<Change>,
    /// Hosts of which anything may be another than before, by name; domains too.
    hosts: BTreeSet<Hostname>,
    /// Those among them whose Service came, went or is another: its ports may be others.
    services: BTreeSet<Hostname>,
    /// Pods that may have become others.
    pods: BTreeSet<Key>,
    /// Where guards may be others.
    guards: Scope,
    /// Whether those who are asked about requests may be others.
    providers: bool,
}

impl Compiler {
    /// What changed since the last compilation; `None` where that is more than is remembered.
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
                    let hosts = before.iter().chain(now);
                    let hosts = hosts.filter_map(|one| self.service_of(one));
                    touched.hosts.extend(hosts);
                }
                Change::DestinationRule(before, now) => {
                    let hosts = before.iter().chain(now);
                    touched.hosts.extend(hosts.map(|one| self.host_of(one)));
                }
                Change::Pod(key) => drop(touched.pods.insert(key.clone())),
                Change::Namespace(name) => {
                    let services = of_namespace(&objects.services, name);
                    let hosts = services.map(|(_, one)| self.hostname(one));
                    touched.hosts.extend(hosts);
                    let pods = of_namespace(&objects.pods, name);
                    touched.pods.extend(pods.map(|(key, _)| key.clone()));
                }
                Change::Node(name) => self.touch_node(name, objects, &mut touched),
                Change::Policy(namespace) => touched.guards.add_policies(namespace),
                Change::ConfigMap(key) => {
                    if provider::is_source(key) {
                        touched.providers = true;
                        touched.guards.add_asking(objects);
                    }
                }
                // Which rules these are depends on their delegates: `change_routes` knows.
                Change::VirtualService(..) => {}
            }
        }
        Some(touched)
    }

    /// What runs on a node is where its labels say.
    fn touch_node(&self, name: &str, objects: &Objects, touched: &mut Touched) {
        let here = |one: &&Member| one.pod.spec.node_name.as_deref() == Some(name);
        for member in self.members.iter().filter(here) {
            let metadata = &member.pod.metadata;
            let key = (Arc::clone(&metadata.namespace), Arc::clone(&metadata.name));
            touched.pods.insert(key);
        }
        for slice in objects.slices.values() {
            let mut endpoints = slice.endpoints.iter();
            if endpoints.any(|one| one.node_name.as_deref() == Some(name)) {
                touched.hosts.extend(self.service_of(slice));
            }
        }
    }

    /// Looks at nothing but what was touched.
    pub(super) fn compile_some(
        &mut self,
        objects: &Objects,
        mut touched: Touched,
        now: SystemTime,
    ) -> Work {
        let mut world = std::mem::take(&mut self.world);
        let mut told = std::mem::take(&mut self.told);
        let mut members = std::mem::take(&mut self.members);
        let mut build = Build::on(self, now);
        forget(&touched.changes, objects, &mut told);
        self.mentions.update(&touched.changes);
        let moved = self.repopulate(
            &mut members,
            &touched.pods,
            objects,
            now,
            &mut build,
            &mut told,
        );
        for one in &moved {
            self.touch_pod(one, objects, &mut touched);
        }
        self.change(&mut world, &touched.changes, objects);
        let replaced = self.change_routes(&mut world, &touched.changes, objects, &mut told);
        let routes = replaced.before.iter().chain(&replaced.now);
        touched
            .hosts
            .extend(routes.flat_map(|one| one.hosts.iter().cloned()));
        touched.hosts = reached(&touched.hosts, &world);

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
        let hosts = users.flat_map(|one| &one.hosts).cloned().collect();
        let mut hosts = reached(&hosts, &world);
        hosts.extend(touched.hosts.iter().cloned());
        // A domain is one of VirtualServices alone where no service is under it.
        let domains = world.routes.domains().map(|(suffix, _)| suffix);
        let domains = domains.filter(|suffix| ends_with(&touched.services, suffix));
        hosts.extend(domains.map(|suffix| Hostname::new(&format!("*{suffix}"))));
        for host in &hosts {
            self.put_service(host, &world, &mut build);
            self.put_virtual_host(host, &world, &mut build);
        }
        let patched = told
            .addresses
            .is_empty()
            .then(|| address::patch(&self.last, &build, hosts.iter(), &moved, &members));
        let addresses = patched.flatten().unwrap_or_else(|| {
            let mut findings = List::new();
            let owners = address::owners(&build, &members, &mut findings);
            told.addresses = findings;
            owners.into()
        });
        let (providers, client_certificate) = match touched.providers {
            true => {
                let config = provider::mesh_config(objects);
                let told = provider::client_certificate(&config);
                (provider::all(&config).into(), told)
            }
            false => (
                Arc::clone(&self.last.providers),
                self.last.client_certificate,
            ),
        };
        let scope = std::mem::take(&mut touched.guards);
        let guards = self.guards(objects, &members, &providers, scope, &mut told);
        report(&touched, &world, &build, &members, &mut told);

        let work = build.work;
        self.keep_tables(&hosts, &replaced, build.tables, build.l4_tables);
        let same = |one: &Moved| match (&one.before, &one.now) {
            (Some(before), Some(now)) => Arc::ptr_eq(&before.workload, &now.workload),
            (before, now) => before.is_none() && now.is_none(),
        };
        self.last = Arc::new(Snapshot {
            version: build.version,
            cluster_domain: Arc::clone(&self.cluster_domain),
            services: build.services,
            addresses,
            clusters: build.clusters,
            private_clusters: build.private_clusters,
            virtual_hosts: build.virtual_hosts,
            workloads: match moved.iter().all(same) {
                true => Arc::clone(&self.last.workloads),
                false => workloads(&members),
            },
            guards,
            providers,
            client_certificate,
        });
        (self.members, self.world, self.told) = (members, world, told);
        work
    }

    /// The services that may have a Pod among their endpoints, the rules for some Pods of its
    /// namespace, and the policies there.
    fn touch_pod(&self, moved: &Moved, objects: &Objects, touched: &mut Touched) {
        for member in moved.before.iter().chain(&moved.now) {
            let workload = &member.workload;
            touched.guards.add_pods(&workload.namespace);
            let services = of_namespace(&objects.services, &workload.namespace);
            let selecting = services.filter(|(_, one)| {
                let selector = &one.spec.selector;
                !selector.is_empty() && has_all(&workload.labels, selector)
            });
            let hosts = selecting.map(|(_, one)| self.hostname(one));
            touched.hosts.extend(hosts);
            let slices = self.mentions.of(member);
            touched
                .hosts
                .extend(slices.filter_map(|one| self.service_of(one)));
            let rules = of_namespace(&objects.destination_rules, &workload.namespace);
            let rules = rules.filter(|(_, one)| one.spec.workload_selector.is_some());
            touched
                .hosts
                .extend(rules.map(|(_, one)| self.host_of(one)));
        }
    }

    /// Keeps the tables for the next time, but those of rules that are gone.
    fn keep_tables(
        &mut self,
        hosts: &BTreeSet<Hostname>,
        replaced: &Replaced,
        tables: HashMap<TableKey, KeptTable>,
        l4_tables: HashMap<(Hostname, u16), Vec<KeptL4>>,
    ) {
        self.tables = tables;
        let address = |one: &Arc<Routes>| Arc::as_ptr(one).addr();
        let stay: Vec<usize> = replaced.now.iter().map(address).collect();
        let gone = replaced.before.iter().map(address);
        let gone: Vec<usize> = gone.filter(|one| !stay.contains(one)).collect();
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

/// `hosts`, and the hosts under those of them that are domains.
fn reached(hosts: &BTreeSet<Hostname>, world: &World) -> BTreeSet<Hostname> {
    let mut all = BTreeSet::new();
    for host in hosts {
        world.reach(host, &mut all);
    }
    all
}

/// Forgets what was found of DestinationRules that are gone, and looks at Namespaces by themselves.
fn forget(changes: &[Change], objects: &Objects, told: &mut Told) {
    for change in changes {
        match change {
            Change::DestinationRule(Some(before), _) => {
                told.set_rule(&of_rule(before), List::new());
            }
            Change::Namespace(name) => {
                population::report_namespace(name, objects.namespaces.get(name), told);
            }
            _ => {}
        }
    }
}

fn report(touched: &Touched, world: &World, build: &Build, members: &[Member], told: &mut Told) {
    for routes in world.users(touched.hosts.iter()) {
        told.set_routes(&routes.reference, world.report(routes, build));
    }
    for host in touched.hosts.iter().filter(|one| !is_domain(one)) {
        world.report_rules(host, build, members, told);
        world.report_merged(host, told);
    }
    for (suffix, rules) in world.destination_rules.domains() {
        let is = |one: &Hostname| one.as_str().strip_prefix('*') == Some(suffix);
        if ends_with(&touched.services, suffix) || touched.hosts.iter().any(is) {
            world.report_domain(suffix, rules, members, told);
        }
    }
}

fn is_domain(host: &Hostname) -> bool {
    host.as_str().starts_with('*')
}

fn ends_with(hosts: &BTreeSet<Hostname>, suffix: &str) -> bool {
    hosts.iter().any(|host| host.as_str().ends_with(suffix))
}

/// The name of a DestinationRule.
pub(super) fn of_rule(rule: &DestinationRule) -> ObjectRef {
    let metadata = &rule.metadata;
    reference("DestinationRule", &metadata.namespace, &metadata.name)
}
