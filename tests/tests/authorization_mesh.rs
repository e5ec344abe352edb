//! What may be asked of a pod by pods of the mesh, whose identity is proved: over HBONE between two
//! nodes and on one, and inside the process.

mod hbone;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    Config, Lab, Manifests, PATIENCE, Pod, Proxy, SOON,
    client::{Http, Reply, request, whole},
    clock::Deadline,
    echo::Echo,
    raw::{self, End, Server},
};
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;

const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 30));
/// A service of the same pod that takes its HTTP port for something opaque.
const RAW: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 31));
/// The port of the pod that a service declares to be HTTP.
const PORT: u16 = 8080;
/// One that nothing is declared about.
const AUTO: u16 = 9100;
const DENIED: &str = "RBAC: access denied";
const LOG: [&str; 4] = [
    "--access-log",
    "json",
    "--log",
    "info,aquifer::dataplane=debug",
];

/// Where the callers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    OtherNode,
    SameNode,
    /// On the same node, inside the process.
    Within,
}

const PLACES: [Place; 3] = [Place::OtherNode, Place::SameNode, Place::Within];

/// Two callers of their own accounts, and who they call. In this order they go.
struct Mesh {
    /// The callers' proxy, where it is another.
    near: Option<Proxy>,
    /// That of the pod that is called.
    far: Proxy,
    config: Config,
    client: Pod,
    second: Pod,
    server: Pod,
    lab: Lab,
}

impl Mesh {
    async fn new(place: Place) -> Result<Self> {
        Self::with(place, &[]).await
    }

    /// With these arguments of the proxies' beside the usual ones.
    async fn with(place: Place, arguments: &[&str]) -> Result<Self> {
        let lab = Lab::new()?;
        let another = match place {
            Place::OtherNode => Some(lab.another_node("far")?),
            Place::SameNode | Place::Within => None,
        };
        let (client, second, server) = (lab.pod("client")?, lab.pod("second")?, lab.pod("server")?);
        let serving = another.as_ref().unwrap_or(&lab.node);
        let label = [("app", "server")];
        let manifests = Manifests::new()
            .namespace("default", &[])
            .pod_on(&lab.node, "client", &client, &[("app", "client")])
            .pod_on(&lab.node, "second", &second, &[("app", "second")])
            .pod_on(serving, "server", &server, &label)
            .service(
                "app",
                &[SERVICE],
                &[("http", 80, PORT), ("auto", AUTO, AUTO)],
                &label,
            )
            .service("raw", &[RAW], &[("tcp", 80, PORT)], &label);
        let config = Config::new(&manifests)?;
        let start = || {
            let start = Proxy::on(&lab, &config).authority().arguments(&LOG);
            start.arguments(arguments)
        };
        let (near, far) = match (place, &another) {
            (Place::OtherNode, Some(node)) => {
                let far = start().node(node).ready().await?;
                (Some(start().ready().await?), far)
            }
            (Place::Within, _) => (
                None,
                start()
                    .arguments(&["--same-node", "direct"])
                    .ready()
                    .await?,
            ),
            _ => (None, start().ready().await?),
        };
        if let Some(near) = &near {
            near.certified(2).await?;
        }
        far.certified(if near.is_some() { 1 } else { 3 }).await?;
        Ok(Self {
            near,
            far,
            config,
            client,
            second,
            server,
            lab,
        })
    }

    /// Brings these specifications of policies for the pod that is called into force there, on trial
    /// where `TRY ` is before them.
    async fn set(&self, specs: &[&str]) -> Result<()> {
        let documents = (0..).zip(specs).map(|(index, spec): (u32, _)| {
            let (spec, trial) = match spec.strip_prefix("TRY ") {
                Some(spec) => (spec, true),
                None => (*spec, false),
            };
            format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{index}, namespace: default, annotations: {{istio.io/dry-run: '{trial}'}}}}\nspec: {{selector: {{matchLabels: {{app: server}}}}, {spec}}}\n"
            )
        });
        let text = documents.collect::<Vec<_>>().join("---\n");
        self.far
            .after(|| self.config.put("policies.yaml", &text))
            .await
    }

    fn said(&self) -> String {
        let near = self.near.as_ref().map(Proxy::complaints);
        format!(
            "near:\n{}\nfar:\n{}",
            near.unwrap_or_default(),
            self.far.complaints()
        )
    }
}

