//! A real Envoy in front of an application, set up as Istio does it at a pod.

use std::path::PathBuf;

use anyhow::{Context, Result};
use aquifer_tests::{Pod, peer::envoy::Envoy};
use serde_json::{Value, json};

const TYPES: &str = "type.googleapis.com/envoy.extensions.filters";
/// Where the application is.
pub(crate) const PORT: u16 = 8080;

/// Envoy in `pod`, in front of `upstream`: the filters of requests at each port.
pub(crate) fn start(pod: &Pod, upstream: &Pod, listeners: Vec<(u16, Vec<Value>)>) -> Result<Envoy> {
    let binary = PathBuf::from(std::env::var_os("ENVOY").context("ENVOY has no path")?);
    let address =
        |pod: &Pod, port: u16| json!({"socket_address": {"address": pod.v4, "port_value": port}});
    let listener = |(port, mut filters): (u16, Vec<Value>)| {
        filters.push(json!({
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": format!("{TYPES}.http.router.v3.Router")},
        }));
        json!({
            "name": format!("inbound-{port}"),
            "address": address(pod, port),
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": format!("{TYPES}.network.http_connection_manager.v3.HttpConnectionManager"),
                    "stat_prefix": "inbound",
                    "normalize_path": true,
                    "route_config": {"virtual_hosts": [{
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
                    }]},
                    "http_filters": filters,
                },
            }]}],
        })
    };
    let listeners: Vec<Value> = listeners.into_iter().map(listener).collect();
    let resources = json!({
        "listeners": listeners,
        "clusters": [{
            "name": "upstream",
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {
                "cluster_name": "upstream",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(upstream, PORT)}}]}],
            },
        }],
    });
    Envoy::plain(&binary, pod, &resources)
}

/// The filter that verifies tokens, of these providers: what one of them takes passes, and where there
/// is none.
pub(crate) fn tokens(providers: &Value) -> Result<Value> {
    let names = providers.as_object().context("providers")?.keys();
    let alone: Vec<Value> = names.map(|name| json!({"provider_name": name})).collect();
    let any = |all: Vec<Value>| json!({"requires_any": {"requirements": all}});
    let optional = alone
        .iter()
        .map(|one| any(vec![one.clone(), json!({"allow_missing": {}})]));
    let optional: Vec<Value> = optional.collect();
    let requires = match &optional[..] {
        [one] => one.clone(),
        _ => {
            let all = json!({"requires_all": {"requirements": optional}});
            any(alone.into_iter().chain([all]).collect())
        }
    };
    Ok(json!({
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": format!("{TYPES}.http.jwt_authn.v3.JwtAuthentication"),
            "providers": providers,
            "rules": [{"match": {"prefix": "/"}, "requires": requires}],
            "bypass_cors_preflight": true,
        },
    }))
}
