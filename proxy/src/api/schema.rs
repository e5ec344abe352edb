//! What the resources may contain: API groups and versions, and whose every field is to be accounted
//! for.

use std::sync::{Arc, LazyLock};

/// The group of VirtualService and DestinationRule.
pub(super) const ISTIO_NETWORKING: &str = "networking.istio.io";

/// Groups whose every kind configures a mesh: what is not read of them is told.
const MESH_GROUPS: [&str; 6] = [
    ISTIO_NETWORKING,
    "security.istio.io",
    "telemetry.istio.io",
    "extensions.istio.io",
    "gateway.networking.k8s.io",
    "gateway.networking.x-k8s.io",
];

/// Kinds whose every field is read.
const MESH_KINDS: [&str; 2] = ["VirtualService", "DestinationRule"];

/// The kinds that are read: objects share their names.
static KINDS: LazyLock<[Arc<str>; 7]> = LazyLock::new(|| {
    [
        "Namespace",
        "Node",
        "Pod",
        "Service",
        "EndpointSlice",
        "VirtualService",
        "DestinationRule",
    ]
    .map(Arc::from)
});

/// The name of a kind.
pub(super) fn kind(name: &str) -> Arc<str> {
    let known = KINDS.iter().find(|known| ***known == *name);
    known.map_or_else(|| name.into(), Arc::clone)
}

/// Whether every kind of `group` is about a mesh.
pub(super) fn is_mesh_group(group: &str) -> bool {
    MESH_GROUPS.contains(&group)
}

/// Whether every field of `kind` is to be accounted for.
pub(super) fn is_mesh_kind(kind: &str) -> bool {
    MESH_KINDS.contains(&kind)
}

/// Whether a field that was not read is Kubernetes' own (`status`, most of `metadata`), so that
/// nothing is to be said about it.
pub(super) fn is_kubernetes(field: &str) -> bool {
    let top = field.split('.').next().unwrap_or(field);
    matches!(top, "apiVersion" | "kind" | "metadata" | "status")
}

/// Whether `version` of a group that is read has the shape that is read.
pub(super) fn is_version(group: &str, version: &str) -> bool {
    match group {
        ISTIO_NETWORKING => matches!(version, "v1" | "v1beta1" | "v1alpha3"),
        _ => version == "v1",
    }
}

/// The `apiVersion` to write.
pub(super) fn newest(group: &str) -> String {
    if group.is_empty() {
        "v1".to_owned()
    } else {
        format!("{group}/v1")
    }
}

/// Fields of VirtualService and DestinationRule that people misspell, to guess by.
const FIELDS: [&str; 75] = [
    "abort",
    "addresses",
    "allowCredentials",
    "allowHeaders",
    "allowMethods",
    "allowOrigins",
    "attempts",
    "authority",
    "backoff",
    "baseEjectionTime",
    "connectTimeout",
    "connectionPool",
    "consecutive5xxErrors",
    "consecutiveGatewayErrors",
    "consistentHash",
    "corsPolicy",
    "delay",
    "delegate",
    "destination",
    "destinationSubnets",
    "directResponse",
    "distribute",
    "exact",
    "exportTo",
    "exposeHeaders",
    "failover",
    "failoverPriority",
    "fault",
    "fixedDelay",
    "gateways",
    "headers",
    "host",
    "hosts",
    "http",
    "http1MaxPendingRequests",
    "http2MaxRequests",
    "httpCookie",
    "httpHeaderName",
    "httpStatus",
    "idleTimeout",
    "interval",
    "labels",
    "loadBalancer",
    "localityLbSetting",
    "match",
    "maxAge",
    "maxConnections",
    "maxEjectionPercent",
    "maxRequestsPerConnection",
    "maxRetries",
    "method",
    "minHealthPercent",
    "mirror",
    "mirrorPercentage",
    "mirrors",
    "outlierDetection",
    "perTryTimeout",
    "percentage",
    "port",
    "portLevelSettings",
    "prefix",
    "queryParams",
    "redirect",
    "regex",
    "retries",
    "retryOn",
    "rewrite",
    "route",
    "simple",
    "sniHosts",
    "sourceLabels",
    "subset",
    "subsets",
    "timeout",
    "trafficPolicy",
];

/// The field that is most like `name`, where one is very much so.
pub(super) fn similar(name: &str) -> Option<&'static str> {
    let close = |field: &&&str| strsim::damerau_levenshtein(field, name);
    FIELDS
        .iter()
        .filter(|field| close(field) <= 1 + field.len() / 8 || field.eq_ignore_ascii_case(name))
        .min_by_key(close)
        .copied()
}