fn is_denied(reply: &Reply) -> bool {
    reply.status == 403 && reply.text() == DENIED
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::new(SERVICE, port)
}

/// The server that a caller's own TLS asks for, whichever way it comes.
#[tokio::test]
async fn the_server_that_tls_asks_for_decides_inside_tunnels() -> Result<()> {
    for place in PLACES {
        let mesh = Mesh::new(place).await?;
        let _server = Server::echo(&mesh.server, AUTO)?;
        for (spec, good, evil) in [
            (
                "rules: [{when: [{key: connection.sni, values: [good.test]}]}]",
                true,
                false,
            ),
            (
                "action: DENY, rules: [{when: [{key: connection.sni, values: [evil.test]}]}]",
                true,
                false,
            ),
        ] {
            mesh.set(&[spec]).await?;
            for (name, allowed) in [("good.test", good), ("evil.test", evil)] {
                let hello = raw::client_hello(name);
                let mut stream = mesh.client.netns.connect(at(AUTO)).await?;
                stream.write_all(&hello).await?;
                let _ = stream.shutdown().await;
                let (said, end) = raw::drain(&mut stream).await?;
                ensure!(
                    (said == hello, end == End::Reset) == (allowed, !allowed),
                    "{place:?} {spec} {name}: {said:?} {end:?}\n{}",
                    mesh.said()
                );
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_was_relayed_unread_ends_where_tokens_are_asked_for() -> Result<()> {
    for place in PLACES {
        let mesh = Mesh::new(place).await?;
        let _server = Server::echo(&mesh.server, PORT)?;
        let to = SocketAddr::new(RAW, 80);
        let mut stream = mesh.client.netns.connect(to).await?;
        stream.write_all(b"hello").await?;
        raw::read_until(&mut stream, b"hello").await?;
        let text = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: jwt, namespace: default}\nspec: {jwtRules: [{issuer: a, jwksUri: 'http://127.0.0.1:1/'}]}\n";
        let put = || mesh.config.put("tokens.yaml", text);
        mesh.far.after(put).await?;
        let deadline = Deadline::after(SOON);
        let (_, end) = raw::drain(&mut stream).await?;
        ensure!(
            !deadline.passed() && end == End::Reset,
            "{place:?}: {end:?}\n{}",
            mesh.said()
        );
        ensure!(mesh.far.counter("rbac_revoked").await? == 1, "{place:?}");
        // Who speaks first, on a port that declares nothing, is heard without delay.
        let _greets = Server::start(&mesh.server, AUTO, |mut stream, _| async move {
            if stream.write_all(b"220 hello").await.is_ok() {
                let _ = raw::drain(&mut stream).await;
            }
        })?;
        let mut stream = mesh.client.netns.connect(at(AUTO)).await?;
        let heard = raw::read_until(&mut stream, b"hello");
        let heard = tokio::time::timeout(Duration::from_secs(3), heard).await;
        ensure!(matches!(heard, Ok(Ok(_))), "{place:?}\n{}", mesh.said());
    }
    Ok(())
}

#[tokio::test]
async fn identities_and_paths_decide_together() -> Result<()> {
    const CLIENT: &str = "from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]";
    for place in PLACES {
        let mesh = Mesh::new(place).await?;
        let server = Echo::start(&mesh.server, PORT, "server")?;
        let allow = format!(
            "rules: [{{{CLIENT}, to: [{{operation: {{methods: [GET], paths: ['/a/*']}}}}]}}]"
        );
        let deny = format!(
            "action: DENY, rules: [{{{CLIENT}, to: [{{operation: {{paths: ['/a/*']}}}}]}}]"
        );
        let header = "rules: [{from: [{source: {namespaces: [default]}}], when: [{key: 'request.headers[x-key]', values: [a]}]}]";
        for (spec, cases) in [
            (
                allow.as_str(),
                &[
                    (true, "GET", "/a/x", "", true),
                    (true, "GET", "/a/../b", "", false),
                    (true, "GET", "/b", "", false),
                    (true, "POST", "/a/x", "", false),
                    (false, "GET", "/a/x", "", false),
                ][..],
            ),
            (
                &deny,
                &[
                    (true, "GET", "/a/x", "", false),
                    (true, "GET", "/x/../a/x", "", false),
                    (true, "GET", "/b", "", true),
                    (false, "GET", "/a/x", "", true),
                ],
            ),
            (
                header,
                &[
                    (true, "GET", "/", "a", true),
                    (false, "GET", "/", "a", true),
                    (false, "GET", "/", "b", false),
                ],
            ),
        ] {
            mesh.set(&[spec]).await?;
            for (first, method, path, key, allowed) in cases {
                let from = if *first { &mesh.client } else { &mesh.second };
                for http2 in [false, true] {
                    let mut http = match http2 {
                        false => Http::connect(from, at(80)).await?,
                        true => Http::connect2(from, at(80)).await?,
                    };
                    let ask = request(method, "app", path).header("x-key", *key);
                    let before = server.requests();
                    let reply = http.exchange(ask.body(whole(""))?).await?;
                    let told = server.requests() - before;
                    ensure!(
                        match allowed {
                            true => reply.status == 200 && told == 1,
                            false => is_denied(&reply) && told == 0,
                        },
                        "{place:?} {spec}\n{method} {path} {key} of {}: {} {}, the application heard {told}\n{}",
                        from.name,
                        reply.status,
                        reply.text(),
                        mesh.said()
                    );
                }
            }
        }
        // By which way they went.
        let (tunnels, within) = (
            mesh.far.counter("hbone_downstream_rq").await?,
            mesh.far.counter("downstream_cx_within").await?,
        );
        ensure!(
            (tunnels > 0, within > 0) == (place != Place::Within, place == Place::Within),
            "{place:?}: {tunnels} {within}"
        );
        ensure!(mesh.far.counter("rbac_rq_denied").await? >= 12);
        // Those whom no rule is about are relayed, and not looked at.
        ensure!(mesh.far.counter("rbac_rq_allowed").await? >= 8);
    }
    Ok(())
}

/// What a caller is answered, and whether the application heard of it.
async fn asked(from: &Pod, server: &Echo) -> Result<(u16, bool)> {
    let before = server.requests();
    let reply = Http::connect(from, at(80)).await?.get("app", "/a").await?;
    Ok((reply.status, server.requests() > before))
}

/// Policies may call the mesh by any of its trust domain's names: what they say of one holds for
/// whoever is of another.
#[tokio::test]
async fn a_trust_domain_goes_by_its_other_names_too() -> Result<()> {
    const ALIAS: [&str; 2] = ["--trust-domain-alias", "old.example"];
    let of = |domain: &str, account: &str| format!("{domain}/ns/default/sa/{account}");
    let from = |source: String| format!("rules: [{{from: [{{source: {{{source}}}}}]}}]");
    let when = |key: &str, value: String| {
        format!("rules: [{{when: [{{key: {key}, values: ['{value}']}}]}}]")
    };
    let old = of("old.example", "client");
    let rules = [
        (from(format!("principals: [{old}]")), [true, false]),
        (from(format!("notPrincipals: [{old}]")), [false, true]),
        (
            from(format!("principals: [{}]", of("other.example", "client"))),
            [false, false],
        ),
        (from("trustDomains: [old.example]".into()), [true, true]),
        (
            from("notTrustDomains: [old.example]".into()),
            [false, false],
        ),
        (from("trustDomains: [other.example]".into()), [false, false]),
        (when("source.principal", old.clone()), [true, false]),
        (
            when("source.trustDomain", "old.example".into()),
            [true, true],
        ),
        (
            format!("action: DENY, {}", from(format!("principals: [{old}]"))),
            [false, true],
        ),
    ];
    for place in PLACES {
        let mesh = Mesh::with(place, &ALIAS).await?;
        let server = Echo::start(&mesh.server, PORT, "server")?;
        for (rule, expected) in &rules {
            // Of connections, and of requests.
            let path = ", to: [{operation: {paths: [/a]}}]}]";
            let of_requests = format!("{}{path}", rule.strip_suffix("}]").unwrap_or(rule));
            for spec in [rule, &of_requests] {
                mesh.set(&[spec]).await?;
                for (caller, allowed) in [&mesh.client, &mesh.second].into_iter().zip(expected) {
                    let (status, told) = asked(caller, &server).await?;
                    // By whether the connection was refused, or a request on it.
                    let holds = match allowed {
                        true => status == 200 && told,
                        false => [403, 503].contains(&status) && !told,
                    };
                    ensure!(
                        holds,
                        "{place:?} {spec}: {} {status} {told}\n{}",
                        caller.name,
                        mesh.said()
                    );
                }
            }
        }
    }

    // And one whose certificate has the other name.
    let mesh = Mesh::with(Place::SameNode, &ALIAS).await?;
    let _server = Echo::start(&mesh.server, PORT, "server")?;
    let caller = mesh.lab.pod("caller")?;
    let authority = hbone::Authority::of(&mesh.config)?;
    let who = |domain: &str| -> Result<_> {
        let identity = format!("spiffe://{}", of(domain, "client"));
        let secrets = authority.secrets(&identity)?;
        let server = format!("spiffe://{}", of("cluster.local", "server"));
        let config = secrets.client(&identity.parse()?, &[server.parse()?]);
        config.context("a configuration")
    };
    let (to, config) = (mesh.server.v4.into(), who("old.example")?);
    let peer = hbone::Peer::connect(&caller, to, config).await?;
    let authority = mesh.server.at(PORT).to_string();
    for (rule, allowed) in [
        (
            from(format!("principals: [{}]", of("cluster.local", "client"))),
            true,
        ),
        (
            from(format!("principals: [{}]", of("old.example", "client"))),
            true,
        ),
        (
            from(format!("principals: [{}]", of("cluster.local", "second"))),
            false,
        ),
        (from("trustDomains: [cluster.local]".into()), true),
        (from("notTrustDomains: [cluster.local]".into()), false),
        (from("trustDomains: [other.example]".into()), false),
    ] {
        mesh.set(&[&rule]).await?;
        let status = peer.status(&authority).await?;
        ensure!((status == 200) == allowed, "{rule}: {status}");
        ensure!(allowed || status == 401, "{rule}: {status}");
    }
    let refusal = hbone::refusal(&caller, to, who("other.example")?).await?;
    ensure!(!refusal.is_empty(), "it is of no name of the mesh's");
    Ok(())
}

#[tokio::test]
async fn the_application_is_told_who_calls() -> Result<()> {
    for place in PLACES {
        let mesh = Mesh::new(place).await?;
        let _server = Echo::start(&mesh.server, PORT, "server")?;
        mesh.set(&["rules: [{to: [{operation: {methods: [GET]}}]}]"])
            .await?;
        // The proxy of the caller reads requests, or relays them as bytes.
        for (service, read) in [(SERVICE, true), (RAW, false)] {
            let mark = mesh.far.child.stdout.mark();
            let mut http = Http::connect(&mesh.client, SocketAddr::new(service, 80)).await?;
            let ask = request("GET", "app", "/told").header("x-forwarded-client-cert", "URI=me");
            let reply = http.exchange(ask.body(whole(""))?).await?;
            let seen = reply
                .seen()
                .with_context(|| format!("{place:?} {read}\n{}", mesh.said()))?;
            let told = seen.header("x-forwarded-client-cert").concat();
            // What a client says of itself goes no further than its own proxy, where that looks, and
            // not to the application anyway.
            let told = told.as_str();
            let parts: Vec<_> = told.split(';').collect();
            let by = "By=spiffe://cluster.local/ns/default/sa/server";
            let uri = "URI=spiffe://cluster.local/ns/default/sa/client";
            match (place, &parts[..]) {
                (Place::Within, [first, "Subject=\"\"", last]) => {
                    ensure!((*first, *last) == (by, uri), "{told}");
                }
                (_, [first, hash, "Subject=\"\"", last]) => {
                    ensure!((*first, *last) == (by, uri), "{told}");
                    let hash = hash.strip_prefix("Hash=").context("a hash")?;
                    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                    ensure!(hash.len() == 64 && hash.bytes().all(is_hex), "{told}");
                }
                _ => anyhow::bail!("{place:?}: {told}"),
            }
            let encrypted = !read && place != Place::Within;
            let proto = if encrypted { "https" } else { "http" };
            ensure!(
                seen.header("x-forwarded-proto") == [proto],
                "{place:?} {read}"
            );
            let own = mesh.client.v4.to_string();
            ensure!(seen.field("peer").starts_with(&own), "the caller's address");
            let line = mesh.far.logged(mark, |line| {
                line.contains("\"path\":\"/told\"") && line.contains("inbound|8080||")
            })?;
            ensure!(
                line.contains("\"downstream_principal\":\"cluster.local/ns/default/sa/client\""),
                "{line}"
            );
            // Inside the process there is no connection whose port it could be: it is the client's, or
            // that which the application sees.
            let line: serde_json::Value = serde_json::from_str(&line)?;
            let remote = line["downstream_remote_address"].as_str().context("one")?;
            let remote: SocketAddr = remote.parse()?;
            ensure!(remote.ip() == mesh.client.v4 && remote.port() > 0, "{line}");
            let shared = place == Place::Within && read;
            ensure!(
                !shared || seen.field("peer") == remote.to_string(),
                "{line}"
            );
        }
        // Unless the mesh wants otherwise.
        for (mode, first, last) in [
            ("APPEND_FORWARD", "URI=me,By=", "/sa/client"),
            ("FORWARD_ONLY", "URI=me", "URI=me"),
            ("SANITIZE", "", ""),
            ("SANITIZE_SET", "By=", "/sa/client"),
        ] {
            let text = format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    defaultConfig: {{proxyHeaders: {{forwardedClientCert: {mode}}}}}\n"
            );
            let put = || mesh.config.put("istio.yaml", text);
            mesh.far.after(put).await?;
            let mut http = Http::connect(&mesh.client, SocketAddr::new(RAW, 80)).await?;
            let ask = request("GET", "app", "/").header("x-forwarded-client-cert", "URI=me");
            let reply = http.exchange(ask.body(whole(""))?).await?;
            let seen = reply.seen()?;
            let told = seen.header("x-forwarded-client-cert").concat();
            ensure!(
                told.starts_with(first) && told.ends_with(last),
                "{place:?} {mode}: {told}"
            );
            ensure!(told.is_empty() == last.is_empty(), "{mode}: {told}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn grpc_is_refused_in_its_own_way() -> Result<()> {
    for place in PLACES {
        let mesh = Mesh::new(place).await?;
        let _server = Echo::start(&mesh.server, PORT, "server")?;
        mesh.set(&["rules: [{from: [{source: {principals: ['*/sa/client']}}], to: [{operation: {paths: [/s/M]}}]}]"])
            .await?;
        for (from, path, status) in [
            (&mesh.client, "/s/M", None),
            (&mesh.client, "/s/N", Some("7")),
            (&mesh.second, "/s/M", Some("7")),
        ] {
            let mut http = Http::connect2(from, at(80)).await?;
            let ask = request("POST", "app", path).header("content-type", "application/grpc");
            let reply = http.exchange(ask.body(whole(""))?).await?;
            let found = reply.headers.get("grpc-status");
            let found = found.and_then(|one| one.to_str().ok());
            ensure!(
                (reply.status, found) == (200, status),
                "{place:?} {path}: {reply:?}\n{}",
                mesh.said()
            );
            if status.is_some() {
                ensure!(reply.headers["grpc-message"] == DENIED, "{reply:?}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_refusal_reaches_whoever_is_still_sending() -> Result<()> {
    for place in PLACES {
        let mesh = Mesh::new(place).await?;
        let server = Echo::start(&mesh.server, PORT, "server")?;
        mesh.set(&["action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]"])
            .await?;
        for http2 in [false, true] {
            for size in [1 << 10, 40 << 10, 2 << 20, 8 << 20] {
                let mut http = if http2 {
                    Http::connect2(&mesh.client, at(80)).await?
                } else {
                    Http::connect(&mesh.client, at(80)).await?
                };
                let upload = request("POST", "app", "/").body(whole(raw::pattern(size)))?;
                let reply = http.exchange(upload).await?;
                ensure!(
                    is_denied(&reply),
                    "{place:?}, {size}: {} {}\n{}",
                    reply.status,
                    reply.text(),
                    mesh.said()
                );
            }
        }
        ensure!(server.requests() == 0);
    }
    Ok(())
}

#[tokio::test]
async fn what_is_no_longer_allowed_ends_and_the_rest_goes_on() -> Result<()> {
    const DENY: &str = "action: DENY, rules: [{from: [{source: {serviceAccounts: [client]}}], to: [{operation: {paths: [/endless/no]}}]}]";
    for place in PLACES {
        let mesh = Mesh::new(place).await?;
        let _server = Echo::endless(&mesh.server, PORT)?;
        mesh.set(&["action: DENY, rules: [{to: [{operation: {paths: [/other]}}]}]"])
            .await?;
        let mut bodies = Vec::new();
        // Held, so that no connection ends by itself.
        let mut connections = Vec::new();
        for (from, path) in [
            (&mesh.client, "/endless/no"),
            (&mesh.client, "/endless/yes"),
            (&mesh.second, "/endless/no"),
        ] {
            for http2 in [false, true] {
                let mut http = match http2 {
                    false => Http::connect(from, at(80)).await?,
                    true => Http::connect2(from, at(80)).await?,
                };
                let answer = http.send(request("GET", "app", path).body(whole(""))?);
                let answer = tokio::time::timeout(PATIENCE, answer).await??;
                let mut body = answer.into_body();
                let first = tokio::time::timeout(PATIENCE, body.frame()).await?;
                let first = first.context("a frame")??.into_data().ok();
                ensure!(first.as_deref() == Some(b"first"), "{first:?}");
                connections.push(http);
                bodies.push(body);
            }
        }
        mesh.set(&[DENY]).await?;
        let deadline = Deadline::after(SOON);
        for body in bodies.drain(..2) {
            let broken = tokio::time::timeout(PATIENCE, body.collect()).await?;
            ensure!(broken.is_err(), "it must not look complete");
        }
        ensure!(!deadline.passed(), "{place:?}: it took long");
        ensure!(mesh.far.counter("rbac_rq_revoked").await? == 2);
        // The others of the same caller, and the same of others, go on.
        for body in &mut bodies {
            let more = tokio::time::timeout(Duration::from_millis(50), body.frame()).await;
            ensure!(more.is_err(), "{place:?}: {more:?}");
        }
        for http in &mut connections[2..] {
            // Those of HTTP/1.1 are busy.
            if matches!(http, Http::Two(_)) {
                ensure!(http.get("app", "/x").await?.text() == "firstend");
            }
        }
        let mut http = Http::connect(&mesh.client, at(80)).await?;
        ensure!(is_denied(&http.get("app", "/endless/no").await?));
        ensure!(http.get("app", "/x").await?.text() == "firstend");
    }
    Ok(())
}

#[tokio::test]
async fn websockets_are_judged_and_end_with_their_permission() -> Result<()> {
    for place in PLACES {
        let mesh = Mesh::new(place).await?;
        let _server = Server::start(&mesh.server, PORT, |mut stream, _| async move {
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
        mesh.set(&["rules: [{from: [{source: {principals: ['*/sa/client']}}], to: [{operation: {paths: [/chat]}}]}]"])
            .await?;
        let ask = |path: &str| {
            format!(
                "GET {path} HTTP/1.1\r\nhost: app\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-key: k\r\nsec-websocket-version: 13\r\n\r\n"
            )
        };
        for (from, path) in [(&mesh.second, "/chat"), (&mesh.client, "/no")] {
            let mut stream = from.netns.connect(at(80)).await?;
            stream.write_all(ask(path).as_bytes()).await?;
            let said = raw::read_until(&mut stream, DENIED.as_bytes()).await?;
            ensure!(said.starts_with(b"HTTP/1.1 403 "), "{place:?}");
        }
        let mut stream = mesh.client.netns.connect(at(80)).await?;
        stream.write_all(ask("/chat").as_bytes()).await?;
        let said = raw::read_until(&mut stream, b"early").await?;
        ensure!(said.starts_with(b"HTTP/1.1 101 "), "{place:?}");
        stream.write_all(b"ping").await?;
        raw::read_until(&mut stream, b"ping").await?;
        mesh.set(&["rules: [{to: [{operation: {paths: [/other]}}]}]"])
            .await?;
        let deadline = Deadline::after(SOON);
        raw::drain(&mut stream).await?;
        ensure!(!deadline.passed(), "{place:?}: it took long");
    }
    Ok(())
}

#[tokio::test]
async fn bytes_are_relayed_at_once_where_no_request_could_be_refused() -> Result<()> {
    const GREETING: &[u8] = b"220 ready\r\n";
    for place in PLACES {
        let mesh = Mesh::new(place).await?;
        // It speaks first, on a port about which nothing is declared.
        let server = Server::start(&mesh.server, AUTO, |mut stream, _| async move {
            if stream.write_all(GREETING).await.is_ok() {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            }
        })?;
        let other = "{to: [{operation: {ports: ['8080'], methods: [GET]}}]}";
        let own =
            "{from: [{source: {serviceAccounts: [client]}}], to: [{operation: {ports: ['9100']}}]}";
        let get = "{to: [{operation: {methods: [GET]}}]}";
        for (spec, from, reached) in [
            // What other ports ask about requests is nothing to this one.
            (format!("rules: [{other}, {own}]"), &mesh.client, true),
            (format!("rules: [{own}, {other}]"), &mesh.second, false),
            (format!("action: DENY, rules: [{other}]"), &mesh.client, true),
            // Nor what its own port asks, to a caller who may do anything there.
            (format!("rules: [{get}, {own}]"), &mesh.client, true),
            (
                "action: DENY, rules: [{from: [{source: {serviceAccounts: [second]}}], to: [{operation: {methods: [PUT]}}]}]".to_owned(),
                &mesh.client,
                true,
            ),
        ] {
            mesh.set(&[&spec]).await?;
            let before = server.accepted();
            let deadline = Deadline::after(Duration::from_secs(4));
            let mut stream = match from.netns.connect(at(AUTO)).await {
                Ok(stream) => stream,
                Err(error) => {
                    ensure!(!reached, "{place:?} {spec}: {error}");
                    continue;
                }
            };
            if reached {
                let said = raw::read_exactly(&mut stream, GREETING.len()).await?;
                ensure!(said == GREETING, "{place:?} {spec}");
                stream.write_all(b"EHLO").await?;
                stream.shutdown().await?;
                let (said, end) = raw::drain(&mut stream).await?;
                ensure!(said == b"EHLO" && end == End::Closed, "{place:?} {spec}");
            } else {
                let (said, end) = raw::drain(&mut stream).await?;
                ensure!(said.is_empty() && end == End::Reset, "{place:?} {spec}");
                ensure!(server.accepted() == before, "the application heard of it");
            }
            ensure!(!deadline.passed(), "{place:?} {spec}: it was waited for bytes");
        }
        // What turns out to be no request after all.
        mesh.set(&[&format!("TRY action: DENY, rules: [{get}]")])
            .await?;
        let mut stream = mesh.client.netns.connect(at(AUTO)).await?;
        stream.write_all(b"\0EHLO").await?;
        stream.shutdown().await?;
        let (said, end) = raw::drain(&mut stream).await?;
        ensure!(said == [GREETING, b"\0EHLO"].concat() && end == End::Closed);
        let mut stream = mesh.client.netns.connect(at(AUTO)).await?;
        stream.write_all(b"\0EHLO").await?;
        raw::read_until(&mut stream, b"\0EHLO").await?;
        mesh.set(&["action: DENY, rules: [{}]"]).await?;
        ensure!(raw::drain(&mut stream).await?.1 == End::Reset, "{place:?}");
        // A caller whose requests alone may be allowed hears nothing that was not asked for.
        mesh.set(&[&format!("rules: [{get}]")]).await?;
        let before = server.accepted();
        let mut stream = mesh.client.netns.connect(at(AUTO)).await?;
        stream.write_all(b"\0\0").await?;
        let (said, end) = raw::drain(&mut stream).await?;
        ensure!(said.is_empty() && end == End::Reset, "{place:?}: {said:?}");
        ensure!(server.accepted() == before, "the application heard of it");
        ensure!(mesh.far.counter("inbound_rq").await? == 0);
    }
    Ok(())
}
