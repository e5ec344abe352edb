//! What the resources may contain: API groups, versions, and the fields that exist but are not
//! implemented yet. What is neither read nor listed here is unknown.

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

/// Fields of VirtualService and DestinationRule that are not read, without indices. What lies below
/// one is covered by it.
const UNREAD: [(&str, &[&str]); 2] = [
    (
        "VirtualService",
        &[
            "spec.http.rewrite",
            "spec.http.timeout",
            "spec.http.retries",
            "spec.http.fault",
            "spec.http.mirror",
            "spec.http.mirrors",
            "spec.http.mirrorPercent",
            "spec.http.mirrorPercentage",
            "spec.http.corsPolicy",
            "spec.http.headers",
            "spec.http.match.statPrefix",
            "spec.http.route.headers",
        ],
    ),
    (
        "DestinationRule",
        &["spec.trafficPolicy", "spec.subsets.trafficPolicy"],
    ),
];

/// Whether every kind of `group` is about a mesh.
pub(super) fn is_mesh_group(group: &str) -> bool {
    MESH_GROUPS.contains(&group)
}

/// Whether every field of `kind` is to be accounted for.
pub(super) fn is_mesh_kind(kind: &str) -> bool {
    UNREAD.iter().any(|(one, _)| *one == kind)
}

/// Whether a field that was not read is known (and not implemented) or unknown; `None` where it is
/// Kubernetes' own (`status`, most of `metadata`) and nothing is to be said.
pub(super) fn unread(kind: &str, field: &str) -> Option<bool> {
    let top = field.split('.').next().unwrap_or(field);
    if matches!(top, "apiVersion" | "kind" | "metadata" | "status") {
        return None;
    }
    let fields = UNREAD.iter().find(|(one, _)| *one == kind)?.1;
    Some(fields.contains(&field))
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
