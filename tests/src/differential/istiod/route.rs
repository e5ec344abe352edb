//! `http` rules as the routes of a virtual host (`route.go`).

use serde_json::{Value, json};

use super::{Service, duration, fraction, items, members, policy, put, string_match, text};

/// The virtual host of a Service.
pub fn virtual_host(service: &Service) -> Value {
    let mut routes = Vec::new();
    let nothing = json!([null]);
    for rule in items(&service.http) {
        let matches = match &rule["match"] {
            Value::Array(list) if !list.is_empty() => &rule["match"],
            _ => &nothing,
        };
        routes.extend(items(matches).filter_map(|block| route(service, rule, block)));
    }
    if service.http.is_null() {
        routes.push(json!({
            "name": "default",
            "match": {"prefix": "/"},
            "route": {
                "cluster": service.cluster(""),
                "timeout": "0s",
                "max_grpc_timeout": "0s",
                "hash_policy": policy::hash(&service.policy),
                "retry_policy": policy::retry(&Value::Null, hashes(service)),
            },
        }));
    }
    let name = &service.name;
    json!({
        "name": format!("{}:{}", service.host(), service.port()),
        "domains": [
            service.host(), format!("{}.", service.host()), name, format!("{name}.default"),
            format!("{name}.default.svc"), service.address,
        ],
        "include_request_attempt_count": true,
        "routes": routes,
    })
}

fn hashes(service: &Service) -> bool {
    !service.policy["loadBalancer"]["consistentHash"].is_null()
}

/// One match block of a rule; `None` where it is for other ports, gateways or clients.
fn route(service: &Service, rule: &Value, block: &Value) -> Option<Value> {
    let port = block["port"].as_u64();
    if port.is_some_and(|port| port != u64::from(service.port())) {
        return None;
    }
    let gateways: Vec<_> = items(&block["gateways"]).collect();
    let labels = &block["sourceLabels"];
    if gateways.is_empty() {
        let subset = members(labels).all(|(label, value)| label == "app" && value == "client");
        let namespace = text(&block["sourceNamespace"]);
        if !subset || !(namespace.is_empty() || namespace == "default") {
            return None;
        }
    } else if !gateways.iter().any(|gateway| *gateway == "mesh") {
        return None;
    }
    let mut name = rule["name"].as_str().unwrap_or("default").to_owned();
    if let Some(block) = block["name"].as_str() {
        name = format!("{name}.{block}");
    }
    let mut route = json!({"name": name, "match": matches(block)});
    put(&mut route, "stat_prefix", block.get("statPrefix").cloned());
    let mut authority = String::new();
    if let Some(headers) = rule.get("headers") {
        authority = operations(&mut route, headers);
    }
    let mut filters = json!({});
    if let Some(fault) = rule.get("fault") {
        put(
            &mut filters,
            "envoy.filters.http.fault",
            Some(policy::fault(fault)),
        );
    }
    if let Some(cors) = rule.get("corsPolicy") {
        put(
            &mut filters,
            "envoy.filters.http.cors",
            Some(policy::cors(cors)),
        );
    }
    route["typed_per_filter_config"] = filters;
    if let Some(redirect) = rule.get("redirect") {
        route["redirect"] = policy::redirect(redirect, service.port());
    } else if let Some(direct) = rule.get("directResponse") {
        let body = &direct["body"];
        let body = match (body.get("string"), body.get("bytes")) {
            (Some(string), _) => Some(json!({"inline_string": string})),
            (None, bytes) => bytes.map(|bytes| json!({"inline_bytes": bytes})),
        };
        route["direct_response"] = json!({"status": direct["status"]});
        put(&mut route["direct_response"], "body", body);
    } else {
        forward(service, rule, &mut route, authority);
    }
    Some(route)
}

fn matches(block: &Value) -> Value {
    let mut out = match members(&block["uri"]).next() {
        None => json!({"prefix": "/"}),
        Some((kind, pattern)) => match kind.as_str() {
            "exact" => json!({"path": pattern}),
            "regex" => json!({"safe_regex": {"regex": pattern}}),
            _ => json!({"prefix": pattern}),
        },
    };
    out["case_sensitive"] = (block["ignoreUriCase"] != true).into();
    let mut headers: Vec<Value> = Vec::new();
    for (name, value) in members(&block["headers"]) {
        headers.push(header(name, value));
    }
    for (name, value) in members(&block["withoutHeaders"]) {
        let mut matcher = header(name, value);
        matcher["invert_match"] = true.into();
        if matcher.get("present_match").is_none() {
            matcher["treat_missing_header_as_empty"] = true.into();
        }
        headers.push(matcher);
    }
    for (field, name) in [
        ("method", ":method"),
        ("authority", ":authority"),
        ("scheme", ":scheme"),
    ] {
        if let Some(value) = block.get(field) {
            headers.push(header(name, value));
        }
    }
    out["headers"] = headers.into();
    let parameters =
        members(&block["queryParams"]).map(|(name, value)| match string_match(value) {
            Some(matcher) => json!({"name": name, "string_match": matcher}),
            None => json!({"name": name, "present_match": true}),
        });
    out["query_parameters"] = parameters.collect();
    out
}

