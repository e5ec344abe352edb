//! Policies about requests beside a real Envoy, whose filter is set up as Istio does it: the same
//! requests to both, under each rule to allow and to deny.

mod beside;
mod jwt;

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    World,
    client::{Http, request, whole},
    echo::Echo,
};
use beside::PORT;
use jwt::{Issuer, policies};
use serde_json::{Value, json};

const TYPES: &str = "type.googleapis.com/envoy.extensions";
/// The first port of Envoy's; each rule has two.
const FIRST: u16 = 20_000;

/// Method, host, path and header fields.
type Asked<'a> = (&'a str, &'a str, &'a str, Vec<(&'a str, &'a str)>);

/// A text's form (Istio, `StringMatcherWithPrefix`).
fn text(value: &str, prefix: &str) -> Value {
    match (value, value.strip_prefix('*'), value.strip_suffix('*')) {
        ("*", ..) => json!({"safe_regex": {"regex": ".+"}}),
        (_, Some(suffix), _) if prefix.is_empty() => json!({"suffix": suffix}),
        (_, Some(suffix), _) => {
            json!({"safe_regex": {"regex": format!("{prefix}.*{suffix}")}})
        }
        (_, _, Some(start)) => json!({"prefix": format!("{prefix}{start}")}),
        _ => json!({"exact": format!("{prefix}{value}")}),
    }
}

/// `HeaderMatcher`, and `HostMatcher`, which has no regard to case.
fn header(name: &str, value: &str, any_case: bool) -> Value {
    if value == "*" {
        return json!({"header": {"name": name, "present_match": true}});
    }
    let mut form = text(value, "");
    form["ignore_case"] = json!(any_case);
    json!({"header": {"name": name, "string_match": form}})
}

fn network(value: &str) -> Value {
    let (address, length) = value.split_once('/').unwrap_or((value, "32"));
    json!({"address_prefix": address, "prefix_len": length.parse::<u8>().unwrap_or(32)})
}

fn claim(path: &[&str], value: &Value) -> Value {
    let path = ["payload"].iter().chain(path);
    let path: Vec<Value> = path.map(|key| json!({"key": key})).collect();
    json!({"metadata": {"filter": "envoy.filters.http.jwt_authn", "path": path, "value": value}})
}

/// `MetadataListValueMatcherForJWTClaims`: one of a list, or the text itself.
fn claims(path: &[&str], value: &str) -> Value {
    let text = json!({"string_match": text(value, "")});
    let list = json!({"list_match": {"one_of": text}});
    claim(path, &json!({"or_match": {"value_matchers": [list, text]}}))
}

/// `requestPrincipalGenerator`.
fn issued(value: &str) -> Value {
    let any = || json!({"safe_regex": {"regex": ".+"}});
    let exact = |text: &str| json!({"exact": text});
    let parts = value.rsplit_once('/');
    let (issuer, subject) = match (value.strip_prefix('*'), value.strip_suffix('*'), parts) {
        (Some(""), ..) => (any(), any()),
        (Some(_), _, Some(("*", subject))) => (any(), exact(subject)),
        (Some(_), _, Some((issuer, subject))) => (
            json!({"suffix": issuer.trim_start_matches('*')}),
            exact(subject),
        ),
        (Some(rest), _, None) => (any(), json!({"suffix": rest})),
        (_, Some(_), Some((issuer, "*"))) => (exact(issuer), any()),
        (_, Some(_), Some((issuer, subject))) => (
            exact(issuer),
            json!({"prefix": subject.trim_end_matches('*')}),
        ),
        (_, Some(rest), None) => (json!({"prefix": rest}), any()),
        (None, None, Some((issuer, subject))) => (exact(issuer), exact(subject)),
        (None, None, None) => (exact(value), exact("")),
    };
    let part = |name: &str, form: Value| claim(&[name], &json!({"string_match": form}));
    json!({"and_ids": {"ids": [part("iss", issuer), part("sub", subject)]}})
}

