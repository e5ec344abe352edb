//! What the resources may contain: API groups and versions, and whose every field is to be accounted
//! for.

use std::sync::{Arc, LazyLock};

/// The group of VirtualService and DestinationRule.
pub(super) const ISTIO_NETWORKING: &str = "networking.istio.io";

/// The group of the kinds that say who may call.
pub(super) const ISTIO_SECURITY: &str = "security.istio.io";

/// The ConfigMap that has Istio's MeshConfig. Others' are none of ours.
pub const MESH_CONFIG: &str = "istio";

/// Groups whose every kind configures a mesh: what is not read of them is told.
const MESH_GROUPS: [&str; 6] = [
    ISTIO_NETWORKING,
    ISTIO_SECURITY,
    "telemetry.istio.io",
    "extensions.istio.io",
    "gateway.networking.k8s.io",
    "gateway.networking.x-k8s.io",
];

/// Kinds whose every field is read.
const MESH_KINDS: [&str; 5] = [
    "VirtualService",
    "DestinationRule",
    "PeerAuthentication",
    "AuthorizationPolicy",
    "RequestAuthentication",
];

/// The kinds that are read: objects share their names.
static KINDS: LazyLock<[Arc<str>; 11]> = LazyLock::new(|| {
    [
        "Namespace",
        "Node",
        "Pod",
        "Service",
        "EndpointSlice",
        "ConfigMap",
        "VirtualService",
        "DestinationRule",
        "PeerAuthentication",
        "AuthorizationPolicy",
        "RequestAuthentication",
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
        ISTIO_SECURITY => matches!(version, "v1" | "v1beta1"),
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

/// Fields of the kinds that are read in full that people misspell, to guess by.
const FIELDS: [&str; 126] = [
    "abort",
    "action",
    "addresses",
    "allowCredentials",
    "allowHeaders",
    "allowMethods",
    "allowOrigins",
    "attempts",
    "audiences",
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
    "forwardOriginalToken",
    "from",
    "fromCookies",
    "fromHeaders",
    "fromParams",
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
    "ipBlocks",
    "issuer",
    "jwks",
    "jwksUri",
    "jwtRules",
    "key",
    "labels",
    "loadBalancer",
    "localityLbSetting",
    "match",
    "matchLabels",
    "maxAge",
    "maxConnections",
    "maxEjectionPercent",
    "maxRequestsPerConnection",
    "maxRetries",
    "method",
    "methods",
    "minHealthPercent",
    "mirror",
    "mirrorPercentage",
    "mirrors",
    "mode",
    "mtls",
    "namespaces",
    "notHosts",
    "notIpBlocks",
    "notMethods",
    "notNamespaces",
    "notPaths",
    "notPorts",
    "notPrincipals",
    "notRemoteIpBlocks",
    "notRequestPrincipals",
    "notServiceAccounts",
    "notTrustDomains",
    "notValues",
    "operation",
    "outlierDetection",
    "outputClaimToHeaders",
    "outputPayloadToHeader",
    "paths",
    "perTryTimeout",
    "percentage",
    "port",
    "portLevelMtls",
    "portLevelSettings",
    "ports",
    "prefix",
    "principals",
    "provider",
    "queryParams",
    "redirect",
    "regex",
    "remoteIpBlocks",
    "requestPrincipals",
    "retries",
    "retryOn",
    "rewrite",
    "route",
    "rules",
    "selector",
    "serviceAccounts",
    "simple",
    "sniHosts",
    "source",
    "sourceLabels",
    "spaceDelimitedClaims",
    "subset",
    "subsets",
    "targetRef",
    "targetRefs",
    "timeout",
    "to",
    "trafficPolicy",
    "trustDomains",
    "values",
    "when",
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
