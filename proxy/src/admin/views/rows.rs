//! The rows themselves. The field names are a promise to scripts.

use serde::{Deserialize, Serialize};

/// One rule of a service's port. `GET /config/routes` gives a list of these, in the order in which
/// the rules of each port are tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    /// The service.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The only namespace whose callers have this rule; absent where all have it that have no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callers: Option<String>,
    /// `http`, `tcp` or `tls`.
    pub kind: String,
    /// Where the rule comes from, as `Kind namespace/name`; absent for the plain rule of a service
    /// that has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The rule's place, counted from 1.
    pub order: usize,
    /// The rule's name.
    pub name: String,
    /// Alternatives: one must hold. Empty: the rule takes everything.
    pub matches: Vec<String>,
    /// Where requests go.
    pub destinations: Vec<DestinationRow>,
    /// What else is done with them, in words: redirects and direct responses, and the policies that
    /// differ from the default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
}

/// A weighted destination of a [`RouteRow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationRow {
    /// The cluster.
    pub cluster: String,
    /// Its weight.
    pub weight: u64,
    /// How many ready endpoints it has; absent where there is no such cluster (503, NC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<usize>,
}

/// One cluster. `GET /config/clusters` gives a list of these, sorted by host, port and subset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRow {
    /// `outbound|PORT|SUBSET|HOST`.
    pub name: String,
    /// The service.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The subset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// The only namespace whose callers have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callers: Option<String>,
    /// What the port declares to carry.
    pub protocol: String,
    /// How many ready endpoints it has.
    pub endpoints: usize,
    /// How many it has that are not ready.
    #[serde(default)]
    pub unready: usize,
    /// How an endpoint is chosen.
    pub balancer: String,
    /// Its other policies that differ from the default, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
}

/// One endpoint of a cluster. `GET /config/endpoints` gives a list of these, sorted likewise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRow {
    /// The cluster.
    pub cluster: String,
    /// The only namespace whose callers have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callers: Option<String>,
    /// Address and port.
    pub address: String,
    /// The pod, as `namespace/name`, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether the pod is in the mesh.
    pub enrolled: bool,
    /// Whether it is ready: if not, it gets no traffic but in a panic.
    pub ready: bool,
    /// Its share beside others.
    pub weight: u32,
    /// Where it runs, as `region/zone/subzone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<String>,
}

/// The listeners of one local pod in one direction. `GET /config/listeners` gives a list of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerRow {
    /// The pod, as `namespace/name`.
    pub pod: String,
    /// `outbound` or `inbound`.
    pub direction: String,
    /// Ports on the loopback of the pod's network namespace, IPv4 before IPv6.
    pub ports: Vec<u16>,
    /// `enrolled` or `failed`.
    pub state: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Who may connect to a local pod. `GET /config/policies` gives a list of these, sorted by pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRow {
    /// The pod, as `namespace/name`.
    pub pod: String,
    /// What its ports ask of callers: those that have a setting of their own, then all others.
    pub mtls: Vec<MtlsRow>,
    /// Whose tokens its requests may have; a request with another one is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<TokenRow>,
    /// The AuthorizationPolicies that apply, in the order in which they are asked. Without any,
    /// everybody is allowed whom `mtls` takes.
    pub policies: Vec<AppliedRow>,
}

/// What a port asks of callers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MtlsRow {
    /// The pod's own port; absent for all that are not named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `PERMISSIVE`, `STRICT` or `DISABLE`.
    pub mode: String,
    /// The PeerAuthentication that says so, as `Kind namespace/name`; absent for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// A rule of a RequestAuthentication that applies to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// The claim `iss`.
    pub issuer: String,
    /// As `Kind namespace/name`.
    pub source: String,
    /// Where the issuer's keys come from: `given`, `none`, or a URL.
    pub keys: String,
}

/// An AuthorizationPolicy that applies to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedRow {
    /// As `Kind namespace/name`.
    pub source: String,
    /// `ALLOW`, `DENY`, `AUDIT` or `CUSTOM`.
    pub action: String,
    /// How many rules it has.
    pub rules: usize,
    /// Set where it is told of and not enforced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Set where it asks for what only a request has, so that those of the pod are looked at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks_for_requests: bool,
}
