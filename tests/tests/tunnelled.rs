//! `tunnel` of a DestinationRule: bytes go through an HTTP proxy.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    PATIENCE,
    raw::{self, End, Server},
    shop::Shop,
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::mpsc};

const PODS: &[(&str, &str)] = &[
    ("client", "app=client"),
    ("proxy", "app=proxy,aquifer.io/mesh=disabled"),
];

/// The service `proxy`: a port that carries bytes, and one that declares nothing.
fn service(policy: &str, routes: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: proxy, namespace: shop}}\n\
         spec:\n  clusterIP: 10.96.7.50\n  selector: {{app: proxy}}\n\
         \x20 ports: [{{name: tcp, port: 9000}}, {{name: some, port: 7000}}]\n\
         ---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{name: proxy, namespace: shop}}\n\
         spec: {{host: proxy, trafficPolicy: {{{policy}}}, subsets: [{{name: a}}]}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: proxy, namespace: shop}}\n\
         spec: {{hosts: [{routes}]}}\n"
    )
}

const ROUTE: &str = "proxy], tcp: [{route: [{destination: {host: proxy}}]}";
const CONNECT: &str = "tunnel: {targetHost: db.test, targetPort: 5432}";
const POST: &str = "tunnel: {protocol: POST, targetHost: db.test, targetPort: 5432}";

struct Stage {
    shop: Shop,
    _server: Server,
    proxied: mpsc::UnboundedReceiver<TcpStream>,
}

impl Stage {
    async fn open(policy: &str, routes: &str, port: u16) -> Result<Self> {
        let shop = Shop::open(PODS, &service(policy, routes)).await?;
        let status = shop.proxy.admin("/status").await?;
        let problems = &status["problems"];
        // What a tunnel is for is told, and nothing else.
        let known = |one: &serde_json::Value| {
            one["field"] == "spec.trafficPolicy.tunnel" && one["severity"] == "info"
        };
        let problems = problems.as_array().context("a list")?;
        ensure!(problems.iter().all(known), "{problems:?}");
        let (_server, proxied) = Server::accepting(shop.pod("proxy")?, port)?;
        Ok(Self {
            shop,
            _server,
            proxied,
        })
    }

    /// A client's connection, and the proxy's.
    async fn connect(&mut self, port: u16) -> Result<(TcpStream, TcpStream)> {
        let to = SocketAddr::from(([10, 96, 7, 50], port));
        let client = self.shop.pod("client")?.netns.connect(to).await?;
        let next = tokio::time::timeout(PATIENCE, self.proxied.recv()).await;
        let proxied = next.context("no connection came in time")?.context("one")?;
        Ok((client, proxied))
    }
}

async fn said(stream: &mut TcpStream, expected: &[u8]) -> Result<()> {
    let said = raw::read_exactly(stream, expected.len()).await?;
    let shown = String::from_utf8_lossy(&said).into_owned();
    ensure!(said == expected, "{shown:?}");
    Ok(())
}

const ASKED: &[u8] = b"CONNECT db.test:5432 HTTP/1.1\r\nhost: db.test:5432\r\n\r\n";
const POSTED: &[u8] =
    b"POST / HTTP/1.1\r\nhost: db.test:5432\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn bytes_follow_a_connect() -> Result<()> {
    let mut stage = Stage::open(CONNECT, ROUTE, 9000).await?;
    let (mut client, mut proxied) = stage.connect(9000).await?;
    client.write_all(b"early").await?;
    said(&mut proxied, ASKED).await?;
    // An interim answer, the answer, and what the server says first, all at once.
    proxied
        .write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Go\r\nvia: x\r\n\r\nhello")
        .await?;
    said(&mut client, b"hello").await?;
    said(&mut proxied, b"early").await?;
    // Each half ends by itself.
    client.shutdown().await?;
    ensure!(raw::drain(&mut proxied).await? == (vec![], End::Closed));
    proxied.write_all(b"still").await?;
    proxied.shutdown().await?;
    ensure!(raw::drain(&mut client).await? == (b"still".to_vec(), End::Closed));
    Ok(())
}

#[tokio::test]
async fn what_is_no_yes_resets_the_client() -> Result<()> {
    let policy = format!("{CONNECT}, connectionPool: {{tcp: {{connectTimeout: 1s}}}}");
    let mut stage = Stage::open(&policy, ROUTE, 9000).await?;
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(70_000));
    for answer in [
        "HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "SSH-2.0-server\r\n\r\n",
        &long,
        // It takes too long.
        "",
    ] {
        let (mut client, mut proxied) = stage.connect(9000).await?;
        said(&mut proxied, ASKED).await?;
        proxied.write_all(answer.as_bytes()).await?;
        let (got, end) = raw::drain(&mut client).await?;
        let shown = &answer[..answer.len().min(30)];
        ensure!(got.is_empty() && end == End::Reset, "{shown}: {end:?}");
    }
    let failed = "cluster.outbound|9000||proxy.shop.svc.cluster.local.upstream_cx_connect_fail";
    stage.shop.stat(failed, |count| count == 5).await?;
    Ok(())
}

