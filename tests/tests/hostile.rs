//! Input that means harm, or looks like it: each is refused or passed in one way only, soon, and
//! the proxy serves the next client as if nothing had been.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    Config, Lab, Manifests, PATIENCE, Proxy, World,
    client::Http,
    clock::Deadline,
    echo::Echo,
    netns::BUFFERED,
    raw::{self, End, Server},
    world::{HTTP, TCP, at},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What is left to show after every attack.
async fn still_serves(world: &World) -> Result<()> {
    let seen = world.http().await?.get("app", "/after").await?.seen()?;
    assert_eq!((seen.server(), seen.field("target")), ("v1", "/after"));
    Ok(())
}

/// The status of the first response in what came.
fn status(said: &str) -> &str {
    said.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test]
async fn malformed_heads_are_refused() -> Result<()> {
    let world = World::new().await?;
    let echo = Echo::start(&world.server, 8080, "v1")?;
    let long = "x".repeat(70_000);
    for (name, request, statuses) in [
        (
            "NUL in a value",
            "GET / HTTP/1.1\r\nhost: app\r\na: b\0c\r\n\r\n".into(),
            &["400"][..],
        ),
        (
            "bare CR in a value",
            "GET / HTTP/1.1\r\nhost: app\r\na: b\rc\r\n\r\n".into(),
            &["400"],
        ),
        (
            "space before the colon",
            "GET / HTTP/1.1\r\nhost: app\r\na : b\r\n\r\n".into(),
            &["400"],
        ),
        (
            "no colon",
            "GET / HTTP/1.1\r\nhost: app\r\nabc\r\n\r\n".into(),
            &["400"],
        ),
        (
            "a folded line",
            "GET / HTTP/1.1\r\nhost: app\r\na: b\r\n c\r\n\r\n".into(),
            &["400"],
        ),
        ("no host", "GET / HTTP/1.1\r\na: b\r\n\r\n".into(), &["400"]),
        (
            "a host with a space",
            "GET / HTTP/1.1\r\nhost: a b\r\n\r\n".into(),
            &["400"],
        ),
        (
            "two hosts",
            "GET / HTTP/1.1\r\nhost: app\r\nhost: other\r\n\r\n".into(),
            &["400"],
        ),
        (
            "no leading slash",
            "GET abc HTTP/1.1\r\nhost: app\r\n\r\n".into(),
            &["400"],
        ),
        (
            "an encoded NUL",
            "GET /%00 HTTP/1.1\r\nhost: app\r\n\r\n".into(),
            &["400"],
        ),
        (
            "two lengths that differ",
            "POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"
                .into(),
            &["400"],
        ),
        (
            "a coding that proxies do not do",
            "POST / HTTP/1.1\r\nhost: app\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
                .into(),
            &["501", "400"],
        ),
        (
            "a long value",
            format!("GET / HTTP/1.1\r\nhost: app\r\na: {long}\r\n\r\n"),
            &["431"],
        ),
        (
            "many headers",
            format!(
                "GET / HTTP/1.1\r\nhost: app\r\n{}\r\n",
                "a: b\r\n".repeat(200)
            ),
            &["431"],
        ),
        (
            "a long target",
            format!("GET /{long} HTTP/1.1\r\nhost: app\r\n\r\n"),
            &["414", "431"],
        ),
    ] {
        let request: String = request;
        let before = echo.requests();
        let (said, _) = world.ask(&request).await.context(name)?;
        ensure!(statuses.contains(&status(&said)), "{name}: {said:.200}");
        assert_eq!(
            echo.requests(),
            before,
            "{name}: nothing reaches the upstream"
        );
    }
    still_serves(&world).await
}

#[tokio::test]
async fn an_ambiguous_length_ends_as_one_request() -> Result<()> {
    let world = World::new().await?;
    let echo = Echo::start(&world.server, 8080, "v1")?;
    // By its length the second request would be part of the first one's body.
    let (said, end) = world
        .ask(
            "POST /one HTTP/1.1\r\nhost: app\r\ncontent-length: 60\r\n\
             transfer-encoding: chunked\r\n\r\n0\r\n\r\n\
             GET /smuggled HTTP/1.1\r\nhost: app\r\n\r\n",
        )
        .await?;
    assert_eq!(end, End::Closed, "the connection ends after it");
    ensure!(!said.contains("/smuggled"), "{said}");
    ensure!(["200", "400"].contains(&status(&said)), "{said}");
    ensure!(echo.requests() <= 1, "{} requests went on", echo.requests());
    if status(&said) == "200" {
        ensure!(
            !said.contains("content-length\",\"60"),
            "the upstream saw both: {said}"
        );
    }
    still_serves(&world).await
}

