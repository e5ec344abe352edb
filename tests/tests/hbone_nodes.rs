//! HBONE between the pods of two nodes: two proxies, one authority, and the wire between them.

mod hbone;

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    Config, Lab, Manifests, PATIENCE, Pod, Proxy, SOON,
    client::Http,
    clock::Deadline,
    echo::Echo,
    netns::Netns,
    raw::{self, End, Server},
    wire::Capture,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};

const PORT: u16 = 9000;
const HTTP: u16 = 8080;
const SERVICE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 20));

/// Two nodes: a client on one, a server on the other, a pod outside the mesh. In this order they go.
struct Nodes {
    near: Proxy,
    far: Proxy,
    config: Config,
    client: Pod,
    second: Pod,
    server: Pod,
    stranger: Pod,
    node: Netns,
    lab: Lab,
}

/// What both nodes read. The server is of this account, or not of the mesh.
fn manifests(
    lab: &Lab,
    node: &Netns,
    [client, second, server, stranger]: [&Pod; 4],
    account: Option<&str>,
) -> Manifests {
    let labels = [("app", "server")];
    let manifests = Manifests::new()
        .namespace("default", &[])
        .pod_on(&lab.node, "client", client, &[("app", "client")])
        .pod_on(&lab.node, "second", second, &[("app", "second")])
        .stranger(stranger, &[("app", "stranger")])
        .service(
            "server",
            &[SERVICE],
            &[("http", 80, HTTP), ("http2", 81, HTTP), ("tcp", PORT, PORT)],
            &labels,
        );
    match account {
        Some(account) => manifests.pod_on(node, account, server, &labels),
        None => manifests.stranger(server, &labels),
    }
}

const LOG: [&str; 4] = [
    "--access-log",
    "json",
    "--log",
    "info,aquifer::dataplane=debug",
];

impl Nodes {
    async fn new() -> Result<Self> {
        Self::with(&[]).await
    }

    /// With more arguments of the client's proxy.
    async fn with(arguments: &[&str]) -> Result<Self> {
        let lab = Lab::new()?;
        let node = lab.another_node("far")?;
        let (client, second) = (lab.pod("client")?, lab.pod("second")?);
        let (server, stranger) = (lab.pod("server")?, lab.pod("stranger")?);
        let pods = [&client, &second, &server, &stranger];
        let manifests = manifests(&lab, &node, pods, Some("server"));
        let config = Config::new(&manifests)?;
        let far = Proxy::on(&lab, &config)
            .node(&node)
            .authority()
            .arguments(&LOG);
        let far = far.ready().await?;
        let near = Proxy::on(&lab, &config).arguments(&LOG);
        let near = match arguments.contains(&"--ca-dir") {
            true => near.arguments(&["--ca", "self"]),
            false => near.authority(),
        };
        let near = near.arguments(arguments).ready().await?;
        near.certified(2).await?;
        far.certified(1).await?;
        Ok(Self {
            near,
            far,
            config,
            client,
            second,
            server,
            stranger,
            node,
            lab,
        })
    }

    /// Brings policies into force on both nodes.
    async fn policies(&self, text: &str) -> Result<()> {
        self.put("policies.yaml", text).await
    }

    /// Has the server be of another account, or not of the mesh, on both nodes.
    async fn serve_as(&self, account: Option<&str>) -> Result<()> {
        let pods = [&self.client, &self.second, &self.server, &self.stranger];
        let manifests = manifests(&self.lab, &self.node, pods, account);
        self.put("mesh.yaml", &manifests.text()).await?;
        if let Some(account) = account {
            let name = format!("/sa/{account}");
            let held = |row: &serde_json::Value| {
                row["state"] == "active"
                    && row["name"].as_str().is_some_and(|it| it.ends_with(&name))
            };
            let held = |answer: &serde_json::Value| {
                answer.as_array().is_some_and(|rows| rows.iter().any(held))
            };
            self.far.until("/config/secrets", held).await?;
        }
        let settled =
            |status: &serde_json::Value| status["enrolled_snapshot"] == status["snapshot"];
        self.far.until("/status", settled).await?;
        Ok(())
    }

