//! Istio's resources as Envoy's configuration: what istiod writes for a sidecar, as far as the
//! scenarios go (`pilot/pkg/networking/core` of istio/istio). Scenarios say a policy once, in Istio's
//! words; this gives Envoy the same.
//!
//! It knows nothing of aquifer, and trusts its input: what Istio's validation would refuse is not here.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Map, Value, json};

use super::scenario::{Endpoints, Port};

mod cluster;
mod locality;
mod policy;
mod route;

pub use cluster::{assignment, clusters};
pub use route::virtual_host;

/// A Service with its resources.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its ClusterIP.
    pub address: Ipv4Addr,
    /// What its port is declared.
    pub speaks: Port,
    /// What its endpoints are.
    pub kind: Endpoints,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// `http` of its VirtualService; null where it has none.
    pub http: Value,
    /// `tcp` of its VirtualService.
    pub tcp: Value,
    /// `tls` of its VirtualService.
    pub tls: Value,
    /// `trafficPolicy` of its DestinationRule.
    pub policy: Value,
    /// `subsets` of its DestinationRule.
    pub subsets: Value,
}

/// One endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// Its label `version`.
    pub version: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether it is not there at first.
    pub joins: bool,
    /// `region/zone`, where it has one.
    pub locality: Option<&'static str>,
}

impl Service {
    /// Its port's number.
    pub fn port(&self) -> u16 {
        super::port(self.speaks, self.kind)
    }

    /// Whether the upstream is at the Service's own address.
    pub fn is_dialled(&self) -> bool {
        self.kind.are_dialled()
    }

    /// As it is at first.
    pub fn at_first(&self) -> Self {
        let mut first = self.clone();
        first.endpoints.retain(|one| !one.joins);
        first
    }

    /// Its name in full.
    pub fn host(&self) -> String {
        format!("{}.default.svc.cluster.local", self.name)
    }

    /// The name of its cluster, or of a subset's.
    pub fn cluster(&self, subset: &str) -> String {
        format!("outbound|{}|{subset}|{}", self.port(), self.host())
    }

    /// The cluster of a `destination`: of this Service, or of one that nobody has.
    fn destination(&self, destination: &Value) -> String {
        let subset = text(&destination["subset"]);
        let host = text(&destination["host"]);
        let port = destination["port"]["number"].as_u64();
        let port = port.unwrap_or(self.port().into());
        if host == self.name || host == self.host() {
            return format!("outbound|{port}|{subset}|{}", self.host());
        }
        let host = if host.contains('.') {
            host.to_owned()
        } else {
            format!("{host}.default.svc.cluster.local")
        };
        format!("outbound|{port}|{subset}|{host}")
    }
}

/// The listener of a port that carries bytes, with a chain of filters for each rule (`tls.go`, for a
/// listener at the Service's address). Scenarios match subnets and server names alone.
pub fn l4_listener(service: &Service) -> Value {
    let mut chains = Vec::new();
    let mut all = false;
    for rule in items(&service.tls) {
        for block in items(&rule["match"]) {
            let mut chain = chain(service, &rule["route"]);
            chain["filter_chain_match"] = json!({
                "server_names": block["sniHosts"],
                "prefix_ranges": ranges(items(&block["destinationSubnets"])),
            });
            chains.push(chain);
        }
    }
    for rule in items(&service.tcp) {
        let mut chain = chain(service, &rule["route"]);
        let blocks: Vec<_> = items(&rule["match"]).collect();
        let every = |block: &&Value| items(&block["destinationSubnets"]).next().is_none();
        all = blocks.is_empty() || blocks.iter().any(every);
        if !all {
            let subnets = blocks
                .iter()
                .flat_map(|one| items(&one["destinationSubnets"]));
            chain["filter_chain_match"] = json!({"prefix_ranges": ranges(subnets)});
        }
        chains.push(chain);
        if all {
            break;
        }
    }
    if service.tls.is_null() && !all {
        let own = json!([{"destination": {"host": service.name}}]);
        chains.push(chain(service, &own));
    }
    let mut listener = json!({
        "name": format!("{}_{}", service.address, service.port()),
        "address": {"socket_address": {
            "address": service.address, "port_value": service.port(),
        }},
        "filter_chains": chains,
    });
    // What no chain is for is told by the listener alone.
    listener["access_log"] = super::envoy::access_log();
    listener["access_log"][0]["filter"] = json!({"response_flag_filter": {"flags": ["NR"]}});
    let filter = |name: &str, kind: &str| json!({"name": name, "typed_config": {"@type": format!("type.googleapis.com/{kind}")}});
    if service.speaks == Port::Tls {
        listener["listener_filters"] = json!([filter(
            "envoy.filters.listener.tls_inspector",
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        )]);
    } else if service.is_dialled() {
        listener["transparent"] = true.into();
        listener["listener_filters"] = json!([filter(
            "envoy.filters.listener.original_dst",
            "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
        )]);
    }
    listener
}

