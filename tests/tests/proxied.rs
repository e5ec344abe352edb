//! `proxyProtocol` of a DestinationRule: endpoints are told first whose connection it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{Config, Lab, Manifests, PATIENCE, Pod, Proxy, client::Http, raw};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::mpsc};

/// The cluster addresses of the service `app`.
const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 60));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x60));

/// What version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A client in the mesh, and the service `app` with one pod.
struct Stage {
    proxy: Proxy,
    config: Config,
    client: Pod,
    app: Pod,
    _lab: Lab,
}

/// A rule for `app` with this policy.
fn rule(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{name: app, namespace: default}}\n\
         spec: {{host: app, trafficPolicy: {{{policy}}}}}\n"
    )
}

impl Stage {
    /// `arguments` of the proxy's; with `--ca` both pods are of the mesh.
    async fn open(arguments: &[&str], policy: &str) -> Result<Self> {
        let lab = Lab::new()?;
        let (client, app) = (lab.pod("client")?, lab.pod("app")?);
        let ports = [
            ("tcp", 9000, 9000),
            ("http", 80, 8080),
            ("http2", 81, 8081),
            ("", 7000, 7000),
        ];
        let meshed = !arguments.is_empty();
        let labels = [("app", "app")];
        let manifests = Manifests::new()
            .namespace("default", &[])
            .pod(&client, &[("app", "client")])
            .service("app", &[V4, V6], &ports, &labels);
        let manifests = match meshed {
            true => manifests.pod(&app, &labels),
            false => manifests.stranger(&app, &labels),
        };
        let config = Config::new(&manifests)?;
        config.put("rule.yaml", rule(policy))?;
        let start = Proxy::on(&lab, &config);
        let proxy = match meshed {
            true => start.authority().arguments(arguments).ready().await?,
            false => start.ready().await?,
        };
        if meshed {
            proxy.certified(1).await?;
        }
        let status = proxy.admin("/status").await?;
        let problems = &status["problems"];
        ensure!(problems.as_array().is_some_and(Vec::is_empty), "{problems}");
        Ok(Self {
            proxy,
            config,
            client,
            app,
            _lab: lab,
        })
    }

    async fn apply(&self, policy: &str) -> Result<()> {
        let put = || self.config.put("rule.yaml", rule(policy));
        self.proxy.after(put).await
    }

    /// What version 1 says of a connection of the client's.
    fn line(&self, stream: &TcpStream, to: SocketAddr) -> Result<String> {
        let from = stream.local_addr()?.port();
        let (family, own) = match to.ip() {
            IpAddr::V4(_) => ("TCP4", self.client.v4.to_string()),
            IpAddr::V6(_) => ("TCP6", self.client.v6.to_string()),
        };
        let (ip, port) = (to.ip(), to.port());
        Ok(format!("PROXY {family} {own} {ip} {from} {port}\r\n"))
    }
}

async fn accepted(connections: &mut mpsc::UnboundedReceiver<TcpStream>) -> Result<TcpStream> {
    let next = tokio::time::timeout(PATIENCE, connections.recv()).await;
    next.context("no connection came in time")?.context("one")
}

async fn said(stream: &mut TcpStream, expected: &[u8]) -> Result<()> {
    let said = raw::read_exactly(stream, expected.len()).await?;
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(
        said == expected,
        "{:?}, not {:?}",
        shown(&said),
        shown(expected)
    );
    Ok(())
}

