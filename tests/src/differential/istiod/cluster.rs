//! A DestinationRule as clusters (`cluster_traffic_policy.go`).

use std::path::Path;

use serde_json::{Value, json};

use super::{Endpoint, Service, duration, items, locality, members, put, text};
use crate::differential::scenario::{Endpoints, Port};

/// The Service's clusters: its own, and its subsets'. `folder` has the endpoints of those whose
/// endpoints change.
pub fn clusters(service: &Service, folder: &Path) -> Vec<Value> {
    let mut clusters = vec![cluster(service, "", &service.policy, |_| true)];
    for subset in items(&service.subsets) {
        let mut policy = service.policy.clone();
        if policy.is_null() {
            policy = json!({});
        }
        for (block, value) in members(&subset["trafficPolicy"]) {
            policy[block] = value.clone();
        }
        let labels = &subset["labels"];
        let has = |one: &Endpoint| {
            members(labels).all(|(label, value)| label == "version" && *value == one.version)
        };
        clusters.push(cluster(service, text(&subset["name"]), &policy, has));
    }
    if let Endpoints::Joining(_) = service.kind {
        clusters.iter_mut().for_each(|one| discover(one, folder));
    }
    clusters
}

/// Its endpoints come by a file.
fn discover(cluster: &mut Value, folder: &Path) {
    let file = folder.join(format!("{}.json", text(&cluster["name"])));
    cluster["type"] = "EDS".into();
    cluster["eds_cluster_config"] = json!({"eds_config": {
        "resource_api_version": "V3",
        "path_config_source": {"path": file},
    }});
    if let Some(map) = cluster.as_object_mut() {
        map.remove("load_assignment");
    }
}

/// Of a Service whose endpoints come by themselves: its cluster's, for those that it has.
pub fn assignment(service: &Service) -> Value {
    cluster(service, "", &service.policy, |_| true)["load_assignment"].take()
}

fn cluster(
    service: &Service,
    subset: &str,
    policy: &Value,
    has: impl Fn(&Endpoint) -> bool,
) -> Value {
    let name = service.cluster(subset);
    let outlier = policy.get("outlierDetection");
    let balancer = &policy["loadBalancer"];
    // Endpoints that are not ready are told as such, unless a panic could use them.
    let panics = outlier.and_then(|one| one["minHealthPercent"].as_u64()) > Some(0);
    let endpoints = service.endpoints.iter();
    let endpoints: Vec<_> = endpoints
        .filter(|one| has(one) && (one.ready || !panics))
        .collect();
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": locality::groups(&endpoints, balancer, outlier.is_some()),
        },
    });
    if locality::weighs(balancer, outlier.is_some()) {
        cluster["common_lb_config"]["locality_weighted_lb_config"] = json!({});
    }
    if let Some(proxied) = policy.get("proxyProtocol") {
        cluster["transport_socket"] = greeting(proxied);
    }
    if let Some(tls) = policy.get("tls") {
        cluster["transport_socket"] = secured(tls, service, policy);
    }
    pool(&mut cluster, service, policy);
    balance(&mut cluster, balancer);
    if let Some(outlier) = outlier {
        cluster["outlier_detection"] = detection(outlier);
        let percent = outlier["minHealthPercent"].as_u64().unwrap_or_default();
        cluster["common_lb_config"]["healthy_panic_threshold"]["value"] = percent.into();
    }
    cluster
}

/// `applyUpstreamProxyProtocol`, without TLS.
fn greeting(proxied: &Value) -> Value {
    let socket = |name: &str, config: Value| json!({"name": format!("envoy.transport_sockets.{name}"), "typed_config": config});
    let kind =
        |name: &str| format!("type.googleapis.com/envoy.extensions.transport_sockets.{name}");
    let raw = json!({"@type": kind("raw_buffer.v3.RawBuffer")});
    let version = proxied["version"].as_str().unwrap_or("V1");
    let config = json!({
        "@type": kind("proxy_protocol.v3.ProxyProtocolUpstreamTransport"),
        "config": {"version": version},
        "transport_socket": socket("raw_buffer", raw),
    });
    socket("upstream_proxy_protocol", config)
}

