//! Service and EndpointSlice: names, and the addresses that answer to them.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::{Metadata, or_default};
use crate::types::Finding;

/// `v1` Service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Service {
    /// `metadata`.
    pub metadata: Metadata,
    /// `spec`.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: ServiceSpec,
}

/// `spec` of a [`Service`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `type`.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// `clusterIP`; `None` for a headless Service.
    #[serde(default, rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// `clusterIPs`.
    #[serde(default, rename = "clusterIPs", deserialize_with = "or_default")]
    pub cluster_ips: Vec<String>,
    /// `selector`.
    #[serde(default, deserialize_with = "or_default")]
    pub selector: BTreeMap<String, String>,
    /// `ports`.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<ServicePort>,
    /// `publishNotReadyAddresses`.
    #[serde(default, deserialize_with = "or_default")]
    pub publish_not_ready_addresses: bool,
    /// `sessionAffinity`.
    #[serde(default)]
    pub session_affinity: Option<String>,
    /// `internalTrafficPolicy`.
    #[serde(default)]
    pub internal_traffic_policy: Option<String>,
    /// `trafficDistribution`.
    #[serde(default)]
    pub traffic_distribution: Option<String>,
}

/// One of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// `name`.
    #[serde(default, deserialize_with = "or_default")]
    pub name: Arc<str>,
    /// `port`.
    pub port: u16,
    /// `targetPort`; the same as `port` where absent.
    #[serde(default)]
    pub target_port: Option<TargetPort>,
    /// `protocol`; TCP where absent.
    #[serde(default)]
    pub protocol: Option<String>,
    /// `appProtocol`.
    #[serde(default)]
    pub app_protocol: Option<String>,
}

impl ServicePort {
    /// Whether it carries TCP; nothing else passes through the proxy.
    pub fn is_tcp(&self) -> bool {
        self.protocol.as_deref().is_none_or(|one| one == "TCP")
    }
}

/// `targetPort`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a port number or the name of a container's port"
)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container's port, which may be another number in each pod.
    Name(String),
}

impl Service {
    /// Its ClusterIPs; none for a headless Service.
    pub fn vips(&self) -> Vec<IpAddr> {
        let spec = &self.spec;
        let mut vips: Vec<IpAddr> = Vec::new();
        for text in spec.cluster_ips.iter().chain(&spec.cluster_ip) {
            if let Ok(address) = text.parse()
                && !vips.contains(&address)
            {
                vips.push(address);
            }
        }
        vips
    }

    /// Whether its name stands for a name outside of the cluster.
    pub fn is_external_name(&self) -> bool {
        self.spec.kind.as_deref() == Some("ExternalName")
    }

    pub(super) fn validate(&self, findings: &mut Vec<Finding>) {
        let spec = &self.spec;
        if self.is_external_name() {
            findings.push(Finding::warning(
                "spec.type",
                "ExternalName is not implemented yet: the Service has no effect",
            ));
            return;
        }
        for (index, text) in spec.cluster_ips.iter().enumerate() {
            if text != "None" {
                super::check_address(text, format!("spec.clusterIPs[{index}]"), findings);
            }
        }
        if let Some(text) = spec
            .cluster_ip
            .as_deref()
            .filter(|text| !matches!(*text, "" | "None"))
        {
            super::check_address(text, "spec.clusterIP".to_owned(), findings);
        }
        let (mut numbers, mut names) = (HashSet::new(), HashSet::new());
        for (index, port) in spec.ports.iter().enumerate() {
            let field = format!("spec.ports[{index}]");
            if port.port == 0 {
                findings.push(Finding::error(format!("{field}.port"), PORT_RANGE));
            }
            if matches!(port.target_port, Some(TargetPort::Number(0))) {
                findings.push(Finding::error(format!("{field}.targetPort"), PORT_RANGE));
            }
            if !numbers.insert((port.port, port.is_tcp())) {
                findings.push(Finding::error(
                    format!("{field}.port"),
                    format!("port {} is given twice", port.port),
                ));
            }
            if !names.insert(&port.name) {
                findings.push(Finding::error(
                    format!("{field}.name"),
                    "ports of one Service need names that differ",
                ));
            }
        }
        let prefer = spec.traffic_distribution.as_deref();
        if !matches!(
            prefer,
            None | Some("" | "PreferClose" | "PreferSameZone" | "PreferSameNode")
        ) {
            findings.push(Finding::warning(
                "spec.trafficDistribution",
                "is none of PreferClose, PreferSameZone and PreferSameNode, and has no effect",
            ));
        }
        let exported = "networking.istio.io/exportTo";
        if self.metadata.annotations.contains_key(exported) {
            findings.push(Finding::warning(
                format!("metadata.annotations.{exported}"),
                super::NOT_YET,
            ));
        }
        for (field, value, harmless) in [
            ("sessionAffinity", &spec.session_affinity, "None"),
            (
                "internalTrafficPolicy",
                &spec.internal_traffic_policy,
                "Cluster",
            ),
        ] {
            if value.as_deref().is_some_and(|value| value != harmless) {
                findings.push(Finding::warning(format!("spec.{field}"), super::NOT_YET));
            }
        }
    }
}