    async fn put(&self, file: &str, text: &str) -> Result<()> {
        let before = self.near.version().await?;
        self.far.after(|| self.config.put(file, text)).await?;
        self.near
            .until("/status", |status| {
                status["snapshot"].as_u64() > Some(before)
            })
            .await?;
        Ok(())
    }

    /// A connection of the client's to the server, and the same as the application has it.
    async fn connected(
        &self,
        accepted: &mut mpsc::UnboundedReceiver<TcpStream>,
    ) -> Result<(TcpStream, TcpStream)> {
        let client = self.client.netns.connect(self.server.at(PORT)).await?;
        let application = tokio::time::timeout(PATIENCE, accepted.recv()).await;
        let application = application.with_context(|| self.said())?;
        Ok((client, application.context("a connection")?))
    }

    fn said(&self) -> String {
        format!(
            "near:\n{}\nfar:\n{}",
            self.near.complaints(),
            self.far.complaints()
        )
    }
}

#[tokio::test]
async fn nothing_of_what_pods_say_is_on_the_wire() -> Result<()> {
    const SECRET: &[u8] = b"attack at dawn, behind the aqueduct";
    let nodes = Nodes::new().await?;
    let (_server, mut accepted) = Server::accepting(&nodes.server, PORT)?;
    let _web = Echo::start(&nodes.server, HTTP, "server")?;
    let capture = Capture::of(&nodes.lab.node)?;
    let mark = nodes.far.child.stdout.mark();
    for to in [
        nodes.server.at(PORT),
        nodes.server.at6(PORT),
        SocketAddr::new(SERVICE, PORT),
    ] {
        let mut client = nodes.client.netns.connect(to).await?;
        client.write_all(SECRET).await?;
        let application = tokio::time::timeout(PATIENCE, accepted.recv()).await;
        let mut application = application
            .with_context(|| nodes.said())?
            .context("a connection")?;
        let source = application.peer_addr()?.ip().to_canonical();
        ensure!(
            source == IpAddr::from(nodes.client.v4) || source == IpAddr::from(nodes.client.v6),
            "{source}"
        );
        ensure!(raw::read_exactly(&mut application, SECRET.len()).await? == SECRET);
        application.write_all(SECRET).await?;
        application.shutdown().await?;
        let (bytes, end) = raw::drain(&mut client).await?;
        ensure!(bytes == SECRET && end == End::Closed);
    }
    // HTTP rides inside it.
    let mut http = Http::connect(&nodes.client, SocketAddr::new(SERVICE, 80)).await?;
    let reply = http.get("server", "/attack-at-dawn").await?;
    ensure!(reply.status == 200, "{reply:?}\n{}", nodes.said());
    let seen = capture.finish()?;
    ensure!(seen.bytes() > 4000, "nothing was captured");
    ensure!(seen.with(SECRET) == 0 && seen.with(b"attack-at-dawn") == 0);
    ensure!(
        nodes.far.counter("hbone_downstream_rq").await? == 4,
        "four connections, and a CONNECT for each"
    );
    let line = nodes
        .far
        .logged(mark, |line| line.contains("inbound|9000||"))?;
    ensure!(
        line.contains("\"downstream_principal\":\"cluster.local/ns/default/sa/client\""),
        "{line}"
    );
    // To whoever is not of the mesh it is plain text: the capture would have seen it.
    let (_outside, mut outside) = Server::accepting(&nodes.stranger, PORT)?;
    let capture = Capture::of(&nodes.lab.node)?;
    let mut client = nodes.client.netns.connect(nodes.stranger.at(PORT)).await?;
    client.write_all(SECRET).await?;
    let mut application = outside.recv().await.context("a connection")?;
    ensure!(raw::read_exactly(&mut application, SECRET.len()).await? == SECRET);
    ensure!(capture.finish()?.with(SECRET) > 0);
    Ok(())
}

