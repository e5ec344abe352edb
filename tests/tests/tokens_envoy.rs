//! Tokens of requests beside a real Envoy, whose filter is set up as Istio does it: the same requests
//! to both.

mod beside;
mod jwt;

use ::base64::{Engine as _, engine::general_purpose::STANDARD};
use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    World,
    client::{Http, request, whole},
    echo::Echo,
};
use beside::PORT;
use jwt::{Issuer, base64, policies, spoiled, with_secret};
use serde_json::{Value, json};

/// What became of a request: the answer where there is none of the application's, otherwise what that
/// saw.
async fn outcome(http: &mut Http, path: &str, headers: &[(&str, String)]) -> Result<Value> {
    let mut ask = request("GET", "app", path);
    for (name, value) in headers {
        ask = ask.header(*name, value);
    }
    let reply = http.exchange(ask.body(whole(""))?).await?;
    if reply.status != 200 {
        let challenge = reply.headers.get("www-authenticate");
        let challenge = challenge
            .and_then(|one| one.to_str().ok())
            .unwrap_or_default();
        // aquifer's has no query.
        let challenge: String = match challenge.split_once('?') {
            None => challenge.to_owned(),
            Some((before, after)) => {
                let (_, after) = after.split_once('"').unwrap_or_default();
                format!("{before}\"{after}")
            }
        };
        let kind = reply.headers.get("content-type");
        let kind = kind.and_then(|one| one.to_str().ok());
        return Ok(json!([reply.status, reply.text(), challenge, kind]));
    }
    let seen = reply.seen()?;
    let target = seen.field("target");
    let at = target.find("app").map_or(0, |at| at + 3);
    let names = [
        "authorization",
        "x-tok",
        "cookie",
        "x-payload",
        "x-sub",
        "x-claim",
    ];
    // The members of an object have no order, in Envoy from one run to the next.
    let plain = |value: &str| -> Value {
        let decoded = STANDARD.decode(value).ok();
        let object = decoded.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        object.filter(Value::is_object).unwrap_or(json!(value))
    };
    let fields = names.iter().map(|name| {
        let lines = seen.header(name).into_iter().map(plain);
        json!(lines.collect::<Vec<_>>())
    });
    let fields: Vec<Value> = fields.collect();
    Ok(json!([200, target[at..], fields]))
}

