//! What may be asked of a pod: AuthorizationPolicy about requests, judged where they arrive, also
//! while they are under way. The callers speak to the pod's own address: no proxy on their side
//! has a word in it.

use std::io::ErrorKind;

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    Pod, SOON, World,
    client::{Http, Reply, request, whole},
    clock::Deadline,
    echo::Echo,
    raw::{self, End, Server},
    world::AUTO,
};
use http_body_util::BodyExt;
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// The port of the pod that its service declares to be HTTP.
const PORT: u16 = 8080;
const DENIED: &str = "RBAC: access denied";

/// `NAME [ANNOTATION]: SPEC` a line, for the namespace `default`.
fn policies(lines: &[&str]) -> String {
    let documents = lines.iter().map(|line| {
        let (head, spec) = line.split_once(": ").unwrap_or((line, "{}"));
        let (name, annotation) = head.split_once(' ').unwrap_or((head, "x=y"));
        let (key, value) = annotation.split_once('=').unwrap_or((annotation, ""));
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: default, annotations: {{{key}: '{value}'}}}}\nspec: {spec}\n"
        )
    });
    documents.collect::<Vec<_>>().join("---\n")
}

/// The usual world, and a pod outside the mesh.
struct Arena {
    world: World,
    stranger: Pod,
}

impl Arena {
    async fn new(lines: &[&str]) -> Result<Self> {
        let text = policies(lines);
        let world = World::with(&[], |manifests| manifests.yaml(text)).await?;
        let stranger = world.lab.pod("stranger")?;
        Ok(Self { world, stranger })
    }

    /// Puts these policies in the place of those put before.
    async fn set(&self, lines: &[&str]) -> Result<()> {
        let text = policies(lines);
        let put = || self.world.config.put("policies.yaml", &text);
        self.world.proxy.after(put).await
    }

    async fn http(&self) -> Result<Http> {
        Http::connect(&self.stranger, self.world.server.at(PORT)).await
    }

    async fn http2(&self) -> Result<Http> {
        Http::connect2(&self.stranger, self.world.server.at(PORT)).await
    }

    /// Bytes as they are.
    async fn connect(&self, port: u16) -> Result<TcpStream> {
        let to = self.world.server.at(port);
        Ok(self.stranger.netns.connect(to).await?)
    }
}

fn is_denied(reply: &Reply) -> bool {
    reply.status == 403 && reply.text() == DENIED
}