#[tokio::test]
async fn a_fragment_is_no_part_of_any_path() -> Result<()> {
    let world = World::with(&[], |manifests| {
        manifests.yaml(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata: {name: app, namespace: default}\n\
             spec: {hosts: [app], http: [\
             {match: [{uri: {exact: /admin}}], route: [{destination: {host: nowhere}}]}, \
             {route: [{destination: {host: app}}]}]}\n",
        )
    })
    .await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    let ask = |target: &str| {
        world.ask(format!(
            "GET {target} HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n"
        ))
    };
    // Routing and upstream must see the same: refused, or cut for both.
    let (said, _) = ask("/admin#x").await?;
    ensure!(["400", "503"].contains(&status(&said)), "{said}");
    let (said, _) = ask("/a#/admin").await?;
    let cut = status(&said) == "200" && said.contains("\"target\":\"/a\"");
    ensure!(status(&said) == "400" || cut, "{said}");
    Ok(())
}

#[tokio::test]
async fn an_endless_header_line_is_bounded() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    let mut stream = world.client.netns.connect(at(HTTP)).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: app\r\na: ")
        .await?;
    let (mut read, mut write) = stream.split();
    let endless = async {
        let block = [b'x'; 4096];
        let mut sent = 0usize;
        while write.write_all(&block).await.is_ok() {
            sent += block.len();
        }
        sent
    };
    let refusal = async {
        let mut said = Vec::new();
        let _ = read.read_to_end(&mut said).await;
        String::from_utf8_lossy(&said).into_owned()
    };
    let both = async { tokio::join!(endless, refusal) };
    let (sent, said) = tokio::time::timeout(PATIENCE, both)
        .await
        .context("no end")?;
    // The head itself and what is thrown away after the answer, and what the kernel holds of a
    // connection that nobody reads.
    ensure!(sent < (4 << 20) + BUFFERED, "{sent} bytes were taken");
    ensure!(said.is_empty() || status(&said) == "431", "{said}");
    still_serves(&world).await
}

#[tokio::test]
async fn a_chunk_of_any_size_is_no_overflow() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    for size in [
        "10000000000000000",
        "ffffffffffffffff",
        "-1",
        "0x5",
        "",
        "5 5",
    ] {
        let head = "POST / HTTP/1.1\r\nhost: app\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut stream = world.client.netns.connect(at(HTTP)).await?;
        stream
            .write_all(format!("{head}{size}\r\nhello\r\n").as_bytes())
            .await?;
        stream.shutdown().await?;
        let (said, _) = raw::drain(&mut stream)
            .await
            .with_context(|| format!("{size:?}"))?;
        let said = String::from_utf8_lossy(&said);
        ensure!(!said.contains(" 200 "), "{size:?}: {said}");
    }
    still_serves(&world).await
}