/// While a trust domain is renamed, the nodes that have the new name reach those that have the old one,
/// and the other way round.
#[tokio::test]
async fn a_trust_domain_may_be_renamed_one_node_after_the_other() -> Result<()> {
    let lab = Lab::new()?;
    let node = lab.another_node("far")?;
    let (client, server) = (lab.pod("client")?, lab.pod("server")?);
    let manifests = Manifests::new()
        .namespace("default", &[])
        .pod_on(&lab.node, "client", &client, &[("app", "client")])
        .pod_on(&node, "server", &server, &[("app", "server")]);
    let config = Config::new(&manifests)?;
    let names = |own, other| ["--trust-domain", own, "--trust-domain-alias", other];
    let near = Proxy::on(&lab, &config)
        .authority()
        .arguments(&names("new.test", "old.test"))
        .arguments(&LOG)
        .ready()
        .await?;
    let start = |far: [&'static str; 4]| {
        let start = Proxy::on(&lab, &config).node(&node).authority();
        start.arguments(&far).arguments(&LOG).ready()
    };
    near.certified(1).await?;
    let (_at_server, _at_client) = (hbone::echo(&server, PORT)?, hbone::echo(&client, PORT)?);
    let reaches = async |from: &Pod, to: &Pod| -> Result<bool> {
        let mut stream = from.netns.connect(to.at(PORT)).await?;
        // No HTTP begins so.
        let sent = stream.write_all(b"\0\0\0\0").await.is_ok();
        Ok(sent && stream.read_exact(&mut [0; 4]).await.is_ok())
    };
    for (far, expected) in [
        (names("old.test", "new.test"), true),
        (names("new.test", "old.test"), true),
        // No other name of the mesh, though the same root has signed for it.
        (names("third.test", "new.test"), false),
    ] {
        let proxy = start(far).await?;
        proxy.certified(1).await?;
        let said = || format!("{far:?}\n{}\n{}", near.complaints(), proxy.complaints());
        ensure!(reaches(&client, &server).await? == expected, "{}", said());
        ensure!(reaches(&server, &client).await? == expected, "{}", said());
    }
    Ok(())
}

/// Requests go as the address is reached now, and not by connections from before.
#[tokio::test]
async fn requests_follow_whoever_has_the_address() -> Result<()> {
    // Each worker has connections of its own.
    let nodes = Nodes::with(&["--workers", "1"]).await?;
    let _web = Echo::start(&nodes.server, HTTP, "server")?;
    let mut one = Http::connect(&nodes.client, SocketAddr::new(SERVICE, 80)).await?;
    let mut two = Http::connect2(&nodes.client, SocketAddr::new(SERVICE, 81)).await?;
    let mut ask = async || -> Result<()> {
        for http in [&mut one, &mut two] {
            let reply = http.get("server", "/").await?;
            ensure!(reply.status == 200, "{reply:?}\n{}", nodes.said());
        }
        Ok(())
    };
    let counted = async || -> Result<[u64; 2]> {
        let connections = nodes.near.counter("hbone_upstream_cx").await?;
        Ok([connections, nodes.near.counter("hbone_upstream_rq").await?])
    };
    ask().await?;
    ask().await?;
    ensure!(counted().await? == [1, 2], "{:?}", counted().await?);
    nodes.serve_as(Some("heir")).await?;
    ask().await?;
    ensure!(counted().await? == [2, 4], "{:?}", counted().await?);
    nodes.serve_as(None).await?;
    ask().await?;
    ask().await?;
    ensure!(counted().await? == [2, 4], "{:?}", counted().await?);
    nodes.serve_as(Some("server")).await?;
    ask().await?;
    ask().await?;
    ensure!(
        counted().await? == [3, 6],
        "{:?}\n{:#?}\n{}",
        counted().await?,
        nodes.near.child.stdout.since(0),
        nodes.said()
    );
    Ok(())
}