fn header(name: &str, value: &Value) -> Value {
    match string_match(value) {
        Some(matcher) => json!({"name": name, "string_match": matcher}),
        None => json!({"name": name, "present_match": true}),
    }
}

/// Puts header operations into `target`; gives the authority that they set.
fn operations(target: &mut Value, headers: &Value) -> String {
    let mut authority = String::new();
    for (side, adds, removes) in [
        (
            "request",
            "request_headers_to_add",
            "request_headers_to_remove",
        ),
        (
            "response",
            "response_headers_to_add",
            "response_headers_to_remove",
        ),
    ] {
        let mut list: Vec<Value> = items(&target[adds]).cloned().collect();
        for (field, action) in [
            ("add", "APPEND_IF_EXISTS_OR_ADD"),
            ("set", "OVERWRITE_IF_EXISTS_OR_ADD"),
        ] {
            let mut group: Vec<Value> = Vec::new();
            for (key, value) in members(&headers[side][field]) {
                if side == "request" && matches!(key.as_str(), "host" | "Host" | ":authority") {
                    authority = text(value).into();
                } else {
                    group.push(json!({
                        "header": {"key": key, "value": value}, "append_action": action,
                    }));
                }
            }
            group.sort_by_key(|one| text(&one["header"]["key"]).to_owned());
            // `set` comes first.
            if field == "set" {
                let at = items(&target[adds]).count();
                list.splice(at..at, group);
            } else {
                list.extend(group);
            }
        }
        let removed = items(&target[removes])
            .chain(items(&headers[side]["remove"]))
            .cloned();
        let removed: Value = removed.collect();
        target[adds] = list.into();
        target[removes] = removed;
    }
    authority
}

fn forward(service: &Service, rule: &Value, route: &mut Value, mut authority: String) {
    let timeout = rule.get("timeout").map_or(json!("0s"), duration);
    let mut action = json!({"timeout": timeout, "max_grpc_timeout": timeout});
    let rewrite = &rule["rewrite"];
    if let Some(regex) = rewrite.get("uriRegexRewrite") {
        action["regex_rewrite"] = json!({
            "pattern": {"regex": regex["match"]}, "substitution": regex["rewrite"],
        });
    } else if let Some(uri) = rewrite.get("uri") {
        action["prefix_rewrite"] = uri.clone();
    }
    if let Some(given) = rewrite["authority"].as_str() {
        authority = given.into();
    }
    let mirrors = policy::mirrors(rule, |destination| service.destination(destination));
    action["request_mirror_policies"] = mirrors;
    let routes: Vec<_> = items(&rule["route"]).collect();
    if let [one] = routes[..] {
        action["cluster"] = service.destination(&one["destination"]).into();
        if let Some(headers) = one.get("headers") {
            let own = operations(route, headers);
            if authority.is_empty() {
                authority = own;
            }
        }
    } else {
        let weighted = routes.iter().filter(|one| one["weight"].as_u64() > Some(0));
        let clusters = weighted.map(|one| {
            let name = service.destination(&one["destination"]);
            let mut cluster = json!({"name": name, "weight": one["weight"]});
            if let Some(headers) = one.get("headers") {
                let own = operations(&mut cluster, headers);
                if !own.is_empty() {
                    cluster["host_rewrite_literal"] = own.into();
                }
            }
            cluster
        });
        action["weighted_clusters"] = json!({"clusters": clusters.collect::<Vec<_>>()});
    }
    if !authority.is_empty() {
        action["host_rewrite_literal"] = authority.into();
    }
    action["hash_policy"] = policy::hash(&service.policy);
    // Only a route with one destination knows that it hashes.
    let hashes = hashes(service) && routes.len() == 1;
    put(
        &mut action,
        "retry_policy",
        Some(policy::retry(&rule["retries"], hashes)).filter(|policy| !policy.is_null()),
    );
    route["route"] = action;
}

/// A percentage under `key`, or 100.
pub(super) fn share(value: &Value, key: &str) -> Option<Value> {
    let percent = value
        .get(key)
        .map_or(Some(100.0), |one| one["value"].as_f64())?;
    (percent > 0.0).then(|| json!({"default_value": fraction(percent)}))
}