#[tokio::test]
async fn requests_are_judged_by_what_they_ask_for() -> Result<()> {
    let arena = Arena::new(&[]).await?;
    let server = Echo::start(&arena.world.server, PORT, "server")?;
    let get = ("GET", "app", "/", "");
    for (line, cases) in [
        (
            "p: {rules: [{to: [{operation: {methods: [GET], paths: [/a, /b/*]}}]}]}",
            &[
                (("GET", "app", "/a", ""), true),
                (("GET", "app", "/a?q=/x", ""), true),
                (("GET", "app", "/a/", ""), false),
                (("POST", "app", "/a", ""), false),
                (("GET", "app", "/b/c", ""), true),
                (("GET", "app", "/x/../a", ""), true),
                (("GET", "app", "/b/../c", ""), false),
                (("GET", "app", "/%61", ""), true),
            ][..],
        ),
        (
            "p: {action: DENY, rules: [{to: [{operation: {paths: [/admin*]}}]}]}",
            &[
                (get, true),
                (("GET", "app", "/admin", ""), false),
                (("GET", "app", "/./admin/x", ""), false),
                (("GET", "app", "/x/..%2fadmin", ""), true),
                (("GET", "app", "/x/%2e%2E/admin", ""), false),
                (("GET", "app", "/%61dmin", ""), false),
                (("GET", "app", "//admin", ""), true),
                (("GET", "app", "/x\\..\\admin", ""), false),
            ],
        ),
        (
            "p: {action: DENY, rules: [{to: [{operation: {hosts: [evil.example]}}]}]}",
            &[
                (get, true),
                (("GET", "evil.example", "/", ""), false),
                (("GET", "EVIL.example", "/", ""), false),
                (("GET", "evil.example:8080", "/", ""), false),
                (("GET", "evil.example.", "/", ""), false),
            ],
        ),
        (
            "p: {rules: [{to: [{operation: {hosts: [app]}}], when: [{key: 'request.headers[x-key]', values: [a*]}]}]}",
            &[
                (get, false),
                (("GET", "app", "/", "abc"), true),
                (("GET", "app:8080", "/", "abc"), false),
                (("GET", "app", "/", "b"), false),
            ],
        ),
        // No token is verified: nobody has a principal.
        (
            "p: {rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}",
            &[(get, false)],
        ),
        (
            "p: {action: DENY, rules: [{from: [{source: {notRequestPrincipals: ['*']}}], to: [{operation: {paths: [/x]}}]}]}",
            &[(get, true), (("GET", "app", "/x", ""), false)],
        ),
        // Nobody here knows what an Envoy filter would have said.
        (
            "p: {action: DENY, rules: [{to: [{operation: {methods: [GET]}}], when: [{key: experimental.envoy.filters.a.b, values: [c]}]}]}",
            &[(get, false), (("POST", "app", "/", ""), true)],
        ),
        (
            "p: {action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: [/x]}}]}]}",
            &[(get, true), (("GET", "app", "/x", ""), false)],
        ),
    ] {
        arena.set(&[line]).await?;
        let mut one = arena.http().await?;
        let mut two = arena.http2().await?;
        for ((method, host, path, key), allowed) in cases {
            let raw = path.contains('\\');
            for http in [&mut one, &mut two] {
                if raw && matches!(http, Http::Two(_)) {
                    continue;
                }
                let mut ask = request(method, host, path);
                if !key.is_empty() {
                    ask = ask.header("x-key", *key);
                }
                let before = server.requests();
                let reply = http.exchange(ask.body(whole(""))?).await?;
                let told = server.requests() - before;
                let found = if is_denied(&reply) {
                    (false, 0)
                } else {
                    (reply.status == 200, told)
                };
                ensure!(
                    found == (*allowed, usize::from(*allowed)),
                    "{line}\n{method} {host} {path} {key}: {} {}, the application heard {told}",
                    reply.status,
                    reply.text()
                );
            }
        }
    }
    Ok(())
}

