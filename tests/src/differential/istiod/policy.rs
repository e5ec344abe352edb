//! The policies of a rule: redirect, CORS, fault, retries, mirrors, hash keys.

use serde_json::{Value, json};

use super::{duration, fraction, items, put, route::share, string_match, text};

pub(super) fn redirect(redirect: &Value, listener: u16) -> Value {
    let scheme = match text(&redirect["scheme"]) {
        "" => "http",
        scheme => scheme,
    };
    let port = match text(&redirect["derivePort"]) {
        "FROM_REQUEST_PORT" => u64::from(listener),
        _ => redirect["port"].as_u64().unwrap_or_default(),
    };
    let port = match (scheme, port) {
        ("http", 80) | ("https", 443) => 0,
        (_, port) => port,
    };
    let mut out = json!({
        "host_redirect": text(&redirect["authority"]),
        "port_redirect": port,
        "response_code": match redirect["redirectCode"].as_u64() {
            Some(302) => "FOUND",
            Some(303) => "SEE_OTHER",
            Some(307) => "TEMPORARY_REDIRECT",
            Some(308) => "PERMANENT_REDIRECT",
            _ => "MOVED_PERMANENTLY",
        },
    });
    match redirect.get("prefixRewrite") {
        Some(prefix) => put(&mut out, "prefix_rewrite", Some(prefix.clone())),
        None => put(
            &mut out,
            "path_redirect",
            Some(text(&redirect["uri"]).into()),
        ),
    }
    put(&mut out, "scheme_redirect", redirect.get("scheme").cloned());
    out
}

pub(super) fn cors(cors: &Value) -> Value {
    let joined = |field: &str| items(&cors[field]).map(text).collect::<Vec<_>>().join(",");
    let origins = items(&cors["allowOrigins"]).filter_map(string_match);
    let mut out = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "filter_enabled": {"default_value": {"numerator": 100}},
        "allow_origin_string_match": origins.collect::<Vec<_>>(),
        "allow_methods": joined("allowMethods"),
        "allow_headers": joined("allowHeaders"),
        "expose_headers": joined("exposeHeaders"),
        "forward_not_matching_preflights": text(&cors["unmatchedPreflights"]) != "IGNORE",
    });
    put(
        &mut out,
        "allow_credentials",
        cors.get("allowCredentials").cloned(),
    );
    let age = cors.get("maxAge").map(duration);
    put(
        &mut out,
        "max_age",
        age.map(|age| text(&age).trim_end_matches('s').into()),
    );
    out
}

pub(super) fn fault(fault: &Value) -> Value {
    let mut out = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
    });
    let percentage =
        |one: &Value| fraction(one["percentage"]["value"].as_f64().unwrap_or_default());
    if let Some(delay) = fault.get("delay") {
        out["delay"] = json!({
            "fixed_delay": duration(&delay["fixedDelay"]), "percentage": percentage(delay),
        });
    }
    if let Some(abort) = fault.get("abort") {
        out["abort"] = json!({"percentage": percentage(abort)});
        match text(&abort["grpcStatus"]) {
            "" => out["abort"]["http_status"] = abort["httpStatus"].clone(),
            name => {
                let number = GRPC.iter().position(|one| *one == name);
                out["abort"]["grpc_status"] = json!(number);
            }
        }
    }
    out
}

const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// `retries` as a retry policy; null where there are none (`retry.go`).
pub(super) fn retry(retries: &Value, hashes: bool) -> Value {
    let mut out = json!({
        "num_retries": 2,
        "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
        "host_selection_retry_max_attempts": 5,
        "retry_host_predicate": if hashes { json!([]) } else { previous_hosts() },
    });
    if retries.is_null() {
        return out;
    }
    match retries["attempts"].as_i64() {
        None | Some(0) => return Value::Null,
        Some(attempts) => out["num_retries"] = attempts.into(),
    }
    if let Some(on) = retries["retryOn"].as_str() {
        let (codes, mut tokens): (Vec<_>, Vec<_>) = on
            .split(',')
            .partition(|token| token.parse::<u16>().is_ok());
        if !codes.is_empty() && !tokens.contains(&"retriable-status-codes") {
            tokens.push("retriable-status-codes");
        }
        out["retry_on"] = tokens.join(",").into();
        let codes = codes.iter().filter_map(|code| code.parse::<u16>().ok());
        out["retriable_status_codes"] = codes.collect();
    }
    put(
        &mut out,
        "per_try_timeout",
        retries.get("perTryTimeout").map(duration),
    );
    match retries["retryIgnorePreviousHosts"].as_bool() {
        Some(true) => out["retry_host_predicate"] = previous_hosts(),
        Some(false) => out["retry_host_predicate"] = json!([]),
        None => {}
    }
    if retries["retryRemoteLocalities"] == true {
        out["retry_priority"] = json!({
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": 2,
            },
        });
    }
    if let Some(backoff) = retries.get("backoff") {
        out["retry_back_off"] = json!({"base_interval": duration(backoff)});
    }
    out
}

fn previous_hosts() -> Value {
    json!([{
        "name": "envoy.retry_host_predicates.previous_hosts",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
        },
    }])
}

/// `mirror` and `mirrors`.
pub(super) fn mirrors(rule: &Value, cluster: impl Fn(&Value) -> String) -> Value {
    let one = rule
        .get("mirror")
        .map(|mirror| (mirror, share(rule, "mirrorPercentage")));
    let more = items(&rule["mirrors"]).map(|one| (&one["destination"], share(one, "percentage")));
    let all = one
        .into_iter()
        .chain(more)
        .filter_map(|(destination, fraction)| {
            Some(json!({
                "cluster": cluster(destination),
                "runtime_fraction": fraction?,
                "disable_shadow_host_suffix_append": true,
            }))
        });
    all.collect()
}

/// The key of `consistentHash`.
pub(super) fn hash(policy: &Value) -> Value {
    let hash = &policy["loadBalancer"]["consistentHash"];
    if hash.is_null() {
        return json!([]);
    }
    let one = if let Some(name) = hash.get("httpHeaderName") {
        json!({"header": {"header_name": name}})
    } else if let Some(cookie) = hash.get("httpCookie") {
        let mut out = json!({"name": cookie["name"], "path": text(&cookie["path"])});
        put(&mut out, "ttl", cookie.get("ttl").map(duration));
        put(&mut out, "attributes", cookie.get("attributes").cloned());
        json!({"cookie": out})
    } else if let Some(name) = hash.get("httpQueryParameterName") {
        json!({"query_parameter": {"name": name}})
    } else {
        json!({"connection_properties": {"source_ip": true}})
    };
    json!([one])
}
