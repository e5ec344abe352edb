//! HTTP through the proxy: what passes untouched, what streams, what is retried and what is not.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    PATIENCE, World,
    client::{Http, Reply, request, whole},
    clock::{self, Deadline},
    echo::{self, Echo},
    netns::BUFFERED,
    raw::{self, End, Server},
    world::{AUTO, HTTP, at},
};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, channel::Channel};
use hyper::{body::Frame, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    task::JoinSet,
};

/// A response that leaves the connection open.
fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() -> Result<()> {
    let world = World::new().await?;
    let echo = Echo::start(&world.server, 8080, "v1")?;
    let mut http = world.http().await?;
    for n in 0..20 {
        let seen = http.get("app", &format!("/{n}?q=%20")).await?.seen()?;
        assert_eq!(
            (seen.server(), seen.field("target")),
            ("v1", format!("/{n}?q=%20").as_str())
        );
        let peer: std::net::SocketAddr = seen.field("peer").parse()?;
        assert_eq!(
            peer.ip(),
            world.client.v4,
            "the application sees the caller's own address"
        );
        assert_eq!(seen.field("local"), world.server.at(8080).to_string());
        assert_eq!(seen.header("host"), ["app"]);
    }
    assert_eq!((echo.connections(), echo.requests()), (1, 20));
    let line = world
        .proxy
        .logged(0, |line| line.contains("GET /7?q=%20 HTTP/1.1"))?;
    assert!(line.contains("\" 200 - via_upstream - "), "{line}");
    Ok(())
}

#[tokio::test]
async fn ipv6_is_served_alike() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    let to = std::net::SocketAddr::new(aquifer_tests::world::APP6, HTTP);
    let seen = Http::connect(&world.client, to)
        .await?
        .get("app", "/")
        .await?
        .seen()?;
    assert_eq!(seen.server(), "v1");
    let direct = world.server.at6(8080);
    let seen = Http::connect(&world.client, direct)
        .await?
        .get("app", "/")
        .await?
        .seen()?;
    let peer: std::net::SocketAddr = seen.field("peer").parse()?;
    assert_eq!(peer.ip(), world.client.v6);
    Ok(())
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    let requests: String = (0..5)
        .map(|n| {
            let last = if n == 4 { "connection: close\r\n" } else { "" };
            format!("GET /n{n} HTTP/1.1\r\nhost: app\r\n{last}\r\n")
        })
        .collect();
    let (said, end) = world.ask(requests).await?;
    let places: Vec<_> = (0..5)
        .map(|n| said.find(&format!("\"target\":\"/n{n}\"")))
        .collect();
    ensure!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{said}"
    );
    assert_eq!(
        (said.matches("HTTP/1.1 200 OK").count(), end),
        (5, End::Closed)
    );
    Ok(())
}

/// No rule is for a CONNECT, and what follows it was not meant for this proxy (Envoy).
#[tokio::test]
async fn a_connect_is_answered_404_and_nothing_after_it_is_read() -> Result<()> {
    let world = World::new().await?;
    let echo = Echo::start(&world.server, 8080, "v1")?;
    for target in ["app:80", "elsewhere.test:443"] {
        let (said, end) = world
            .ask(format!(
                "CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n\
                 GET /behind HTTP/1.1\r\nhost: app\r\n\r\n"
            ))
            .await?;
        ensure!(said.starts_with("HTTP/1.1 404 Not Found\r\n"), "{said}");
        ensure!(said.matches("HTTP/1.1").count() == 1, "{said}");
        ensure!(said.contains("connection: close\r\n"), "{said}");
        ensure!(end == End::Closed);
    }
    ensure!(echo.requests() == 0, "a request was sent");
    Ok(())
}