#[tokio::test]
#[ignore = "needs Envoy: its path in ENVOY"]
async fn envoy_says_the_same_of_tokens() -> Result<()> {
    let (a, b, c) = (
        Issuer::rsa("a", "r"),
        Issuer::ec("b", ""),
        Issuer::rsa("c", ""),
    );
    let set = |issuer: &Issuer| json!({"inline_string": issuer.keys()});
    // The default places, with audiences; places of its own; the default places again.
    let own = json!([{"name": "x-tok", "value_prefix": ""}, {"name": "authorization", "value_prefix": "Token "}]);
    let claims = json!([{"header_name": "x-sub", "claim_name": "sub"}, {"header_name": "x-claim", "claim_name": "n.v"}]);
    let providers = json!({
        "origins-0": {"issuer": "a", "local_jwks": set(&a), "audiences": ["https://x.test/", "y"], "forward_payload_header": "x-payload"},
        "origins-1": {"issuer": "b", "local_jwks": set(&b), "from_headers": own, "from_params": ["t"], "from_cookies": ["c"], "claim_to_headers": claims},
        "origins-2": {"issuer": "c", "local_jwks": set(&c), "forward": true},
    });
    let rules = [
        format!(
            "{{issuer: a, jwks: '{}', audiences: ['https://x.test/', y], outputPayloadToHeader: x-payload}}",
            a.keys()
        ),
        format!(
            "{{issuer: b, jwks: '{}', fromHeaders: [{{name: x-tok}}, {{name: authorization, prefix: 'Token '}}], fromParams: [t], fromCookies: [c], outputClaimToHeaders: [{{header: x-sub, claim: sub}}, {{header: x-claim, claim: n.v}}]}}",
            b.keys()
        ),
        format!(
            "{{issuer: c, jwks: '{}', forwardOriginalToken: true}}",
            c.keys()
        ),
    ];
    let text = policies(&[format!(
        "RequestAuthentication jwt: {{jwtRules: [{}]}}",
        rules.join(", ")
    )]);
    let world = World::with(&[], |manifests| manifests.yaml(text)).await?;
    let [stranger, proxy, upstream] =
        ["stranger", "envoy", "upstream"].map(|name| world.lab.pod(name));
    let (stranger, proxy, upstream) = (stranger?, proxy?, upstream?);
    let _own = Echo::start(&world.server, PORT, "server")?;
    let _other = Echo::start(&upstream, PORT, "server")?;
    let filters = vec![beside::tokens(&providers)?];
    let _envoy = beside::start(&proxy, &upstream, vec![(PORT, filters)])?;

    let of_a = |more: Value| {
        a.token_with(json!({}), {
            let mut all = json!({"aud": "y"});
            if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
                all.extend(more);
            }
            all
        })
    };
    let good = of_a(json!({}));
    let (signed, _) = good.rsplit_once('.').context("a token")?;
    let bad_claims = |name: &str, value: Value| of_a(json!({name: value}));
    let plain = r#"{"iss":"a","aud":"y"}"#;
    let head = r#"{"alg":"RS256","kid":"r"}"#;
    let mut bearers = vec![
        good.clone(),
        c.token(json!({})),
        spoiled(&good),
        "garbage".into(),
        "a.b".into(),
        "..".into(),
        format!("{good}.x"),
        format!("{signed}."),
        format!("{good}=="),
        "A.b.c".into(),
        format!("{}.A.c", good.split('.').next().unwrap_or_default()),
        format!("{signed}.A"),
        format!("\"{good}\""),
        format!(" {good}"),
        format!("{good},Bearer {good}"),
        with_secret(&a.public(), r#"{"alg":"HS256"}"#, plain),
        with_secret(&a.public(), head, plain),
        format!("{}.{}.AAAA", base64(r#"{"alg":"none"}"#), base64(plain)),
        format!("{}.{}.", base64(r#"{"alg":"none"}"#), base64(plain)),
        a.sign("{", plain),
        a.sign("[]", plain),
        a.sign(r#"{"alg":"RS256","alg":"RS256"}"#, plain),
        a.sign(r#"{"alg":5}"#, plain),
        a.sign(r#"{"alg":"RS256","kid":5}"#, plain),
        a.sign(r#"{"alg":"RS256","kid":"../r"}"#, plain),
        a.sign(r#"{"alg":"RS256","kid":""}"#, plain),
        a.sign(head, "{"),
        a.sign(head, "[]"),
        a.sign(head, r#"{"iss":"a","iss":"a"}"#),
        a.sign(head, r#"{"sub":"joe"}"#),
        b.token(json!({"iss": "a", "aud": "y"})),
        b.token(json!({})),
        c.token(json!({"iss": "A"})),
    ];
    for (name, value) in [
        ("iss", json!(5)),
        ("sub", json!(5)),
        ("sub", json!(null)),
        ("jti", json!(5)),
        ("iat", json!("5")),
        ("iat", json!(-5)),
        ("nbf", json!(null)),
        ("nbf", json!(u64::MAX)),
        ("nbf", json!(4_000_000_000_u64)),
        ("nbf", json!(1.5)),
        ("exp", json!("5")),
        ("exp", json!(5)),
        ("exp", json!(1e30)),
        ("exp", json!(4_000_000_000_u64)),
        ("aud", json!(5)),
        ("aud", json!(["x.test"])),
        ("aud", json!("http://x.test")),
        ("aud", json!("z")),
        ("aud", json!([])),
        ("aud", json!(["z", 5])),
    ] {
        bearers.push(bad_claims(name, value));
    }
    let mut asked: Vec<(String, Vec<(&str, String)>)> = bearers
        .iter()
        .map(|token| {
            (
                "/x".into(),
                vec![("authorization", format!("Bearer {token}"))],
            )
        })
        .collect();
    let of_b = |value: Value| b.token(json!({"n": {"v": value}, "n.v": "dotted"}));
    let spoof = || {
        [
            ("x-payload", "evil".to_owned()),
            ("x-sub", "evil".to_owned()),
            ("x-claim", "evil".to_owned()),
        ]
    };
    for value in [
        json!("s"),
        json!(""),
        json!(5),
        json!(-5),
        json!(1.5),
        json!(1e30),
        json!(true),
        json!(null),
        json!(["a", "b"]),
        json!({"b": 1, "a": [1, "x/+?"]}),
        json!([]),
    ] {
        let token = ("x-tok", of_b(value));
        asked.push(("/x".into(), spoof().into_iter().chain([token]).collect()));
    }
    let (token, wrong) = (of_b(json!(1)), spoiled(&of_b(json!(1))));
    let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
    asked.extend([
        ("/x".into(), vec![]),
        ("/x".into(), spoof().to_vec()),
        ("/x".into(), vec![("authorization", "Basic x".into())]),
        (
            "/x".into(),
            vec![("authorization", format!("bearer {good}"))],
        ),
        (
            "/x".into(),
            vec![("authorization", format!("XBearer {good}"))],
        ),
        (
            "/x".into(),
            vec![("authorization", format!("Token {token}"))],
        ),
        (
            "/x".into(),
            vec![("authorization", format!("Token {good}"))],
        ),
        ("/x".into(), vec![bearer(&good), bearer(&good)]),
        (
            "/x".into(),
            vec![bearer(&good), ("authorization", "Basic x".into())],
        ),
        ("/x".into(), vec![("x-tok", format!("Bearer {token}"))]),
        ("/x".into(), vec![("x-tok", wrong.clone())]),
        ("/x".into(), vec![("x-tok", String::new())]),
        ("/x".into(), vec![("cookie", format!("a=b; c={token}"))]),
        ("/x".into(), vec![("cookie", format!("c=\"{token}\""))]),
        ("/x".into(), vec![("cookie", "c=".into())]),
        (format!("/x?t={token}"), vec![]),
        (format!("/x?a=1&t={token}&b=2"), vec![]),
        (format!("/x?t={wrong}"), vec![]),
        (format!("/x?access_token={good}"), vec![]),
        (format!("/x?access%5Ftoken={good}"), vec![]),
        (format!("/x?access_token={}", c.token(json!({}))), vec![]),
        ("/x?access_token=".into(), vec![]),
        ("/x?access_token".into(), vec![]),
        (format!("/x?access_token={good}"), vec![bearer(&good)]),
        (
            format!("/x?access_token={}", spoiled(&good)),
            vec![bearer(&good)],
        ),
        (
            format!("/x?access_token={good}"),
            vec![bearer(&spoiled(&good))],
        ),
        // Of two rules at places of their own one is enough.
        ("/x".into(), vec![bearer(&good), ("x-tok", token.clone())]),
        ("/x".into(), vec![bearer(&good), ("x-tok", wrong.clone())]),
        (
            "/x".into(),
            vec![bearer(&spoiled(&good)), ("x-tok", token.clone())],
        ),
        ("/x".into(), vec![bearer(&spoiled(&good)), ("x-tok", wrong)]),
        (format!("/{}", "x".repeat(600)), vec![bearer("x")]),
    ]);
    let mut ours = Http::connect(&stranger, world.server.at(PORT)).await?;
    let mut envoys = Http::connect(&stranger, proxy.at(PORT)).await?;
    let mut differences = Vec::new();
    for (path, headers) in &asked {
        let expected = outcome(&mut envoys, path, headers).await?;
        let found = outcome(&mut ours, path, headers).await?;
        if found != expected {
            let asked = format!("{path} {headers:?}").replace(&good, "GOOD");
            differences.push(format!(
                "{asked}\n    Envoy   {expected}\n    aquifer {found}"
            ));
        }
    }
    // What is known to differ: a secret is no key here, whatever the set has; a space is no part of
    // base64; what a token says is told once, however often it is there.
    for known in [
        "Jwt header [alg] is not supported",
        "Jwt header is an invalid Base64url encoded",
        "/x?access_token=GOOD [(\"authorization\", \"Bearer GOOD\")]",
    ] {
        let count = differences.len();
        differences.retain(|one| !one.contains(known));
        assert_eq!(count - differences.len(), 1, "{known}");
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}