/// What one value of a field, or of a condition's key, comes to; and whether it is of the caller, and
/// not of what is asked for.
fn one(key: &str, value: &str) -> Option<(bool, Value)> {
    Some(match key {
        "hosts" => (false, header(":authority", value, true)),
        "methods" => (false, header(":method", value, false)),
        "paths" if value.contains("{*") => {
            let path = value.replace("{*}", "*").replace("{**}", "**");
            let kind = format!("{TYPES}.path.match.uri_template.v3.UriTemplateMatchConfig");
            let config = json!({"@type": kind, "path_template": path});
            let template = json!({"name": "uri-template", "typed_config": config});
            (false, json!({"uri_template": template}))
        }
        "paths" => (false, json!({"url_path": {"path": text(value, "")}})),
        "ports" | "destination.port" => (
            false,
            json!({"destination_port": value.parse::<u16>().ok()?}),
        ),
        "destination.ip" => (false, json!({"destination_ip": network(value)})),
        "connection.sni" => (false, json!({"requested_server_name": text(value, "")})),
        "ipBlocks" | "source.ip" => (true, json!({"direct_remote_ip": network(value)})),
        "remoteIpBlocks" | "remote.ip" => (true, json!({"remote_ip": network(value)})),
        "principals" | "source.principal" => {
            let name = text(value, "spiffe://");
            (true, json!({"authenticated": {"principal_name": name}}))
        }
        "namespaces" | "source.namespace" => {
            let regex = format!(".*/ns/{}/.*", value.replace('*', ".*"));
            let name = json!({"safe_regex": {"regex": regex}});
            (true, json!({"authenticated": {"principal_name": name}}))
        }
        "requestPrincipals" | "request.auth.principal" => (true, issued(value)),
        "request.auth.audiences" => (true, claims(&["aud"], value)),
        "request.auth.presenter" => (true, claims(&["azp"], value)),
        _ => {
            let brackets = key.split_once('[')?.1.strip_suffix(']')?;
            let path: Vec<&str> = brackets.split("][").collect();
            match key.starts_with("request.headers") {
                true => (true, header(path[0], value, false)),
                false => (true, claims(&path, value)),
            }
        }
    })
}

/// A field's values and what it must not be.
fn conditions(key: &str, values: &Value, not_values: &Value) -> Result<Vec<(bool, Value)>> {
    let mut all = Vec::new();
    for (list, negated) in [(values, false), (not_values, true)] {
        let given = list.as_array().into_iter().flatten();
        let given = given.map(|value| {
            let value = value.as_str().context("a text")?;
            one(key, value).with_context(|| format!("{key}: {value}"))
        });
        let given = given.collect::<Result<Vec<_>>>()?;
        let Some((of_caller, _)) = given.first() else {
            continue;
        };
        let of_caller = *of_caller;
        let forms: Vec<Value> = given.into_iter().map(|(_, form)| form).collect();
        all.push((
            of_caller,
            match (of_caller, negated) {
                (true, false) => json!({"or_ids": {"ids": forms}}),
                (true, true) => json!({"not_id": {"or_ids": {"ids": forms}}}),
                (false, false) => json!({"or_rules": {"rules": forms}}),
                (false, true) => json!({"not_rule": {"or_rules": {"rules": forms}}}),
            },
        ));
    }
    Ok(all)
}

/// The fields of a source or an operation.
fn entry(fields: &Value) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for (name, values) in fields.as_object().context("fields")? {
        let negated = name.strip_prefix("not").map(|rest| {
            let (first, rest) = rest.split_at(1);
            first.to_lowercase() + rest
        });
        let found = match negated {
            Some(name) => conditions(&name, &Value::Null, values)?,
            None => conditions(name, values, &Value::Null)?,
        };
        all.extend(found.into_iter().map(|(_, form)| form));
    }
    Ok(all)
}

/// The filter for one rule.
fn filter(action: &str, rule: &Value) -> Result<Value> {
    let mut when = Vec::new();
    for condition in rule["when"].as_array().into_iter().flatten() {
        let key = condition["key"].as_str().context("a key")?;
        when.extend(conditions(
            key,
            &condition["values"],
            &condition["notValues"],
        )?);
    }
    let all = |part: &str, inner: &str, of_caller: bool| -> Result<Vec<Vec<Value>>> {
        let base = when.iter().filter(|one| one.0 == of_caller);
        let base: Vec<Value> = base.map(|one| one.1.clone()).collect();
        let entries = rule[part].as_array().cloned().unwrap_or_default();
        let entries = entries.iter().map(|one| {
            let mut fields = entry(&one[inner])?;
            fields.extend(base.clone());
            Ok(fields)
        });
        let entries = entries.collect::<Result<Vec<_>>>()?;
        Ok(if entries.is_empty() {
            vec![base]
        } else {
            entries
        })
    };
    let or_any = |mut forms: Vec<Value>| {
        if forms.is_empty() {
            forms.push(json!({"any": true}));
        }
        forms
    };
    let permissions = all("to", "operation", false)?.into_iter();
    let permissions = permissions.map(|rules| json!({"and_rules": {"rules": or_any(rules)}}));
    let principals = all("from", "source", true)?.into_iter();
    let principals = principals.map(|ids| json!({"and_ids": {"ids": or_any(ids)}}));
    let policy = json!({
        "permissions": permissions.collect::<Vec<_>>(),
        "principals": principals.collect::<Vec<_>>(),
    });
    Ok(json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": format!("{TYPES}.filters.http.rbac.v3.RBAC"),
            "rules": {"action": action, "policies": {"p": policy}},
        },
    }))
}

