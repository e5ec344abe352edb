//! Istio's DestinationRule: named subsets of a service's endpoints, and how traffic is sent there.
//!
//! The fields are those of `networking/v1alpha3/destination_rule.proto`, under their names of
//! proto3's JSON (camelCase; the proto's own snake_case is read as well).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::{Metadata, or_default};

mod balancer;
mod pool;
mod tls;
mod validate;

pub use balancer::{
    ConsistentHash, Cookie, CookieAttribute, Distribute, Failover, LoadBalancer, LocalityLb,
    Maglev, RingHash, Simple, Warmup,
};
pub use pool::{
    ConnectionPool, H2Upgrade, HttpPool, KeepAlive, OutlierDetection, RetryBudget, TcpKeepalive,
    TcpPool,
};
pub use tls::{ProxyProtocol, ProxyProtocolVersion, Tls, TlsMode, Tunnel};

/// `networking.istio.io` DestinationRule.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DestinationRule {
    /// `metadata`.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: DestinationRuleSpec,
}

/// `spec` of a [`DestinationRule`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationRuleSpec {
    /// `host`.
    #[serde(default, deserialize_with = "or_default")]
    pub host: String,
    /// `trafficPolicy`.
    #[serde(default, alias = "traffic_policy")]
    pub traffic_policy: Option<TrafficPolicy>,
    /// `subsets`.
    #[serde(default, deserialize_with = "or_default")]
    pub subsets: Vec<Subset>,
    /// `exportTo`.
    #[serde(default, alias = "export_to", deserialize_with = "or_default")]
    pub export_to: Vec<String>,
    /// `workloadSelector`: which clients the rule is for.
    #[serde(default, alias = "workload_selector")]
    pub workload_selector: Option<WorkloadSelector>,
}

/// `workloadSelector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// `matchLabels`.
    #[serde(default, alias = "match_labels", deserialize_with = "or_default")]
    pub match_labels: BTreeMap<String, String>,
}

/// One of `subsets`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subset {
    /// `name`.
    #[serde(default, deserialize_with = "or_default")]
    pub name: Arc<str>,
    /// `labels`; without any, every endpoint belongs to it.
    #[serde(default, deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// `trafficPolicy`.
    #[serde(default, alias = "traffic_policy")]
    pub traffic_policy: Option<TrafficPolicy>,
}

/// `trafficPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// `loadBalancer`.
    #[serde(default, alias = "load_balancer")]
    pub load_balancer: Option<LoadBalancer>,
    /// `connectionPool`.
    #[serde(default, alias = "connection_pool")]
    pub connection_pool: Option<ConnectionPool>,
    /// `outlierDetection`.
    #[serde(default, alias = "outlier_detection")]
    pub outlier_detection: Option<OutlierDetection>,
    /// `tls`.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// `portLevelSettings`.
    #[serde(
        default,
        alias = "port_level_settings",
        deserialize_with = "or_default"
    )]
    pub port_level_settings: Vec<PortTrafficPolicy>,
    /// `tunnel`.
    #[serde(default)]
    pub tunnel: Option<Tunnel>,
    /// `proxyProtocol`.
    #[serde(default, alias = "proxy_protocol")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `retryBudget`.
    #[serde(default, alias = "retry_budget")]
    pub retry_budget: Option<RetryBudget>,
}

/// One of `portLevelSettings`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortTrafficPolicy {
    /// `port`: of the Service, not of its Pods.
    #[serde(default)]
    pub port: Option<super::virtual_service::PortSelector>,
    /// `loadBalancer`.
    #[serde(default, alias = "load_balancer")]
    pub load_balancer: Option<LoadBalancer>,
    /// `connectionPool`.
    #[serde(default, alias = "connection_pool")]
    pub connection_pool: Option<ConnectionPool>,
    /// `outlierDetection`.
    #[serde(default, alias = "outlier_detection")]
    pub outlier_detection: Option<OutlierDetection>,
    /// `tls`.
    #[serde(default)]
    pub tls: Option<Tls>,
}
