//! Objects into a snapshot.
//!
//! Incremental by identity: whatever is made of objects that are still the same allocation is taken
//! over from the time before, so that one changed object costs what depends on it, and readers can
//! tell by the pointer what stayed the same. Knows no file; the problems it finds name an object
//! and a field.

mod address;
mod cluster;
mod endpoint;
mod guard;
mod l4;
mod locality;
mod outlook;
mod policy;
mod population;
mod report;
mod route;
pub mod rules;
mod service;
mod subset;
mod visibility;
mod workload;
mod world;

use std::sync::Arc;
use std::time::SystemTime;

use foldhash::{HashMap, HashMapExt as _};

use self::cluster::KeptClusters;
use self::endpoint::Index;
use self::guard::KeptPolicy;
use self::l4::KeptL4;
use self::population::KeptWorkload;
use self::service::{KeptTable, TableKey};
use self::world::KeptExpansion;
use super::store::{Key, Objects};
use crate::mesh::{Cluster, Service, Snapshot, Variants, VirtualHosts, Workload};
use crate::policy::authorization::TrustDomains;
use crate::types::{ClusterName, Finding, Hostname, ObjectRef};

/// Istio's default `rootNamespace`: its rules and policies are for the whole mesh.
const ROOT_NAMESPACE: &str = "istio-system";

/// Makes snapshots, and remembers the last one's parts.
#[derive(Debug)]
pub struct Compiler {
    node: Arc<str>,
    cluster_domain: Arc<str>,
    workloads: HashMap<Key, KeptWorkload>,
    clusters: HashMap<Hostname, KeptClusters>,
    expansions: HashMap<Key, KeptExpansion>,
    tables: HashMap<TableKey, KeptTable>,
    l4_tables: HashMap<(Hostname, u16), Vec<KeptL4>>,
    policies: HashMap<Key, KeptPolicy>,
    /// What policies mean by the mesh's own trust domain.
    trust_domains: TrustDomains,
    /// Of clusters that no DestinationRule speaks of.
    default_policy: Arc<crate::mesh::cluster::Policy>,
    /// The snapshot of the time before, what was found, and the generation of the objects.
    last: Arc<Snapshot>,
    found: Arc<[(ObjectRef, Finding)]>,
    generation: u64,
}

/// A snapshot, and what was found while it was made.
#[derive(Debug)]
pub struct Compiled {
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
    /// What is wrong, by object.
    pub findings: Arc<[(ObjectRef, Finding)]>,
    /// What had to be made anew.
    pub work: Work,
}

/// What a compilation made anew, rather than taking it over from the time before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Pods.
    pub workloads: usize,
    /// Services whose clusters were made.
    pub clusters: usize,
    /// Route tables, of one port and audience each.
    pub tables: usize,
}

impl Compiler {
    /// For the proxy of `node`, with Istio's default trust domain.
    pub fn new(node: &str, cluster_domain: &str) -> Self {
        Self {
            node: node.into(),
            cluster_domain: cluster_domain.into(),
            workloads: HashMap::new(),
            clusters: HashMap::new(),
            expansions: HashMap::new(),
            tables: HashMap::new(),
            l4_tables: HashMap::new(),
            policies: HashMap::new(),
            trust_domains: TrustDomains::default(),
            default_policy: Arc::default(),
            last: Arc::default(),
            found: Arc::default(),
            generation: 0,
        }
    }

    /// With other trust domains that policies mean by the mesh's own.
    pub fn with_trust_domains(mut self, trust_domains: TrustDomains) -> Self {
        self.trust_domains = trust_domains;
        self
    }

    /// Makes the snapshot of `objects`: the one of the time before where none of them changed;
    /// otherwise its version is the next. `now` is when what is new joined.
    pub fn compile(&mut self, objects: &Objects, now: SystemTime) -> Compiled {
        if self.last.version > 0 && self.generation == objects.generation {
            return self.compiled(Work::default());
        }
        let mut findings = Vec::new();
        let mut build = Build::after(self);
        let members = self.workloads(objects, now, &mut build, &mut findings);
        let workloads: Vec<Arc<Workload>> = members
            .iter()
            .map(|one| Arc::clone(&one.workload))
            .collect();
        let pods = Index::new(&members, objects.slices.values(), &objects.nodes);
        let world = self.world(objects, &mut findings);

        for (hostname, service) in &world.services {
            self.clusters_of(hostname, service, &pods, &world, &mut build);
        }
        for (hostname, service) in &world.services {
            let service = self.service(hostname, service, &world, &mut build);
            build.services.insert(hostname.clone(), service);
        }
        let mut virtual_hosts = VirtualHosts::default();
        for host in world.virtual_hosts() {
            virtual_hosts.insert(host, self.virtual_host(host, &world, &mut build));
        }
        let addresses = address::owners(&build, &pods, &mut findings);
        let guards = self.guards(objects, &workloads, &mut findings);
        world.report(&build, &mut findings);
        world.report_rules(&build, &mut findings);

        let version = self.last.version + 1;
        build.tables.retain(|_, one| one.version == version);
        self.clusters.retain(|_, one| one.version == version);
        self.tables = build.tables;
        self.l4_tables = build.l4_tables;
        self.last = Arc::new(Snapshot {
            version,
            cluster_domain: Arc::clone(&self.cluster_domain),
            services: build.services,
            addresses,
            clusters: build.clusters,
            private_clusters: build.private_clusters,
            virtual_hosts,
            workloads,
            guards,
        });
        self.found = findings.into();
        self.generation = objects.generation;
        self.compiled(build.work)
    }

    fn compiled(&self, work: Work) -> Compiled {
        Compiled {
            snapshot: Arc::clone(&self.last),
            findings: Arc::clone(&self.found),
            work,
        }
    }
}

/// What is being made.
#[derive(Default)]
struct Build {
    clusters: HashMap<ClusterName, Arc<Cluster>>,
    private_clusters: HashMap<Arc<str>, HashMap<ClusterName, Variants>>,
    work: Work,
    /// Those of the time before as well, until all are made.
    tables: HashMap<TableKey, KeptTable>,
    l4_tables: HashMap<(Hostname, u16), Vec<KeptL4>>,
    services: HashMap<Hostname, Arc<Service>>,
    /// Of the snapshot that is being made.
    version: u64,
}

impl Build {
    /// About as large as the last one became.
    fn after(compiler: &mut Compiler) -> Self {
        let last = &compiler.last;
        Self {
            clusters: HashMap::with_capacity(last.clusters.len()),
            services: HashMap::with_capacity(last.services.len()),
            tables: std::mem::take(&mut compiler.tables),
            version: last.version + 1,
            ..Self::default()
        }
    }
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
