//! Rules for connections whose bytes are not looked at: `tcp`, and `tls` by server name.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Destination;
use crate::api::or_default;

/// One of `spec.tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TlsRoute {
    /// `match`.
    #[serde(default, rename = "match", deserialize_with = "or_default")]
    pub matches: Vec<TlsMatch>,
    /// `route`.
    #[serde(default, deserialize_with = "or_default")]
    pub route: Vec<RouteDestination>,
}

/// One of `match` of a [`TlsRoute`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsMatch {
    /// `sniHosts`.
    #[serde(default, alias = "sni_hosts", deserialize_with = "or_default")]
    pub sni_hosts: Vec<String>,
    /// `destinationSubnets`.
    #[serde(
        default,
        alias = "destination_subnets",
        deserialize_with = "or_default"
    )]
    pub destination_subnets: Vec<String>,
    /// `port`; 0 means any.
    #[serde(default)]
    pub port: Option<u16>,
    /// `sourceLabels`: of the client.
    #[serde(default, alias = "source_labels", deserialize_with = "or_default")]
    pub source_labels: BTreeMap<String, String>,
    /// `sourceNamespace`: the client's.
    #[serde(default, alias = "source_namespace", deserialize_with = "or_default")]
    pub source_namespace: String,
    /// `gateways`.
    #[serde(default, deserialize_with = "or_default")]
    pub gateways: Vec<String>,
}

/// One of `spec.tcp`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TcpRoute {
    /// `match`; none takes everything.
    #[serde(default, rename = "match", deserialize_with = "or_default")]
    pub matches: Vec<L4Match>,
    /// `route`.
    #[serde(default, deserialize_with = "or_default")]
    pub route: Vec<RouteDestination>,
}

/// One of `match` of a [`TcpRoute`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct L4Match {
    /// `destinationSubnets`.
    #[serde(
        default,
        alias = "destination_subnets",
        deserialize_with = "or_default"
    )]
    pub destination_subnets: Vec<String>,
    /// `port`; 0 means any.
    #[serde(default)]
    pub port: Option<u16>,
    /// `sourceSubnet`: in the proto, and ignored by Istio.
    #[serde(default, alias = "source_subnet", deserialize_with = "or_default")]
    pub source_subnet: String,
    /// `sourceLabels`: of the client.
    #[serde(default, alias = "source_labels", deserialize_with = "or_default")]
    pub source_labels: BTreeMap<String, String>,
    /// `sourceNamespace`: the client's.
    #[serde(default, alias = "source_namespace", deserialize_with = "or_default")]
    pub source_namespace: String,
    /// `gateways`.
    #[serde(default, deserialize_with = "or_default")]
    pub gateways: Vec<String>,
}

/// One of `route` of a [`TcpRoute`] or a [`TlsRoute`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RouteDestination {
    /// `destination`.
    #[serde(default)]
    pub destination: Option<Destination>,
    /// `weight`; missing counts as 0.
    #[serde(default, deserialize_with = "or_default")]
    pub weight: i32,
}
