//! HBONE to servers made by hand: what they are told, what becomes of each answer, and of those who
//! allow little, leave or fall silent.

mod hbone;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    Config, Lab, Manifests, PATIENCE, Pod, Proxy,
    clock::{self, Deadline},
    netns::Netns,
    process,
    raw::{self, End},
};
use bytes::Bytes;
use h2::{
    Reason,
    server::{Builder, SendResponse},
};
use hbone::{
    Authority, HBONE,
    frames::{ACK, Frame, Frames, GOAWAY, HEADERS, SETTINGS, WINDOW_UPDATE},
};
use http::{HeaderMap, Response};
use rustls::ServerConfig;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpListener,
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

const PORT: u16 = 9000;
const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 41));
const HASTY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 42));
const OTHER: &str = "spiffe://cluster.local/ns/default/sa/other";

/// A proxy with two clients of one account, and a pod of the mesh on a node whose proxy the test stands
/// for. It has two services: whoever asks for the hasty one has less patience.
struct Near {
    proxy: Proxy,
    config: Config,
    clients: [Pod; 2],
    other: Pod,
    _elsewhere: Netns,
    _lab: Lab,
}

impl Near {
    async fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let elsewhere = lab.another_node("far")?;
        let clients = [lab.pod("client")?, lab.pod("second")?];
        let other = lab.pod("other")?;
        let app = [("app", "other")];
        let ports = [("tcp", PORT, PORT)];
        let manifests = Manifests::new()
            .namespace("default", &[])
            .pod_on(&lab.node, "client", &clients[0], &[("app", "client")])
            .pod_on(&lab.node, "client", &clients[1], &[("app", "client")])
            .pod_on(&elsewhere, "other", &other, &app)
            .service("other", &[SERVICE], &ports, &app)
            .service("hasty", &[HASTY], &ports, &app)
            .yaml("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: hasty, namespace: default}\nspec: {host: hasty, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 800ms}}}}\n");
        let config = Config::new(&manifests)?;
        let log = ["--access-log", "json", "--workers", "1"];
        let proxy = Proxy::on(&lab, &config).authority().arguments(&log);
        let debug = ["--log", "info,aquifer::dataplane=debug"];
        let proxy = proxy.arguments(&debug).ready().await?;
        proxy.certified(1).await?;
        Ok(Self {
            proxy,
            config,
            clients,
            other,
            _elsewhere: elsewhere,
            _lab: lab,
        })
    }

    /// The other pod's proxy: a listener, and its certificate.
    fn peer(&self) -> Result<(TcpListener, Arc<ServerConfig>)> {
        let at = SocketAddr::from(([0_u16; 8], HBONE));
        let secrets = Authority::of(&self.config)?.secrets(OTHER)?;
        let config = secrets.server(&OTHER.parse()?);
        Ok((
            self.other.netns.listen(at)?,
            config.context("a configuration")?,
        ))
    }

    /// Whether what the first client sends comes back; otherwise it is reset.
    async fn echoed(&self, to: IpAddr) -> Result<bool> {
        echoed(&self.clients[0], to).await
    }

    async fn counter(&self, name: &str) -> Result<u64> {
        self.proxy.counter(name).await
    }

    /// Waits for a counter.
    async fn counted(&self, name: &str, wanted: u64) -> Result<()> {
        let deadline = Deadline::after(PATIENCE);
        while self.counter(name).await? < wanted {
            ensure!(!deadline.passed(), "{name}: {}", self.proxy.complaints());
        }
        Ok(())
    }
}

async fn echoed(from: &Pod, to: IpAddr) -> Result<bool> {
    let Ok(mut stream) = from.netns.connect(SocketAddr::new(to, PORT)).await else {
        return Ok(false);
    };
    let _ = stream.write_all(b"hello").await;
    let _ = stream.shutdown().await;
    match raw::drain(&mut stream).await? {
        (bytes, End::Closed) if bytes == b"hello" => Ok(true),
        (bytes, End::Reset) if bytes.is_empty() => Ok(false),
        other => anyhow::bail!("neither an answer nor a reset: {other:?}"),
    }
}

/// What a server saw.
struct Saw {
    /// Whence, and on which of its connections.
    from: SocketAddr,
    connection: usize,
    authority: String,
    headers: HeaderMap,
}

/// A server of the h2 crate. Ends on drop.
struct Served(JoinHandle<()>);