/// `buildUpstreamClusterTLSContext`, with files in the place of secrets.
fn secured(tls: &Value, service: &Service, policy: &Value) -> Value {
    let file = |field: &str| tls.get(field).map(|path| json!({"filename": path}));
    let mut common = json!({"tls_params": {
        "tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3",
    }});
    if service.speaks == Port::Http2
        || text(&policy["connectionPool"]["http"]["h2UpgradePolicy"]) == "UPGRADE"
    {
        common["alpn_protocols"] = json!(["h2"]);
    }
    if let (Some(chain), Some(key)) = (file("clientCertificate"), file("privateKey")) {
        common["tls_certificates"] = json!([{"certificate_chain": chain, "private_key": key}]);
    }
    let mut validation = json!({});
    put(&mut validation, "trusted_ca", file("caCertificates"));
    if tls["insecureSkipVerify"] == true {
        validation["trust_chain_verification"] = "ACCEPT_UNTRUSTED".into();
    }
    let names: Vec<_> = items(&tls["subjectAltNames"])
        .map(|name| {
            let kind = if text(name).contains("://") {
                "URI"
            } else {
                "DNS"
            };
            json!({"san_type": kind, "matcher": {"exact": name}})
        })
        .collect();
    if !names.is_empty() {
        validation["match_typed_subject_alt_names"] = names.into();
    }
    common["validation_context"] = validation;
    let kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let mut config = json!({"@type": kind, "common_tls_context": common});
    put(&mut config, "sni", tls.get("sni").cloned());
    json!({"name": "envoy.transport_sockets.tls", "typed_config": config})
}

fn pool(cluster: &mut Value, service: &Service, policy: &Value) {
    let (tcp, http) = (
        &policy["connectionPool"]["tcp"],
        &policy["connectionPool"]["http"],
    );
    let limit = |value: &Value| match value.as_u64() {
        None | Some(0) => u64::from(u32::MAX),
        Some(limit) => limit,
    };
    let mut thresholds = json!({
        "max_connections": limit(&tcp["maxConnections"]),
        "max_pending_requests": limit(&http["http1MaxPendingRequests"]),
        "max_requests": limit(&http["http2MaxRequests"]),
        "max_retries": limit(&http["maxRetries"]),
        "track_remaining": true,
    });
    if let Some(budget) = policy.get("retryBudget") {
        let mut out = json!({});
        let percent = budget["percent"]
            .as_f64()
            .map(|value| json!({"value": value}));
        put(&mut out, "budget_percent", percent);
        put(
            &mut out,
            "min_retry_concurrency",
            budget.get("minRetryConcurrency").cloned(),
        );
        thresholds["retry_budget"] = out;
    }
    cluster["circuit_breakers"] = json!({"thresholds": [thresholds]});
    put(
        cluster,
        "connect_timeout",
        tcp.get("connectTimeout").map(duration),
    );
    if matches!(service.speaks, Port::Tcp | Port::Tls) {
        return;
    }
    let mut common = json!({});
    let idle = http
        .get("idleTimeout")
        .or(tcp.get("idleTimeout"))
        .map(duration);
    put(&mut common, "idle_timeout", idle);
    let requests = http["maxRequestsPerConnection"]
        .as_u64()
        .filter(|most| *most > 0);
    put(
        &mut common,
        "max_requests_per_connection",
        requests.map(Into::into),
    );
    let duration = tcp.get("maxConnectionDuration").map(duration);
    put(&mut common, "max_connection_duration", duration);
    let upgrade = text(&http["h2UpgradePolicy"]) == "UPGRADE";
    let mut options = json!({
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": common,
    });
    let tls = &policy["tls"];
    if !tls.is_null() && tls["sni"].is_null() {
        options["upstream_http_protocol_options"] = json!({
            "auto_sni": true, "auto_san_validation": tls["subjectAltNames"].is_null(),
        });
    }
    let mut http2 = json!({});
    put(
        &mut http2,
        "max_concurrent_streams",
        http.get("maxConcurrentStreams").cloned(),
    );
    if http["useClientProtocol"] == true {
        options["use_downstream_protocol_config"] = json!({
            "http_protocol_options": {}, "http2_protocol_options": http2,
        });
    } else if service.speaks == Port::Http2 || upgrade {
        options["explicit_http_config"] = json!({"http2_protocol_options": http2});
    } else {
        options["explicit_http_config"] = json!({"http_protocol_options": {}});
    }
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options,
    });
}

