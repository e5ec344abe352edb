//! Tokens of requests: RequestAuthentication, and what AuthorizationPolicies ask of them. The callers
//! speak to the pod's own address: no proxy on their side has a word in it.

mod jwt;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    PATIENCE, Pod, SOON, World,
    client::{Http, Reply, request, whole},
    clock::Deadline,
    echo::Echo,
    raw::{self, Server},
    world::{AUTO, TCP},
};
use jwt::{Issuer, base64, policies, spoiled, with_secret};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// The port of the pod that its service declares to be HTTP.
const PORT: u16 = 8080;
const DENIED: &str = "RBAC: access denied";
const FORM: &str =
    "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
const FAILS: &str = "Jwt verification fails";
/// In seconds since 1970: long over, and far away.
const PAST: u64 = 1_000_000_000;
const FUTURE: u64 = 4_000_000_000;

/// The usual world, and a pod outside the mesh.
struct Arena {
    world: World,
    stranger: Pod,
}

impl Arena {
    async fn new(lines: &[String]) -> Result<Self> {
        let world = World::new().await?;
        let put = || world.config.put("policies.yaml", policies(lines));
        world.proxy.after(put).await?;
        let stranger = world.lab.pod("stranger")?;
        Ok(Self { world, stranger })
    }

    async fn http(&self) -> Result<Http> {
        Http::connect(&self.stranger, self.world.server.at(PORT)).await
    }

    async fn both(&self) -> Result<[Http; 2]> {
        let two = Http::connect2(&self.stranger, self.world.server.at(PORT)).await?;
        Ok([self.http().await?, two])
    }
}

/// Asks for `path` with these header fields.
async fn ask(http: &mut Http, path: &str, headers: &[(&str, &str)]) -> Result<Reply> {
    let mut ask = request("GET", "app", path);
    for (name, value) in headers {
        ask = ask.header(*name, *value);
    }
    http.exchange(ask.body(whole(""))?).await
}

async fn bearer(http: &mut Http, path: &str, token: &str) -> Result<Reply> {
    ask(http, path, &[("authorization", &format!("Bearer {token}"))]).await
}

/// A RequestAuthentication for the pods of the namespace that takes these rules.
fn takes(rules: &str) -> String {
    format!("RequestAuthentication jwt: {{jwtRules: [{rules}]}}")
}

fn rule(issuer: &Issuer, more: &str) -> String {
    format!(
        "{{issuer: '{}', jwks: '{}', {more}}}",
        issuer.name,
        issuer.keys()
    )
}

