//! AuthorizationPolicy with CUSTOM: somebody else is asked whether a request may pass, at its
//! destination, before the policies of the mesh judge it.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use aquifer::proto::authorization as proto;
use aquifer::proto::grpc;
use aquifer_tests::{
    PATIENCE, Pod, World,
    client::{Http, Reply, request, whole},
    clock,
    echo::{self, Call, Echo},
    raw::{self, End},
    world::AUTO,
};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::{io::AsyncWriteExt as _, sync::mpsc};

/// The port of the pod that is called.
const PORT: u16 = 8080;
/// The ports of the authorizer.
const BY_HTTP: u16 = 8000;
const BY_GRPC: u16 = 9000;
/// Where nobody listens, and where somebody does who says nonsense.
const NOBODY: u16 = 8001;
const RAW: u16 = 8002;

/// The mesh's configuration, with these providers.
fn mesh(providers: &str) -> String {
    let lines = providers.lines().map(|line| format!("    {line}\n"));
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
         data:\n  mesh: |\n    accessLogFile: /dev/stdout\n    extensionProviders:\n{}",
        lines.collect::<String>()
    )
}

/// Policies, `NAME: SPEC` each, for the pod that is called.
fn policies(all: &[&str]) -> String {
    let documents = all.iter().map(|line| {
        let (name, spec) = line.split_once(": ").unwrap_or((line, ""));
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: {name}, namespace: default}}\n\
             spec: {{selector: {{matchLabels: {{app: server}}}}, {spec}}}\n"
        )
    });
    documents.collect::<Vec<_>>().join("---\n")
}

/// The usual world with an authorizer, which is a pod of the mesh.
struct Court {
    world: World,
    authorizer: Pod,
}

impl Court {
    async fn open(providers: &str, policies: String, authority: bool) -> Result<Self> {
        let mesh = mesh(providers);
        let more = |manifests: aquifer_tests::Manifests| manifests.yaml(mesh).yaml(policies);
        let world = match authority {
            true => World::with_authority(&[], more).await?,
            false => World::with(&[], more).await?,
        };
        let authorizer = world.lab.pod("authz")?;
        let court = Self { world, authorizer };
        let all = court
            .world
            .manifests
            .clone()
            .pod(&court.authorizer, &[("app", "authz")])
            .service(
                "authz",
                &["10.96.0.30".parse()?],
                &[
                    ("http", BY_HTTP, BY_HTTP),
                    ("grpc", BY_GRPC, BY_GRPC),
                    ("http-nobody", NOBODY, NOBODY),
                    ("http-raw", RAW, RAW),
                ],
                &[("app", "authz")],
            );
        let put = || court.world.config.put("mesh.yaml", all.text());
        court.world.proxy.after(put).await?;
        court
            .world
            .proxy
            .until("/status", |status| {
                let pods = status["enrolment"].as_array().map_or(0, Vec::len);
                pods == 3 && status["enrolled_snapshot"] == status["snapshot"]
            })
            .await?;
        Ok(court)
    }

    async fn set(&self, all: &[&str]) -> Result<()> {
        let text = policies(all);
        let put = || self.world.config.put("policies.yaml", &text);
        self.world.proxy.after(put).await
    }

    async fn http(&self) -> Result<Http> {
        Http::connect(&self.world.client, self.world.server.at(PORT)).await
    }

    async fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Result<Reply> {
        let mut head = request(method, "app", path);
        for (name, value) in fields {
            head = head.header(*name, *value);
        }
        self.http().await?.exchange(head.body(whole(""))?).await
    }

    fn logged(&self, mark: usize, wanted: &str) -> Result<String> {
        self.world.proxy.logged(mark, |line| {
            line.contains("inbound|8080") && line.contains(wanted)
        })
    }
}

/// What an authorizer was asked.
#[derive(Debug)]
struct Asked {
    line: String,
    headers: HeaderMap,
    body: Bytes,
}