fn ranges<'a>(subnets: impl Iterator<Item = &'a Value>) -> Vec<Value> {
    subnets
        .map(|subnet| {
            let (address, length) = text(subnet).split_once('/').unwrap_or((text(subnet), "32"));
            let length: u8 = length.parse().unwrap_or(32);
            json!({"address_prefix": address, "prefix_len": length})
        })
        .collect()
}

fn chain(service: &Service, route: &Value) -> Value {
    let mut proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": service.cluster(""),
        "access_log": super::envoy::access_log(),
    });
    let routes: Vec<_> = items(route).collect();
    if service.kind == Endpoints::Unknown {
        proxy["cluster"] = "PassthroughCluster".into();
    } else if let [one] = &routes[..] {
        proxy["cluster"] = service.destination(&one["destination"]).into();
        // Not for the Service's own, which no rule names.
        let is_rule = !(service.tcp.is_null() && service.tls.is_null());
        if let Some(tunnel) = service.policy.get("tunnel").filter(|_| is_rule) {
            let target = format!("{}:{}", text(&tunnel["targetHost"]), tunnel["targetPort"]);
            proxy["tunneling_config"] =
                json!({"hostname": target, "use_post": tunnel["protocol"] == "POST"});
        }
    } else {
        let clusters = routes.iter().filter(|one| one["weight"].as_u64() > Some(0));
        let clusters = clusters.map(|one| {
            json!({"name": service.destination(&one["destination"]), "weight": one["weight"]})
        });
        proxy["weighted_clusters"] = json!({"clusters": clusters.collect::<Vec<_>>()});
    }
    if let Some(idle) = service.policy.pointer("/connectionPool/tcp/idleTimeout") {
        proxy["idle_timeout"] = duration(idle);
    }
    // For a waypoint istiod writes this (`max_downstream_connection_duration`); the cluster's own
    // limit does nothing for connections that carry bytes.
    let age = "/connectionPool/tcp/maxConnectionDuration";
    if let Some(age) = service.policy.pointer(age) {
        proxy["max_downstream_connection_duration"] = duration(age);
    }
    if service
        .policy
        .pointer("/loadBalancer/consistentHash/useSourceIp")
        == Some(&json!(true))
    {
        proxy["hash_policy"] = json!([{"source_ip": {}}]);
    }
    json!({"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]})
}

/// The text of a value; empty where it is none.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The members of a map; none where it is none.
fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// The items of a list; none where it is none.
fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A duration as protobuf's JSON has it: seconds.
fn duration(value: &Value) -> Value {
    let text = text(value);
    let number = text.trim_end_matches(char::is_alphabetic);
    let amount: f64 = number.parse().unwrap_or_default();
    let seconds = match &text[number.len()..] {
        "ms" => amount / 1000.0,
        "m" => amount * 60.0,
        "h" => amount * 3600.0,
        _ => amount,
    };
    json!(format!("{seconds}s"))
}

/// `StringMatch` as Envoy's `StringMatcher`; `None` for one that only asks for presence.
fn string_match(value: &Value) -> Option<Value> {
    let (kind, pattern) = members(value).next()?;
    match kind.as_str() {
        "regex" if pattern == "*" => None,
        "regex" => Some(json!({"safe_regex": {"regex": pattern}})),
        kind => Some(json!({kind: pattern})),
    }
}

/// A percentage as a fraction in millionths.
fn fraction(percent: f64) -> Value {
    json!({"numerator": (percent * 10_000.0) as u64, "denominator": "MILLION"})
}

/// Adds `key` where there is a `value`.
fn put(map: &mut Value, key: &str, value: Option<Value>) {
    if let (Some(value), Value::Object(map)) = (value, map) {
        let map: &mut Map<String, Value> = map;
        map.insert(key.into(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_take_envoys_form() {
        for (istio, envoy) in [
            ("500ms", "0.5s"),
            ("2s", "2s"),
            ("1.5s", "1.5s"),
            ("1h", "3600s"),
        ] {
            assert_eq!(duration(&json!(istio)), envoy);
        }
        assert_eq!(fraction(0.0001)["numerator"], 1);
        assert_eq!(string_match(&json!({"regex": "*"})), None);
        assert_eq!(
            string_match(&json!({"prefix": "a"})),
            Some(json!({"prefix": "a"}))
        );
    }
}
