//! Whose address a connection was going to, and what is declared about it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::balance::Wanted;
use crate::mesh::{Owner, Service, ServicePort, Snapshot};
use crate::types::Protocol;

/// What an original destination means.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// A service's address at a port that it has; the index of that port.
    Service(Arc<Service>, usize),
    /// A pod's address, or one that nobody in the mesh owns: passed through to where it was going.
    Address,
}

impl Target {
    /// The service's port, where it is one.
    pub(super) fn port(&self) -> Option<&ServicePort> {
        match self {
            Self::Service(service, index) => service.ports.get(*index),
            Self::Address => None,
        }
    }

    /// What the port declares to carry.
    pub(super) fn protocol(&self) -> Protocol {
        self.port().map_or(Protocol::Auto, |port| port.protocol)
    }

    /// Which endpoint is meant by dialling `destination`.
    pub(crate) fn wanted(&self, destination: SocketAddr) -> Wanted {
        match self {
            Self::Service(service, _) if service.vips.is_empty() => Wanted::Exactly(destination),
            Self::Service(..) | Self::Address => Wanted::Like(destination),
        }
    }
}

/// Resolves `destination`. A pod's own address stands for a headless service that selects the pod
/// and has the port; a pod of other services is dialled as such.
pub(super) fn destination(snapshot: &Snapshot, destination: SocketAddr) -> Target {
    let at = |service: &Arc<Service>| {
        let index = service
            .ports
            .iter()
            .position(|port| port.number == destination.port())?;
        Some(Target::Service(Arc::clone(service), index))
    };
    match snapshot.addresses.get(&destination.ip()) {
        Some(Owner::Service(service)) => at(service),
        Some(Owner::Workload(_, services)) => services
            .iter()
            .filter(|service| service.vips.is_empty())
            .find_map(at),
        None => None,
    }
    .unwrap_or(Target::Address)
}

/// What the services of a pod declare its port at `destination` to carry: HTTP where one says so,
/// something opaque where all do.
pub(super) fn declared(snapshot: &Snapshot, destination: SocketAddr) -> Protocol {
    let Some(Owner::Workload(_, services)) = snapshot.addresses.get(&destination.ip()) else {
        return Protocol::Auto;
    };
    let ports = services.iter().flat_map(|service| &service.ports);
    let leads_there = |port: &&ServicePort| {
        let cluster = snapshot.cluster(&port.cluster);
        cluster.is_some_and(|cluster| {
            let endpoints = &cluster.endpoints;
            let found = endpoints.binary_search_by(|one| one.address.cmp(&destination));
            found.is_ok()
        })
    };
    let said = ports.filter(leads_there).map(|port| port.protocol);
    said.reduce(|one, other| match (one, other) {
        (said, _) | (_, said) if said.is_http() => said,
        (Protocol::Auto, _) | (_, Protocol::Auto) => Protocol::Auto,
        (said, _) => said,
    })
    .unwrap_or(Protocol::Auto)
}