/// Rules as policies have them; `SELF`, `PORT` and `CALLER` stand for addresses and the port.
const RULES: &[&str] = &[
    "{}",
    "{to: [{operation: {methods: [GET]}}]}",
    "{to: [{operation: {methods: ['P*', '*E']}}]}",
    "{to: [{operation: {notMethods: [GET, POST]}}]}",
    "{to: [{operation: {methods: ['*']}}]}",
    "{to: [{operation: {paths: [/a]}}]}",
    "{to: [{operation: {paths: ['/a*']}}]}",
    "{to: [{operation: {paths: ['*/c']}}]}",
    "{to: [{operation: {paths: ['*']}}]}",
    "{to: [{operation: {paths: ['/a/{*}']}}]}",
    "{to: [{operation: {paths: ['/a/{**}']}}]}",
    "{to: [{operation: {paths: ['/{*}/c']}}]}",
    "{to: [{operation: {paths: ['/a/{*}/{**}']}}]}",
    "{to: [{operation: {notPaths: [/a, '/b*']}}]}",
    "{to: [{operation: {paths: ['/a*'], notPaths: ['/a/{*}']}}]}",
    "{to: [{operation: {hosts: [app.test]}}]}",
    "{to: [{operation: {hosts: ['*.test']}}]}",
    "{to: [{operation: {hosts: ['app*']}}]}",
    "{to: [{operation: {hosts: ['*']}}]}",
    "{to: [{operation: {notHosts: ['*.test']}}]}",
    "{to: [{operation: {ports: ['PORT']}}]}",
    "{to: [{operation: {ports: ['1', '2']}}]}",
    "{to: [{operation: {notPorts: ['PORT']}}]}",
    "{to: [{operation: {methods: [GET], paths: [/a]}}, {operation: {methods: [POST], paths: ['/b*']}}]}",
    "{from: [{source: {ipBlocks: [CALLER]}}]}",
    "{from: [{source: {ipBlocks: [192.0.2.0/24]}}]}",
    "{from: [{source: {notIpBlocks: [CALLER]}}]}",
    "{from: [{source: {remoteIpBlocks: [192.0.2.0/24]}}]}",
    "{from: [{source: {notRemoteIpBlocks: [192.0.2.0/24]}}]}",
    "{from: [{source: {principals: ['*']}}]}",
    "{from: [{source: {notPrincipals: ['*']}}]}",
    "{from: [{source: {namespaces: [default]}}]}",
    "{from: [{source: {notNamespaces: [default]}}]}",
    "{from: [{source: {requestPrincipals: ['*']}}]}",
    "{from: [{source: {notRequestPrincipals: ['*']}}]}",
    "{from: [{source: {requestPrincipals: ['https://id.test/joe']}}]}",
    "{from: [{source: {requestPrincipals: ['https://id.test/*']}}]}",
    "{from: [{source: {requestPrincipals: ['https://id.test/j*']}}]}",
    "{from: [{source: {requestPrincipals: ['*/joe']}}]}",
    "{from: [{source: {requestPrincipals: ['*/other/joe']}}]}",
    "{from: [{source: {requestPrincipals: ['*oe']}}]}",
    "{from: [{source: {notRequestPrincipals: ['*/joe']}}]}",
    "{from: [{source: {ipBlocks: [CALLER], notRequestPrincipals: ['*']}}], to: [{operation: {methods: [POST]}}]}",
    "{when: [{key: source.ip, values: [CALLER]}]}",
    "{when: [{key: source.ip, notValues: [CALLER]}]}",
    "{when: [{key: remote.ip, values: [192.0.2.7]}]}",
    "{when: [{key: remote.ip, notValues: [192.0.2.7]}]}",
    "{when: [{key: source.principal, values: ['*']}]}",
    "{when: [{key: source.namespace, notValues: [default]}]}",
    "{when: [{key: destination.ip, values: [SELF]}]}",
    "{when: [{key: destination.ip, notValues: [SELF]}]}",
    "{when: [{key: destination.port, values: ['PORT']}]}",
    "{when: [{key: destination.port, notValues: ['PORT', '1']}]}",
    "{when: [{key: connection.sni, values: ['*']}]}",
    "{when: [{key: connection.sni, notValues: [a.test]}]}",
    "{when: [{key: 'request.headers[x-a]', values: ['1']}]}",
    "{when: [{key: 'request.headers[X-A]', values: ['1*']}]}",
    "{when: [{key: 'request.headers[x-a]', values: ['*2']}]}",
    "{when: [{key: 'request.headers[x-a]', values: ['*']}]}",
    "{when: [{key: 'request.headers[x-a]', notValues: ['*']}]}",
    "{when: [{key: 'request.headers[x-a]', notValues: ['1', '2']}]}",
    "{when: [{key: 'request.headers[cookie]', values: ['a=1; b=2']}]}",
    "{when: [{key: 'request.headers[cookie]', values: ['a=1*']}]}",
    "{when: [{key: request.auth.principal, values: ['https://id.test/joe']}]}",
    "{when: [{key: request.auth.principal, notValues: ['*']}]}",
    "{when: [{key: request.auth.audiences, values: [bank]}]}",
    "{when: [{key: request.auth.audiences, notValues: ['b*']}]}",
    "{when: [{key: request.auth.presenter, values: [web]}]}",
    "{when: [{key: 'request.auth.claims[scope]', values: [write]}]}",
    "{when: [{key: 'request.auth.claims[scope]', notValues: [write]}]}",
    "{when: [{key: 'request.auth.claims[groups]', values: ['*dmin']}]}",
    "{when: [{key: 'request.auth.claims[groups]', values: ['*']}]}",
    "{when: [{key: 'request.auth.claims[realm][roles]', values: [admin]}]}",
    "{when: [{key: 'request.auth.claims[realm]', values: ['*']}]}",
    "{when: [{key: 'request.auth.claims[n]', values: ['5']}]}",
    "{from: [{source: {requestPrincipals: ['*']}}], when: [{key: 'request.auth.claims[scope]', values: [read]}, {key: 'request.headers[x-a]', values: ['1']}]}",
];

