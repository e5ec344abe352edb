//! `loadBalancer`, as it is written.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::api::value::Anything;
use crate::api::{duration, or_default};

/// `loadBalancer`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    /// `simple`.
    #[serde(default)]
    pub simple: Option<Simple>,
    /// `consistentHash`, in the place of `simple`.
    #[serde(default, alias = "consistent_hash")]
    pub consistent_hash: Option<ConsistentHash>,
    /// `localityLbSetting`.
    #[serde(default, alias = "locality_lb_setting")]
    pub locality_lb_setting: Option<LocalityLb>,
    /// `zoneAwareLbSetting`, unread: it is not for meshes without sidecars (Istio).
    #[serde(default, alias = "zone_aware_lb_setting")]
    pub zone_aware_lb_setting: Option<Anything>,
    /// `warmupDurationSecs`, deprecated.
    #[serde(
        default,
        alias = "warmup_duration_secs",
        deserialize_with = "duration::optional"
    )]
    pub warmup_duration_secs: Option<Duration>,
    /// `warmup`.
    #[serde(default)]
    pub warmup: Option<Warmup>,
}

/// `simple`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Simple {
    /// Istio chooses: the same as `LEAST_REQUEST`.
    #[default]
    Unspecified,
    /// Deprecated: the same as `LEAST_REQUEST`.
    LeastConn,
    /// Any.
    Random,
    /// The address that the client dialled.
    Passthrough,
    /// One after the other.
    RoundRobin,
    /// The less busy of two.
    LeastRequest,
}

/// `consistentHash`: exactly one key, and at most one algorithm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsistentHash {
    /// `httpHeaderName`.
    #[serde(default, alias = "http_header_name")]
    pub http_header_name: Option<String>,
    /// `httpCookie`.
    #[serde(default, alias = "http_cookie")]
    pub http_cookie: Option<Cookie>,
    /// `useSourceIp`.
    #[serde(default, alias = "use_source_ip")]
    pub use_source_ip: Option<bool>,
    /// `httpQueryParameterName`.
    #[serde(default, alias = "http_query_parameter_name")]
    pub http_query_parameter_name: Option<String>,
    /// `minimumRingSize`, deprecated.
    #[serde(default, alias = "minimum_ring_size")]
    pub minimum_ring_size: Option<u64>,
    /// `ringHash`.
    #[serde(default, alias = "ring_hash")]
    pub ring_hash: Option<RingHash>,
    /// `maglev`.
    #[serde(default)]
    pub maglev: Option<Maglev>,
}

/// `httpCookie`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Cookie {
    /// `name`.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// `path`.
    #[serde(default, deserialize_with = "or_default")]
    pub path: String,
    /// `ttl`; no cookie is made where it is absent.
    #[serde(default, deserialize_with = "duration::optional")]
    pub ttl: Option<Duration>,
    /// `attributes`.
    #[serde(default, deserialize_with = "or_default")]
    pub attributes: Vec<CookieAttribute>,
}

/// One of `attributes` of a [`Cookie`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct CookieAttribute {
    /// `name`.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// `value`.
    #[serde(default, deserialize_with = "or_default")]
    pub value: String,
}

/// `ringHash`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RingHash {
    /// `minimumRingSize`.
    #[serde(default, alias = "minimum_ring_size")]
    pub minimum_ring_size: Option<u64>,
}

/// `maglev`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Maglev {
    /// `tableSize`.
    #[serde(default, alias = "table_size")]
    pub table_size: Option<u64>,
}

/// `warmup`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Warmup {
    /// `duration`.
    #[serde(default, deserialize_with = "duration::optional")]
    pub duration: Option<Duration>,
    /// `minimumPercent`; 10 where absent.
    #[serde(default, alias = "minimum_percent")]
    pub minimum_percent: Option<f64>,
    /// `aggression`; 1 where absent.
    #[serde(default)]
    pub aggression: Option<f64>,
}

/// `localityLbSetting`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalityLb {
    /// `distribute`.
    #[serde(default, deserialize_with = "or_default")]
    pub distribute: Vec<Distribute>,
    /// `failover`.
    #[serde(default, deserialize_with = "or_default")]
    pub failover: Vec<Failover>,
    /// `failoverPriority`.
    #[serde(default, alias = "failover_priority", deserialize_with = "or_default")]
    pub failover_priority: Vec<String>,
    /// `enabled`; true where absent.
    #[serde(default)]
    pub enabled: Option<bool>,
}

/// One of `distribute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Distribute {
    /// `from`.
    #[serde(default, deserialize_with = "or_default")]
    pub from: String,
    /// `to`: percent by locality.
    #[serde(default, deserialize_with = "or_default")]
    pub to: BTreeMap<String, u32>,
}

/// One of `failover`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Failover {
    /// `from`.
    #[serde(default, deserialize_with = "or_default")]
    pub from: String,
    /// `to`.
    #[serde(default, deserialize_with = "or_default")]
    pub to: String,
}
