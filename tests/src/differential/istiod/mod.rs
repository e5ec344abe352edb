//! Istio's resources as Envoy's configuration: what istiod writes for a sidecar, as far as the
//! scenarios go (`pilot/pkg/networking/core` of istio/istio). Scenarios say a policy once, in Istio's
//! words; this gives Envoy the same.
//!
//! It knows nothing of aquifer, and trusts its input: what Istio's validation would refuse is not here.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Map, Value, json};

use super::scenario::Port;

mod cluster;
mod locality;
mod policy;
mod route;

pub use cluster::clusters;
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
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// `http` of its VirtualService; null where it has none.
    pub http: Value,
    /// `tcp` of its VirtualService.
    pub tcp: Value,
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
    /// `region/zone`, where it has one.
    pub locality: Option<&'static str>,
}

impl Service {
    /// Its port's number.
    pub fn port(&self) -> u16 {
        super::port(self.speaks)
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

/// The listener of a TCP port: its first rule, since scenarios match nothing in one.
pub fn tcp_listener(service: &Service) -> Value {
    let routes = match service.tcp[0]["route"].as_array() {
        Some(routes) => routes.clone(),
        None => vec![json!({"destination": {"host": service.name}})],
    };
    let mut proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": service.cluster(""),
        "access_log": super::envoy::access_log(),
    });
    if let [one] = &routes[..] {
        proxy["cluster"] = service.destination(&one["destination"]).into();
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
    json!({
        "name": format!("{}_{}", service.address, service.port()),
        "address": {"socket_address": {
            "address": service.address, "port_value": service.port(),
        }},
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.tcp_proxy", "typed_config": proxy,
        }]}],
    })
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