#[tokio::test]
async fn requests_are_let_in_by_what_their_token_says() -> Result<()> {
    let issuer = Issuer::rsa("https://id.test", "one");
    let arena = Arena::new(&[
        takes(&rule(&issuer, "audiences: [shop, bank]")),
        "AuthorizationPolicy any: {rules: [{from: [{source: {requestPrincipals: ['https://id.test/*']}}], to: [{operation: {paths: [/any]}}]}]}".into(),
        "AuthorizationPolicy joe: {rules: [{to: [{operation: {paths: [/joe]}}], when: [{key: request.auth.principal, values: [https://id.test/joe]}]}]}".into(),
        "AuthorizationPolicy role: {rules: [{to: [{operation: {paths: [/role]}}], when: [{key: 'request.auth.claims[realm][roles]', values: [admin]}]}]}".into(),
        "AuthorizationPolicy scope: {rules: [{to: [{operation: {paths: [/scope]}}], when: [{key: 'request.auth.claims[scope]', values: [write]}]}]}".into(),
        "AuthorizationPolicy bank: {rules: [{to: [{operation: {paths: [/bank]}}], when: [{key: request.auth.audiences, values: [bank]}, {key: request.auth.presenter, values: [app]}]}]}".into(),
        "AuthorizationPolicy open: {rules: [{to: [{operation: {paths: [/open]}}]}]}".into(),
    ])
    .await?;
    let server = Echo::start(&arena.world.server, PORT, "server")?;
    let joe = issuer.token(json!({"aud": "shop", "exp": FUTURE}));
    let ann = issuer.token(json!({"aud": ["shop", "bank"], "sub": "ann", "azp": "app", "scope": "read write", "realm": {"roles": ["admin"]}}));
    let (late, other) = (
        issuer.token(json!({"aud": "shop", "exp": PAST})),
        issuer.token(json!({"aud": "else"})),
    );
    let foreign = Issuer::rsa("https://id.test", "one").token(json!({"aud": "shop"}));
    for http in &mut arena.both().await? {
        for (token, path, status, text) in [
            ("", "/open", 200, ""),
            ("", "/any", 403, DENIED),
            (joe.as_str(), "/any", 200, ""),
            (&joe, "/joe", 200, ""),
            (&joe, "/role", 403, DENIED),
            (&joe, "/else", 403, DENIED),
            (&ann, "/any", 200, ""),
            (&ann, "/joe", 403, DENIED),
            (&ann, "/role", 200, ""),
            (&ann, "/scope", 200, ""),
            (&ann, "/bank", 200, ""),
            (&joe, "/bank", 403, DENIED),
            // Whatever it asks for.
            (&late, "/open", 401, "Jwt is expired"),
            (&other, "/open", 403, "Audiences in Jwt are not allowed"),
            (&foreign, "/open", 401, FAILS),
        ] {
            let before = server.requests();
            let reply = match token {
                "" => ask(http, path, &[]).await?,
                token => bearer(http, path, token).await?,
            };
            let told = server.requests() - before;
            let said = if reply.status == 200 {
                String::new()
            } else {
                reply.text()
            };
            ensure!(
                (reply.status, said.as_str(), told) == (status, text, usize::from(status == 200)),
                "{path}: {} {said}, the application heard {told}",
                reply.status
            );
            let challenge = reply.headers.get("www-authenticate");
            let expected = format!("Bearer realm=\"http://app{path}\", error=\"invalid_token\"");
            let expected = text.contains("Jwt").then_some(expected);
            assert_eq!(
                challenge.map(|one| one.to_str()).transpose()?,
                expected.as_deref()
            );
        }
    }
    let proxy = &arena.world.proxy;
    assert_eq!(proxy.counter("jwt_denied").await?, 6);
    // Both connections had ten with a valid token.
    assert_eq!(proxy.counter("jwt_allowed").await?, 20);
    let told = proxy.logged(0, |line| {
        line.contains("jwt_authn_access_denied{Jwt_is_expired}")
    })?;
    ensure!(told.contains("/open HTTP/1.1\" 401 - "), "{told}");
    // What is in force is shown.
    let rows = proxy.admin("/config/policies").await?;
    let rows = rows.as_array().context("a list")?;
    let row = rows.iter().find(|row| row["pod"] == "default/server");
    let tokens = &row.context("the pod")?["tokens"];
    assert_eq!(
        *tokens,
        json!([{"issuer": "https://id.test", "source": "RequestAuthentication default/jwt", "keys": "given"}])
    );
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_trusted_is_refused() -> Result<()> {
    let (issuer, second) = (Issuer::rsa("a", "r"), Issuer::ec("b", ""));
    let arena = Arena::new(&[takes(&format!(
        "{}, {}",
        rule(&issuer, ""),
        rule(&second, "")
    ))])
    .await?;
    let server = Echo::start(&arena.world.server, PORT, "server")?;
    let claims = r#"{"iss":"a","sub":"root"}"#;
    let forged = |head: &str| with_secret(&issuer.public(), head, claims);
    let unsigned =
        |head: &str, signature: &str| format!("{}.{}.{signature}", base64(head), base64(claims));
    let foreign = Issuer::rsa("a", "r");
    let good = issuer.token(json!({}));
    let deep = format!("{}1{}", "[".repeat(4000), "]".repeat(4000));
    for (what, token, text) in [
        ("none", unsigned(r#"{"alg":"none"}"#, ""), FORM),
        (
            "none, with something",
            unsigned(r#"{"alg":"none"}"#, "AAAA"),
            "Jwt header [alg] is not supported",
        ),
        (
            "a secret",
            forged(r#"{"alg":"HS256"}"#),
            "Jwt header [alg] is not supported",
        ),
        (
            "a secret, called RS256",
            forged(r#"{"alg":"RS256","kid":"r"}"#),
            FAILS,
        ),
        (
            "two algorithms",
            forged(r#"{"alg":"RS256","alg":"none"}"#),
            "Jwt header is an invalid JSON",
        ),
        (
            "ES256 of an RSA key",
            issuer.sign(r#"{"alg":"ES256"}"#, claims),
            FAILS,
        ),
        (
            "no point",
            unsigned(r#"{"alg":"ES256"}"#, &base64([0; 64])),
            FAILS,
        ),
        ("another's key", foreign.token(json!({})), FAILS),
        (
            "a key of its own",
            foreign.token_with(json!({"jwk": foreign.key()}), json!({})),
            FAILS,
        ),
        (
            "a key elsewhere",
            foreign.token_with(
                json!({"jku": "http://10.0.0.1/", "x5u": "file:///etc"}),
                json!({}),
            ),
            FAILS,
        ),
        (
            "a path",
            issuer.token_with(json!({"kid": "../../../../etc/passwd"}), json!({})),
            "Jwks doesn't have key to match kid or alg from Jwt",
        ),
        (
            "another issuer's key",
            second.token(json!({"iss": "a"})),
            FAILS,
        ),
        (
            "an unknown issuer",
            issuer.token(json!({"iss": "c"})),
            "Jwt issuer is not configured",
        ),
        (
            "what must be understood",
            issuer.token_with(json!({"crit": ["x"], "x": 1}), json!({})),
            "Jwt header [alg] is not supported",
        ),
        (
            "not yet",
            issuer.token(json!({"nbf": FUTURE})),
            "Jwt not yet valid",
        ),
        (
            "a bomb",
            issuer.sign(
                r#"{"alg":"RS256","kid":"r"}"#,
                &format!("{{\"iss\":\"a\",\"x\":{deep}}}"),
            ),
            "Jwt payload is an invalid JSON",
        ),
        (
            "a bomb that nobody signed",
            format!("{}.{}.AAAA", base64(r#"{"alg":"RS256"}"#), base64(&deep)),
            "Jwt payload is an invalid JSON",
        ),
        (
            "a long one",
            format!("{}.{}.AAAA", "A".repeat(30_000), "B".repeat(10_000)),
            "Jwt header is an invalid JSON",
        ),
        ("dots", ".".repeat(10_000), FORM),
        ("nothing of it", String::from("x"), FORM),
    ] {
        for http in &mut arena.both().await? {
            let reply = bearer(http, "/", &token).await?;
            ensure!(
                (reply.status, reply.text().as_str()) == (401, text),
                "{what}: {} {}",
                reply.status,
                reply.text()
            );
            // The connection goes on.
            assert_eq!(bearer(http, "/", &good).await?.status, 200, "{what}");
        }
    }
    // In several places, or several times: all of them must be valid.
    let bad = spoiled(&good);
    let of_b = second.token(json!({}));
    let [header, wrong] = [&good, &bad].map(|token| format!("Bearer {token}"));
    for (path, headers, status) in [
        (format!("/?access_token={good}"), vec![header.as_str()], 200),
        (format!("/?access_token={bad}"), vec![&header], 401),
        (format!("/?access_token={good}"), vec![&wrong], 401),
        (format!("/?access_token={of_b}"), vec![&header], 401),
        (
            format!("/?access_token={good}&access_token={bad}"),
            vec![],
            401,
        ),
        (
            format!("/?access_token={good}&access%5ftoken={bad}"),
            vec![],
            401,
        ),
        ("/".to_owned(), vec![&header, &header], 401),
        ("/".to_owned(), vec![&header, &wrong], 401),
        ("/".to_owned(), vec![&header, "Basic x"], 401),
    ] {
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|one| ("authorization", *one)).collect();
        for http in &mut arena.both().await? {
            let before = server.requests();
            let reply = ask(http, &path, &headers).await?;
            ensure!(
                reply.status == status,
                "{} {}: {path} {headers:?}",
                reply.status,
                reply.text()
            );
            assert_eq!(server.requests() - before, usize::from(status == 200));
            if status == 200 {
                // Nothing of any of them goes on.
                let seen = reply.seen()?;
                ensure!(
                    seen.field("target").ends_with('/'),
                    "{}",
                    seen.field("target")
                );
                ensure!(seen.header("authorization").is_empty());
            }
        }
    }
    // A head that is too large for any reader.
    let mut http = arena.http().await?;
    let reply = bearer(&mut http, "/", &"A".repeat(200_000)).await;
    ensure!(reply.is_err() || reply.is_ok_and(|reply| reply.status == 431));
    Ok(())
}

#[tokio::test]
async fn the_application_is_told_what_was_verified_alone() -> Result<()> {
    let issuer = Issuer::rsa("a", "");
    let more = "fromHeaders: [{name: x-tok}, {name: authorization, prefix: 'Token '}], fromParams: [t], fromCookies: [c], outputPayloadToHeader: x-payload, outputClaimToHeaders: [{header: x-sub, claim: sub}, {header: x-role, claim: realm.role}]";
    let line = |more: &str| takes(&rule(&issuer, more));
    // A policy sees the fields too, and none that the caller made up.
    let policy = "AuthorizationPolicy role: {action: DENY, rules: [{to: [{operation: {paths: [/admin]}}], when: [{key: 'request.headers[x-role]', notValues: [admin]}]}]}";
    let arena = Arena::new(&[line(more), policy.into()]).await?;
    let _server = Echo::start(&arena.world.server, PORT, "server")?;
    let token = issuer.token(json!({"realm": {"role": "admin"}}));
    let payload = token.split('.').nth(1).context("a payload")?.to_owned();
    let spoof = [
        ("x-payload", "evil"),
        ("x-sub", "evil"),
        ("x-sub", "evil"),
        ("x-role", "admin"),
    ];
    let (query, cookie) = (format!("/?a=1&t={token}&b=%32"), format!("a=b; c={token}"));
    for http in &mut arena.both().await? {
        for (path, place, target) in [
            ("/", Some(("x-tok", token.clone())), "/"),
            ("/", Some(("authorization", format!("Token {token}"))), "/"),
            (query.as_str(), None, "/?a=1&b=%32"),
            ("/", Some(("cookie", cookie.clone())), "/"),
        ] {
            let place = place.iter().map(|(name, value)| (*name, value.as_str()));
            let headers: Vec<(&str, &str)> = place.chain(spoof).collect();
            let reply = ask(http, path, &headers).await?;
            let seen = reply.seen()?;
            ensure!(
                seen.field("target").ends_with(target),
                "{}",
                seen.field("target")
            );
            assert_eq!(seen.header("x-payload"), [payload.as_str()]);
            assert_eq!(seen.header("x-sub"), ["joe"]);
            assert_eq!(seen.header("x-role"), ["admin"]);
            ensure!(seen.header("x-tok").is_empty() && seen.header("authorization").is_empty());
            assert_eq!(
                ask(http, "/admin", &headers).await?.status,
                if path == "/" { 200 } else { 403 }
            );
        }
        for headers in [
            &spoof[..],
            &[("authorization", "Bearer whatever"), spoof[0], spoof[3]],
        ] {
            let reply = ask(http, "/", headers).await?;
            let seen = reply.seen()?;
            for name in ["x-payload", "x-sub", "x-role"] {
                ensure!(seen.header(name).is_empty(), "{name}");
            }
            assert_eq!(ask(http, "/admin", headers).await?.status, 403);
        }
        // A preflight has no token, and is let through with whatever stands there.
        let preflight = request("OPTIONS", "app", "/")
            .header("origin", "http://a.test")
            .header("access-control-request-method", "GET")
            .header("x-tok", "x")
            .header("x-sub", "evil");
        let reply = http.exchange(preflight.body(whole(""))?).await?;
        ensure!(reply.seen()?.header("x-sub").is_empty());
    }
    // What was in the query is not in the log.
    let logged = arena
        .world
        .proxy
        .logged(0, |line| line.contains("/?a=1&b=%32"))?;
    ensure!(!logged.contains(&payload), "{logged}");

    let kept = [line("forwardOriginalToken: true")];
    let put = || arena.world.config.put("policies.yaml", policies(&kept));
    arena.world.proxy.after(put).await?;
    let mut http = arena.http().await?;
    let path = format!("/?access_token={token}");
    let reply = bearer(&mut http, &path, &token).await?;
    let seen = reply.seen()?;
    ensure!(seen.field("target").ends_with(&path));
    assert_eq!(seen.header("authorization"), [format!("Bearer {token}")]);
    Ok(())
}

#[tokio::test]
async fn grpc_is_told_in_its_own_way() -> Result<()> {
    let issuer = Issuer::ec("a", "");
    let arena = Arena::new(&[takes(&rule(&issuer, "audiences: [x]"))]).await?;
    let [_, mut http] = arena.both().await?;
    for (token, status, message) in [
        ("x".to_owned(), "16", FORM),
        (
            issuer.token(json!({})),
            "7",
            "Audiences in Jwt are not allowed",
        ),
    ] {
        let ask = request("POST", "app", "/a.B/C")
            .header("content-type", "application/grpc")
            .header("authorization", format!("Bearer {token}"));
        let reply = http.exchange(ask.body(whole("x"))?).await?;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.headers["grpc-status"], status);
        assert_eq!(reply.headers["grpc-message"], message);
        ensure!(reply.headers.contains_key("www-authenticate"));
    }
    Ok(())
}

/// A token counts for as long as its issuer does, also for what is under way.
#[tokio::test]
async fn what_is_under_way_ends_with_its_issuer() -> Result<()> {
    let (issuer, other) = (Issuer::ec("a", ""), Issuer::ec("b", ""));
    let needed = "AuthorizationPolicy p: {rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}";
    let both = format!("{}, {}", rule(&issuer, ""), rule(&other, ""));
    let arena = Arena::new(&[takes(&both), needed.into()]).await?;
    // It begins an answer and never ends it.
    let _server = Server::start(&arena.world.server, PORT, |mut stream, _| async move {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun";
        let asked = raw::read_until(&mut stream, b"\r\n\r\n").await;
        if asked.is_ok() && stream.write_all(head.as_bytes()).await.is_ok() {
            let _ = raw::drain(&mut stream).await;
        }
    })?;
    let begin = async |issuer: &Issuer| {
        let to = arena.world.server.at(PORT);
        let mut stream = arena.stranger.netns.connect(to).await?;
        let token = issuer.token(json!({}));
        let ask = format!("GET / HTTP/1.1\r\nhost: app\r\nauthorization: Bearer {token}\r\n\r\n");
        stream.write_all(ask.as_bytes()).await?;
        raw::read_until(&mut stream, b"begun").await?;
        anyhow::Ok(stream)
    };
    let (mut of_a, of_b) = (begin(&issuer).await?, begin(&other).await?);
    let rest = [takes(&rule(&other, "")), needed.into()];
    arena.world.config.put("policies.yaml", policies(&rest))?;
    let deadline = Deadline::after(Duration::from_secs(10));
    let ended = tokio::time::timeout(deadline.left(), raw::drain(&mut of_a)).await?;
    ensure!(matches!(ended, Ok((_, raw::End::Reset))), "{ended:?}");
    assert_eq!(arena.world.proxy.counter("rbac_rq_revoked").await?, 1);
    let mut byte = [0];
    let quiet = of_b.try_read(&mut byte);
    ensure!(quiet.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    Ok(())
}

/// Opens a connection and has it carry something that is no request.
async fn relayed(from: &Pod, to: SocketAddr) -> Result<TcpStream> {
    let mut stream = from.netns.connect(to).await?;
    echoed(&mut stream).await?;
    Ok(stream)
}

async fn echoed(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"\0hello").await?;
    raw::read_until(stream, b"hello").await?;
    Ok(())
}

#[tokio::test]
async fn what_was_relayed_unread_ends_where_tokens_are_asked_for() -> Result<()> {
    let world = World::new().await?;
    let stranger = &world.lab.pod("stranger")?;
    let to = |port| world.server.at(port);
    let _servers = [PORT, AUTO, TCP]
        .into_iter()
        .map(|port| Server::echo(&world.server, port))
        .collect::<Result<Vec<_>>>()?;
    let put = async |issuers: &[&Issuer]| {
        let rules: Vec<String> = issuers.iter().map(|one| rule(one, "")).collect();
        let text = policies(&[takes(&rules.join(", "))]);
        let put = || world.config.put("policies.yaml", text);
        world.proxy.after(put).await
    };
    let (http, auto) = (relayed(stranger, to(PORT)), relayed(stranger, to(AUTO)));
    let (http, auto, mut tcp) = (http.await?, auto.await?, relayed(stranger, to(TCP)).await?);
    let (first, second) = (Issuer::ec("a", ""), Issuer::ec("b", ""));
    put(&[&first]).await?;
    let deadline = Deadline::after(SOON);
    for mut stream in [http, auto] {
        let ended = tokio::time::timeout(deadline.left(), raw::drain(&mut stream)).await?;
        ensure!(matches!(ended, Ok((_, raw::End::Reset))), "{ended:?}");
    }
    assert_eq!(world.proxy.counter("rbac_revoked").await?, 2);
    world.proxy.logged(0, |line| {
        line.contains("[ns[default]-request_authentication[jwt]-unread]")
    })?;
    // A port that carries something else is not read, and what was looked at stays.
    let mut looked = relayed(stranger, to(AUTO)).await?;
    put(&[&first, &second]).await?;
    echoed(&mut looked).await?;
    echoed(&mut tcp).await?;
    assert_eq!(world.proxy.counter("rbac_revoked").await?, 2);
    // Once its port is declared to carry requests, it counts as unread.
    let text = world.manifests.text().replace("\"tcp\"", "\"http-tcp\"");
    let put = || world.config.put("mesh.yaml", text);
    world.proxy.after(put).await?;
    let ended = raw::drain(&mut tcp).await;
    ensure!(matches!(ended, Ok((_, raw::End::Reset))), "{ended:?}");
    Ok(())
}

/// On a port that declares nothing, whoever speaks first is heard at once, and nobody gets a request
/// past by waiting, or by an unusual beginning.
#[tokio::test]
async fn silence_hides_no_request() -> Result<()> {
    const GREETED: u16 = 9200;
    let issuer = Issuer::ec("a", "");
    let more = "outputClaimToHeaders: [{header: x-user, claim: sub}]";
    let arena = Arena::new(&[takes(&rule(&issuer, more))]).await?;
    let (world, stranger) = (&arena.world, &arena.stranger);
    let _greets = Server::start(&world.server, GREETED, |mut stream, _| async move {
        if stream.write_all(b"220 hello").await.is_ok() {
            let _ = raw::drain(&mut stream).await;
        }
    })?;
    let _server = Echo::start(&world.server, AUTO, "server")?;
    // A server of HTTP/2 that speaks first is no other.
    const SETTINGS: u16 = 9201;
    let _settings = Server::start(&world.server, SETTINGS, |mut stream, _| async move {
        if stream.write_all(b"\0\0\0\x04\0\0\0\0\0").await.is_ok() {
            let _ = raw::drain(&mut stream).await;
        }
    })?;
    let mut asking = stranger.netns.connect(world.server.at(SETTINGS)).await?;
    let relayed = raw::read_until(&mut asking, b"\x04");
    let relayed = tokio::time::timeout(Duration::from_secs(1), relayed).await;
    ensure!(relayed.is_err(), "its connection is not read");
    asking
        .write_all(b"GET / HTTP/1.1\r\nhost: app\r\nauthorization: Bearer x\r\n\r\n")
        .await?;
    raw::read_until(&mut asking, b"401").await?;
    let mut greeted = stranger.netns.connect(world.server.at(GREETED)).await?;
    let first = tokio::time::timeout(
        Duration::from_secs(3),
        raw::read_until(&mut greeted, b"hello"),
    );
    first
        .await
        .context("it spoke first, and was kept waiting")??;
    let told = async |before: &[&[u8]], request: &str| {
        let mut stream = stranger.netns.connect(world.server.at(AUTO)).await?;
        for piece in before {
            match piece {
                [] => tokio::time::sleep(Duration::from_millis(5500)).await,
                piece => stream.write_all(piece).await?,
            }
        }
        let lines =
            format!("{request} HTTP/1.1\r\nhost: app\r\nx-user: evil\r\nconnection: close\r\n\r\n");
        stream.write_all(lines.as_bytes()).await?;
        let (bytes, _) = raw::drain(&mut stream).await?;
        anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let lines = b"\r\n".repeat(20);
    let method = format!("{} /", "M".repeat(60));
    for (before, request) in [
        (&[][..], "GET /"),
        // Longer than anybody's patience.
        (&[&b""[..]][..], "GET /"),
        (&[&lines[..]], "GET /"),
        (&[], &method),
    ] {
        let said = told(before, request).await?;
        ensure!(said.starts_with("HTTP/1.1 200"), "{request}: {said}");
        ensure!(!said.contains("evil"), "{request}: {said}");
    }
    Ok(())
}

/// Whatever becomes of the request.
#[tokio::test]
async fn tokens_of_a_query_are_not_in_the_log() -> Result<()> {
    let issuer = Issuer::ec("a", "");
    let kept = Issuer::ec("b", "");
    let arena = Arena::new(&[takes(&format!(
        "{}, {}",
        rule(&issuer, "fromParams: [t, 'a b']"),
        rule(&kept, "fromParams: [kept], forwardOriginalToken: true")
    ))])
    .await?;
    let _server = Echo::start(&arena.world.server, PORT, "server")?;
    let (good, forwarded) = (issuer.token(json!({})), kept.token(json!({})));
    let bad = spoiled(&good);
    let mut http = arena.http().await?;
    for (index, (query, status, logged)) in [
        (format!("x=1&t={good}&y=2"), 200, "x=1&y=2"),
        (format!("kept={forwarded}&y=2"), 200, "kept=***&y=2"),
        (format!("x=1&t={bad}&y=2"), 401, "x=1&t=***&y=2"),
        (format!("%74={bad}"), 401, "%74=***"),
        (format!("a%20b={bad}"), 401, "a%20b=***"),
        (format!("t={bad}&t={good}"), 401, "t=***&t=***"),
        (format!("kept=x.{bad}"), 401, "kept=***"),
        ("u=1".to_owned(), 200, "u=1"),
    ]
    .into_iter()
    .enumerate()
    {
        let mark = arena.world.proxy.child.stdout.mark();
        let reply = ask(&mut http, &format!("/{index}?{query}"), &[]).await?;
        ensure!(reply.status == status, "{query}: {}", reply.status);
        let line = format!(" /{index}?{logged} HTTP");
        let told = arena.world.proxy.logged(mark, |one| one.contains(&line));
        told.with_context(|| query.clone())?;
    }
    for line in arena.world.proxy.child.stdout.since(0) {
        for token in [&good, &bad, &forwarded] {
            let signature = token.rsplit('.').next().unwrap_or_default();
            ensure!(!line.contains(&signature[..20]), "{line}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn audits_are_lines_of_the_log() -> Result<()> {
    let issuer = Issuer::ec("a", "");
    let arena = Arena::new(&[
        takes(&rule(&issuer, "")),
        "AuthorizationPolicy marked: {action: AUDIT, rules: [{to: [{operation: {paths: [/none]}}]}, {to: [{operation: {paths: [/marked*]}}]}]}".into(),
        "AuthorizationPolicy p: {action: DENY, rules: [{to: [{operation: {paths: [/marked/no]}}]}]}".into(),
    ])
    .await?;
    let _server = Echo::start(&arena.world.server, PORT, "server")?;
    let mut http = arena.http().await?;
    for (path, status) in [("/", 200), ("/marked", 200), ("/marked/no", 403)] {
        let reply = bearer(&mut http, path, &issuer.token(json!({}))).await?;
        assert_eq!(reply.status, status);
    }
    let proxy = &arena.world.proxy;
    assert_eq!(proxy.counter("rbac_rq_audited").await?, 2);
    // Written by a thread of its own: not there yet, perhaps.
    let last = |line: &str| line.contains("aquifer::audit") && line.contains("/marked/no");
    proxy.child.stderr.wait_for(0, PATIENCE, last)?;
    let lines = proxy.child.stderr.since(0);
    let lines: Vec<&String> = lines
        .iter()
        .filter(|line| line.contains("aquifer::audit"))
        .collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (line, path) in lines.iter().zip(["/marked", "/marked/no"]) {
        for part in [
            "policy=AuthorizationPolicy default/marked rule=1",
            "method=\"GET\" host=\"app\"",
            &format!("path=\"{path}\" principal=\"a/joe\""),
        ] {
            ensure!(line.contains(part), "{line}");
        }
    }
    Ok(())
}