#[tokio::test]
async fn chunked_bodies_and_trailers_leave_the_connection_usable() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    let said = world
        .ask(
            "POST /a HTTP/1.1\r\nhost: app\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
             5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 1\r\n\r\n\
             GET /b HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n",
        )
        .await?
        .0;
    ensure!(
        said.contains("\"body_bytes\":11") && said.contains("\"target\":\"/b\""),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn trailers_pass_over_http2() -> Result<()> {
    let world = World::with(&[], |manifests| {
        let selector = [("app", "server")];
        let address = "10.96.0.11".parse().into_iter().collect::<Vec<_>>();
        manifests.service("grpc", &address, &[("grpc", 80, 8080)], &selector)
    })
    .await?;
    let _server = Echo::answering(&world.server, 8080, |call| {
        Box::pin(async move {
            let sum = call.request.into_body().collect().await.ok();
            let sum = sum.and_then(|body| body.trailers()?.get("x-sum").cloned());
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            trailers.extend(sum.map(|sum| (http::HeaderName::from_static("x-seen"), sum)));
            let data = Frame::data(Bytes::from_static(b"message"));
            let frames = [data, Frame::trailers(trailers)].map(Ok::<_, std::io::Error>);
            let body = StreamBody::new(futures_util::stream::iter(frames));
            Response::new(body.boxed())
        })
    })?;
    let mut http = Http::connect2(&world.client, "10.96.0.11:80".parse()?).await?;
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", http::HeaderValue::from_static("7"));
    let frames = [
        Frame::data(Bytes::from_static(b"message")),
        Frame::trailers(trailers),
    ];
    let frames = frames.map(Ok::<_, std::io::Error>);
    let body = StreamBody::new(futures_util::stream::iter(frames)).boxed();
    let reply = http.exchange(
        request("POST", "grpc", "/s/m")
            .header("te", "trailers")
            .body(body)?,
    );
    let reply = reply.await?;
    assert_eq!((reply.status, reply.text().as_str()), (200, "message"));
    let trailers = reply.trailers.context("no trailers")?;
    assert_eq!(
        trailers.get("grpc-status").map(|value| value.as_bytes()),
        Some(&b"0"[..])
    );
    assert_eq!(
        trailers.get("x-seen").map(|value| value.as_bytes()),
        Some(&b"7"[..])
    );
    Ok(())
}

#[tokio::test]
async fn a_client_that_expects_100_is_told_to_go_on() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    let mut stream = world.client.netns.connect(at(HTTP)).await?;
    let head = "POST / HTTP/1.1\r\nhost: app\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\
                connection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    raw::read_until(&mut stream, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    stream.write_all(b"body").await?;
    let said = String::from_utf8_lossy(&raw::drain(&mut stream).await?.0).into_owned();
    ensure!(
        said.contains("\"body_bytes\":4") && !said.contains("\"expect\""),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn head_has_the_length_and_no_body() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    let mut http = world.http().await?;
    let reply = http
        .exchange(request("HEAD", "app", "/bytes/1234").body(whole(""))?)
        .await?;
    let length = reply.headers.get("content-length").context("no length")?;
    assert_eq!(
        (reply.status, length.as_bytes(), reply.body.len()),
        (200, &b"1234"[..], 0)
    );
    assert_eq!(http.get("app", "/").await?.seen()?.server(), "v1");
    Ok(())
}

#[tokio::test]
async fn websockets_carry_bytes_both_ways_from_the_first() -> Result<()> {
    let world = World::new().await?;
    let _server = Server::start(&world.server, 8080, |mut stream, _| async move {
        let Ok(head) = raw::read_until(&mut stream, b"\r\n\r\n").await else {
            return;
        };
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let asked = head.contains("upgrade: websocket") && head.contains("sec-websocket-key: k");
        // The first bytes of the new protocol come with the head, in one segment.
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                       upgrade: websocket\r\n\r\nearly";
        if asked && stream.write_all(answer).await.is_ok() {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.write_all(b"bye").await;
        }
    })?;
    let mut stream = world.client.netns.connect(at(HTTP)).await?;
    let head = "GET /chat HTTP/1.1\r\nhost: app\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-key: k\r\nsec-websocket-version: 13\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let said = raw::read_until(&mut stream, b"early").await?;
    ensure!(
        said.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(&said)
    );
    stream.write_all(b"ping").await?;
    raw::read_until(&mut stream, b"ping").await?;
    // Half-closed by the client, the other half still carries.
    stream.shutdown().await?;
    assert_eq!(
        raw::drain(&mut stream).await?,
        (b"bye".to_vec(), End::Closed)
    );
    let line = world.proxy.logged(0, |line| line.contains("GET /chat"))?;
    // The client was the first to end it, which Envoy tells in this way however orderly it was.
    let end = "\" 101 DC downstream_remote_disconnect ";
    assert!(line.contains(end), "{line}");
    Ok(())
}

#[tokio::test]
async fn a_refused_upgrade_is_an_answer_like_any_other() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    let mut http = world.http().await?;
    let upgrade = request("GET", "app", "/status/426")
        .header("connection", "upgrade")
        .header("upgrade", "websocket");
    assert_eq!(http.exchange(upgrade.body(whole(""))?).await?.status, 426);
    assert_eq!(http.get("app", "/").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn http2_is_understood_on_declared_and_undeclared_ports() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "http")?;
    let _auto = Echo::start(&world.server, AUTO, "auto")?;
    for (port, name) in [(HTTP, "http"), (AUTO, "auto")] {
        let http = Arc::new(tokio::sync::Mutex::new(
            Http::connect2(&world.client, at(port)).await?,
        ));
        let mut streams = JoinSet::new();
        for n in 0..100 {
            let http = http.clone();
            streams.spawn(async move {
                let head = request("POST", "app", &format!("/{n}")).body(whole(vec![0; n]))?;
                // Held only while the request goes out: the streams run side by side.
                let response = http.lock().await.send(head).await?;
                let seen = Reply::read(response).await?.seen()?;
                anyhow::Ok((n, seen))
            });
        }
        while let Some(stream) = streams.join_next().await {
            let (n, seen) = stream??;
            assert_eq!((seen.server(), seen.body_bytes()), (name, n as u64));
            assert_eq!(
                seen.field("target").rsplit('/').next(),
                Some(n.to_string().as_str())
            );
        }
        assert!(!http.lock().await.is_closed());
    }
    Ok(())
}