#[tokio::test]
async fn half_closes_and_resets_travel_as_such() -> Result<()> {
    let nodes = Nodes::new().await?;
    let (_server, mut accepted) = Server::accepting(&nodes.server, PORT)?;
    let mut next = async || nodes.connected(&mut accepted).await;
    let (mut client, mut application) = next().await?;
    client.write_all(b"question").await?;
    client.shutdown().await?;
    let (bytes, end) = raw::drain(&mut application).await?;
    ensure!(bytes == b"question" && end == End::Closed);
    application.write_all(b"answer").await?;
    drop(application);
    let (bytes, end) = raw::drain(&mut client).await?;
    ensure!(bytes == b"answer" && end == End::Closed);

    let (mut client, mut application) = next().await?;
    application.shutdown().await?;
    ensure!(client.read(&mut [0]).await? == 0);
    client.write_all(b"late").await?;
    client.shutdown().await?;
    let (bytes, end) = raw::drain(&mut application).await?;
    ensure!(bytes == b"late" && end == End::Closed);

    let (mut client, application) = next().await?;
    raw::reset(application)?;
    ensure!(raw::drain(&mut client).await?.1 == End::Reset);
    let (client, mut application) = next().await?;
    raw::reset(client)?;
    ensure!(
        raw::drain(&mut application).await?.1 == End::Reset,
        "{:#?} {:#?}\n{}",
        nodes.near.child.stdout.since(0),
        nodes.far.child.stdout.since(0),
        nodes.said()
    );

    // All over one connection.
    ensure!(
        nodes.near.counter("hbone_upstream_cx").await? <= 2,
        "one a worker"
    );
    Ok(())
}