fn balance(cluster: &mut Value, balancer: &Value) {
    cluster["lb_policy"] = match text(&balancer["simple"]) {
        "RANDOM" => "RANDOM",
        "ROUND_ROBIN" => "ROUND_ROBIN",
        "PASSTHROUGH" => {
            cluster["type"] = "ORIGINAL_DST".into();
            if let Some(map) = cluster.as_object_mut() {
                map.remove("load_assignment");
            }
            "CLUSTER_PROVIDED"
        }
        _ => "LEAST_REQUEST",
    }
    .into();
    if let Some(warmup) = balancer.get("warmup") {
        let number = |field: &str, default| warmup[field].as_f64().unwrap_or(default);
        let settings = json!({"slow_start_config": {
            "slow_start_window": duration(&warmup["duration"]),
            "aggression": {
                "default_value": number("aggression", 1.0), "runtime_key": "aggression",
            },
            "min_weight_percent": {"value": number("minimumPercent", 10.0)},
        }});
        let field = match text(&balancer["simple"]) {
            "ROUND_ROBIN" => "round_robin_lb_config",
            _ => "least_request_lb_config",
        };
        cluster[field] = settings;
    }
    let hash = &balancer["consistentHash"];
    if let Some(maglev) = hash.get("maglev") {
        cluster["lb_policy"] = "MAGLEV".into();
        cluster["maglev_lb_config"] = json!({"table_size": maglev["tableSize"]});
    } else if !hash.is_null() {
        let given = hash["ringHash"]["minimumRingSize"].as_u64();
        let size = given.or(hash["minimumRingSize"].as_u64()).unwrap_or(1024);
        cluster["lb_policy"] = "RING_HASH".into();
        cluster["ring_hash_lb_config"] = json!({"minimum_ring_size": size});
    }
}

fn detection(outlier: &Value) -> Value {
    let mut out = json!({"enforcing_success_rate": 0});
    for (field, count, enforcing) in [
        (
            "consecutive5xxErrors",
            "consecutive_5xx",
            "enforcing_consecutive_5xx",
        ),
        (
            "consecutiveGatewayErrors",
            "consecutive_gateway_failure",
            "enforcing_consecutive_gateway_failure",
        ),
    ] {
        if let Some(value) = outlier[field].as_u64() {
            // Envoy refuses no zero, and enforces none.
            out[count] = value.into();
            out[enforcing] = (if value > 0 { 100 } else { 0 }).into();
        }
    }
    put(&mut out, "interval", outlier.get("interval").map(duration));
    put(
        &mut out,
        "base_ejection_time",
        outlier.get("baseEjectionTime").map(duration),
    );
    let percent = outlier["maxEjectionPercent"]
        .as_u64()
        .filter(|percent| *percent > 0);
    put(&mut out, "max_ejection_percent", percent.map(Into::into));
    if outlier["splitExternalLocalOriginErrors"] == true {
        out["split_external_local_origin_errors"] = true.into();
        out["enforcing_local_origin_success_rate"] = 0.into();
        if let Some(count) = outlier["consecutiveLocalOriginFailures"].as_u64() {
            out["consecutive_local_origin_failure"] = count.into();
            out["enforcing_consecutive_local_origin_failure"] = 100.into();
        }
    }
    out
}