/// As an inbound listener of Envoy 1.40 does it under Istio's settings (tried).
#[tokio::test]
async fn fields_that_steer_proxies_end_there() -> Result<()> {
    let arena = Arena::new(&["p: {rules: [{to: [{operation: {methods: [GET]}}]}]}"]).await?;
    let _server = Echo::start(&arena.world.server, PORT, "server")?;
    let (gone, kept) = (
        [
            "x-forwarded-client-cert",
            "proxy-connection",
            "te",
            "x-envoy-expected-rq-timeout-ms",
            "x-envoy-force-trace",
            "x-envoy-hedge-on-per-try-timeout",
            "x-envoy-internal",
            "x-envoy-ip-tags",
            "x-envoy-max-retries",
            "x-envoy-original-url",
            "x-envoy-retriable-header-names",
            "x-envoy-retriable-status-codes",
            "x-envoy-retry-grpc-on",
            "x-envoy-retry-on",
            "x-envoy-upstream-alt-stat-name",
            "x-envoy-upstream-rq-per-try-timeout-ms",
            "x-envoy-upstream-rq-timeout-alt-response",
            "x-envoy-upstream-rq-timeout-ms",
            "x-envoy-upstream-stream-duration-ms",
        ],
        [
            "x-envoy-external-address",
            "x-envoy-downstream-service-cluster",
            "x-envoy-original-path",
            "x-envoy-original-host",
            "x-envoy-decorator-operation",
            "x-envoy-peer-metadata",
            "x-envoy-attempt-count",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-forwarded-for",
            "x-request-id",
            "x-client-trace-id",
            "forwarded",
            "via",
            "x-real-ip",
            "proxy-authorization",
            "grpc-timeout",
        ],
    );
    let mut http = arena.http().await?;
    let mut ask = request("GET", "app", "/");
    for name in gone.iter().chain(&kept) {
        ask = ask.header(*name, "1");
    }
    // Nobody takes off by this what rules rest on.
    ask = ask.header(
        "connection",
        "x-forwarded-for, x-envoy-original-path, x-real-ip",
    );
    let reply = http.exchange(ask.body(whole(""))?).await?;
    let seen = reply.seen()?;
    for name in gone {
        ensure!(
            seen.header(name).is_empty(),
            "{name}: {:?}",
            seen.header(name)
        );
    }
    for name in kept {
        let expected: &[&str] = if name == "x-real-ip" { &[] } else { &["1"] };
        assert_eq!(seen.header(name), expected, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn what_was_judged_is_what_the_application_gets() -> Result<()> {
    let arena =
        Arena::new(&["p: {rules: [{to: [{operation: {paths: [/a/b, '/%2F*', '//c']}}]}]}"]).await?;
    let _server = Echo::start(&arena.world.server, PORT, "server")?;
    for http2 in [false, true] {
        let mut http = match http2 {
            false => arena.http().await?,
            true => arena.http2().await?,
        };
        for (sent, got) in [
            ("/a/./x/../%62?q=../1", "/a/b?q=../1"),
            ("/%2Fx", "/%2Fx"),
            ("//c", "//c"),
        ] {
            let ask = request("POST", "app", sent)
                .header("x-forwarded-client-cert", "URI=spiffe://somebody")
                .header("x-forwarded-for", "1.2.3.4")
                .header("cookie", "a=b");
            let reply = http.exchange(ask.body(whole("hello"))?).await?;
            let seen = reply.seen()?;
            let target = seen.field("target");
            ensure!(target.ends_with(got), "{sent}: {target}");
            assert_eq!(seen.body_bytes(), 5);
            ensure!(seen.header("x-forwarded-client-cert").is_empty());
            assert_eq!(seen.header("x-forwarded-for"), ["1.2.3.4"]);
            assert_eq!(seen.header("cookie"), ["a=b"]);
            let peer = seen.field("peer");
            let own = arena.stranger.v4.to_string();
            ensure!(peer.starts_with(&own), "the caller's own address: {peer}");
            let version = if http2 { "HTTP/2.0" } else { "HTTP/1.1" };
            assert_eq!(seen.field("version"), version);
            ensure!(!reply.headers.contains_key("server"), "{:?}", reply.headers);
            ensure!(!reply.headers.contains_key("x-envoy-upstream-service-time"));
        }
    }
    // What is ambiguous is refused before it is judged.
    for (ask, status) in [
        ("GET /a/b HTTP/1.1\r\n\r\n", "400"),
        ("GET /a/b HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "400"),
        ("GET /a/b%00 HTTP/1.1\r\nhost: a\r\n\r\n", "400"),
        ("CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n", "404"),
    ] {
        let to = arena.world.server.at(PORT);
        let ask = ask.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        let (answer, _) = raw::ask(&arena.stranger, to, ask.as_bytes()).await?;
        ensure!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{ask}{answer}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_refused_request_leaves_its_connection_usable() -> Result<()> {
    let arena =
        Arena::new(&["p: {action: DENY, rules: [{to: [{operation: {paths: [/no]}}]}]}"]).await?;
    let server = Echo::start(&arena.world.server, PORT, "server")?;
    let line = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: app\r\n\r\n");
    let mut stream = arena.connect(PORT).await?;
    let all = [line("/1"), line("/no"), line("/2")].concat();
    stream.write_all(all.as_bytes()).await?;
    let said = raw::read_until(&mut stream, b"\"/2\"").await?;
    let said = String::from_utf8_lossy(&said);
    let statuses: Vec<&str> = said
        .split("HTTP/1.1 ")
        .skip(1)
        .filter_map(|one| one.get(..3))
        .collect();
    assert_eq!(statuses, ["200", "403", "200"]);
    assert_eq!((server.connections(), server.requests()), (1, 2));

    // The rest of a refused upload is not taken for a request.
    let mut stream = arena.connect(PORT).await?;
    let smuggled = line("/smuggled");
    let head = format!(
        "POST /no HTTP/1.1\r\nhost: app\r\ncontent-length: {}\r\n\r\n",
        smuggled.len()
    );
    stream.write_all(head.as_bytes()).await?;
    raw::read_until(&mut stream, DENIED.as_bytes()).await?;
    let _ = stream.write_all(smuggled.as_bytes()).await;
    raw::drain(&mut stream).await?;
    assert_eq!(server.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn a_refusal_is_told_as_envoy_tells_it() -> Result<()> {
    let arena = Arena::new(&[
        "no: {action: DENY, rules: [{to: [{operation: {paths: [/z]}}]}, {to: [{operation: {methods: [POST]}}]}]}",
        "yes: {rules: [{to: [{operation: {methods: [GET, POST]}}]}]}",
    ])
    .await?;
    let _server = Echo::start(&arena.world.server, PORT, "server")?;
    let mark = arena.world.proxy.child.stdout.mark();
    let mut http = arena.http().await?;
    let reply = http
        .exchange(request("POST", "app", "/a").body(whole(""))?)
        .await?;
    ensure!(is_denied(&reply), "{}", reply.status);
    assert_eq!(reply.headers["content-type"], "text/plain");
    assert_eq!(reply.headers["server"], "istio-envoy");
    let line = arena
        .world
        .proxy
        .logged(mark, |line| line.contains("POST /a"))?;
    let told = "\"POST /a HTTP/1.1\" 403 - rbac_access_denied_matched_policy[ns[default]-policy[no]-rule[1]] - \"-\" 0 19 ";
    ensure!(line.contains(told), "{line}");
    let told = format!(
        " \"-\" inbound|{PORT}|| - {}:{PORT} {}:",
        arena.world.server.v4, arena.stranger.v4
    );
    ensure!(line.contains(&told), "{line}");
    let reply = http
        .exchange(request("PUT", "app", "/a").body(whole(""))?)
        .await?;
    ensure!(is_denied(&reply));
    arena.world.proxy.logged(mark, |line| {
        line.contains("PUT /a") && line.contains(" rbac_access_denied_matched_policy[none] ")
    })?;
    let reply = http.get("app", "/a").await?;
    assert_eq!(reply.status, 200);
    arena.world.proxy.logged(mark, |line| {
        line.contains("\"GET /a HTTP/1.1\" 200 - via_upstream ") && line.contains(" default")
    })?;
    assert_eq!(arena.world.proxy.counter("rbac_rq_denied").await?, 2);
    assert_eq!(arena.world.proxy.counter("rbac_rq_allowed").await?, 1);

    // gRPC has its own way to say so.
    let mut http = arena.http2().await?;
    let ask = request("PUT", "app", "/s/M").header("content-type", "application/grpc");
    let reply = http.exchange(ask.body(whole(""))?).await?;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["grpc-status"], "7");
    assert_eq!(reply.headers["grpc-message"], DENIED);
    Ok(())
}

#[tokio::test]
async fn a_change_of_policy_holds_for_what_is_open() -> Result<()> {
    let arena = Arena::new(&[]).await?;
    let deny = "p: {action: DENY, rules: [{to: [{operation: {paths: [/endless/no]}}]}]}";
    let harmless = "p: {action: DENY, rules: [{to: [{operation: {paths: [/other]}}]}]}";
    let _server = Echo::endless(&arena.world.server, PORT)?;
    arena.set(&[harmless]).await?;

    // The next request of a kept connection.
    let mut kept = arena.http().await?;
    assert_eq!(kept.get("app", "/x").await?.text(), "firstend");
    // Answers under way: one alone on its connection, two side by side.
    let mut one = arena.connect(PORT).await?;
    one.write_all(b"GET /endless/no HTTP/1.1\r\nhost: app\r\n\r\n")
        .await?;
    raw::read_until(&mut one, b"first").await?;
    let mut two = arena.http2().await?;
    let no = two
        .send(request("GET", "app", "/endless/no").body(whole(""))?)
        .await?;
    let yes = two
        .send(request("GET", "app", "/endless/yes").body(whole(""))?)
        .await?;
    let mark = arena.world.proxy.child.stdout.mark();
    arena.set(&[deny]).await?;
    let deadline = Deadline::after(SOON);
    let (_, end) = raw::drain(&mut one).await?;
    ensure!(end == End::Reset, "{end:?}");
    let broken = no.into_body().collect().await;
    ensure!(broken.is_err(), "it must not look complete");
    ensure!(!deadline.passed(), "it took long");
    arena.world.proxy.logged(mark, |line| {
        line.contains("GET /endless/no HTTP/2")
            && line
                .contains("200 - rbac_access_denied_matched_policy[ns[default]-policy[p]-rule[0]]")
    })?;
    assert_eq!(arena.world.proxy.counter("rbac_rq_revoked").await?, 2);
    // The others go on.
    let mut rest = yes.into_body();
    let first = rest.frame().await.context("a frame")??;
    assert_eq!(first.into_data().ok(), Some("first".into()));
    assert_eq!(two.get("app", "/x").await?.text(), "firstend");
    ensure!(is_denied(&two.get("app", "/endless/no").await?));
    ensure!(is_denied(&kept.get("app", "/endless/no").await?));
    assert_eq!(kept.get("app", "/x").await?.text(), "firstend");
    // Without any policy the open connection goes on, and is no longer judged.
    arena
        .world
        .proxy
        .after(|| arena.world.config.remove("policies.yaml"))
        .await?;
    assert_eq!(kept.get("app", "/x").await?.text(), "firstend");
    Ok(())
}

#[tokio::test]
async fn websockets_are_judged_like_any_request() -> Result<()> {
    let arena = Arena::new(&["p: {rules: [{to: [{operation: {paths: [/chat]}}]}]}"]).await?;
    let _server = Server::start(&arena.world.server, PORT, |mut stream, _| async move {
        if raw::read_until(&mut stream, b"\r\n\r\n").await.is_err() {
            return;
        }
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                       upgrade: websocket\r\n\r\nearly";
        if stream.write_all(answer).await.is_ok() {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    })?;
    let ask = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nhost: app\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-key: k\r\nsec-websocket-version: 13\r\n\r\n"
        )
    };
    let mut stream = arena.connect(PORT).await?;
    stream.write_all(ask("/no").as_bytes()).await?;
    let said = raw::read_until(&mut stream, DENIED.as_bytes()).await?;
    ensure!(said.starts_with(b"HTTP/1.1 403 "));
    // On the same connection, what is allowed.
    stream.write_all(ask("/chat").as_bytes()).await?;
    let said = raw::read_until(&mut stream, b"early").await?;
    ensure!(
        said.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(&said)
    );
    stream.write_all(b"ping").await?;
    raw::read_until(&mut stream, b"ping").await?;
    arena
        .set(&["late: {action: DENY, rules: [{to: [{operation: {paths: ['/c*']}}]}]}"])
        .await?;
    let deadline = Deadline::after(SOON);
    let (_, end) = raw::drain(&mut stream).await?;
    ensure!(!deadline.passed() && end == End::Reset, "{end:?}");
    Ok(())
}

#[tokio::test]
async fn what_is_not_http_is_judged_by_its_connection() -> Result<()> {
    let arena = Arena::new(&[]).await?;
    let _server = Server::start(&arena.world.server, AUTO, |mut stream, _| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })?;
    let get = "GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n";
    for (line, bytes, status) in [
        // Of no request: an ALLOW rule never matches, a DENY rule matches without it.
        (
            "p: {rules: [{to: [{operation: {methods: [GET]}}]}]}",
            false,
            "502",
        ),
        (
            "p: {action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}]}",
            false,
            "502",
        ),
        (
            "p: {action: DENY, rules: [{to: [{operation: {methods: [GET], ports: ['1']}}]}]}",
            true,
            "echo",
        ),
        (
            "p: {rules: [{to: [{operation: {methods: [PUT]}}]}, {to: [{operation: {ports: ['9100']}}]}]}",
            true,
            "echo",
        ),
        (
            "p: {rules: [{to: [{operation: {methods: [PUT]}}]}]}",
            false,
            "403",
        ),
    ] {
        arena.set(&[line]).await?;
        let mut stream = arena.connect(AUTO).await?;
        stream.write_all(get.as_bytes()).await?;
        if status == "echo" {
            stream.shutdown().await?;
        }
        let (answer, _) = raw::drain(&mut stream).await?;
        let answer = String::from_utf8_lossy(&answer);
        ensure!(
            match status {
                // Where no request could be refused, none is looked at.
                "echo" => answer == get,
                // What the echo says to a request is no response.
                status => answer.starts_with(&format!("HTTP/1.1 {status} ")),
            },
            "{line}\n{answer}"
        );
        let mut stream = arena.connect(AUTO).await?;
        stream.write_all(b"\0hello").await?;
        let _ = stream.shutdown().await;
        let (said, end) = raw::drain(&mut stream).await?;
        let expected = match bytes {
            true => (b"\0hello".to_vec(), End::Closed),
            false => (Vec::new(), End::Reset),
        };
        ensure!(
            (&said, end) == (&expected.0, expected.1),
            "{line}\n{said:?} {end:?}"
        );
    }
    // Bytes at the port that is declared HTTP are a malformed request.
    let to = arena.world.server.at(PORT);
    let (answer, _) = raw::ask(&arena.stranger, to, b"\0hello\r\n\r\n").await?;
    ensure!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    Ok(())
}

#[tokio::test]
async fn where_no_policy_asks_about_requests_bytes_are_relayed_untouched() -> Result<()> {
    let arena = Arena::new(&["p: {rules: [{to: [{operation: {ports: ['8080']}}]}]}"]).await?;
    let _server = Server::start(&arena.world.server, PORT, |mut stream, _| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })?;
    let odd = b"GET /a/../b HTTP/1.1\r\nHOST: a\r\nhOst: b\r\nX: \x01\r\n\r\n";
    let mut stream = arena.connect(PORT).await?;
    stream.write_all(odd).await?;
    stream.shutdown().await?;
    assert_eq!(raw::drain(&mut stream).await?, (odd.to_vec(), End::Closed));
    assert_eq!(arena.world.proxy.counter("inbound_rq").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_policy_on_trial_is_told_what_it_would_do_with_requests() -> Result<()> {
    let arena = Arena::new(&[
        "trial istio.io/dry-run=true: {action: DENY, rules: [{to: [{operation: {paths: [/no]}}]}]}",
    ])
    .await?;
    let _server = Echo::start(&arena.world.server, PORT, "server")?;
    let mut http = arena.http().await?;
    for path in ["/no", "/yes", "/yes"] {
        assert_eq!(http.get("app", path).await?.status, 200);
    }
    assert_eq!(arena.world.proxy.counter("rbac_rq_shadow_denied").await?, 1);
    assert_eq!(
        arena.world.proxy.counter("rbac_rq_shadow_allowed").await?,
        2
    );
    assert_eq!(arena.world.proxy.counter("rbac_rq_denied").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_stricter_mesh_ends_connections_that_carry_requests() -> Result<()> {
    let arena = Arena::new(&["p: {rules: [{to: [{operation: {methods: [GET]}}]}]}"]).await?;
    let _server = Echo::start(&arena.world.server, PORT, "server")?;
    let mut silent = arena.connect(PORT).await?;
    let mut kept = arena.connect(PORT).await?;
    kept.write_all(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n")
        .await?;
    raw::read_until(&mut kept, b"\"server\"").await?;
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: default}\nspec: {mtls: {mode: STRICT}}\n";
    arena
        .world
        .proxy
        .after(|| arena.world.config.put("strict.yaml", strict))
        .await?;
    let deadline = Deadline::after(SOON);
    for stream in [&mut silent, &mut kept] {
        let (_, end) = raw::drain(stream).await?;
        ensure!(end == End::Reset, "{end:?}");
    }
    ensure!(!deadline.passed(), "it took long");
    match arena.connect(PORT).await {
        Ok(mut stream) => {
            let (bytes, end) = raw::drain(&mut stream).await?;
            ensure!(bytes.is_empty() && end == End::Reset);
        }
        Err(error) => {
            let kind = error
                .downcast_ref::<std::io::Error>()
                .map(std::io::Error::kind);
            ensure!(kind == Some(ErrorKind::ConnectionReset), "{error}");
        }
    }
    Ok(())
}