impl Served {
    /// Ends it; its port is free then.
    async fn end(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves each CONNECT by `answer`, as many at once on a connection as `streams`.
fn serve(
    (listener, config): (TcpListener, Arc<ServerConfig>),
    streams: u32,
    answer: impl Fn(SendResponse<Bytes>, h2::RecvStream) + Clone + Send + 'static,
) -> (Served, mpsc::UnboundedReceiver<Saw>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        let (mut open, mut count) = (JoinSet::new(), 0);
        while let Ok((stream, from)) = listener.accept().await {
            let (config, answer, saw) = (Arc::clone(&config), answer.clone(), sender.clone());
            let connection = count;
            count += 1;
            open.spawn(async move {
                let stream = TlsAcceptor::from(config).accept(stream).await?;
                let mut builder = Builder::new();
                let builder = builder.max_concurrent_streams(streams);
                let mut http2 = builder.handshake(stream).await?;
                while let Some(request) = http2.accept().await {
                    let (request, respond) = request?;
                    let (head, body) = request.into_parts();
                    let _ = saw.send(Saw {
                        from,
                        connection,
                        authority: head.uri.to_string(),
                        headers: head.headers,
                    });
                    answer(respond, body);
                }
                anyhow::Ok(())
            });
        }
    });
    (Served(task), receiver)
}

/// Answers 200 and sends back what comes.
fn echo(mut respond: SendResponse<Bytes>, mut receive: h2::RecvStream) {
    tokio::spawn(async move {
        let mut send = respond.send_response(Response::new(()), false)?;
        while let Some(bytes) = receive.data().await {
            let bytes = bytes?;
            receive.flow_control().release_capacity(bytes.len())?;
            send.send_data(bytes, false)?;
        }
        anyhow::Ok(send.send_data(Bytes::new(), true)?)
    });
}

#[tokio::test]
async fn each_answer_but_200_is_told_by_its_reason() -> Result<()> {
    let near = Near::new().await?;
    let status = |code: u16| {
        let mut response = Response::new(());
        *response.status_mut() = code.try_into().expect("a status");
        response
    };
    type Answer = Arc<dyn Fn(SendResponse<Bytes>) + Send + Sync>;
    let says = |code: u16| -> Answer {
        Arc::new(move |mut respond| drop(respond.send_response(status(code), false)))
    };
    let resets =
        |reason: Reason| -> Answer { Arc::new(move |mut respond| respond.send_reset(reason)) };
    for (name, answer, reason) in [
        ("201", says(201), "the destination's proxy answered 201"),
        ("204", says(204), "the destination's proxy answered 204"),
        ("302", says(302), "the destination's proxy answered 302"),
        ("400", says(400), "the destination's proxy answered 400"),
        ("401", says(401), "the destination's policies refuse it"),
        ("403", says(403), "the destination's proxy answered 403"),
        ("503", says(503), "the destination's proxy answered 503"),
        (
            "refused",
            resets(Reason::REFUSED_STREAM),
            "the connection to the destination's proxy was lost: ",
        ),
        (
            "reset",
            resets(Reason::CONNECT_ERROR),
            "the connection to the destination's proxy was lost: ",
        ),
    ] {
        let (served, mut saw) = serve(near.peer()?, 100, move |respond, _| answer(respond));
        let mark = near.proxy.child.stdout.mark();
        let failed = near.counter("hbone_upstream_rq_fail").await?;
        ensure!(!near.echoed(SERVICE).await?, "{name}");
        let line = near.proxy.logged(mark, |line| line.contains("hbone:"))?;
        ensure!(line.contains(&format!("hbone: {reason}")), "{name}: {line}");
        ensure!(line.contains("\"UF"), "{name}: {line}");
        let after = near.counter("hbone_upstream_rq_fail").await?;
        ensure!(after == failed + 1, "{name}: {failed} {after}");
        ensure!(saw.try_recv().is_ok(), "{name}: it was not asked");
        served.end().await;
    }
    // What comes before the answer is none.
    let (_served, _saw) = serve(near.peer()?, 100, |mut respond, body| {
        let mut early = Response::new(());
        *early.status_mut() = http::StatusCode::EARLY_HINTS;
        drop(respond.send_informational(early));
        echo(respond, body);
    });
    ensure!(near.echoed(SERVICE).await?, "{}", near.proxy.complaints());
    Ok(())
}

