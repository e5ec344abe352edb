//! Trust that is withdrawn from servers outside the mesh, to which open connections rest on it: they
//! end at once, in whatever state they are, and for nothing less.

mod hbone;
mod outside;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    Config, Lab, Manifests, PATIENCE, Proxy,
    authority::{self, Files},
    client::{self, Http},
    clock::Deadline,
    process,
    raw::{self, End},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use hbone::asked::{asking, known, renewed, rows, serials};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use outside::stage::{CA, DB, NAME, OWN, Stage, folder, replace, rule};
use outside::{Authority, Server};
use rustls::ServerConfig;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::TcpStream,
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

const SECOND: Duration = Duration::from_secs(1);

/// Connections that a server has.
#[derive(Clone, Debug)]
struct Open(Arc<watch::Sender<usize>>);

/// One of them.
struct One(Open);

impl Default for Open {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Open {
    fn one(&self) -> One {
        self.0.send_modify(|count| *count += 1);
        One(self.clone())
    }

    fn count(&self) -> usize {
        *self.0.borrow()
    }

    async fn falls_to(&self, count: usize) -> Result<()> {
        let mut open = self.0.subscribe();
        let fallen = tokio::time::timeout(PATIENCE, open.wait_for(|open| *open <= count));
        let fallen = fallen.await;
        fallen.with_context(|| format!("{} are open still", self.count()))??;
        Ok(())
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

/// A server whose connections are counted.
fn serve<F>(
    stage: &outside::stage::Stage,
    port: u16,
    config: &Arc<ServerConfig>,
    open: &Open,
    script: impl Fn(TlsStream<TcpStream>) -> F + Clone + Send + 'static,
) -> Result<Server>
where
    F: Future<Output = ()> + Send + 'static,
{
    let open = open.clone();
    Server::start(&stage.db, port, Arc::clone(config), move |stream| {
        let (one, script) = (open.one(), script(stream));
        async move {
            script.await;
            drop(one);
        }
    })
}

/// `/half` is answered half, `/never` not at all, anything else in full.
async fn http(stream: TlsStream<TcpStream>) {
    let answer = |request: Request<Incoming>| async move {
        let path = request.uri().path().to_owned();
        if path == "/never" {
            std::future::pending::<()>().await;
        }
        let some = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"some")))]);
        let body: BoxBody<Bytes, std::convert::Infallible> = if path == "/half" {
            BodyExt::boxed(StreamBody::new(some.chain(futures_util::stream::pending())))
        } else {
            BodyExt::boxed(StreamBody::new(some))
        };
        Ok::<_, std::convert::Infallible>(Response::new(body))
    };
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer))
        .await;
}

/// Sends back what comes, after the head of a request, which it answers by changing protocols.
async fn upgraded(mut stream: TlsStream<TcpStream>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else {
            return;
        };
        head.push(byte);
    }
    let answer =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    if stream.write_all(answer).await.is_ok() && stream.flush().await.is_ok() {
        echo(stream).await;
    }
}