/// Writes until nothing more is taken.
async fn stuff(stream: &TcpStream) -> Result<()> {
    let block = vec![b'x'; 1 << 20];
    // Nobody tells that nothing more will be taken: what was not for so long is taken to be.
    let settled = Duration::from_millis(300);
    while let Ok(writable) = tokio::time::timeout(settled, stream.writable()).await {
        writable?;
        match stream.try_write(&block) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[tokio::test]
async fn tunnels_that_nobody_reads_hold_up_no_other() -> Result<()> {
    // More than a connection's window was once large enough for.
    const STUFFED: usize = 12;
    // Each worker has connections of its own.
    let nodes = Nodes::with(&["--workers", "1"]).await?;
    let (_server, mut accepted) = Server::accepting(&nodes.server, PORT)?;
    let mut next = async || nodes.connected(&mut accepted).await;
    let (mut client, mut application) = next().await?;
    let mut open = Vec::new();
    for _ in 0..STUFFED {
        open.push(next().await?);
    }
    for upwards in [true, false] {
        let stuffed = open
            .iter()
            .map(|(client, application)| stuff(if upwards { client } else { application }));
        futures_util::future::try_join_all(stuffed).await?;
        for _ in 0..20 {
            client.write_all(b"ping").await?;
            let told = raw::read_exactly(&mut application, 4).await;
            ensure!(told.context("held up")? == b"ping");
            application.write_all(b"pong").await?;
            let told = raw::read_exactly(&mut client, 4).await;
            ensure!(told.context("held up")? == b"pong");
        }
    }
    ensure!(nodes.near.counter("hbone_upstream_cx").await? == 1);
    Ok(())
}

#[tokio::test]
async fn bulk_and_many_connections_arrive_whole() -> Result<()> {
    const EACH: usize = 256 << 10;
    const MANY: usize = 250;
    let nodes = Nodes::new().await?;
    let all_open = tokio::sync::Barrier::new(MANY);
    let _server = Server::echo(&nodes.server, PORT)?;
    let play = async |seed: u32, size: usize, together: bool| -> Result<()> {
        let data: Vec<u8> = (0..u32::try_from(size)?)
            .map(|n| (n.wrapping_mul(2_654_435_761) ^ seed).to_be_bytes()[0])
            .collect();
        let mut stream = nodes.client.netns.connect(nodes.server.at(PORT)).await?;
        if together {
            // All have a tunnel before the first of them ends.
            stream.write_all(b"x").await?;
            raw::read_exactly(&mut stream, 1).await?;
            all_open.wait().await;
        }
        let (mut read, mut write) = stream.split();
        let mut found = Vec::with_capacity(size);
        let sending = async {
            write.write_all(&data).await?;
            write.shutdown().await
        };
        let (sent, received) = tokio::join!(sending, read.read_to_end(&mut found));
        sent?;
        received?;
        ensure!(found == data, "other bytes came back");
        Ok(())
    };
    play(1, 64 << 20, false).await?;
    // More than two connections' worth at once.
    let all = (0..MANY as u32).map(|seed| play(seed, EACH, true));
    let all = tokio::time::timeout(2 * PATIENCE, futures_util::future::join_all(all));
    for one in all.await.with_context(|| nodes.said())? {
        one.with_context(|| nodes.said())?;
    }
    let connections = nodes.near.counter("hbone_upstream_cx").await?;
    ensure!((3..=6).contains(&connections), "{connections}");
    Ok(())
}

/// Whether `from` gets through to the server's port.
async fn reaches(nodes: &Nodes, from: &Pod) -> Result<bool> {
    let mut stream = match from.netns.connect(nodes.server.at(PORT)).await {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
        connected => connected?,
    };
    let _ = stream.write_all(b"hello").await;
    let _ = stream.shutdown().await;
    match raw::drain(&mut stream).await? {
        (bytes, End::Closed) if bytes == b"hello" => Ok(true),
        (bytes, End::Reset) if bytes.is_empty() => Ok(false),
        other => anyhow::bail!("neither an answer nor a reset: {other:?}\n{}", nodes.said()),
    }
}

#[tokio::test]
async fn strict_lets_the_mesh_in_and_policies_tell_identities_apart() -> Result<()> {
    let nodes = Nodes::new().await?;
    let _server = Server::echo(&nodes.server, PORT)?;
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: default}\nspec: {mtls: {mode: STRICT}}\n";
    let policy = |spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: default}}\nspec: {{selector: {{matchLabels: {{app: server}}}}, {spec}}}\n"
        )
    };
    let only = "rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]}]";
    for (text, client, second, stranger) in [
        (strict.replace("STRICT", "PERMISSIVE"), true, true, true),
        (strict.replace("STRICT", "DISABLE"), true, true, true),
        (strict.to_owned(), true, true, false),
        (policy(only), true, false, false),
        (policy(&format!("action: DENY, {only}")), false, true, true),
    ] {
        nodes.policies(&text).await?;
        let found = (
            reaches(&nodes, &nodes.client).await?,
            reaches(&nodes, &nodes.second).await?,
            reaches(&nodes, &nodes.stranger).await?,
        );
        ensure!(
            found == (client, second, stranger),
            "{text}{found:?}\n{}",
            nodes.said()
        );
    }
    // What a policy no longer allows ends, for the client too.
    nodes.policies(strict).await?;
    let mut open = nodes.client.netns.connect(nodes.server.at(PORT)).await?;
    open.write_all(b"x").await?;
    raw::read_exactly(&mut open, 1).await?;
    nodes
        .policies(&policy(&format!("action: DENY, {only}")))
        .await?;
    let deadline = Deadline::after(SOON);
    let (_, end) = raw::drain(&mut open).await?;
    ensure!(end == End::Reset && !deadline.passed());
    // Why, is in the client's log.
    let mark = nodes.near.child.stdout.mark();
    ensure!(!reaches(&nodes, &nodes.client).await?);
    nodes.near.logged(mark, |line| {
        line.contains("hbone: the destination's policies refuse it")
    })?;
    Ok(())
}

#[tokio::test]
async fn a_destination_that_restarts_is_reached_anew() -> Result<()> {
    let mut nodes = Nodes::new().await?;
    let _server = Server::echo(&nodes.server, PORT)?;
    ensure!(reaches(&nodes, &nodes.client).await?, "{}", nodes.said());
    let lab = &nodes.lab;
    nodes.far.child.stop(PATIENCE)?;
    ensure!(
        !reaches(&nodes, &nodes.client).await?,
        "closed while nobody is there"
    );
    let far = Proxy::on(lab, &nodes.config)
        .node(&nodes.node)
        .authority()
        .arguments(&LOG);
    let far = far.ready().await?;
    far.certified(1).await?;
    // It takes the pins away when it is dropped.
    let _old = std::mem::replace(&mut nodes.far, far);
    ensure!(
        reaches(&nodes, &nodes.client).await?,
        "{:#?} {:#?}\n{}",
        nodes.near.child.stdout.since(0),
        nodes.far.child.stdout.since(0),
        nodes.said()
    );
    Ok(())
}