#[tokio::test]
async fn a_slow_client_holds_nobody_up() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = world.client.netns.connect(at(HTTP)).await?;
        stream.write_all(b"G").await?;
        slow.push(stream);
    }
    for byte in b"ET / HTTP/1.1\r\nhost: app\r\n" {
        for stream in &mut slow {
            stream.write_all(&[*byte]).await?;
        }
        still_serves(&world).await?;
    }
    for mut stream in slow {
        stream.write_all(b"connection: close\r\n\r\n").await?;
        let (said, _) = raw::drain(&mut stream).await?;
        assert_eq!(status(&String::from_utf8_lossy(&said)), "200");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_resets_in_its_body_ends_the_upstreams_request() -> Result<()> {
    let world = World::new().await?;
    let (told, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(&world.server, 8080, move |mut stream, _| {
        let told = told.clone();
        async move {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes).await;
            let _ = told.send(bytes);
        }
    })?;
    for framing in ["content-length: 1000", "transfer-encoding: chunked"] {
        let mut stream = world.client.netns.connect(at(HTTP)).await?;
        let head = format!("POST / HTTP/1.1\r\nhost: app\r\n{framing}\r\n\r\n5\r\nhello\r\n");
        stream.write_all(head.as_bytes()).await?;
        let arrived = async {
            while server.accepted() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, arrived).await?;
        raw::reset(stream)?;
        let bytes = tokio::time::timeout(PATIENCE, ends.recv())
            .await?
            .context("no end")?;
        let bytes = String::from_utf8_lossy(&bytes);
        ensure!(
            !bytes.ends_with("0\r\n\r\n"),
            "{framing}: it looked complete: {bytes}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_upstream_that_breaks_the_rules_is_the_upstreams_fault() -> Result<()> {
    let world = World::new().await?;
    let _server = Server::start(&world.server, 8080, |mut stream, _| async move {
        let Ok(head) = raw::read_until(&mut stream, b"\r\n\r\n").await else {
            return;
        };
        let head = String::from_utf8_lossy(&head).into_owned();
        let answer: &[u8] = match head.split(' ').nth(1).unwrap_or_default() {
            "/garbage" => b"\x00\x01\x02 this is not HTTP at all\r\n\r\n",
            "/half" => b"HTTP/1.1 200 OK\r\ncontent-le",
            "/lengths" => {
                b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n\
                  5\r\nhello\r\n0\r\n\r\n"
            }
            "/negative" => b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello",
            _ => b"",
        };
        let _ = stream.write_all(answer).await;
    })?;
    for (path, statuses) in [
        ("/garbage", &["502"][..]),
        ("/half", &["502", "503"]),
        ("/lengths", &["502"]),
        ("/negative", &["502"]),
        ("/close", &["503"]),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n");
        let (said, _) = world.ask(request).await?;
        ensure!(statuses.contains(&status(&said)), "{path}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn an_upstream_that_never_answers_is_bounded_by_the_client() -> Result<()> {
    let world = World::new().await?;
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let _silent = Server::start(&world.server, 8080, move |mut stream, _| {
        let ended = ended.clone();
        async move {
            let _ = raw::drain(&mut stream).await;
            let _ = ended.send(());
        }
    })?;
    // Many that wait cost nobody else anything, and their end is the upstream's end.
    let mut waiting = Vec::new();
    for _ in 0..100 {
        let mut stream = world.client.netns.connect(at(HTTP)).await?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n")
            .await?;
        waiting.push(stream);
    }
    let _echo = Echo::start(&world.server, 8081, "v1")?;
    let mut direct = Http::connect(&world.client, world.server.at(8081)).await?;
    assert_eq!(direct.get("app", "/").await?.status, 200);
    drop(waiting);
    for _ in 0..100 {
        tokio::time::timeout(PATIENCE, ends.recv())
            .await
            .context("an upstream still waits")?;
    }
    Ok(())
}

#[tokio::test]
async fn the_proxys_own_listeners_are_nobodys_destination() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    let listeners = world.proxy.admin("/config/listeners").await?.to_string();
    let mut dialled = 0;
    for port in 15100..15500u16 {
        if !listeners.contains(&port.to_string()) {
            continue;
        }
        for to in [
            std::net::SocketAddr::from(([127, 0, 0, 1], port)),
            std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)),
            world.client.at(port),
        ] {
            let mut stream = match world.client.netns.connect(to).await {
                Ok(stream) => stream,
                // The proxy may have ended it before its client knows that it began.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    dialled += 1;
                    continue;
                }
                Err(_) => continue,
            };
            dialled += 1;
            let _ = stream
                .write_all(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n")
                .await;
            // Ended by the proxy, whatever it says: never passed on to itself without end.
            raw::drain(&mut stream)
                .await
                .with_context(|| format!("{to}"))?;
        }
    }
    ensure!(dialled > 0, "no listener was found in {listeners}");
    still_serves(&world).await
}

#[tokio::test]
async fn a_namespace_that_goes_away_takes_only_its_own() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    let doomed = world.lab.pod("doomed")?;
    let manifest = Manifests::new().pod(&doomed, &[("app", "doomed")]).text();
    world.config.put("doomed.yaml", manifest)?;
    let joined = |listeners: &serde_json::Value| {
        let rows = listeners.as_array().into_iter().flatten();
        let mut own = rows.filter(|row| row["pod"] == "default/doomed");
        own.any(|row| row["state"] == "enrolled")
    };
    world.proxy.until("/config/listeners", joined).await?;
    let mut http = Http::connect(&doomed, at(HTTP)).await?;
    assert_eq!(http.get("app", "/").await?.status, 200);
    let _server = Server::start(&world.server, TCP, |mut stream, _| async move {
        let _ = raw::drain(&mut stream).await;
    })?;
    let mut open = doomed.netns.connect(at(TCP)).await?;
    open.write_all(b"half a conversation").await?;
    // Deleted under open connections, its Pod object still there.
    drop(doomed);
    world
        .proxy
        .until("/config/listeners", |listeners| !joined(listeners))
        .await?;
    drop((http, open));
    still_serves(&world).await
}

const LIMIT: u32 = 4096;
const FLOOD: usize = 20_000;
/// Processes that the flood comes from: one may have no more descriptors than the system gives it.
const SOURCES: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_beyond_the_descriptors_is_reset() -> Result<()> {
    let lab = Lab::new()?;
    let (client, server) = (lab.pod("client")?, lab.pod("server")?);
    let world = Manifests::new()
        .namespace("default", &[])
        .pod(&client, &[("app", "client")])
        .stranger(&server, &[("app", "server")])
        .service(
            "app",
            &[at(TCP).ip()],
            &[("tcp", TCP, TCP), ("http", HTTP, 8080)],
            &[("app", "server")],
        );
    let config = Config::new(&world)?;
    let proxy = Proxy::on(&lab, &config).descriptors(LIMIT).ready().await?;
    // One address and port of the client are 28,000 connections; the flood stays below.
    client
        .netns
        .sysctl("net/ipv4/ip_local_port_range", "10000 60000")?;
    client.netns.sysctl("net/core/somaxconn", "65535")?;
    let listener = server.netns.listen(server.at(TCP))?;
    let answering = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"y").await;
            open.push(stream);
        }
    });
    let mut sources = Vec::new();
    for _ in 0..SOURCES {
        let mut command = std::process::Command::new("prlimit");
        command
            .arg("--nofile=10000:10000")
            .arg(env!("CARGO_BIN_EXE_aqh-flood"));
        command.args([at(TCP).to_string(), (FLOOD / SOURCES).to_string()]);
        command.stdin(std::process::Stdio::piped());
        sources.push(
            client
                .netns
                .run(|| command.stdout(std::process::Stdio::piped()).spawn())??,
        );
    }
    let mut reports = Vec::new();
    for source in &mut sources {
        let output = source.stdout.take().context("no output")?;
        let report = tokio::task::spawn_blocking(move || {
            let mut lines = std::io::BufRead::lines(std::io::BufReader::new(output));
            lines.next().and_then(Result::ok)
        });
        reports.push(report);
    }
    let (mut reset, mut hanging, mut slowest) = (0, 0, 0);
    for report in reports {
        let report = report.await?.context("a source of the flood ended early")?;
        let words: Vec<_> = report.split(' ').collect();
        reset += words[0].parse::<usize>()?;
        hanging += words[1].parse::<usize>()?;
        slowest = slowest.max(words[2].parse::<u64>()?);
    }
    let open = FLOOD - reset - hanging;
    ensure!(hanging == 0, "{hanging} hang, {reset} were reset");
    ensure!(
        reset > 0 && open > 500,
        "{reset} reset, {open} served: the limit was not met"
    );
    ensure!(
        open < LIMIT as usize,
        "{open} served with {LIMIT} descriptors"
    );
    // Well under a second where the machine has nothing else to do. What waits for a timeout of the
    // proxy's or of TCP's takes longer than this.
    ensure!(slowest < 5_000, "the slowest reset took {slowest} ms");
    println!("{reset} reset, {open} served, the slowest reset after {slowest} ms");
    // It still tells about itself while full, and has not ended.
    assert!(proxy.child.ended().is_none());
    for source in &mut sources {
        drop(source.stdin.take());
    }
    for mut source in sources {
        tokio::task::spawn_blocking(move || source.wait()).await??;
    }
    answering.abort();
    // It recovers: what was open has ended, and new clients are served.
    let echo = Arc::new(Echo::start(&server, 8080, "v1")?);
    let deadline = Deadline::after(PATIENCE);
    loop {
        let tried = async {
            Http::connect(&client, at(HTTP))
                .await?
                .get("app", "/")
                .await
        }
        .await;
        match tried {
            Ok(reply) if reply.status == 200 => break,
            other => ensure!(!deadline.passed(), "it does not recover: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(echo);
    Ok(())
}