/// One that allows what says so, and tells what it was asked.
fn by_http(pod: &Pod) -> Result<(Echo, mpsc::UnboundedReceiver<Asked>)> {
    let (asked, heard) = mpsc::unbounded_channel();
    let server = Echo::answering(pod, BY_HTTP, move |call: Call| {
        let asked = asked.clone();
        Box::pin(async move {
            let (head, body) = call.request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes());
            let allowed = head
                .headers
                .get("x-ext-authz")
                .is_some_and(|one| one == "allow");
            let login = head
                .headers
                .get("x-ext-authz")
                .is_some_and(|one| one == "login");
            let _ = asked.send(Asked {
                line: format!("{} {}", head.method, head.uri),
                headers: head.headers,
                body: body.unwrap_or_default(),
            });
            let (status, text) = match (allowed, login) {
                (true, _) => (StatusCode::OK, ""),
                (_, true) => (StatusCode::FOUND, ""),
                _ => (StatusCode::FORBIDDEN, "denied by the authorizer"),
            };
            let mut response = echo::respond(status, text.into());
            let headers = response.headers_mut();
            for (name, value) in [
                ("x-user", "one"),
                ("x-seen", "two"),
                ("x-why", "three"),
                ("location", "/login"),
            ] {
                headers.insert(name, http::HeaderValue::from_static(value));
            }
            response
        })
    })?;
    Ok((server, heard))
}

async fn next<T>(heard: &mut mpsc::UnboundedReceiver<T>) -> Result<T> {
    let heard = tokio::time::timeout(PATIENCE, heard.recv()).await?;
    heard.context("it is still there")
}

const HTTP: &str = "\
- name: authz
  envoyExtAuthzHttp:
    service: default/authz.default.svc.cluster.local
    port: 8000
    timeout: 5s
    pathPrefix: /check
    includeRequestHeadersInCheck: [x-ext-authz]
    includeAdditionalHeadersInCheck: {x-by: aquifer}
    headersToUpstreamOnAllow: [x-user, content-length]
    headersToDownstreamOnAllow: [x-se*]
    headersToDownstreamOnDeny: [x-why]";

const CUSTOM: &str = "custom: action: CUSTOM, provider: {name: authz}, rules: [{to: [{operation: {paths: [/admin*]}}]}]";

#[tokio::test]
async fn an_authorizer_is_asked_by_http_before_the_policies_judge() -> Result<()> {
    for authority in [false, true] {
        let court = Court::open(HTTP, policies(&[CUSTOM]), authority).await?;
        let server = Echo::start(&court.world.server, PORT, "server")?;
        let (_authorizer, mut heard) = by_http(&court.authorizer)?;
        // What no rule matches nobody is asked about.
        let reply = court.ask("GET", "/free", &[("x-user", "mine")]).await?;
        ensure!(reply.status == 200 && heard.is_empty(), "{}", reply.text());
        ensure!(reply.seen()?.header("x-user") == ["mine"]);
        let fields = [
            ("x-ext-authz", "allow"),
            ("x-user", "mine"),
            ("cookie", "a"),
        ];
        let reply = court.ask("POST", "/admin/a?b=c", &fields).await?;
        ensure!(reply.status == 200, "{}", reply.text());
        ensure!(
            reply.seen()?.header("x-user") == ["one"],
            "{}",
            reply.text()
        );
        ensure!(reply.headers.get("x-seen").is_some_and(|one| one == "two"));
        ensure!(!reply.headers.contains_key("x-user"));
        let asked = next(&mut heard).await?;
        ensure!(asked.line == "POST /check/admin/a?b=c", "{asked:?}");
        let is = |name: &str, value: &str| asked.headers.get(name).is_some_and(|one| one == value);
        ensure!(is("host", "app") && is("x-by", "aquifer"), "{asked:?}");
        ensure!(
            is("content-length", "0") && asked.body.is_empty(),
            "{asked:?}"
        );
        ensure!(!asked.headers.contains_key("cookie"), "{asked:?}");
        // Denied: its own answer.
        let before = server.requests();
        let reply = court.ask("GET", "/admin", &[]).await?;
        ensure!(
            reply.status == 403 && reply.text() == "denied by the authorizer",
            "{}",
            reply.text()
        );
        ensure!(reply.headers.get("x-why").is_some_and(|one| one == "three"));
        ensure!(!reply.headers.contains_key("x-user"));
        let line = court.logged(0, "403")?;
        ensure!(line.contains(" 403 UAEX ext_authz_denied "), "{line}");
        let reply = court
            .ask("GET", "/admin", &[("x-ext-authz", "login")])
            .await?;
        ensure!(reply.status == 302, "{}", reply.status);
        ensure!(
            reply
                .headers
                .get("location")
                .is_some_and(|one| one == "/login")
        );
        ensure!(server.requests() == before);
        // And over HTTP/2.
        let mut http = Http::connect2(&court.world.client, court.world.server.at(PORT)).await?;
        ensure!(http.get("app", "/admin").await?.status == 403);
        ensure!(http.get("app", "/free").await?.status == 200);
        // DENY and ALLOW come after it, and see what it has changed.
        while heard.try_recv().is_ok() {}
        court
            .set(&["deny: action: DENY, rules: [{when: [{key: 'request.headers[x-user]', values: [one]}]}]"])
            .await?;
        let reply = court
            .ask("GET", "/admin", &[("x-ext-authz", "allow")])
            .await?;
        ensure!(
            reply.status == 403 && reply.text() == "RBAC: access denied",
            "{}",
            reply.text()
        );
        next(&mut heard).await?;
        // What is no HTTP can't be asked about.
        court
            .set(&["all: action: CUSTOM, provider: {name: authz}, rules: [{}]"])
            .await?;
        let _bytes = raw::Server::echo(&court.world.server, AUTO)?;
        let to = court.world.server.at(AUTO);
        let mut stream = court.world.client.netns.connect(to).await?;
        let _ = stream.write_all(b"not http\r\n").await;
        let (said, end) = raw::drain(&mut stream).await?;
        ensure!(said.is_empty() && end == End::Reset, "{end:?}");
        if authority {
            let count = court.world.proxy.counter("ext_authz_ok").await?;
            ensure!(count >= 2, "{count}");
        }
    }
    Ok(())
}

