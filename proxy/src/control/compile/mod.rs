//! Objects into a snapshot.
//!
//! Incremental by identity: whatever is made of objects that are still the same allocation is taken
//! over from the time before, so that one changed object costs what depends on it, and readers can
//! tell by the pointer what stayed the same. After a few changes nothing else is even looked at
//! (`touched.rs`). Knows no file; the problems it finds name an object
//! and a field.

mod address;
mod cluster;
mod endpoint;
mod expansion;
mod guard;
mod l4;
mod locality;
mod mentions;
mod origination;
mod outlook;
mod policy;
mod population;
mod provider;
mod report;
mod route;
pub mod rules;
mod scope;
mod service;
mod subset;
mod tokens;
mod told;
mod touched;
mod visibility;
mod workload;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use foldhash::{HashMap, HashMapExt as _};

use self::cluster::KeptClusters;
use self::endpoint::Index;
use self::expansion::Expansions;
use self::guard::KeptPolicy;
use self::l4::KeptL4;
use self::mentions::Mentions;
use self::population::Member;
use self::scope::Scope;
use self::service::{KeptTable, TableKey};
use self::tokens::KeptTokens;
use self::told::Told;
use self::world::World;
use super::store::{Key, Objects};
use crate::mesh::{Clusters, Service, Snapshot, Variants, VirtualHosts, Workload};
use crate::policy::authorization::TrustDomains;
use crate::types::{ClusterName, Finding, Hostname, ObjectRef};

/// Istio's default `rootNamespace`: its rules and policies are for the whole mesh.
const ROOT_NAMESPACE: &str = "istio-system";

/// Makes snapshots, and remembers the last one's parts.
#[derive(Debug)]
pub struct Compiler {
    node: Arc<str>,
    cluster_domain: Arc<str>,
    clusters: HashMap<Hostname, Box<KeptClusters>>,
    expansions: Expansions,
    tables: HashMap<TableKey, KeptTable>,
    l4_tables: HashMap<(Hostname, u16), Vec<KeptL4>>,
    policies: BTreeMap<Key, KeptPolicy>,
    tokens: BTreeMap<Key, KeptTokens>,
    /// Every Pod, sorted by namespace and name.
    members: Vec<Member>,
    mentions: Mentions,
    world: World,
    told: Told,
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
            clusters: HashMap::new(),
            expansions: Expansions::default(),
            tables: HashMap::new(),
            l4_tables: HashMap::new(),
            policies: BTreeMap::new(),
            tokens: BTreeMap::new(),
            members: Vec::new(),
            mentions: Mentions::default(),
            world: World::default(),
            told: Told::default(),
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
        let work = match self.touched(objects) {
            Some(touched) => self.compile_some(objects, touched, now),
            None => self.compile_all(objects, now),
        };
        self.found = self.told.all();
        self.generation = objects.generation;
        self.compiled(work)
    }

    fn compile_all(&mut self, objects: &Objects, now: SystemTime) -> Work {
        let mut told = Told::default();
        let mut build = Build::anew(self, objects, now);
        self.clusters.reserve(objects.services.len());
        let members = self.population(objects, now, &mut build, &mut told);
        let pods = Index::new(&members, objects);
        let routes = self.expanded(objects, &mut told);
        let world = self.world(objects, routes);
        self.mentions = Mentions::new(objects);

        for (hostname, service) in &world.services {
            self.clusters_of(hostname, service, objects, &pods, &world, &mut build);
        }
        for hostname in world.services.keys() {
            self.put_service(hostname, &world, &mut build);
        }
        for host in world.routed() {
            self.put_virtual_host(&host, &world, &mut build);
        }
        let addresses = address::owners(&build, &members, &mut told.addresses);
        let config = provider::mesh_config(objects);
        let providers = Arc::new(provider::all(&config));
        let guards = self.guards(objects, &members, &providers, Scope::All, &mut told);
        for routes in world.all_routes() {
            told.set_routes(&routes.reference, world.report(routes, &build));
        }
        for (host, _) in world.destination_rules.exact() {
            world.report_rules(host, &build, &members, &mut told);
            world.report_merged(host, &mut told);
        }
        for (suffix, rules) in world.destination_rules.domains() {
            world.report_domain(suffix, rules, &members, &mut told);
        }

        let version = build.version;
        build.tables.retain(|_, one| one.version == version);
        self.clusters.retain(|_, one| one.version == version);
        let work = build.work;
        self.last = Arc::new(Snapshot {
            version,
            cluster_domain: Arc::clone(&self.cluster_domain),
            services: build.services,
            addresses: addresses.into(),
            clusters: build.clusters,
            private_clusters: build.private_clusters,
            virtual_hosts: build.virtual_hosts,
            workloads: workloads(&members),
            guards,
            providers,
            client_certificate: provider::client_certificate(&config),
        });
        (self.tables, self.l4_tables) = (build.tables, build.l4_tables);
        (self.members, self.world, self.told) = (members, world, told);
        work
    }

    fn compiled(&self, work: Work) -> Compiled {
        Compiled {
            snapshot: Arc::clone(&self.last),
            findings: Arc::clone(&self.found),
            work,
        }
    }
}

fn workloads(members: &[Member]) -> Arc<Vec<Arc<Workload>>> {
    let all = members.iter().map(|one| Arc::clone(&one.workload));
    Arc::new(all.collect())
}

/// What is being made.
#[derive(Default)]
struct Build {
    /// Whether it begins with nothing, and not with what the last snapshot has.
    anew: bool,
    services: Arc<HashMap<Hostname, Arc<Service>>>,
    clusters: Arc<Clusters>,
    private_clusters: Arc<HashMap<Arc<str>, HashMap<ClusterName, Variants>>>,
    virtual_hosts: Arc<VirtualHosts>,
    work: Work,
    /// Those of the time before as well, until all are made.
    tables: HashMap<TableKey, KeptTable>,
    /// Of the services that are looked at.
    l4_tables: HashMap<(Hostname, u16), Vec<KeptL4>>,
    /// Of the snapshot that is being made.
    version: u64,
    /// When what is new has joined.
    now: Option<SystemTime>,
}

impl Build {
    /// With room for about as much as there will be.
    fn anew(compiler: &mut Compiler, objects: &Objects, now: SystemTime) -> Self {
        let last = &compiler.last;
        compiler.tables.reserve(objects.virtual_services.len());
        Self {
            anew: true,
            clusters: Clusters::with_capacity(last.clusters.len()).into(),
            services: HashMap::with_capacity(objects.services.len()).into(),
            tables: std::mem::take(&mut compiler.tables),
            version: last.version + 1,
            now: Some(now),
            ..Self::default()
        }
    }

    /// The same as the last one, until something is changed.
    fn on(compiler: &mut Compiler, now: SystemTime) -> Self {
        let last = &compiler.last;
        Self {
            anew: false,
            services: Arc::clone(&last.services),
            clusters: Arc::clone(&last.clusters),
            private_clusters: Arc::clone(&last.private_clusters),
            virtual_hosts: Arc::clone(&last.virtual_hosts),
            tables: std::mem::take(&mut compiler.tables),
            version: last.version + 1,
            now: Some(now),
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
