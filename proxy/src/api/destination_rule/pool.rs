//! `connectionPool`, `outlierDetection` and `retryBudget`, as they are written.

use std::time::Duration;

use serde::Deserialize;

use crate::api::{duration, or_default};

/// `connectionPool`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ConnectionPool {
    /// `tcp`.
    #[serde(default)]
    pub tcp: Option<TcpPool>,
    /// `http`.
    #[serde(default)]
    pub http: Option<HttpPool>,
}

/// `connectionPool.tcp`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpPool {
    /// `maxConnections`; 0 means no limit, as in the other limits.
    #[serde(default, alias = "max_connections", deserialize_with = "or_default")]
    pub max_connections: i32,
    /// `connectTimeout`.
    #[serde(
        default,
        alias = "connect_timeout",
        deserialize_with = "duration::optional"
    )]
    pub connect_timeout: Option<Duration>,
    /// `tcpKeepalive`.
    #[serde(default, alias = "tcp_keepalive")]
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// `maxConnectionDuration`.
    #[serde(
        default,
        alias = "max_connection_duration",
        deserialize_with = "duration::optional"
    )]
    pub max_connection_duration: Option<Duration>,
    /// `idleTimeout`; `0s` turns it off.
    #[serde(
        default,
        alias = "idle_timeout",
        deserialize_with = "duration::optional"
    )]
    pub idle_timeout: Option<Duration>,
}

/// `tcpKeepalive`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TcpKeepalive {
    /// `probes`.
    #[serde(default, deserialize_with = "or_default")]
    pub probes: u32,
    /// `time`.
    #[serde(default, deserialize_with = "duration::optional")]
    pub time: Option<Duration>,
    /// `interval`.
    #[serde(default, deserialize_with = "duration::optional")]
    pub interval: Option<Duration>,
}

/// `connectionPool.http`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpPool {
    /// `http1MaxPendingRequests`.
    #[serde(
        default,
        alias = "http1_max_pending_requests",
        deserialize_with = "or_default"
    )]
    pub http1_max_pending_requests: i32,
    /// `http2MaxRequests`.
    #[serde(default, alias = "http2_max_requests", deserialize_with = "or_default")]
    pub http2_max_requests: i32,
    /// `maxRequestsPerConnection`.
    #[serde(
        default,
        alias = "max_requests_per_connection",
        deserialize_with = "or_default"
    )]
    pub max_requests_per_connection: i32,
    /// `maxRetries`.
    #[serde(default, alias = "max_retries", deserialize_with = "or_default")]
    pub max_retries: i32,
    /// `idleTimeout`.
    #[serde(
        default,
        alias = "idle_timeout",
        deserialize_with = "duration::optional"
    )]
    pub idle_timeout: Option<Duration>,
    /// `h2UpgradePolicy`.
    #[serde(default, alias = "h2_upgrade_policy", deserialize_with = "or_default")]
    pub h2_upgrade_policy: H2Upgrade,
    /// `useClientProtocol`.
    #[serde(
        default,
        alias = "use_client_protocol",
        deserialize_with = "or_default"
    )]
    pub use_client_protocol: bool,
    /// `maxConcurrentStreams`.
    #[serde(
        default,
        alias = "max_concurrent_streams",
        deserialize_with = "or_default"
    )]
    pub max_concurrent_streams: i32,
    /// `http2KeepAlive`.
    #[serde(default, rename = "http2KeepAlive", alias = "http2_keep_alive")]
    pub http2_keep_alive: Option<KeepAlive>,
}

/// `h2UpgradePolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum H2Upgrade {
    /// The mesh's: no upgrade.
    #[default]
    Default,
    /// No upgrade.
    DoNotUpgrade,
    /// HTTP/2 to the upstream.
    Upgrade,
}

/// `http2KeepAlive`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct KeepAlive {
    /// `interval`.
    #[serde(default, deserialize_with = "duration::optional")]
    pub interval: Option<Duration>,
    /// `timeout`.
    #[serde(default, deserialize_with = "duration::optional")]
    pub timeout: Option<Duration>,
}

/// `outlierDetection`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutlierDetection {
    /// `consecutiveErrors`: deprecated, and ignored by Istio.
    #[serde(default, alias = "consecutive_errors")]
    pub consecutive_errors: Option<i32>,
    /// `consecutive5xxErrors`; 5 where absent, 0 turns it off.
    #[serde(
        default,
        rename = "consecutive5xxErrors",
        alias = "consecutive_5xx_errors"
    )]
    pub consecutive_5xx_errors: Option<u32>,
    /// `consecutiveGatewayErrors`; off where absent.
    #[serde(default, alias = "consecutive_gateway_errors")]
    pub consecutive_gateway_errors: Option<u32>,
    /// `interval`.
    #[serde(default, deserialize_with = "duration::optional")]
    pub interval: Option<Duration>,
    /// `baseEjectionTime`.
    #[serde(
        default,
        alias = "base_ejection_time",
        deserialize_with = "duration::optional"
    )]
    pub base_ejection_time: Option<Duration>,
    /// `maxEjectionPercent`; 10 where absent or 0.
    #[serde(
        default,
        alias = "max_ejection_percent",
        deserialize_with = "or_default"
    )]
    pub max_ejection_percent: i32,
    /// `minHealthPercent`.
    #[serde(default, alias = "min_health_percent", deserialize_with = "or_default")]
    pub min_health_percent: i32,
    /// `splitExternalLocalOriginErrors`.
    #[serde(
        default,
        alias = "split_external_local_origin_errors",
        deserialize_with = "or_default"
    )]
    pub split_external_local_origin_errors: bool,
    /// `consecutiveLocalOriginFailures`.
    #[serde(default, alias = "consecutive_local_origin_failures")]
    pub consecutive_local_origin_failures: Option<u32>,
    /// `outlierDetectionHttpErrorCodes`.
    #[serde(
        default,
        alias = "outlier_detection_http_error_codes",
        deserialize_with = "or_default"
    )]
    pub outlier_detection_http_error_codes: Vec<u32>,
}

/// `retryBudget`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// `percent`, from 0 to 100: a plain number, which is how a `google.protobuf.DoubleValue` is
    /// written (`networking/v1alpha3/destination_rule.proto` of istio/api), and not the
    /// `{value: 20}` of a VirtualService's `Percent`. 20 where absent, as that file says; istiod
    /// 1.27 gives Envoy 0.2 (`applyRetryBudget` in `cluster_traffic_policy.go`), which is a slip of
    /// the unit.
    #[serde(default)]
    pub percent: Option<f64>,
    /// `minRetryConcurrency`; 3 where absent or 0, which the protobuf can't tell apart.
    #[serde(default, alias = "min_retry_concurrency")]
    pub min_retry_concurrency: Option<u32>,
    /// `budgetInterval`.
    #[serde(
        default,
        alias = "budget_interval",
        deserialize_with = "duration::optional"
    )]
    pub budget_interval: Option<Duration>,
}