const PORT_RANGE: &str = "a port is a number from 1 to 65535";

/// `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// `metadata`; the label `kubernetes.io/service-name` says whose it is.
    pub metadata: Metadata,
    /// `addressType`: `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    /// `endpoints`.
    #[serde(default, deserialize_with = "or_default")]
    pub endpoints: Vec<SliceEndpoint>,
    /// `ports`.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<SlicePort>,
}

/// One of `endpoints`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceEndpoint {
    /// `addresses`: the same endpoint under several addresses; Kubernetes fills in one.
    pub addresses: Vec<String>,
    /// `conditions`.
    #[serde(default, deserialize_with = "or_default")]
    pub conditions: SliceConditions,
    /// `nodeName`.
    #[serde(default)]
    pub node_name: Option<String>,
    /// `targetRef`: the pod.
    #[serde(default)]
    pub target_ref: Option<TargetRef>,
}

/// `conditions` of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SliceConditions {
    /// `ready`; absent means ready (Kubernetes).
    #[serde(default)]
    pub ready: Option<bool>,
    /// `terminating`.
    #[serde(default)]
    pub terminating: Option<bool>,
}

/// `targetRef` of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TargetRef {
    /// `kind`.
    #[serde(default, deserialize_with = "or_default")]
    pub kind: String,
    /// `name`.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// `namespace`.
    #[serde(default)]
    pub namespace: Option<String>,
}

/// One of `ports` of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SlicePort {
    /// `name`, the Service port's.
    #[serde(default, deserialize_with = "or_default")]
    pub name: Arc<str>,
    /// `port`: where the endpoint listens. Absent means every port, which no Service asks for.
    #[serde(default)]
    pub port: Option<u16>,
    /// `protocol`; TCP where absent.
    #[serde(default)]
    pub protocol: Option<String>,
}

impl EndpointSlice {
    /// The Service that it belongs to, in its own namespace.
    pub fn service(&self) -> Option<&str> {
        let label = self.metadata.labels.get("kubernetes.io/service-name");
        label.map(String::as_str)
    }

    pub(super) fn validate(&self, findings: &mut Vec<Finding>) {
        if self.service().is_none() {
            findings.push(Finding::warning(
                "metadata.labels",
                "without the label kubernetes.io/service-name the slice belongs to no Service",
            ));
        }
        match self.address_type.as_str() {
            "IPv4" | "IPv6" => {}
            "FQDN" => {
                findings.push(Finding::warning(
                    "addressType",
                    "FQDN is not implemented yet: the slice has no effect",
                ));
                return;
            }
            _ => findings.push(Finding::error("addressType", "must be IPv4 or IPv6")),
        }
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            for (at, text) in endpoint.addresses.iter().enumerate() {
                super::check_address(
                    text,
                    format!("endpoints[{index}].addresses[{at}]"),
                    findings,
                );
            }
        }
    }
}