/// One chunk, decoded.
async fn chunk(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let line = raw::read_until_exactly(stream, b"\r\n").await?;
    let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16)?;
    let mut chunk = raw::read_exactly(stream, size + 2).await?;
    ensure!(chunk.split_off(size) == b"\r\n");
    Ok(chunk)
}

#[tokio::test]
async fn bytes_go_in_the_bodies_of_a_post() -> Result<()> {
    let mut stage = Stage::open(POST, ROUTE, 9000).await?;
    let (mut client, mut proxied) = stage.connect(9000).await?;
    said(&mut proxied, POSTED).await?;
    proxied
        .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;x\r\nhello\r\n")
        .await?;
    said(&mut client, b"hello").await?;
    // More than fits into any buffer on the way, both ways.
    let much: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut from_client, mut to_client) = client.into_split();
    let (sent, expected) = (much.clone(), much.clone());
    let sending = tokio::spawn(async move {
        to_client.write_all(&sent).await?;
        to_client.shutdown().await?;
        anyhow::Ok(())
    });
    let reading = tokio::spawn(async move {
        let mut got = vec![0; expected.len()];
        tokio::io::AsyncReadExt::read_exact(&mut from_client, &mut got).await?;
        ensure!(got == expected);
        let end = tokio::io::AsyncReadExt::read(&mut from_client, &mut [0]).await?;
        ensure!(end == 0);
        anyhow::Ok(())
    });
    let mut got = Vec::new();
    loop {
        let chunk = chunk(&mut proxied).await?;
        if chunk.is_empty() {
            break;
        }
        let framed = [format!("{:X}\r\n", chunk.len()).as_bytes(), &chunk, b"\r\n"].concat();
        proxied.write_all(&framed).await?;
        got.extend(chunk);
    }
    ensure!(got == much);
    // The request has ended, and the answer only now.
    proxied.write_all(b"0\r\nx: y\r\n\r\n").await?;
    tokio::time::timeout(PATIENCE, reading).await???;
    tokio::time::timeout(PATIENCE, sending).await???;
    raw::drain(&mut proxied).await?;
    Ok(())
}

#[tokio::test]
async fn an_answer_that_breaks_off_resets_the_client() -> Result<()> {
    let mut stage = Stage::open(POST, ROUTE, 9000).await?;
    for (head, body) in [
        ("transfer-encoding: chunked", "5\r\nhel"),
        ("transfer-encoding: chunked", "3\r\nhel\r\nz\r\n"),
        ("content-length: 5", "hel"),
    ] {
        let (mut client, mut proxied) = stage.connect(9000).await?;
        said(&mut proxied, POSTED).await?;
        let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
        proxied.write_all(answer.as_bytes()).await?;
        said(&mut client, b"hel").await?;
        proxied.shutdown().await?;
        let (got, end) = raw::drain(&mut client).await?;
        ensure!(got.is_empty() && end == End::Reset, "{body:?}: {end:?}");
    }
    // With the connection, and with its length, it is whole.
    for head in ["", "content-length: 3\r\n"] {
        let (mut client, mut proxied) = stage.connect(9000).await?;
        said(&mut proxied, POSTED).await?;
        let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\nhel");
        proxied.write_all(answer.as_bytes()).await?;
        proxied.shutdown().await?;
        ensure!(raw::drain(&mut client).await? == (b"hel".to_vec(), End::Closed));
    }
    Ok(())
}

/// As in Istio: a rule with one destination asks for it, and nothing else does.
#[tokio::test]
async fn only_rules_with_one_destination_go_through_it() -> Result<()> {
    let two = "proxy], tcp: [{route: [{destination: {host: proxy}, weight: 50}, \
               {destination: {host: proxy, subset: a}, weight: 50}]}";
    for routes in [
        two,
        "proxy], http: [{route: [{destination: {host: proxy}}]}",
    ] {
        let mut stage = Stage::open(CONNECT, routes, 9000).await?;
        let (mut client, mut proxied) = stage.connect(9000).await?;
        client.write_all(b"plain").await?;
        said(&mut proxied, b"plain").await?;
    }
    Ok(())
}

/// A request is not sent by a connection that leads to somebody else.
#[tokio::test]
async fn requests_do_not_go_through_it() -> Result<()> {
    let mut stage = Stage::open(CONNECT, ROUTE, 7000).await?;
    let (mut client, mut early) = stage.connect(7000).await?;
    said(&mut early, ASKED).await?;
    early.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    // The answer is read by the time that the next connection's is awaited.
    let (_other, mut next) = stage.connect(7000).await?;
    said(&mut next, ASKED).await?;
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: proxy:7000\r\n\r\n")
        .await?;
    let next = tokio::time::timeout(PATIENCE, stage.proxied.recv()).await;
    let mut request = next.context("no request came in time")?.context("one")?;
    let head = raw::read_until(&mut request, b"\r\n\r\n").await?;
    ensure!(head.starts_with(b"GET / HTTP/1.1\r\n"));
    ensure!(raw::drain(&mut early).await?.0.is_empty());
    Ok(())
}
