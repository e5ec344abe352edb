//! Which rule takes a request: the authority names the service, its rules the action.

use std::sync::{Arc, LazyLock};

use super::Downstream;
use super::canonical::Canonical;
use crate::dataplane::error::Error;
use crate::mesh::{Cluster, Rule, Snapshot};
use crate::policy::matcher::Request;
use crate::policy::rewrite::Matched;

/// Istio's name of the route to where the client was going anyway.
pub(super) static ALLOW_ANY: LazyLock<Arc<str>> = LazyLock::new(|| "allow_any".into());

/// What takes a request.
pub(super) enum Route {
    /// A rule, and what it matched of the path.
    Rule(Arc<Rule>, Matched),
    /// No rule: the authority names nothing in the mesh, and the request goes to where the client
    /// was going (`outboundTrafficPolicy` ALLOW_ANY). Where that is a service's address, this is its
    /// cluster, and an endpoint is chosen as the kernel's service load balancing would.
    AllowAny(Option<Arc<Cluster>>),
}

/// Chooses.
pub(super) fn choose(
    snapshot: &Snapshot,
    downstream: &Downstream,
    canonical: &Canonical,
) -> Result<Route, Error> {
    let pod = downstream.pod.pod();
    let source = pod.workload.source();
    let authority = canonical.authority();
    let dialled = downstream.destination.port();
    let Some(table) = snapshot.route_table(authority, source.namespace, dialled) else {
        let port = downstream.target.port();
        let cluster = port.and_then(|port| snapshot.cluster_for(&port.cluster, source));
        return Ok(Route::AllowAny(cluster.cloned()));
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
    let choice = table.choose(&request).ok_or(Error::NoRoute)?;
    Ok(Route::Rule(Arc::clone(choice.rule), choice.matched))
}