/// Answers one request.
async fn answer(stream: &mut TcpStream) -> Result<String> {
    let head = raw::read_until(stream, b"\r\n\r\n").await?;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        .await?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[tokio::test]
async fn bytes_follow_the_header() -> Result<()> {
    let stage = Stage::open(&[], "proxyProtocol: {}").await?;
    let (_server, mut connections) = raw::Server::accepting(&stage.app, 9000)?;
    for vip in [V4, V6] {
        let to = SocketAddr::new(vip, 9000);
        let mut client = stage.client.netns.connect(to).await?;
        // The server has it before the client says anything, so that it may speak first.
        let mut server = accepted(&mut connections).await?;
        said(&mut server, stage.line(&client, to)?.as_bytes()).await?;
        server.write_all(b"hello").await?;
        said(&mut client, b"hello").await?;
        client.write_all(b"hi").await?;
        said(&mut server, b"hi").await?;
    }
    stage.apply("proxyProtocol: {version: V2}").await?;
    for vip in [V4, V6] {
        let to = SocketAddr::new(vip, 9000);
        let client = stage.client.netns.connect(to).await?;
        let mut server = accepted(&mut connections).await?;
        let mut expected = SIGNATURE.to_vec();
        match vip {
            IpAddr::V4(ip) => {
                expected.extend([0x21, 0x11, 0, 12]);
                expected.extend(stage.client.v4.octets());
                expected.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                expected.extend([0x21, 0x21, 0, 36]);
                expected.extend(stage.client.v6.octets());
                expected.extend(ip.octets());
            }
        }
        expected.extend(client.local_addr()?.port().to_be_bytes());
        expected.extend(9000_u16.to_be_bytes());
        said(&mut server, &expected).await?;
    }
    Ok(())
}

/// Connections of two clients are never one, and none outlasts its client.
#[tokio::test]
async fn requests_go_by_connections_of_their_own_clients() -> Result<()> {
    let stage = Stage::open(&[], "proxyProtocol: {version: V1}").await?;
    let (_server, mut connections) = raw::Server::accepting(&stage.app, 8080)?;
    let to = SocketAddr::new(V4, 80);
    let mut before: Option<(TcpStream, TcpStream)> = None;
    for _ in 0..2 {
        let mut client = stage.client.netns.connect(to).await?;
        let line = stage.line(&client, to)?;
        let request = b"GET / HTTP/1.1\r\nhost: app\r\n\r\n";
        client.write_all(request).await?;
        let mut server = accepted(&mut connections).await?;
        said(&mut server, line.as_bytes()).await?;
        for again in [true, true, false] {
            let head = answer(&mut server).await?;
            ensure!(head.starts_with("GET / HTTP/1.1\r\n"), "{head}");
            raw::read_until(&mut client, b"ok").await?;
            if again {
                client.write_all(request).await?;
            }
        }
        if let Some((client, mut server)) = before.replace((client, server)) {
            drop(client);
            raw::drain(&mut server).await?;
        }
    }
    let (mut client, mut server) = before.context("two clients")?;
    // A client that is still there keeps its own.
    client
        .write_all(b"GET /more HTTP/1.1\r\nhost: app\r\n\r\n")
        .await?;
    let head = answer(&mut server).await?;
    ensure!(head.starts_with("GET /more"), "{head}");
    Ok(())
}

#[tokio::test]
async fn http2_follows_the_header() -> Result<()> {
    let stage = Stage::open(&[], "proxyProtocol: {}").await?;
    let (_server, mut connections) = raw::Server::accepting(&stage.app, 8081)?;
    let to = SocketAddr::new(V4, 81);
    let mut client = stage.client.netns.connect(to).await?;
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n")
        .await?;
    let mut server = accepted(&mut connections).await?;
    said(&mut server, stage.line(&client, to)?.as_bytes()).await?;
    said(&mut server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await
}

/// On a port that declares nothing there is one connection, opened before it was known what it is for.
#[tokio::test]
async fn an_early_connection_is_its_clients() -> Result<()> {
    let stage = Stage::open(&[], "proxyProtocol: {}").await?;
    let (listener, mut connections) = raw::Server::accepting(&stage.app, 7000)?;
    let to = SocketAddr::new(V4, 7000);
    let mut client = stage.client.netns.connect(to).await?;
    let mut server = accepted(&mut connections).await?;
    said(&mut server, stage.line(&client, to)?.as_bytes()).await?;
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: app:7000\r\n\r\n")
        .await?;
    let head = answer(&mut server).await?;
    ensure!(head.starts_with("GET / HTTP/1.1\r\n"), "{head}");
    raw::read_until(&mut client, b"ok").await?;
    ensure!(listener.accepted() == 1);
    Ok(())
}

/// TLS comes after the header, which whoever ends TLS there reads before it.
#[tokio::test]
async fn tls_follows_the_header() -> Result<()> {
    let policy = "proxyProtocol: {}, tls: {mode: SIMPLE, insecureSkipVerify: true}";
    let stage = Stage::open(&[], policy).await?;
    let (_server, mut connections) = raw::Server::accepting(&stage.app, 9000)?;
    let to = SocketAddr::new(V4, 9000);
    let client = stage.client.netns.connect(to).await?;
    let mut server = accepted(&mut connections).await?;
    said(&mut server, stage.line(&client, to)?.as_bytes()).await?;
    // A handshake's record.
    said(&mut server, &[0x16, 3, 1]).await
}

/// Inside of HBONE, and inside the process: it is the application that is told.
#[tokio::test]
async fn applications_of_the_mesh_are_told() -> Result<()> {
    for arguments in [
        &["--same-node", "hbone"][..],
        &["--same-node", "direct"][..],
    ] {
        let stage = Stage::open(arguments, "proxyProtocol: {}").await?;
        let (_server, mut connections) = raw::Server::accepting(&stage.app, 9000)?;
        let to = SocketAddr::new(V4, 9000);
        let mut client = stage.client.netns.connect(to).await?;
        let mut server = accepted(&mut connections).await?;
        said(&mut server, stage.line(&client, to)?.as_bytes()).await?;
        client.write_all(b"hi").await?;
        said(&mut server, b"hi").await?;
        let (_http, mut connections) = raw::Server::accepting(&stage.app, 8080)?;
        let to = SocketAddr::new(V4, 80);
        let mut client = stage.client.netns.connect(to).await?;
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n")
            .await?;
        let mut server = accepted(&mut connections).await?;
        said(&mut server, stage.line(&client, to)?.as_bytes()).await?;
        answer(&mut server).await?;
        raw::read_until(&mut client, b"ok").await?;
    }
    Ok(())
}

/// A rule that no longer asks for it counts for the next request, and one that begins to.
#[tokio::test]
async fn a_change_of_the_rule_counts_at_once() -> Result<()> {
    let stage = Stage::open(&[], "proxyProtocol: {}").await?;
    let (_server, mut connections) = raw::Server::accepting(&stage.app, 8080)?;
    let to = SocketAddr::new(V4, 80);
    let mut http = stage.client.netns.connect(to).await?;
    let line = stage.line(&http, to)?;
    for (policy, header) in [
        ("loadBalancer: {simple: RANDOM}", ""),
        ("proxyProtocol: {version: V1}", line.as_str()),
        ("loadBalancer: {simple: RANDOM}, proxyProtocol: {}", &line),
    ] {
        stage.apply(policy).await?;
        http.write_all(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n")
            .await?;
        let mut server = accepted(&mut connections).await?;
        said(&mut server, header.as_bytes()).await?;
        answer(&mut server).await?;
        raw::read_until(&mut http, b"ok").await?;
        // What an idle connection says is noticed: the next request has to open another.
        drop(server);
    }
    Ok(())
}

/// A proxy that judges requests reads what comes as requests, as a sidecar does: it takes the header
/// for one that is malformed. Nothing gets past it that way.
#[tokio::test]
async fn whoever_judges_requests_takes_the_header_for_a_bad_one() -> Result<()> {
    let judged = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                  metadata: {name: app, namespace: default}\n\
                  spec: {selector: {matchLabels: {app: app}}, \
                  rules: [{to: [{operation: {paths: ['/open']}}]}, {to: [{operation: {ports: ['9000']}}]}]}\n";
    for place in ["hbone", "direct"] {
        for policy in ["proxyProtocol: {}", "proxyProtocol: {version: V2}"] {
            let arguments = ["--same-node", place, "--access-log", "text"];
            let stage = Stage::open(&arguments, policy).await?;
            let put = || stage.config.put("policy.yaml", judged);
            stage.proxy.after(put).await?;
            let (http, _kept) = raw::Server::accepting(&stage.app, 8080)?;
            let to = SocketAddr::new(V4, 80);
            for path in ["/open", "/closed"] {
                let mut client = Http::connect(&stage.client, to).await?;
                let reply = client.get("app", path).await?;
                // The refusal may be there before the request is.
                ensure!(
                    [400, 502].contains(&reply.status),
                    "{place} {policy}: {} {}",
                    reply.status,
                    reply.text()
                );
            }
            ensure!(
                http.accepted() == 0,
                "{place} {policy}: the application heard"
            );
            ensure!(stage.proxy.counter("downstream_rq_malformed").await? >= 1);
            // Where bytes are not looked at the application is told.
            let (_server, mut connections) = raw::Server::accepting(&stage.app, 9000)?;
            let mut client = stage
                .client
                .netns
                .connect(SocketAddr::new(V4, 9000))
                .await?;
            let mut server = accepted(&mut connections).await?;
            let first: &[u8] = if policy.contains("V2") {
                SIGNATURE
            } else {
                b"PROXY TCP4 "
            };
            said(&mut server, first).await?;
            client.write_all(b"hi").await?;
            raw::read_until(&mut server, b"hi").await?;
            // Without the header requests are judged.
            stage.apply("loadBalancer: {simple: RANDOM}").await?;
            let mut client = Http::connect(&stage.client, to).await?;
            let reply = client.get("app", "/closed").await?;
            ensure!(reply.status == 403, "{place} {policy}: {}", reply.text());
        }
    }
    Ok(())
}
