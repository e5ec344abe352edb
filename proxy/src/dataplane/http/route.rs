//! Where a request goes: the authority names the service, its rules the destination.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use super::Downstream;
use super::canonical::Canonical;
use crate::dataplane::error::Error;
use crate::mesh::{Action, Cluster, Snapshot};
use crate::policy::matcher::Request;
use crate::types::ClusterName;

/// Istio's name of the route to where the client was going anyway.
static ALLOW_ANY: LazyLock<Arc<str>> = LazyLock::new(|| "allow_any".into());
static PASSTHROUGH: LazyLock<ClusterName> = LazyLock::new(ClusterName::passthrough);

/// The rule's choice for one request. Retries stay with it.
#[derive(Debug)]
pub(super) struct Route {
    /// The rule's name.
    pub name: Arc<str>,
    /// The cluster's name, for the log.
    pub cluster: ClusterName,
    /// Where it leads.
    pub destination: Destination,
}

/// Where a route leads.
#[derive(Debug)]
pub(super) enum Destination {
    /// To one of a cluster's endpoints.
    Cluster(Arc<Cluster>),
    /// To where the client was going.
    Original(SocketAddr),
    /// To a cluster that does not exist.
    Missing,
}

/// Chooses. `draw` is uniformly random.
pub(super) fn choose(
    snapshot: &Snapshot,
    downstream: &Downstream,
    canonical: &Canonical,
    draw: u64,
) -> Result<Route, Error> {
    let pod = downstream.pod.pod();
    let source = pod.workload.source();
    let authority = canonical.authority();
    let port = downstream.destination.port();
    let Some(table) = snapshot.route_table(authority, source.namespace, port) else {
        return Ok(allow_any(snapshot, downstream));
    };
    let uri = &canonical.parts.uri;
    let request = Request {
        method: &canonical.parts.method,
        path: uri.path(),
        query: uri.query(),
        authority,
        headers: &canonical.parts.headers,
        scheme: "http",
        source,
    };
    let rule = table.choose(&request).ok_or(Error::NoRoute)?.rule;
    let Action::Forward(forward) = &rule.action else {
        return Err(Error::NoRoute);
    };
    // One of them: a table whose weights and destinations differ in number is not made.
    let chosen = forward
        .destinations
        .get(forward.weights.pick(draw))
        .ok_or(Error::NoCluster)?;
    let destination = match snapshot.cluster_for(&chosen.cluster, source) {
        Some(cluster) => Destination::Cluster(Arc::clone(cluster)),
        None => Destination::Missing,
    };
    Ok(Route {
        name: Arc::clone(&rule.name),
        cluster: chosen.cluster.clone(),
        destination,
    })
}

/// An authority that names nothing in the mesh goes to where the client was going
/// (`outboundTrafficPolicy` ALLOW_ANY). Where that is a service's address, an endpoint is chosen
/// here, as the kernel's service load balancing would.
fn allow_any(snapshot: &Snapshot, downstream: &Downstream) -> Route {
    let pod = downstream.pod.pod();
    let service = downstream
        .target
        .port()
        .and_then(|port| snapshot.cluster_for(&port.cluster, pod.workload.source()));
    Route {
        name: Arc::clone(&ALLOW_ANY),
        cluster: PASSTHROUGH.clone(),
        destination: match service {
            Some(cluster) => Destination::Cluster(Arc::clone(cluster)),
            None => Destination::Original(downstream.destination),
        },
    }
}