#[tokio::test]
async fn who_is_not_of_the_same_mesh_is_not_reached() -> Result<()> {
    // On the client's node: another root of the same name, and another trust domain.
    let foreign = hbone::Authority::foreign("cluster.local")?.folder()?;
    let foreign = foreign.path().to_string_lossy();
    for (arguments, domain, why, reason) in [
        (
            &["--ca-dir", &*foreign][..],
            "cluster.local",
            "hbone: TLS: invalid peer certificate: UnknownIssuer",
            "unknown_issuer",
        ),
        (
            &["--trust-domain", "other.test"][..],
            "other.test",
            "hbone: TLS: spiffe://cluster.local/ns/default/sa/server is of a trust domain that is neither",
            "trust_domain",
        ),
    ] {
        let nodes = Nodes::with(arguments).await?;
        let (server, web) = (
            Server::echo(&nodes.server, PORT)?,
            Server::echo(&nodes.server, HTTP)?,
        );
        let before = nodes.near.reasons("hbone_upstream_cx_fail").await?;
        let refused = nodes.far.reasons("hbone_downstream_cx_refused").await?;
        let mark = nodes.near.child.stdout.mark();
        let far_mark = nodes.far.child.stdout.mark();
        ensure!(!reaches(&nodes, &nodes.client).await?, "{domain}");
        let line = nodes.near.logged(mark, |line| line.contains("hbone:"))?;
        ensure!(line.contains(why), "{line}");
        let after = nodes.near.reasons("hbone_upstream_cx_fail").await?;
        let added = after.since(&before);
        ensure!(added == format!("{reason}=1"), "{domain}: {added}");
        nodes.far.logged(far_mark, |line| {
            line.contains("hbone:_TLS:_received_fatal_alert")
        })?;
        let after = nodes.far.reasons("hbone_downstream_cx_refused").await?;
        let added = after.since(&refused);
        ensure!(added == "refused_by_peer=1", "{domain}: {added}");
        let mut http = Http::connect(&nodes.client, SocketAddr::new(SERVICE, 80)).await?;
        let reply = http.get("server", "/").await?;
        ensure!(reply.status == 503, "{reply:?}");
        ensure!(server.accepted() + web.accepted() == 0, "{domain}");
    }
    Ok(())
}

#[tokio::test]
async fn without_a_certificate_nothing_goes_and_nothing_comes() -> Result<()> {
    // On the client's node the authority ends soon, and every certificate with it.
    let ending = hbone::Authority::ending("cluster.local", Duration::from_secs(15))?.folder()?;
    let nodes = Nodes::with(&["--ca-dir", &ending.path().to_string_lossy()]).await?;
    let (server, own) = (
        Server::echo(&nodes.server, PORT)?,
        Server::echo(&nodes.client, PORT)?,
    );
    let expired = |answer: &serde_json::Value| answer.to_string().contains("\"expired\"");
    nodes.near.until("/config/secrets", expired).await?;
    let mark = nodes.near.child.stdout.mark();
    let counters = ["hbone_upstream_rq_fail", "hbone_downstream_cx_refused"];
    let [before, refused] = counters.map(|counter| nodes.near.reasons(counter));
    let (before, refused) = (before.await?, refused.await?);
    ensure!(!reaches(&nodes, &nodes.client).await?);
    nodes.near.logged(mark, |line| {
        line.contains(
            "hbone: there is no certificate for spiffe://cluster.local/ns/default/sa/client",
        )
    })?;
    // Nor is the pod reached, by whoever has a good certificate.
    let to = nodes.client.at(hbone::HBONE);
    if let Ok(mut stream) = nodes.stranger.netns.connect(to).await {
        ensure!(raw::drain(&mut stream).await?.1 == End::Reset);
    }
    nodes.near.logged(mark, |line| {
        line.contains("hbone:_there_is_no_certificate_for")
    })?;
    for (counter, before) in counters.into_iter().zip([before, refused]) {
        let added = nodes.near.reasons(counter).await?.since(&before);
        ensure!(added == "own_certificate=1", "{counter}: {added}");
    }
    ensure!(server.accepted() + own.accepted() == 0);
    // Whoever is not of the mesh is reached as ever.
    let outside = Server::echo(&nodes.stranger, PORT)?;
    let mut stream = nodes.client.netns.connect(nodes.stranger.at(PORT)).await?;
    stream.write_all(b"x").await?;
    raw::read_exactly(&mut stream, 1).await?;
    ensure!(outside.accepted() == 1);
    Ok(())
}