const GRPC: &str = "\
- name: authz
  envoyExtAuthzGrpc:
    service: authz.default.svc.cluster.local
    port: 9000
    timeout: 5s
    includeRequestBodyInCheck: {maxRequestBytes: 10, allowPartialMessage: true}";

/// One that allows requests with a field, and tells what it was asked.
fn by_grpc(pod: &Pod) -> Result<(Echo, mpsc::UnboundedReceiver<proto::AttributeContext>)> {
    let (asked, heard) = mpsc::unbounded_channel();
    let server = Echo::answering(pod, BY_GRPC, move |call: Call| {
        let asked = asked.clone();
        Box::pin(async move {
            let (head, body) = call.request.into_parts();
            let read = grpc::read::<proto::CheckRequest, _>(body, 1 << 20).await;
            let attributes = read.ok().and_then(|(message, _)| message.attributes);
            let http = attributes
                .as_ref()
                .and_then(|one| one.request.as_ref()?.http.as_ref());
            let allowed = http.is_some_and(|http| http.headers.contains_key("x-ext-authz"));
            let option = |key: &str, value: &str| proto::HeaderValueOption {
                header: Some(proto::HeaderValue {
                    key: key.to_owned(),
                    value: value.to_owned(),
                    raw_value: Vec::new(),
                }),
                append: None,
            };
            let status = proto::Status {
                code: if allowed { 0 } else { 7 },
                message: String::new(),
            };
            let answer = proto::CheckResponse {
                status: Some(status),
                http_response: Some(if allowed {
                    proto::HttpResponse::Ok(proto::OkHttpResponse {
                        headers: vec![option("x-user", "one")],
                        headers_to_remove: vec!["x-ext-authz".to_owned()],
                        response_headers_to_add: vec![option("x-seen", "two")],
                    })
                } else {
                    proto::HttpResponse::Denied(proto::DeniedHttpResponse {
                        status: Some(proto::HttpStatus { code: 401 }),
                        headers: vec![option("x-why", "three")],
                        body: "who are you?".to_owned(),
                    })
                }),
            };
            if head.uri.path() == proto::CHECK {
                let _ = asked.send(attributes.unwrap_or_default());
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            let frames = [
                Ok::<_, std::io::Error>(Frame::data(grpc::frame(&answer))),
                Ok(Frame::trailers(trailers)),
            ];
            let body = StreamBody::new(futures_util::stream::iter(frames));
            let mut response = Response::new(body.boxed());
            let kind = http::HeaderValue::from_static("application/grpc");
            response.headers_mut().insert("content-type", kind);
            response
        })
    })?;
    Ok((server, heard))
}

#[tokio::test]
async fn an_authorizer_is_asked_by_grpc_with_what_is_known() -> Result<()> {
    let court = Court::open(GRPC, policies(&[CUSTOM]), true).await?;
    let _server = Echo::start(&court.world.server, PORT, "server")?;
    let (_authorizer, mut heard) = by_grpc(&court.authorizer)?;
    let body = "a body of thirty bytes, as told";
    let head = request("POST", "app", "/admin?q=1").header("x-ext-authz", "yes");
    let reply = court
        .http()
        .await?
        .exchange(head.body(whole(body))?)
        .await?;
    ensure!(reply.status == 200, "{}", reply.text());
    let seen = reply.seen()?;
    ensure!(seen.header("x-user") == ["one"] && seen.header("x-ext-authz").is_empty());
    // All of the body arrives, however much of it was told.
    ensure!(seen.body_bytes() == body.len() as u64, "{}", reply.text());
    ensure!(reply.headers.get("x-seen").is_some_and(|one| one == "two"));
    let asked = next(&mut heard).await?;
    let http = asked
        .request
        .clone()
        .and_then(|one| one.http)
        .context("a request")?;
    ensure!(
        (http.method.as_str(), http.path.as_str(), http.host.as_str())
            == ("POST", "/admin?q=1", "app"),
        "{http:?}"
    );
    ensure!(
        http.body == "a body of " && http.protocol == "HTTP/1.1",
        "{http:?}"
    );
    let field = |name: &str| http.headers.get(name).map(String::as_str);
    ensure!(field(":path") == Some("/admin?q=1"), "{http:?}");
    ensure!(
        field("x-envoy-auth-partial-body") == Some("true"),
        "{http:?}"
    );
    let principal = "spiffe://cluster.local/ns/default/sa/default";
    let (source, destination) = (
        asked.source.context("a source")?,
        asked.destination.context("one")?,
    );
    ensure!(source.principal == principal && destination.principal == principal);
    let at = |peer: &proto::Peer| {
        let address = peer.address.clone().and_then(|one| one.socket_address);
        address.map(|one| (one.address, one.port_value))
    };
    ensure!(
        at(&destination) == Some((court.world.server.v4.to_string(), u32::from(PORT))),
        "{destination:?}"
    );
    ensure!(at(&source).is_some_and(|one| one.0 == court.world.client.v4.to_string()));
    let reply = court.ask("GET", "/admin", &[]).await?;
    ensure!(
        reply.status == 401 && reply.text() == "who are you?",
        "{}",
        reply.text()
    );
    ensure!(reply.headers.get("x-why").is_some_and(|one| one == "three"));
    // A client that speaks gRPC is told in its own way.
    let reply = court
        .ask("POST", "/admin", &[("content-type", "application/grpc")])
        .await?;
    ensure!(reply.status == 200, "{}", reply.status);
    ensure!(
        reply
            .headers
            .get("grpc-status")
            .is_some_and(|one| one == "16")
    );
    Ok(())
}

/// A provider of each kind of misfortune, `NAME SETTINGS` a line.
fn misfortunes() -> String {
    let rows = [
        ("down", NOBODY, "statusOnError: '503'"),
        ("open", NOBODY, "failOpen: true"),
        ("raw", RAW, "timeout: 500ms, failOpen: false"),
        ("slow", BY_HTTP, "timeout: 60s"),
        (
            "whole",
            BY_HTTP,
            "includeRequestHeadersInCheck: [x-ext-authz], includeRequestBodyInCheck: {maxRequestBytes: 10}",
        ),
        ("homeless", 4, "failOpen: true"),
    ];
    let lines = rows.map(|(name, port, more)| {
        let host = if name == "homeless" {
            "nowhere"
        } else {
            "authz.default.svc.cluster.local"
        };
        format!("- name: {name}\n  envoyExtAuthzHttp: {{service: {host}, port: {port}, {more}}}\n")
    });
    lines.concat()
}

#[tokio::test]
async fn what_cannot_be_asked_about_is_denied() -> Result<()> {
    let rules = ["down", "open", "raw", "slow", "whole", "homeless", "unknown"].map(|name| {
        format!(
            "{name}: action: CUSTOM, provider: {{name: {name}}}, rules: [{{to: [{{operation: {{paths: [/{name}]}}}}]}}]"
        )
    });
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let court = Court::open(&misfortunes(), policies(&rules), false).await?;
    let server = Echo::start(&court.world.server, PORT, "server")?;
    for (path, status) in [
        ("/down", 503),
        ("/open", 200),
        ("/homeless", 403),
        ("/unknown", 403),
    ] {
        let reply = court.ask("GET", path, &[]).await?;
        ensure!(reply.status == status, "{path}: {}", reply.status);
        if status != 200 {
            // Where there is nobody to be asked it is the policy that denies.
            let (text, told) = match status {
                503 => ("", " UAEX ext_authz_error "),
                _ => (
                    "RBAC: access denied",
                    " - rbac_access_denied_matched_policy",
                ),
            };
            ensure!(reply.text() == text, "{path}: {}", reply.text());
            let line = court.logged(0, &format!("GET {path} "))?;
            ensure!(line.contains(told), "{line}");
        }
    }
    ensure!(server.requests() == 1);
    let status = court.world.proxy.admin("/status").await?;
    ensure!(
        status["problems"]
            .to_string()
            .contains("no external authorizer \\\"unknown\\\""),
        "{}",
        status["problems"]
    );
    // Answers that are none, and one that never comes.
    let endless: Arc<[u8]> = {
        let fields = "x-field: value of some length that is always the same\r\n".repeat(20_000);
        format!("HTTP/1.1 200 OK\r\n{fields}").into_bytes().into()
    };
    let large: Arc<[u8]> = {
        let body = "x".repeat(3 << 20);
        format!(
            "HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
        .into()
    };
    for (what, said) in [
        ("nonsense", Arc::from(&b"nonsense\r\n\r\n"[..])),
        ("no status", Arc::from(&b"HTTP/1.1 abc\r\n\r\n"[..])),
        (
            "half",
            Arc::from(&b"HTTP/1.1 403 Forbidden\r\ncontent-length: 100\r\n\r\nx"[..]),
        ),
        ("an end", Arc::from(&b""[..])),
        ("endless fields", endless),
        ("a large answer", large),
        (
            "an error",
            Arc::from(&b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"[..]),
        ),
    ] {
        let raw = raw::Server::start(&court.authorizer, RAW, move |mut stream, _| {
            let said = Arc::clone(&said);
            async move {
                if raw::read_until(&mut stream, b"\r\n\r\n").await.is_ok() {
                    let _ = stream.write_all(&said).await;
                }
            }
        })?;
        let reply = court.ask("GET", "/raw", &[]).await?;
        ensure!(
            reply.status == 403 && reply.body.is_empty(),
            "{what}: {}",
            reply.status
        );
        raw.stop().await;
    }
    let (silent, mut accepted) = raw::Server::accepting(&court.authorizer, RAW)?;
    let began = clock::now();
    let reply = court.ask("GET", "/raw", &[]).await?;
    ensure!(reply.status == 403, "{}", reply.status);
    ensure!(began.elapsed() >= Duration::from_millis(500));
    next(&mut accepted).await?;
    drop(silent);
    // A client that leaves takes its question with it.
    let (_silent, mut accepted) = raw::Server::accepting(&court.authorizer, BY_HTTP)?;
    let mut client = court.http().await?;
    let asking = client.send(request("GET", "app", "/slow").body(whole(""))?);
    let mut stream = tokio::select! {
        _ = asking => anyhow::bail!("nobody has answered"),
        accepted = next(&mut accepted) => accepted?,
    };
    raw::read_until(&mut stream, b"\r\n\r\n").await?;
    drop(client);
    raw::drain(&mut stream).await?;
    Ok(())
}

#[tokio::test]
async fn bodies_are_told_within_their_bound() -> Result<()> {
    let rules = "whole: action: CUSTOM, provider: {name: whole}, rules: [{}]";
    let court = Court::open(&misfortunes(), policies(&[rules]), false).await?;
    let server = Echo::start(&court.world.server, PORT, "server")?;
    let (_authorizer, mut heard) = by_http(&court.authorizer)?;
    for (size, status) in [(0, 200), (9, 200), (10, 200), (11, 413), (2 << 20, 413)] {
        let head = request("POST", "app", "/").header("x-ext-authz", "allow");
        let reply = court
            .http()
            .await?
            .exchange(head.body(whole("x".repeat(size)))?)
            .await?;
        ensure!(reply.status == status, "{size}: {}", reply.status);
        if status == 200 {
            ensure!(reply.seen()?.body_bytes() == size as u64);
            ensure!(next(&mut heard).await?.body.len() == size);
        }
    }
    ensure!(heard.is_empty() && server.requests() == 3);
    Ok(())
}
