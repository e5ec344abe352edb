//! A cluster: the endpoints that one destination (service, port, subset) has.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Workload;
use crate::types::{ClusterName, Hostname, Protocol};

/// The endpoints of a service's port, or of one subset of them.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its identity in statistics and in the access log.
    pub name: ClusterName,
    /// The service.
    pub hostname: Hostname,
    /// The service's port.
    pub port: u16,
    /// The DestinationRule's subset.
    pub subset: Option<Arc<str>>,
    /// What the service's port declares.
    pub protocol: Protocol,
    /// Ready endpoints only, sorted by address. An unchanged list keeps its allocation from one
    /// snapshot to the next, so that whoever derives state from it can compare the pointer.
    pub endpoints: Arc<[Endpoint]>,
}

/// One address that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address and target port.
    pub address: SocketAddr,
    /// The pod behind it, where it is known.
    pub workload: Option<Arc<Workload>>,
}
