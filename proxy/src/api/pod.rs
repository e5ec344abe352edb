//! Pod, Namespace and Node: who runs, and under which labels.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;

use super::{Metadata, or_default};
use crate::types::Finding;

/// `v1` Namespace. What matters is in its labels and annotations.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Namespace {
    /// `metadata`.
    pub metadata: Metadata,
}

/// `v1` Node. Its labels say where it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Node {
    /// `metadata`.
    pub metadata: Metadata,
}

/// `v1` Pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Pod {
    /// `metadata`.
    pub metadata: Metadata,
    /// `spec`.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: PodSpec,
    /// `status`.
    #[serde(default, deserialize_with = "or_default")]
    pub status: PodStatus,
}

/// `spec` of a [`Pod`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// `nodeName`.
    #[serde(default)]
    pub node_name: Option<Arc<str>>,
    /// `hostNetwork`.
    #[serde(default, deserialize_with = "or_default")]
    pub host_network: bool,
    /// `serviceAccountName`.
    #[serde(default)]
    pub service_account_name: Option<Arc<str>>,
    /// `containers`.
    #[serde(default, deserialize_with = "or_default")]
    pub containers: Vec<Container>,
    /// `initContainers`: those that restart always are sidecars, and have ports too.
    #[serde(default, deserialize_with = "or_default")]
    pub init_containers: Vec<Container>,
}

/// A container, as far as its ports go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// `ports`.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<ContainerPort>,
    /// `restartPolicy`.
    #[serde(default)]
    pub restart_policy: Option<String>,
}

/// A named port of a container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// `name`.
    #[serde(default)]
    pub name: Option<String>,
    /// `containerPort`.
    pub container_port: u16,
    /// `protocol`; TCP where absent.
    #[serde(default)]
    pub protocol: Option<String>,
}

/// `status` of a [`Pod`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// `phase`.
    #[serde(default)]
    pub phase: Option<String>,
    /// `podIP`.
    #[serde(default, rename = "podIP")]
    pub pod_ip: Option<String>,
    /// `podIPs`.
    #[serde(default, rename = "podIPs", deserialize_with = "or_default")]
    pub pod_ips: Vec<PodIp>,
    /// `conditions`.
    #[serde(default, deserialize_with = "or_default")]
    pub conditions: Vec<Condition>,
}

/// One of `podIPs`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PodIp {
    /// `ip`.
    pub ip: String,
}

/// One of `conditions`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Condition {
    /// `type`.
    pub r#type: String,
    /// `status`: `True`, `False` or `Unknown`.
    pub status: String,
    /// `lastTransitionTime`, RFC 3339.
    #[serde(default, rename = "lastTransitionTime")]
    pub last_transition_time: Option<String>,
}

impl Pod {
    /// Its addresses: `podIPs`, or `podIP` alone.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let listed = self.status.pod_ips.iter().map(|one| one.ip.as_str());
        let single = self.status.pod_ip.as_deref();
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in listed.chain(single).filter_map(|text| text.parse().ok()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// Whether it is over: its address may be another's by now.
    pub fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// Whether it takes traffic: running, not going, and its `Ready` condition is true. A Pod in a
    /// hand-written file often has no conditions; it counts as ready.
    pub fn is_ready(&self) -> bool {
        let ready = self
            .status
            .conditions
            .iter()
            .find(|one| one.r#type == "Ready");
        !self.is_finished()
            && self.metadata.deletion_timestamp.is_none()
            && ready.is_none_or(|one| one.status == "True")
    }

    /// Since when it is ready, where its manifest says so.
    pub fn ready_since(&self) -> Option<SystemTime> {
        let mut conditions = self.status.conditions.iter();
        let ready = conditions.find(|one| one.r#type == "Ready" && one.status == "True")?;
        humantime::parse_rfc3339(ready.last_transition_time.as_deref()?).ok()
    }

    /// The number of the TCP port that a container gives this name.
    pub fn port_named(&self, name: &str) -> Option<u16> {
        let sidecars = self
            .spec
            .init_containers
            .iter()
            .filter(|one| one.restart_policy.as_deref() == Some("Always"));
        self.spec
            .containers
            .iter()
            .chain(sidecars)
            .flat_map(|container| &container.ports)
            .find(|port| {
                port.name.as_deref() == Some(name)
                    && port.protocol.as_deref().is_none_or(|one| one == "TCP")
            })
            .map(|port| port.container_port)
    }

    pub(super) fn validate(&self, findings: &mut Vec<Finding>) {
        let status = &self.status;
        for (index, one) in status.pod_ips.iter().enumerate() {
            super::check_address(&one.ip, format!("status.podIPs[{index}].ip"), findings);
        }
        if let Some(address) = &status.pod_ip {
            super::check_address(address, "status.podIP".to_owned(), findings);
        }
    }
}
