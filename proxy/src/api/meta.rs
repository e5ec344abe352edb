//! What every object has: its name, labels and annotations.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::or_default;

/// `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.namespace`; `default` where a namespaced object names none, empty for a kind
    /// without namespaces. [`super::decode`] sets it.
    #[serde(default, deserialize_with = "or_default")]
    pub namespace: Arc<str>,
    /// `metadata.labels`.
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Arc<BTreeMap<String, String>>,
    /// `metadata.annotations`.
    #[serde(default, deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    /// `metadata.creationTimestamp`, RFC 3339 in UTC as Kubernetes writes it, so that its order as
    /// text is its order in time. Empty in most files.
    #[serde(default, deserialize_with = "or_default")]
    pub creation_timestamp: String,
    /// `metadata.deletionTimestamp`: the object is going.
    #[serde(default)]
    pub deletion_timestamp: Option<String>,
}

impl Metadata {
    /// What decides between objects that claim the same: the older, then the first by name, then
    /// by namespace (Istio). An object without a timestamp counts as older than any with one.
    pub fn age(&self) -> impl Ord + '_ {
        (
            self.creation_timestamp.as_str(),
            &*self.name,
            &*self.namespace,
        )
    }
}
