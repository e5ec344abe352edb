//! Objects into a snapshot.
//!
//! Incremental by identity: whatever is made of objects that are still the same allocation is taken
//! over from the time before, so that one changed object costs what depends on it, and readers can
//! tell by the pointer what stayed the same. Knows no file; the problems it finds name an object
//! and a field.

mod address;
mod cluster;
mod endpoint;
mod population;
mod route;
pub mod rules;
mod service;
mod subset;
mod visibility;
mod workload;
mod world;

use std::collections::HashMap;
use std::sync::Arc;

use self::endpoint::Index;
use self::population::KeptWorkload;
use self::service::KeptTable;
use self::world::World;
use super::store::{Key, Objects};
use crate::mesh::{Cluster, Service, Snapshot, Variants, VirtualHosts};
use crate::types::{ClusterName, Finding, Hostname, ObjectRef};

/// Makes snapshots, and remembers the last one's parts.
#[derive(Debug)]
pub struct Compiler {
    node: Arc<str>,
    cluster_domain: Arc<str>,
    workloads: HashMap<Key, KeptWorkload>,
    tables: HashMap<(Hostname, u16), Vec<KeptTable>>,
    /// Of clusters that no DestinationRule speaks of.
    default_policy: Arc<crate::mesh::cluster::Policy>,
    /// The snapshot of the time before.
    last: Arc<Snapshot>,
}

/// A snapshot, and what was found while it was made.
#[derive(Debug)]
pub struct Compiled {
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
    /// What is wrong, by object.
    pub findings: Vec<(ObjectRef, Finding)>,
}

impl Compiler {
    /// For the proxy of `node`.
    pub fn new(node: &str, cluster_domain: &str) -> Self {
        Self {
            node: node.into(),
            cluster_domain: cluster_domain.into(),
            workloads: HashMap::new(),
            tables: HashMap::new(),
            default_policy: Arc::default(),
            last: Arc::default(),
        }
    }

    /// Makes the snapshot of `objects`. Its version counts up by one each time.
    pub fn compile(&mut self, objects: &Objects) -> Compiled {
        let mut findings = Vec::new();
        let members = self.workloads(objects, &mut findings);
        let workloads = members
            .iter()
            .map(|one| Arc::clone(&one.workload))
            .collect();
        let pods = Index::new(&members, objects.slices.values());
        let world = World::new(objects, &self.cluster_domain);

        let mut build = Build::default();
        for (hostname, service) in &world.services {
            self.clusters_of(hostname, service, &pods, &world, &mut build);
        }
        for (hostname, service) in &world.services {
            let service = self.service(hostname, service, &world, &mut build);
            build.services.insert(hostname.clone(), service);
        }
        let addresses = address::owners(&build, &pods, &mut findings);
        world.report(&build, &mut findings);

        self.tables = build.tables;
        self.last = Arc::new(Snapshot {
            version: self.last.version + 1,
            cluster_domain: Arc::clone(&self.cluster_domain),
            services: build.services,
            addresses,
            clusters: build.clusters,
            private_clusters: build.private_clusters,
            virtual_hosts: VirtualHosts::default(),
            workloads,
        });
        Compiled {
            snapshot: Arc::clone(&self.last),
            findings,
        }
    }
}

/// What is being made.
#[derive(Default)]
struct Build {
    clusters: HashMap<ClusterName, Arc<Cluster>>,
    private_clusters: HashMap<Arc<str>, HashMap<ClusterName, Variants>>,
    tables: HashMap<(Hostname, u16), Vec<KeptTable>>,
    services: HashMap<Hostname, Arc<Service>>,
}

fn reference(kind: &str, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef {
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
    }
}

#[cfg(test)]
mod tests;