/// What a server of HTTP/2 may say first: its SETTINGS, with none in them.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_speak_first_on_an_undeclared_port() -> Result<()> {
    const GREETING: &[u8] = b"\x4a\0\0\0\x0a8.0.36\0";
    let rule = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: app, namespace: default}\nspec: {hosts: [app], http: [{route: [{destination: {host: app}}], headers: {response: {set: {x-routed: 'yes'}}}}]}\n";
    const LOG: [&str; 2] = ["--log", "info,aquifer::dataplane=debug"];
    // A socket, a tunnel, a connection inside the process.
    for (authority, way) in [(false, "hbone"), (true, "hbone"), (true, "direct")] {
        let arguments = [&LOG[..], &["--same-node", way]].concat();
        let world = match authority {
            true => World::with_authority(&arguments, |manifests| manifests.yaml(rule)).await?,
            false => World::with(&arguments, |manifests| manifests.yaml(rule)).await?,
        };
        let told = |mark| {
            let first = |line: &str| line.contains("a server of HTTP/2 speaks first");
            world.proxy.child.stderr.wait_for(mark, PATIENCE, first)
        };
        // Requests are routed, whoever spoke first.
        let server = Server::start(&world.server, AUTO, |stream, _| async move {
            let answer = service_fn(async |_| {
                Ok::<_, Infallible>(echo::respond(StatusCode::OK, Bytes::new()))
            });
            let _ = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        })?;
        let mark = world.proxy.child.stderr.mark();
        let stream = world.client.netns.connect(at(AUTO)).await?;
        told(mark)?;
        let mut http = Http::over2(stream).await?;
        let reply = http.get("app", "/").await?;
        ensure!(
            reply.headers.get("x-routed").is_some_and(|it| it == "yes"),
            "{way}: {reply:?}"
        );
        drop(http);
        server.stop().await;
        // What only looks like HTTP/2 is relayed as soon as its client shows that it is none.
        let server = Server::start(&world.server, AUTO, |mut stream, _| async move {
            let _ = stream.write_all(SETTINGS).await;
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        })?;
        let mark = world.proxy.child.stderr.mark();
        let mut stream = world.client.netns.connect(at(AUTO)).await?;
        told(mark)?;
        stream.write_all(b"\0none").await?;
        let both = raw::read_exactly(&mut stream, SETTINGS.len() + 5).await?;
        ensure!(both == [SETTINGS, b"\0none"].concat(), "{way}: {both:?}");
        server.stop().await;
        // What does not is heard at once.
        let _server = Server::start(&world.server, AUTO, |mut stream, _| async move {
            let _ = stream.write_all(GREETING).await;
            let _ = stream.read(&mut [0]).await;
        })?;
        let mut stream = world.client.netns.connect(at(AUTO)).await?;
        let start = clock::now();
        raw::read_until(&mut stream, GREETING).await?;
        let took = start.elapsed();
        ensure!(took < Duration::from_secs(2), "{way}: {took:?}");
    }
    Ok(())
}

