//! Where a Pod runs.

use crate::api::{Node, Pod};
use crate::types::Locality;

/// The labels of a Node that say so.
pub(super) const REGION: &str = "topology.kubernetes.io/region";
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
pub(super) const SUBZONE: &str = "topology.istio.io/subzone";
/// The label of a Pod that overrides its Node's.
const OWN: &str = "istio-locality";

/// By its own label, or else by its Node.
pub(super) fn of_pod(pod: &Pod, node: Option<&Node>) -> Locality {
    match pod.metadata.labels.get(OWN) {
        Some(own) if !own.is_empty() => Locality::of_label(own),
        _ => node.map(of_node).unwrap_or_default(),
    }
}

/// By the Node's labels.
pub(super) fn of_node(node: &Node) -> Locality {
    let label = |name: &str| {
        let value = node.metadata.labels.get(name);
        value.map_or_else(|| "".into(), |value| value.as_str().into())
    };
    Locality {
        region: label(REGION),
        zone: label(ZONE),
        subzone: label(SUBZONE),
    }
}