async fn echo(stream: TlsStream<TcpStream>) {
    let (mut read, mut write) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

/// Says all it can, whether or not anybody reads.
async fn flood(mut stream: TlsStream<TcpStream>) {
    while stream.write_all(&[b'x'; 16 << 10]).await.is_ok() {}
}

/// Ends its half at once, and hears the other.
async fn half_closed(mut stream: TlsStream<TcpStream>) {
    let _ = stream.shutdown().await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

async fn ping(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"ping").await?;
    ensure!(raw::read_exactly(stream, 4).await? == b"ping");
    Ok(())
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::new(DB, port)
}

/// A relay that works.
async fn relay(stage: &Stage, port: u16) -> Result<TcpStream> {
    let mut stream = stage.client.netns.connect(at(port)).await?;
    ping(&mut stream).await?;
    Ok(stream)
}

async fn reset(stream: &mut TcpStream) -> Result<()> {
    let (_, end) = raw::drain(stream).await?;
    ensure!(end == End::Reset, "{end:?}");
    Ok(())
}

/// An answer whose body does not come to its end.
async fn half(http: &mut Http) -> Result<Incoming> {
    let request = client::request("GET", NAME, "/half").body(client::whole(""))?;
    let mut body = http.send(request).await?.into_body();
    let first = body.frame().await.context("the first half")??;
    ensure!(first.into_data().is_ok_and(|data| data == "some"));
    Ok(body)
}

async fn broken(mut body: Incoming) -> Result<()> {
    let rest = tokio::time::timeout(PATIENCE, body.frame()).await?;
    ensure!(
        matches!(rest, Some(Err(_))),
        "it must not look like an end: {rest:?}"
    );
    Ok(())
}

/// Waits until the files of a rule were read again since `mark`.
fn read_again(proxy: &Proxy, mark: usize) -> Result<()> {
    let wanted = |line: &str| line.contains("its files have changed and were read again");
    proxy.child.stderr.wait_for(mark, PATIENCE, wanted)?;
    Ok(())
}

#[tokio::test]
async fn files_that_vouch_for_a_server_no_longer_end_what_rests_on_them() -> Result<()> {
    let (first, second) = (Authority::new("one")?, Authority::new("two")?);
    let mutual = format!("mode: MUTUAL, {CA}, {OWN}");
    let kinds = ["http", "http2", "http", "http", "tcp", "tcp", "tcp", "auto"];
    let ports: Vec<_> = (8001..)
        .zip(kinds)
        .map(|(port, kind)| (kind, port, mutual.as_str()))
        .collect();
    let stage = Stage::open(&ports, folder(&first)?, &[]).await?;
    let config = first
        .sign(&[NAME])?
        .server(Some(&first), &["h2", "http/1.1"])?;
    let open = Open::default();
    let _servers = [
        serve(&stage, 8001, &config, &open, http)?,
        serve(&stage, 8002, &config, &open, http)?,
        serve(&stage, 8003, &config, &open, http)?,
        serve(&stage, 8004, &config, &open, upgraded)?,
        serve(&stage, 8005, &config, &open, echo)?,
        serve(&stage, 8006, &config, &open, flood)?,
        serve(&stage, 8007, &config, &open, half_closed)?,
        serve(&stage, 8008, &config, &open, echo)?,
    ];
    let idle = &_servers[0];

    // One of each kind, in the middle of what it does.
    let (mut one, mut two) = (
        Http::connect(&stage.client, at(8001)).await?,
        Http::connect2(&stage.client, at(8002)).await?,
    );
    let body = half(&mut two).await?;
    let mut unread = Http::connect(&stage.client, at(8003)).await?;
    let partly = half(&mut unread).await?;
    let mut websocket = stage.client.netns.connect(at(8004)).await?;
    let upgrade = format!(
        "GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    websocket.write_all(upgrade.as_bytes()).await?;
    raw::read_until_exactly(&mut websocket, b"\r\n\r\n").await?;
    ping(&mut websocket).await?;
    let mut bytes = relay(&stage, 8005).await?;
    let mut flooded = stage.client.netns.connect(at(8006)).await?;
    raw::read_exactly(&mut flooded, 1).await?;
    let mut half_closed = stage.client.netns.connect(at(8007)).await?;
    ensure!(half_closed.read(&mut [0]).await? == 0);
    // Nothing was said on it yet: the connection to the server is there for all that.
    let mut silent = stage.client.netns.connect(at(8008)).await?;
    while _servers[7].handshakes() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let handshakes = idle.handshakes();
    ensure!(one.get(NAME, "/").await?.status == 200);
    ensure!(idle.handshakes() == handshakes + 1 && open.count() == 8);

    // Another root beside it, and another certificate for the client, end nothing.
    let (ca, stderr) = (stage.files.path().join("ca.pem"), &stage.proxy.child.stderr);
    let mark = stderr.mark();
    replace(&ca, &(second.pem().to_owned() + first.pem()))?;
    read_again(&stage.proxy, mark)?;
    for stream in [&mut websocket, &mut bytes] {
        ping(stream).await?;
    }
    ensure!(one.get(NAME, "/").await?.status == 200);
    ensure!(
        idle.handshakes() == handshakes + 1,
        "the pooled one is used"
    );
    let mark = stderr.mark();
    let renewed = first.sign(&["client"])?;
    replace(&stage.files.path().join("client.key"), &renewed.key)?;
    replace(&stage.files.path().join("client.crt"), &renewed.certificate)?;
    read_again(&stage.proxy, mark)?;
    for stream in [&mut websocket, &mut bytes] {
        ping(stream).await?;
    }
    ensure!(one.get(NAME, "/").await?.status == 200);
    let name = "upstream_cx_tls_untrusted";
    ensure!(stage.proxy.counter(name).await? == 0);

    // The root goes.
    let mut never = Http::connect(&stage.client, at(8001)).await?;
    let request = client::request("GET", NAME, "/never").body(client::whole(""))?;
    let never = tokio::spawn(async move { never.exchange(request).await });
    let mark = stderr.mark();
    replace(&ca, second.pem())?;
    read_again(&stage.proxy, mark)?;
    let deadline = Deadline::after(SECOND);
    for (what, stream) in [
        ("bytes", &mut bytes),
        ("bytes that nobody reads", &mut flooded),
        ("no byte yet", &mut silent),
    ] {
        reset(stream).await.context(what)?;
    }
    // As Envoy ends what was upgraded.
    ensure!(raw::drain(&mut websocket).await?.1 == End::Closed);
    // Of which the client has read the end.
    tokio::time::timeout(PATIENCE, half_closed.ready(Interest::ERROR)).await??;
    broken(body).await?;
    broken(partly).await?;
    open.falls_to(0).await?;
    ensure!(!deadline.passed(), "it took more than a second");
    ensure!(never.await??.status == 503);
    ensure!(stage.proxy.counter(name).await? >= 7);
    stderr.wait_for(mark, PATIENCE, |line| {
        line.contains("the server of an open TLS connection is no longer trusted")
            && line.contains(&stage.db.at(8005).to_string())
    })?;
    // Nor is there another one.
    let reply = one.get(NAME, "/").await?;
    ensure!(reply.status == 503, "{}", reply.text());
    Ok(())
}

/// The root goes while the handshake is under way, which was begun by it.
#[tokio::test]
async fn trust_that_goes_during_a_handshake_lets_nothing_be_said() -> Result<()> {
    let (first, second) = (Authority::new("one")?, Authority::new("two")?);
    let simple = format!("mode: SIMPLE, {CA}");
    let ports = [("http", 8001, simple.as_str())];
    let stage = Stage::with(&ports, folder(&first)?, &[], |rule| {
        rule.replace("connectTimeout: 2s", "connectTimeout: 20s")
    })
    .await?;
    let (_server, mut connections) = raw::Server::accepting(&stage.db, 8001)?;
    let client = Http::connect(&stage.client, at(8001)).await?;
    let asking = tokio::spawn(async move {
        let mut client = client;
        client.get(NAME, "/").await
    });
    let begun = tokio::time::timeout(PATIENCE, connections.recv()).await?;
    let begun = begun.context("a connection")?;
    let mark = stage.proxy.child.stderr.mark();
    replace(&stage.files.path().join("ca.pem"), second.pem())?;
    read_again(&stage.proxy, mark)?;
    let acceptor = TlsAcceptor::from(first.sign(&[NAME])?.server(None, &["http/1.1"])?);
    let mut said = Vec::new();
    // However it ends, and be it with the handshake's last message.
    if let Ok(mut opened) = acceptor.accept(begun).await {
        let _ = tokio::time::timeout(PATIENCE, opened.read_to_end(&mut said)).await?;
    }
    ensure!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
    // It is tried again, and refused by the other root.
    let again = async {
        while let Some(again) = connections.recv().await {
            let _ = acceptor.accept(again).await;
        }
    };
    let reply = tokio::select! {
        reply = asking => reply??,
        () = again => anyhow::bail!("nobody listens any more"),
    };
    ensure!(reply.status == 503, "{}", reply.text());
    Ok(())
}

#[tokio::test]
async fn whoever_is_revoked_is_cut_off_and_what_tells_nothing_new_ends_nothing() -> Result<()> {
    let (first, second) = (Authority::new("one")?, Authority::new("two")?);
    let simple = format!("mode: SIMPLE, {CA}");
    let listed = format!("{simple}, caCrl: FILES/crl.pem");
    let ports = [
        ("tcp", 8001, simple.as_str()),
        ("tcp", 8002, listed.as_str()),
    ];
    let files = folder(&first)?;
    let path = |name: &str| files.path().join(name);
    let (ca, list, other) = (path("ca.pem"), path("crl.pem"), path("other.pem"));
    replace(&list, &first.revoking(8)?)?;
    replace(&other, second.pem())?;
    let stage = Stage::open(&ports, files, &[]).await?;
    let config = first.numbered(&[NAME], 7)?.server(None, &[])?;
    let open = Open::default();
    let _one = serve(&stage, 8001, &config, &open, echo)?;
    let _two = serve(&stage, 8002, &config, &open, echo)?;
    let (mut plain, mut asked) = (relay(&stage, 8001).await?, relay(&stage, 8002).await?);
    let stderr = &stage.proxy.child.stderr;

    // A file that can't be used leaves what was in force.
    let mark = stderr.mark();
    replace(&ca, "nonsense")?;
    stderr.wait_for(mark, PATIENCE, |line| {
        line.contains("what was in force stays")
    })?;
    ping(&mut plain).await?;
    let mark = stderr.mark();
    replace(&ca, first.pem())?;
    read_again(&stage.proxy, mark)?;
    ping(&mut plain).await?;
    ping(&mut asked).await?;
    // It is on the list now, for those who ask.
    let mark = stderr.mark();
    replace(&list, &first.revoking(7)?)?;
    read_again(&stage.proxy, mark)?;
    let deadline = Deadline::after(SECOND);
    reset(&mut asked).await?;
    ensure!(!deadline.passed(), "it took more than a second");
    ping(&mut plain).await?;
    // The rule trusts others now.
    let folder = stage.files.path().to_string_lossy();
    let others = simple.replace("ca.pem", "other.pem");
    let now = rule(&[("tcp", 8001, &others)], "").replace("FILES", &folder);
    let deadline = Deadline::after(SECOND + SECOND);
    stage.config.put("rule.yaml", now)?;
    reset(&mut plain).await?;
    ensure!(!deadline.passed(), "it took more than a second");
    // No rule any more: whoever has a connection keeps it.
    replace(&other, first.pem())?;
    let again = async {
        loop {
            match relay(&stage, 8001).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let mut kept = tokio::time::timeout(PATIENCE, again).await?;
    stage
        .proxy
        .after(|| stage.config.remove("rule.yaml"))
        .await?;
    replace(&other, second.pem())?;
    ping(&mut kept).await?;
    Ok(())
}

/// A server that speaks Istio's mutual TLS, and whom another root than the proxy's own vouches for.
#[tokio::test]
async fn a_root_of_the_mesh_that_goes_takes_along_what_rests_on_it_outside() -> Result<()> {
    let lab = Lab::new()?;
    let lo = ["-netns", lab.node.name(), "link", "set", "lo", "up"];
    process::output("ip", &lo)?;
    let (client, db) = (lab.pod("client")?, lab.pod("db")?);
    let files: Files = known(&lab)?;
    let authority = authority::Authority::start(&lab.node, &files, &[]).await?;
    let foreign = hbone::Authority::foreign("cluster.local")?;
    let third = hbone::Authority::foreign("cluster.local")?;
    let own = std::fs::read_to_string(files.path("ca/ca-cert.pem"))?;
    let both = own.clone() + &foreign.pem().0;
    files.put("ca/root-cert.pem", &both)?;
    let manifests = Manifests::new()
        .namespace("default", &[])
        .pod_on(&lab.node, "client", &client, &[("app", "client")])
        .stranger(&db, &[("app", "db")])
        .service(
            "db",
            &[DB],
            &[("http", 8001, 8001), ("tcp", 8002, 8002)],
            &[("app", "db")],
        )
        .yaml(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
             metadata: {name: db, namespace: default}\n\
             spec: {host: db, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}\n",
        );
    let config = Config::new(&manifests)?;
    let arguments = asking(&files, &lab, 0, "6")?;
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let proxy = Proxy::on(&lab, &config)
        .arguments(&arguments)
        .ready()
        .await?;
    let roots = |count: usize| {
        move |answer: &Value| !serials(answer).is_empty() && rows(answer, "root").len() == count
    };
    let secrets = proxy.until("/config/secrets", roots(2)).await?;
    let (certificate, key) = foreign.files(&[hbone::DEFAULT])?;
    let key = key.serialize_pem();
    let signed = outside::Signed { certificate, key };
    // It asks for a certificate, whoever has signed it.
    let server = signed.server_trusting(Some(&own), &["istio-http/1.1", "istio"])?;
    let ended = Open::default();
    let counted = |port, script: fn(TlsStream<TcpStream>) -> Script| {
        let open = ended.clone();
        Server::start(&db, port, Arc::clone(&server), move |stream| {
            let (one, script) = (open.one(), script(stream));
            async move {
                script.await;
                drop(one);
            }
        })
    };
    let requests = counted(8001, |stream| Box::pin(http(stream)))?;
    let _bytes = counted(8002, |stream| Box::pin(echo(stream)))?;
    let (mut idle, mut busy) = (
        Http::connect(&client, at(8001)).await?,
        Http::connect(&client, at(8001)).await?,
    );
    let mut stream = client.netns.connect(at(8002)).await?;
    ping(&mut stream).await?;
    let body = half(&mut busy).await?;
    ensure!(
        idle.get(NAME, "/").await?.status == 200,
        "{}",
        proxy.complaints()
    );
    ensure!(requests.handshakes() == 2);

    // The client's certificate is renewed, and a root is added.
    let mut known = serials(&secrets);
    known = renewed(&proxy, &known).await?;
    ping(&mut stream).await?;
    files.put("ca/root-cert.pem", &(both + &third.pem().0))?;
    proxy.until("/config/secrets", roots(3)).await?;
    renewed(&proxy, &known).await?;
    ping(&mut stream).await?;
    ensure!(idle.get(NAME, "/").await?.status == 200);
    let name = "upstream_cx_tls_untrusted";
    ensure!(proxy.counter(name).await? == 0);

    files.put("ca/root-cert.pem", &(own + &third.pem().0))?;
    proxy.until("/config/secrets", roots(2)).await?;
    let deadline = Deadline::after(SECOND);
    reset(&mut stream).await?;
    broken(body).await?;
    ended.falls_to(0).await?;
    ensure!(!deadline.passed(), "it took more than a second");
    ensure!(proxy.counter(name).await? >= 2);
    let reply = idle.get(NAME, "/").await?;
    ensure!(reply.status == 503, "{}", reply.text());
    drop(authority);
    Ok(())
}

/// What a server does with a connection.
type Script = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