/// A body that is made as fast as it is taken, up to `total` bytes; counts what was taken.
fn endless(total: usize, taken: Arc<AtomicUsize>) -> echo::Body {
    let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(1);
    tokio::spawn(async move {
        let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
        while taken.load(Ordering::Relaxed) < total {
            if sender.send_data(chunk.clone()).await.is_err() {
                return;
            }
            taken.fetch_add(chunk.len(), Ordering::Relaxed);
        }
    });
    body.boxed()
}

/// Waits until a count has stopped growing; gives where it stopped.
async fn stalled(count: &AtomicUsize) -> Result<usize> {
    let deadline = Deadline::after(PATIENCE);
    let mut last = 0;
    // Stillness has no event: it is seen by looking twice.
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = count.load(Ordering::Relaxed);
        if now == last && now > 0 {
            return Ok(now);
        }
        ensure!(!deadline.passed(), "still growing at {now} bytes");
        last = now;
    }
}

const TOTAL: usize = 128 << 20;
/// What may lie on the way, from client to proxy to proxy to server: in the kernel, and as much again
/// in windows of HTTP/2 and between tasks.
const ON_THE_WAY: usize = 2 * 3 * BUFFERED;

#[tokio::test]
async fn a_client_that_does_not_read_stalls_the_upstream() -> Result<()> {
    let world = World::new().await?;
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    let _server = Echo::answering(&world.server, 8080, move |_| {
        let count = count.clone();
        Box::pin(async move { Response::new(endless(TOTAL, count)) })
    })?;
    for two in [false, true] {
        made.store(0, Ordering::Relaxed);
        let mut http = if two {
            Http::connect2(&world.client, at(HTTP)).await?
        } else {
            world.http().await?
        };
        let response = http
            .send(request("GET", "app", "/").body(whole(""))?)
            .await?;
        let stopped = stalled(&made).await?;
        ensure!(
            stopped < ON_THE_WAY,
            "HTTP/2 {two}: {stopped} bytes were taken in"
        );
        let mut read = 0;
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            read += frame?.data_ref().map_or(0, Bytes::len);
        }
        assert_eq!(read, TOTAL, "nothing is lost by the pause");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_does_not_read_stalls_the_client() -> Result<()> {
    let world = World::new().await?;
    let (release, released) = tokio::sync::watch::channel(false);
    let _server = Echo::answering(&world.server, 8080, move |call| {
        let mut released = released.clone();
        Box::pin(async move {
            let _ = released.wait_for(|released| *released).await;
            let body = call.request.into_body().collect().await;
            let length = body.map_or(0, |body| body.to_bytes().len());
            echo::respond(StatusCode::OK, length.to_string().into())
        })
    })?;
    for two in [false, true] {
        release.send_replace(false);
        let made = Arc::new(AtomicUsize::new(0));
        let mut http = if two {
            Http::connect2(&world.client, at(HTTP)).await?
        } else {
            world.http().await?
        };
        let upload = request("POST", "app", "/").body(endless(TOTAL, made.clone()))?;
        let reply = tokio::spawn(async move { http.exchange(upload).await });
        let stopped = stalled(&made).await?;
        ensure!(
            stopped < ON_THE_WAY,
            "HTTP/2 {two}: {stopped} bytes were taken in"
        );
        release.send_replace(true);
        assert_eq!(reply.await??.text(), TOTAL.to_string());
    }
    Ok(())
}

#[tokio::test]
async fn both_directions_of_one_exchange_run_at_once() -> Result<()> {
    let world = World::new().await?;
    let _server = Echo::answering(&world.server, 8080, |call| {
        Box::pin(async move {
            let body = call.request.into_body().map_err(std::io::Error::other);
            Response::new(body.boxed())
        })
    })?;
    for two in [false, true] {
        let mut http = if two {
            Http::connect2(&world.client, at(HTTP)).await?
        } else {
            world.http().await?
        };
        let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(1);
        let mut response = http
            .send(request("POST", "app", "/").body(body.boxed())?)
            .await?;
        for n in 0..50u8 {
            sender.send_data(Bytes::from(vec![n; 10])).await?;
            let mut back = Vec::new();
            while back.len() < 10 {
                let frame = tokio::time::timeout(PATIENCE, response.body_mut().frame()).await?;
                back.extend_from_slice(frame.context("ended")??.data_ref().context("no data")?);
            }
            assert_eq!(back, vec![n; 10], "HTTP/2 {two}");
        }
        drop(sender);
        // HTTP/2 may end a stream with an empty frame.
        while let Some(frame) = response.body_mut().frame().await {
            assert_eq!(frame?.into_data().ok(), Some(Bytes::new()), "HTTP/2 {two}");
        }
    }
    Ok(())
}

/// A server that answers one request on its first connection, then closes it under the next;
/// later connections answer everything.
fn stale(world: &World) -> Result<Server> {
    Server::start(&world.server, 8080, |mut stream, number| async move {
        for request in 0.. {
            if raw::read_until(&mut stream, b"\r\n\r\n").await.is_err() {
                return;
            }
            if number == 0 && request == 1 {
                return;
            }
            let answer = ok(&format!("connection {number}"));
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
}

#[tokio::test]
async fn a_safe_request_on_a_stale_connection_is_sent_again() -> Result<()> {
    let world = World::new().await?;
    let server = stale(&world)?;
    let mut http = world.http().await?;
    assert_eq!(http.get("app", "/1").await?.text(), "connection 0");
    let reply = http.get("app", "/2").await?;
    assert_eq!((reply.status, reply.text().as_str()), (200, "connection 1"));
    assert_eq!(server.accepted(), 2);
    Ok(())
}

#[tokio::test]
async fn an_unsafe_request_on_a_stale_connection_is_not_sent_again() -> Result<()> {
    let world = World::new().await?;
    let server = stale(&world)?;
    let mut http = world.http().await?;
    assert_eq!(http.get("app", "/1").await?.text(), "connection 0");
    let reply = http
        .exchange(request("POST", "app", "/2").body(whole(""))?)
        .await?;
    assert_eq!(reply.status, 503, "{}", reply.text());
    world.proxy.logged(0, |line| {
        line.contains("POST /2") && line.contains(" 503 UC ")
    })?;
    assert_eq!(server.accepted(), 1);
    Ok(())
}

#[tokio::test]
async fn a_fresh_connection_that_closes_is_not_tried_again() -> Result<()> {
    let world = World::new().await?;
    let server = Server::start(&world.server, 8080, |mut stream, _| async move {
        let _ = raw::read_until(&mut stream, b"\r\n\r\n").await;
    })?;
    let reply = world.http().await?.get("app", "/gone").await?;
    assert_eq!(reply.status, 503, "{}", reply.text());
    world.proxy.logged(0, |line| {
        line.contains("GET /gone") && line.contains(" 503 UC ")
    })?;
    assert_eq!(server.accepted(), 1);
    Ok(())
}

#[tokio::test]
async fn a_body_that_breaks_off_does_not_look_complete() -> Result<()> {
    let world = World::new().await?;
    let _server = Server::start(&world.server, 8080, |mut stream, _| async move {
        let Ok(head) = raw::read_until(&mut stream, b"\r\n\r\n").await else {
            return;
        };
        let answer = if head.starts_with(b"GET /length") {
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart"
        } else {
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n"
        };
        let _ = stream.write_all(answer.as_bytes()).await;
    })?;
    for path in ["/length", "/chunked"] {
        let (said, _) = world
            .ask(format!("GET {path} HTTP/1.1\r\nhost: app\r\n\r\n"))
            .await?;
        ensure!(
            said.contains("200 OK") && !said.contains("0\r\n\r\n"),
            "{path}: {said}"
        );
        let mut http = Http::connect2(&world.client, at(HTTP)).await?;
        let outcome = http.get("app", path).await;
        ensure!(
            outcome.is_err(),
            "{path} over HTTP/2 looked complete: {outcome:?}"
        );
        // Only that stream is lost.
        assert!(!http.is_closed());
    }
    Ok(())
}

#[tokio::test]
async fn an_early_answer_to_an_upload_reaches_the_client() -> Result<()> {
    let world = World::new().await?;
    let _server = Server::start(&world.server, 8080, |mut stream, _| async move {
        if raw::read_until(&mut stream, b"\r\n\r\n").await.is_ok() {
            let answer =
                "HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig";
            let _ = stream.write_all(answer.as_bytes()).await;
            // Open until the proxy has seen the answer and lets go.
            let _ = raw::drain(&mut stream).await;
        }
    })?;
    let made = Arc::new(AtomicUsize::new(0));
    let mut http = world.http().await?;
    let upload = request("POST", "app", "/").body(endless(TOTAL, made.clone()))?;
    let response = tokio::time::timeout(PATIENCE, http.send(upload)).await??;
    assert_eq!(response.status(), 413);
    assert!(made.load(Ordering::Relaxed) < TOTAL);
    Ok(())
}

#[tokio::test]
async fn an_early_answer_is_heard_although_a_reset_follows() -> Result<()> {
    let by_hbone = World::with_authority(&[], |manifests| manifests).await?;
    for world in [World::new().await?, by_hbone] {
        let _server = Server::start(&world.server, 8080, |mut stream, _| async move {
            if raw::read_until(&mut stream, b"\r\n\r\n").await.is_ok() {
                let answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig";
                let _ = stream.write_all(answer).await;
                let _ = raw::reset(stream);
            }
        })?;
        // By the proxies of both sides; they may find out by writing or by reading.
        for _ in 0..20 {
            let mut http = world.http().await?;
            let upload = request("POST", "app", "/").body(whole(raw::pattern(2 << 20)))?;
            let reply = http.exchange(upload).await?;
            ensure!(
                reply.status == 413 && reply.text() == "big",
                "{}: {}",
                reply.status,
                world.proxy.complaints()
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_upstreams_work() -> Result<()> {
    let world = World::new().await?;
    let (ended, mut ends) = mpsc::unbounded_channel();
    let (began, mut begins) = mpsc::unbounded_channel();
    let _server = Server::start(&world.server, 8080, move |mut stream, _| {
        let (began, ended) = (began.clone(), ended.clone());
        async move {
            if raw::read_until(&mut stream, b"\r\n\r\n").await.is_ok() {
                let _ = began.send(());
                // Never answers; ends with whatever the proxy does.
                let _ = stream.read(&mut [0; 1]).await;
                let _ = ended.send(());
            }
        }
    })?;
    for two in [false, true] {
        let mut stream = world.client.netns.connect(at(HTTP)).await?;
        if two {
            let mut http = Http::connect2(&world.client, at(HTTP)).await?;
            let head = request("GET", "app", "/").body(whole(""))?;
            let asking = tokio::spawn(async move { http.send(head).await.map(|_| ()) });
            tokio::time::timeout(PATIENCE, begins.recv()).await?;
            asking.abort();
        } else {
            stream
                .write_all(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n")
                .await?;
            tokio::time::timeout(PATIENCE, begins.recv()).await?;
        }
        drop(stream);
        let end = tokio::time::timeout(PATIENCE, ends.recv()).await;
        end.with_context(|| format!("HTTP/2 {two}: the upstream still works"))?;
    }
    Ok(())
}

#[tokio::test]
async fn hop_by_hop_headers_stay_on_their_hop() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    let head = request("GET", "app", "/")
        .header("connection", "keep-alive, x-private")
        .header("x-private", "1")
        .header("keep-alive", "timeout=5")
        .header("x-public", "1")
        .header("x-public", "2");
    let seen = world
        .http()
        .await?
        .exchange(head.body(whole(""))?)
        .await?
        .seen()?;
    assert!(seen.header("x-private").is_empty() && seen.header("keep-alive").is_empty());
    assert_eq!(seen.header("x-public"), ["1", "2"]);
    Ok(())
}

/// The conformance suite of HTTP/2 against a captured connection. `cargo xtask test` builds h2spec
/// where there is a Go toolchain, and says so where there is none.
#[tokio::test]
#[ignore = "needs h2spec: its path in H2SPEC"]
async fn h2spec_finds_nothing_new() -> Result<()> {
    let path = std::env::var_os("H2SPEC").context("H2SPEC has no path")?;
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    let mut command = std::process::Command::new(path);
    let address = at(HTTP);
    command.args([
        "-h",
        &address.ip().to_string(),
        "-p",
        &address.port().to_string(),
        // Seconds that an answer may take: twice the usual, for a machine that is busy.
        "-o",
        "4",
    ]);
    let netns = std::sync::Arc::new(aquifer_tests::netns::Netns::open(
        world.client.netns.name(),
    )?);
    let output = tokio::task::spawn_blocking(move || netns.run(|| command.output())).await???;
    let said = String::from_utf8_lossy(&output.stdout);
    let summary = said
        .lines()
        .find(|line| line.contains(" tests, "))
        .context("no summary")?;
    // 3.5/2, a bad preface: sniffing takes the connection for something else, and it is reset or
    // relayed where a FIN was expected.
    let failed = said.split("Failures:").nth(1).unwrap_or_default();
    ensure!(
        summary.contains(", 0 failed") || failed.matches('×').count() <= 1,
        "{said}"
    );
    Ok(())
}
