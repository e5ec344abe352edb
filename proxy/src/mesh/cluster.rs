//! A cluster: the endpoints that one destination (service, port, subset) has, and the policy of
//! whoever sends to it.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Origination, Workload};
use crate::policy::balance::Algorithm;
use crate::policy::{circuit, hash, locality, outlier, slow_start};
use crate::types::{ClusterName, Hostname, Locality, Percent, Protocol};
use crate::wire::proxy_protocol;

/// The endpoints of a service's port, or of one subset of them.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its identity in statistics and in the access log.
    pub name: ClusterName,
    /// The service.
    pub hostname: Hostname,
    /// The service's port.
    pub port: u16,
    /// What the service's port declares.
    pub protocol: Protocol,
    /// Every endpoint that discovery gives, ready or not, sorted by address. An unchanged list keeps
    /// its allocation from one snapshot to the next, so that whoever derives state from it can
    /// compare the pointer.
    pub endpoints: Arc<[Endpoint]>,
    /// The DestinationRule's policy for this port and subset. Keeps its allocation likewise.
    pub policy: Arc<Policy>,
}

impl Cluster {
    /// The DestinationRule's subset. Its name tells: most of what a large mesh holds is clusters.
    pub fn subset(&self) -> Option<&str> {
        self.name.subset()
    }

    /// What carries traffic to addresses that no service owns: no endpoints, Istio's defaults.
    pub fn passthrough() -> Self {
        Self {
            name: ClusterName::passthrough(),
            hostname: Hostname::new(""),
            port: 0,
            protocol: Protocol::Auto,
            endpoints: Arc::default(),
            policy: Arc::default(),
        }
    }
}

/// One address that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address and target port.
    pub address: SocketAddr,
    /// The pod behind it, where it is known.
    pub workload: Option<Arc<Workload>>,
    /// Its share beside others; 1 for a pod.
    pub weight: NonZeroU32,
    /// Where it runs; empty where that is unknown.
    pub locality: Arc<Locality>,
    /// Whether it says that it is ready. One that is not takes part in shares and gets no traffic;
    /// where a panic could send it some, it is not in the list.
    pub ready: bool,
    /// When it joined, where a warm-up needs to know.
    pub since: Option<SystemTime>,
}

impl Endpoint {
    /// A ready endpoint of weight 1, nothing else known.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            workload: None,
            weight: NonZeroU32::MIN,
            locality: Arc::default(),
            ready: true,
            since: None,
        }
    }
}

/// A DestinationRule's `trafficPolicy`, merged for one port and subset. The default is what Istio
/// does where there is no rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// `loadBalancer`.
    pub balancer: Algorithm,
    /// `loadBalancer.consistentHash`: what requests are hashed by. Ask [`Self::hash_key`].
    pub hash: Option<hash::Key>,
    /// The same where a destination names no port, if that makes a difference: Istio then looks past
    /// `portLevelSettings`.
    pub hash_of_any_port: Option<Option<hash::Key>>,
    /// `loadBalancer.warmup`.
    pub warmup: Option<slow_start::Settings>,
    /// `loadBalancer.localityLbSetting`.
    pub locality: locality::Settings,
    /// `outlierDetection.minHealthPercent`: below this share of healthy endpoints all are used.
    pub panic_threshold: Percent,
    /// `connectionPool`'s limits.
    pub limits: circuit::Limits,
    /// `outlierDetection`; `None` where the block is absent.
    pub outlier: Option<outlier::Settings>,
    /// `connectionPool.tcp`.
    pub tcp: Tcp,
    /// `connectionPool.http`.
    pub http: Http,
    /// `tls`; `None` where TLS is not asked for.
    pub tls: Option<Arc<Origination>>,
    /// `proxyProtocol`: how endpoints are told whose connection it is, before TLS and all else.
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// `tunnel`: endpoints are HTTP proxies, by which rules for connections reach somebody else.
    pub tunnel: Option<Arc<Tunnel>>,
}

/// A DestinationRule's `tunnel`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Whether it is asked for by POST, and not by CONNECT.
    pub posts: bool,
    /// Host and port that are asked for.
    pub target: Box<str>,
}

impl Policy {
    /// What requests are hashed by whose destination names a port, or does not.
    pub fn hash_key(&self, names_port: bool) -> Option<&hash::Key> {
        match &self.hash_of_any_port {
            Some(key) if !names_port => key.as_ref(),
            _ => self.hash.as_ref(),
        }
    }
}

/// `connectionPool.tcp` without its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// `connectTimeout`.
    pub connect_timeout: Duration,
    /// `tcpKeepalive`.
    pub keepalive: Option<Keepalive>,
    /// `maxConnectionDuration`.
    pub max_connection_duration: Option<Duration>,
    /// `idleTimeout` of relayed connections; `None` where there is none (`0s`).
    pub idle_timeout: Option<Duration>,
}

impl Default for Tcp {
    /// Istio's `connectTimeout` of 10 s, Envoy's idle timeout of an hour.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            keepalive: None,
            max_connection_duration: None,
            idle_timeout: Some(Duration::from_secs(3600)),
        }
    }
}

/// `tcpKeepalive`: what is absent is the system's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// `probes`: unanswered ones until the connection is dead.
    pub probes: Option<u32>,
    /// `time` of idleness before the first.
    pub time: Option<Duration>,
    /// `interval` between them.
    pub interval: Option<Duration>,
}

/// `connectionPool.http` without its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// `idleTimeout` of connections without a request.
    pub idle_timeout: Duration,
    /// `maxRequestsPerConnection`; `None` for any number.
    pub max_requests_per_connection: Option<NonZeroU32>,
    /// `maxConcurrentStreams` of an HTTP/2 connection; `None` for what the peer allows.
    pub max_concurrent_streams: Option<NonZeroU32>,
    /// `h2UpgradePolicy: UPGRADE`.
    pub upgrade: bool,
    /// `useClientProtocol`.
    pub use_client_protocol: bool,
    /// `http2KeepAlive`.
    pub http2_keepalive: Option<Http2Keepalive>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(3600),
            max_requests_per_connection: None,
            max_concurrent_streams: None,
            upgrade: false,
            use_client_protocol: false,
            http2_keepalive: None,
        }
    }
}

/// `http2KeepAlive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Keepalive {
    /// `interval` between two PINGs.
    pub interval: Duration,
    /// `timeout` for the acknowledgement.
    pub timeout: Duration,
}