#[tokio::test]
async fn neighbours_may_be_reached_inside_the_process() -> Result<()> {
    for (way, tunnels) in [("hbone", true), ("direct", false)] {
        let lab = Lab::new()?;
        let (client, server) = (lab.pod("client")?, lab.pod("server")?);
        let manifests = Manifests::new()
            .namespace("default", &[])
            .pod_on(&lab.node, "client", &client, &[("app", "client")])
            .pod_on(&lab.node, "server", &server, &[("app", "server")])
            .service("server", &[SERVICE], &[("http", 80, HTTP)], &[("app", "server")])
            .yaml("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: default}\nspec: {mtls: {mode: STRICT}}\n");
        let config = Config::new(&manifests)?;
        let proxy = Proxy::on(&lab, &config).authority().arguments(&LOG);
        let proxy = proxy.arguments(&["--same-node", way]).ready().await?;
        proxy.certified(2).await?;
        let (_server, mut accepted) = Server::accepting(&server, PORT)?;
        let _web = Echo::start(&server, HTTP, "server")?;
        let mark = proxy.child.stdout.mark();
        let mut stream = client.netns.connect(server.at(PORT)).await?;
        let own = stream.local_addr()?;
        stream.write_all(b"hello").await?;
        let mut application = tokio::time::timeout(PATIENCE, accepted.recv())
            .await?
            .context("one")?;
        let source = application.peer_addr()?.ip().to_canonical();
        ensure!(source == IpAddr::from(client.v4), "{source}");
        raw::read_exactly(&mut application, 5).await?;
        raw::reset(application)?;
        ensure!(raw::drain(&mut stream).await?.1 == End::Reset);
        let line = proxy.logged(mark, |line| line.contains("inbound|9000||"))?;
        ensure!(
            line.contains("\"downstream_principal\":\"cluster.local/ns/default/sa/client\"")
                && line.contains("\"bytes_received\":5"),
            "{line}"
        );
        let own = format!("\"downstream_remote_address\":\"{own}\"");
        ensure!(line.contains(&own) != tunnels, "{way}: {own} {line}");
        let mut http = Http::connect(&client, SocketAddr::new(SERVICE, 80)).await?;
        let reply = http.get("server", "/").await?;
        ensure!(reply.status == 200, "{reply:?}\n{}", proxy.complaints());
        ensure!((proxy.counter("hbone_upstream_rq").await? > 0) == tunnels);
        ensure!((proxy.counter("downstream_cx_within").await? > 0) != tunnels);
        // The same policies, at once for what is open.
        let mut stream = client.netns.connect(server.at(PORT)).await?;
        let _open = tokio::time::timeout(PATIENCE, accepted.recv())
            .await?
            .context("one")?;
        let deny = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: default}\nspec: {action: DENY, rules: [{from: [{source: {serviceAccounts: [default/client]}}]}]}\n";
        proxy.after(|| config.put("policies.yaml", deny)).await?;
        let deadline = Deadline::after(SOON);
        ensure!(raw::drain(&mut stream).await?.1 == End::Reset && !deadline.passed());
        let reply = http.get("server", "/").await?;
        ensure!(reply.status == 503, "{way}: {reply:?}");
    }
    Ok(())
}