#[tokio::test]
async fn pods_of_one_account_have_their_own_connections_and_say_who_they_are() -> Result<()> {
    let near = Near::new().await?;
    let (_served, mut saw) = serve(near.peer()?, 100, echo);
    let mut connections = Vec::new();
    for (client, name) in near.clients.iter().zip(["client", "second"]) {
        for _ in 0..2 {
            ensure!(echoed(client, SERVICE).await?);
            let saw = saw.recv().await.context("a CONNECT")?;
            ensure!(saw.from.ip().to_canonical() == IpAddr::from(client.v4));
            ensure!(saw.authority == near.other.at(PORT).to_string());
            connections.push(saw.connection);
            let header = |name: &str| -> Result<String> {
                let value = saw.headers.get(name).context(name.to_owned())?;
                Ok(value.to_str()?.to_owned())
            };
            let baggage = header("baggage")?;
            for part in [
                "k8s.namespace.name=default".to_owned(),
                format!("k8s.pod.name={name}"),
            ] {
                ensure!(baggage.split(',').any(|one| one == part), "{baggage}");
            }
            let forwarded = header("forwarded")?;
            let port = forwarded
                .strip_prefix(&format!("for=\"{}:", client.v4))
                .and_then(|rest| rest.strip_suffix("\";host=other.default.svc.cluster.local"));
            ensure!(
                port.is_some_and(|port| port.parse::<u16>().is_ok()),
                "{forwarded}"
            );
            let parent = header("traceparent")?;
            let parts: Vec<_> = parent.split('-').map(str::len).collect();
            ensure!(parts == [2, 32, 16, 2], "{parent}");
        }
    }
    ensure!(connections == [0, 0, 1, 1], "{connections:?}");
    Ok(())
}

#[tokio::test]
async fn a_peer_that_allows_few_streams_gets_no_more_on_each_connection() -> Result<()> {
    const BURST: u64 = 60;
    let near = Near::new().await?;
    let peer = near.peer()?;
    // All of them ask while nobody knows what the peer allows, and none ends before the last has begun.
    let to = SocketAddr::new(SERVICE, PORT);
    let mut open = Vec::new();
    for _ in 0..BURST {
        open.push(near.clients[0].netns.connect(to).await?);
    }
    near.counted("hbone_upstream_rq", BURST).await?;
    ensure!(near.counter("hbone_upstream_cx").await? == 1);
    let (_served, mut saw) = serve(peer, 3, echo);
    for stream in &mut open {
        stream.write_all(b"x").await?;
        raw::read_exactly(stream, 1)
            .await
            .with_context(|| near.proxy.complaints())?;
    }
    let mut used = std::collections::BTreeMap::<_, u64>::new();
    for _ in 0..BURST {
        let saw = saw.recv().await.context("a CONNECT")?;
        *used.entry(saw.connection).or_default() += 1;
    }
    ensure!(
        used.len() == 20 && used.values().all(|count| *count == 3),
        "{used:?}"
    );
    ensure!(near.counter("hbone_upstream_rq_retry").await? == 0);
    ensure!(near.counter("hbone_upstream_rq_timeout").await? == 0);
    Ok(())
}

#[tokio::test]
async fn whoever_has_patience_does_not_share_the_haste_of_another() -> Result<()> {
    let near = Near::new().await?;
    // The peer hears, and is not heard.
    let nobody = format!("{}/32", near.clients[0].v4);
    let netns = near.other.netns.name();
    let route = |what: &str| {
        process::output(
            "ip",
            &["-netns", netns, "route", what, "blackhole", &nobody],
        )
    };
    let (_served, _saw) = serve(near.peer()?, 100, echo);
    route("add")?;
    let hasty = async {
        let begun = clock::now();
        ensure!(!near.echoed(HASTY).await?);
        ensure!(begun.elapsed() < Duration::from_secs(5), "it was patient");
        route("delete")?;
        Ok(())
    };
    let patient = async {
        near.counted("hbone_upstream_cx", 1).await?;
        near.echoed(SERVICE).await
    };
    let (hasty, patient) = tokio::join!(hasty, patient);
    hasty?;
    ensure!(patient?, "{}", near.proxy.complaints());
    ensure!(near.counter("hbone_upstream_rq_timeout").await? == 1);
    Ok(())
}

#[tokio::test]
async fn a_connection_that_died_in_silence_is_left_and_ended() -> Result<()> {
    let near = Near::new().await?;
    let (_served, mut saw) = serve(near.peer()?, 100, echo);
    let to = SocketAddr::new(SERVICE, PORT);
    let mut open = near.clients[0].netns.connect(to).await?;
    open.write_all(b"x").await?;
    raw::read_exactly(&mut open, 1).await?;
    let port = saw
        .recv()
        .await
        .context("a CONNECT")?
        .from
        .port()
        .to_string();
    // What the peer says on this one connection is lost from now on.
    let lost = [
        "-netns",
        near.other.netns.name(),
        "rule",
        "add",
        "pref",
        "1",
        "ipproto",
        "tcp",
        "dport",
        &port,
        "blackhole",
    ];
    process::output("ip", &lost)?;
    let begun = clock::now();
    // Who has no time for more than that fails, and who has finds another connection.
    ensure!(!near.echoed(HASTY).await?);
    for to in [HASTY, SERVICE] {
        ensure!(near.echoed(to).await?, "{}", near.proxy.complaints());
    }
    ensure!(begun.elapsed() < Duration::from_secs(9), "waited for long");
    let mut connections = Vec::new();
    while let Ok(saw) = saw.try_recv() {
        connections.push(saw.connection);
    }
    // The first was heard by the peer all the same.
    ensure!(connections == [0, 1, 1], "{connections:?}");
    // What was open ends when the peer has not answered for twenty seconds.
    ensure!(raw::drain(&mut open).await?.1 == End::Reset);
    let took = begun.elapsed().as_secs_f64();
    ensure!((20.0..40.0).contains(&took), "{took}");
    Ok(())
}

