//! What a data-plane worker is made of: whatever it shares with others, and its own ends of it.

use std::sync::Arc;

use super::cluster::Registry;
use super::neighbours::SameNode;
use crate::kernel::Redirects;
use crate::mesh::{KeyRing, Store};
use crate::net::descriptors::Descriptors;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::counters::Counters;
use crate::tls::{Outside, Secrets};

/// What a worker is made of.
#[derive(Debug)]
pub struct Parts {
    /// Where snapshots come from.
    pub store: Arc<Store>,
    /// The kernel's redirect maps.
    pub redirects: Redirects,
    /// The process's budget of descriptors.
    pub descriptors: Descriptors,
    /// Certificates of local identities, and who is trusted.
    pub secrets: Secrets,
    /// What TLS is made by with servers outside the mesh.
    pub outside: Outside,
    /// The keys of tokens' issuers that were fetched.
    pub keys: KeyRing,
    /// Whether pods of the mesh are reached by mutual TLS: somebody signs certificates.
    pub mutual_tls: bool,
    /// This cluster's name, which HBONE's peers are told.
    pub cluster_id: Arc<str>,
    /// How local pods reach each other.
    pub same_node: SameNode,
    /// What is remembered of clusters, shared by the workers.
    pub clusters: Arc<Registry>,
    /// This worker's counters.
    pub counters: Arc<Counters>,
    /// This worker's end of the access log.
    pub log: AccessLog,
}