#[tokio::test]
#[ignore = "needs Envoy: its path in ENVOY"]
async fn envoy_says_the_same_of_requests() -> Result<()> {
    let (first, second) = (
        Issuer::ec("https://id.test", "1"),
        Issuer::ec("https://id.test/other", "2"),
    );
    let provider = |issuer: &Issuer| {
        json!({
            "issuer": issuer.name, "local_jwks": {"inline_string": issuer.keys()},
            "payload_in_metadata": "payload",
            "normalize_payload_in_metadata": {"space_delimited_claims": ["scope", "permission"]},
        })
    };
    let providers = json!({"a": provider(&first), "b": provider(&second)});
    let rules =
        [&first, &second].map(|one| format!("{{issuer: '{}', jwks: '{}'}}", one.name, one.keys()));
    let tokens = format!(
        "RequestAuthentication jwt: {{jwtRules: [{}]}}",
        rules.join(", ")
    );

    let world = World::new().await?;
    let [stranger, proxy, upstream] =
        ["stranger", "envoy", "upstream"].map(|name| world.lab.pod(name));
    let (stranger, proxy, upstream) = (stranger?, proxy?, upstream?);
    let _own = Echo::start(&world.server, PORT, "server")?;
    let _other = Echo::start(&upstream, PORT, "server")?;

    let rule = |text: &str, own: String, port: u16| {
        let caller = stranger.v4.to_string();
        let text = text
            .replace("SELF", &own)
            .replace("PORT", &port.to_string());
        text.replace("CALLER", &caller)
    };
    let cases = RULES
        .iter()
        .flat_map(|text| ["ALLOW", "DENY"].map(|action| (action, *text)));
    let cases: Vec<(u16, (&str, &str))> = (FIRST..).zip(cases).collect();
    let mut listeners = Vec::new();
    for (port, (action, text)) in &cases {
        let text = rule(text, proxy.v4.to_string(), *port);
        let rule: Value = serde_yaml::from_str(&text)?;
        listeners.push((
            *port,
            vec![beside::tokens(&providers)?, filter(action, &rule)?],
        ));
    }
    let _envoy = beside::start(&proxy, &upstream, listeners)?;

    let joe = first.token(json!({
        "aud": ["shop", "bank"], "azp": "web", "scope": "read write", "groups": ["admin", "user"],
        "realm": {"roles": ["admin"]}, "n": 5,
    }));
    let ann = first.token(json!({"sub": "ann", "aud": "shop", "scope": "read"}));
    let others = second.token(json!({}));
    let nobody = first.token(json!({"sub": ""}));
    let asked: Vec<Asked<'_>> = vec![
        ("GET", "app.test", "/", vec![]),
        ("GET", "app.test", "/a", vec![]),
        ("GET", "app.test", "/A", vec![]),
        ("GET", "app.test", "/a/", vec![]),
        ("GET", "app.test", "/a/b", vec![]),
        ("GET", "app.test", "/a/b/c", vec![]),
        ("GET", "app.test", "/a?x=/b", vec![]),
        ("GET", "app.test", "/b/../a", vec![]),
        ("GET", "app.test", "/%61", vec![]),
        ("POST", "app.test", "/b", vec![]),
        ("POST", "app.test", "/a", vec![]),
        ("DELETE", "APP.test", "/b/c", vec![]),
        ("GET", "other", "/", vec![]),
        ("GET", "a.app.test", "/x/c", vec![]),
        (
            "GET",
            "app.test",
            "/",
            vec![("x-forwarded-for", "192.0.2.7")],
        ),
        (
            "GET",
            "app.test",
            "/",
            vec![("x-forwarded-for", "192.0.2.7, 10.9.9.9")],
        ),
        (
            "GET",
            "app.test",
            "/",
            vec![("x-forwarded-for", "nonsense")],
        ),
        ("GET", "app.test", "/", vec![("x-a", "1")]),
        ("GET", "app.test", "/", vec![("x-a", "12")]),
        ("GET", "app.test", "/", vec![("x-a", "")]),
        ("GET", "app.test", "/", vec![("x-a", "1"), ("x-a", "2")]),
        ("GET", "app.test", "/", vec![("cookie", "a=1; b=2")]),
        (
            "GET",
            "app.test",
            "/",
            vec![("cookie", "a=1"), ("cookie", "b=2")],
        ),
        ("GET", "app.test", "/", vec![("token", &joe)]),
        ("POST", "app.test", "/", vec![("token", &joe), ("x-a", "1")]),
        ("GET", "app.test", "/", vec![("token", &ann), ("x-a", "1")]),
        ("GET", "app.test", "/", vec![("token", &others)]),
        ("GET", "app.test", "/", vec![("token", &nobody)]),
    ];
    let mut differences = Vec::new();
    for (port, (action, text)) in &cases {
        let spec = rule(text, world.server.v4.to_string(), PORT);
        let policy = format!("AuthorizationPolicy p: {{action: {action}, rules: [{spec}]}}");
        let text = policies(&[tokens.clone(), policy.clone()]);
        let put = || world.config.put("policies.yaml", text);
        world.proxy.after(put).await?;
        for http2 in [false, true] {
            let (own, other) = (world.server.at(PORT), proxy.at(*port));
            let (mut ours, mut envoys) = match http2 {
                false => (
                    Http::connect(&stranger, own).await?,
                    Http::connect(&stranger, other).await?,
                ),
                true => (
                    Http::connect2(&stranger, own).await?,
                    Http::connect2(&stranger, other).await?,
                ),
            };
            for (method, host, path, headers) in &asked {
                // Of HTTP/2 alone: Envoy takes cookies in several lines of HTTP/1 for several fields.
                if headers.iter().filter(|one| one.0 == "cookie").count() > 1 && !http2 {
                    continue;
                }
                let mut found = Vec::new();
                for http in [&mut envoys, &mut ours] {
                    let mut ask = request(method, host, path);
                    for (name, value) in headers {
                        ask = match *name {
                            "token" => ask.header("authorization", format!("Bearer {value}")),
                            name => ask.header(name, *value),
                        };
                    }
                    let reply = http.exchange(ask.body(whole(""))?).await?;
                    let said = if reply.status == 200 {
                        String::new()
                    } else {
                        reply.text()
                    };
                    found.push((reply.status, said));
                }
                if found[0] != found[1] {
                    let headers: Vec<String> = headers
                        .iter()
                        .map(|(name, value)| format!("{name}={}", &value[..value.len().min(20)]))
                        .collect();
                    differences.push(format!(
                        "{policy}\n  {method} {host}{path} {headers:?}: Envoy {:?}, aquifer {:?}",
                        found[0], found[1]
                    ));
                }
            }
        }
    }
    // What is known to differ, and stricter here: a token whose subject is empty has a principal, where
    // that is a reason to deny; of several lines of a field each must be allowed.
    let strict = |one: &String| one.contains("Envoy (200") && one.contains("aquifer (403");
    let nobody = differences
        .iter()
        .filter(|one| one.contains("token="))
        .count();
    let lines = differences
        .iter()
        .filter(|one| one.contains("x-a=2"))
        .count();
    ensure!(
        differences.iter().all(strict) && (nobody, lines, differences.len()) == (8, 8, 16),
        "{}",
        differences.join("\n")
    );
    Ok(())
}