#[tokio::test]
async fn who_waits_on_a_connection_that_died_in_silence_is_taken_elsewhere() -> Result<()> {
    let near = Near::new().await?;
    let (_served, mut saw) = serve(near.peer()?, 100, echo);
    ensure!(near.echoed(SERVICE).await?);
    let port = saw
        .recv()
        .await
        .context("a CONNECT")?
        .from
        .port()
        .to_string();
    let netns = near.other.netns.name();
    let lost = ["rule", "add", "pref", "1", "ipproto", "tcp", "dport", &port];
    process::output(
        "ip",
        &[&["-netns", netns][..], &lost, &["blackhole"]].concat(),
    )?;
    ensure!(near.echoed(SERVICE).await?, "{}", near.proxy.complaints());
    ensure!(near.counter("hbone_upstream_rq_retry").await? == 1);
    ensure!(near.counter("hbone_upstream_rq_fail").await? == 0);
    Ok(())
}

#[tokio::test]
async fn a_peer_that_leaves_keeps_what_it_has_and_gets_no_more() -> Result<()> {
    let near = Near::new().await?;
    let (listener, config) = near.peer()?;
    let (told, mut settings) = mpsc::unbounded_channel();
    let peer = tokio::spawn(async move {
        let mut open = JoinSet::new();
        for number in 0.. {
            let (stream, _) = listener.accept().await?;
            let (config, told) = (Arc::clone(&config), told.clone());
            open.spawn(async move {
                let mut frames = Frames::take(stream, config).await?;
                frames.send(&[Frame::new(SETTINGS, 0, 0, [])]).await?;
                loop {
                    let frame = frames.next().await?;
                    let id = frame.id;
                    match frame.kind {
                        SETTINGS if frame.flags != ACK => {
                            frames.send(&[Frame::new(SETTINGS, ACK, 0, [])]).await?;
                            let _ = told.send((number, frame));
                        }
                        WINDOW_UPDATE => drop(told.send((number, frame))),
                        HEADERS => {
                            let _ = told.send((number, frame));
                            // A status of 200, a word, and that it takes no more than this.
                            let answer = Frame::new(HEADERS, 4, id, [0x88]);
                            let word = Frame::data(id, 0, &[b'0' + number]);
                            let last = [id.to_be_bytes(), [0; 4]].concat();
                            let goaway = Frame::new(GOAWAY, 0, 0, last);
                            frames.send(&[answer, word, goaway]).await?;
                        }
                        0 if !frame.payload.is_empty() => {
                            frames.send(&[Frame::data(id, 0, &frame.payload)]).await?;
                        }
                        _ => {}
                    }
                }
                #[allow(unreachable_code)]
                anyhow::Ok(())
            });
        }
        anyhow::Ok(())
    });
    let to = SocketAddr::new(SERVICE, PORT);
    let mut open = Vec::new();
    for number in 0..3 {
        let mut stream = near.clients[0].netns.connect(to).await?;
        let word = raw::read_exactly(&mut stream, 1).await?;
        ensure!(word == [b'0' + number], "{word:?} of {number}");
        open.push(stream);
    }
    for stream in &mut open {
        stream.write_all(b"on").await?;
        ensure!(raw::read_exactly(stream, 2).await? == b"on");
    }
    ensure!(near.counter("hbone_upstream_cx").await? == 3);
    // What the client says of itself before all that.
    let (_, first) = settings.recv().await.context("settings")?;
    let mut first = first.settings();
    first.sort_unstable();
    ensure!(
        first == [(2, 0), (4, STREAM_WINDOW), (5, 1 << 20), (6, 16 << 10)],
        "{first:?}"
    );
    let mut window = None;
    while window.is_none() {
        let (number, frame) = settings.recv().await.context("a window")?;
        window = (number == 0 && frame.kind == WINDOW_UPDATE && frame.id == 0)
            .then(|| frame.number())
            .flatten();
    }
    ensure!(window == Some(CONNECTION_WINDOW - 65_535), "{window:?}");
    peer.abort();
    Ok(())
}

/// As deploy/hbone.md has them.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 200 << 20;
