//! Connections that are not HTTP: bytes both ways, ends told as they are.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use aquifer_tests::{
    PATIENCE, World,
    raw::{self, End, Server},
    world::{APP6, AUTO, TCP, at},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

/// Less than anything that is waited for: first bytes (5 s), a connection that nobody refuses (10 s).
const AT_ONCE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn each_half_closes_by_itself() -> Result<()> {
    let world = World::new().await?;
    let _server = Server::start(&world.server, TCP, |mut stream, _| async move {
        let mut asked = Vec::new();
        if stream.read_to_end(&mut asked).await.is_ok() {
            // Only now, after the client's half has ended.
            let _ = stream.write_all(&asked).await;
        }
    })?;
    for to in [
        at(TCP),
        SocketAddr::new(APP6, TCP),
        world.server.at(TCP),
        world.server.at6(TCP),
    ] {
        let sent = raw::pattern(3 << 20);
        let mut stream = world.client.netns.connect(to).await?;
        stream.write_all(&sent).await?;
        stream.shutdown().await?;
        let (back, end) = raw::drain(&mut stream).await?;
        ensure!(
            back == sent && end == End::Closed,
            "{to}: {} bytes, {end:?}",
            back.len()
        );
    }
    Ok(())
}

#[tokio::test]
async fn both_directions_run_at_once() -> Result<()> {
    let world = World::new().await?;
    let _server = Server::start(&world.server, TCP, |mut stream, _| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })?;
    let sent = raw::pattern(16 << 20);
    let stream = world.client.netns.connect(at(TCP)).await?;
    let (mut read, mut write) = stream.into_split();
    let upload = sent.clone();
    tokio::spawn(async move {
        let _ = write.write_all(&upload).await;
        let _ = write.shutdown().await;
    });
    let mut back = Vec::new();
    tokio::time::timeout(PATIENCE, read.read_to_end(&mut back)).await??;
    ensure!(
        back == sent,
        "{} of {} bytes came back, or others",
        back.len(),
        sent.len()
    );
    Ok(())
}

#[tokio::test]
async fn a_reset_arrives_as_a_reset() -> Result<()> {
    let world = World::new().await?;
    let (seen, mut ends) = mpsc::unbounded_channel();
    let _server = Server::start(&world.server, TCP, move |mut stream, _| {
        let seen = seen.clone();
        async move {
            match raw::read_until(&mut stream, b"\n").await {
                Ok(line) if line == b"reset\n" => {
                    let _ = raw::reset(stream);
                }
                Ok(_) => {
                    let _ = stream.write_all(b"ready").await;
                    let _ = seen.send(raw::drain(&mut stream).await);
                }
                Err(_) => {}
            }
        }
    })?;
    // By the server.
    let (_, end) = raw::ask(&world.client, at(TCP), b"reset\n").await?;
    assert_eq!(end, End::Reset);
    // By the client.
    let mut stream = world.client.netns.connect(at(TCP)).await?;
    stream.write_all(b"wait\n").await?;
    raw::read_until(&mut stream, b"ready").await?;
    raw::reset(stream)?;
    let end = tokio::time::timeout(PATIENCE, ends.recv()).await?;
    assert_eq!(end.transpose()?.map(|(_, end)| end), Some(End::Reset));
    Ok(())
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_at_once() -> Result<()> {
    let world = World::new().await?;
    let script = |mut stream: tokio::net::TcpStream, _| async move {
        let _ = stream.write_all(b"220 ready\r\n").await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    };
    let _declared = Server::start(&world.server, TCP, script)?;
    let _undeclared = Server::start(&world.server, AUTO, script)?;
    for port in [TCP, AUTO] {
        let mut stream = world.client.netns.connect(at(port)).await?;
        let start = aquifer_tests::clock::now();
        raw::read_until(&mut stream, b"220 ready\r\n").await?;
        // Sniffing for a client that speaks first would have waited for seconds.
        ensure!(
            start.elapsed() < AT_ONCE,
            "port {port}: after {:?}",
            start.elapsed()
        );
        // What looks like HTTP after that is only bytes.
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
        raw::read_until(&mut stream, b"GET / HTTP/1.1\r\n\r\n").await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_http_passes_an_undeclared_port() -> Result<()> {
    let world = World::new().await?;
    let _server = Server::start(&world.server, AUTO, |mut stream, _| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })?;
    // Binary; the start of a method that is never finished; a method and then none.
    for bytes in [
        &[0x16, 3, 1, 0, 200][..],
        b"G",
        b"PRI * HTTP/1.9\r\n",
        b"GETTING on\r\n",
    ] {
        let mut stream = world.client.netns.connect(at(AUTO)).await?;
        stream.write_all(bytes).await?;
        let back = raw::read_exactly(&mut stream, bytes.len()).await?;
        assert_eq!(back, bytes);
    }
    Ok(())
}

#[tokio::test]
async fn where_nothing_listens_there_is_a_reset_at_once() -> Result<()> {
    let world = World::new().await?;
    for to in [at(TCP), at(AUTO), world.server.at(4), world.server.at6(4)] {
        let start = aquifer_tests::clock::now();
        // Like every captured connection it is accepted first, unless the proxy is quicker.
        let end = match world.client.netns.connect(to).await {
            Ok(mut stream) => raw::drain(&mut stream).await?.1,
            Err(_) => End::Reset,
        };
        let took = start.elapsed();
        ensure!(
            end == End::Reset && took < AT_ONCE,
            "{to}: {end:?} after {took:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_unknown_destination_is_left_alone() -> Result<()> {
    let world = World::new().await?;
    // Of no manifest: neither Pod nor Service.
    let outside = world.lab.pod("outside")?;
    let script = |mut stream: tokio::net::TcpStream, _| async move {
        let peer = stream
            .peer_addr()
            .map(|peer| peer.ip().to_canonical().to_string());
        let _ = stream.write_all(peer.unwrap_or_default().as_bytes()).await;
    };
    let _server = Server::start(&outside, 5000, script)?;
    for (to, own) in [
        (outside.at(5000), world.client.v4.to_string()),
        (outside.at6(5000), world.client.v6.to_string()),
    ] {
        let (said, end) = raw::ask(&world.client, to, b"").await?;
        assert_eq!(
            (said, end),
            (own, End::Closed),
            "{to} sees the pod's own address"
        );
    }
    world
        .proxy
        .logged(0, |line| line.contains("PassthroughCluster"))?;
    Ok(())
}

#[tokio::test]
async fn a_stranger_reaches_a_pod_of_the_mesh_as_itself() -> Result<()> {
    let world = World::new().await?;
    let outside = world.lab.pod("outside")?;
    let _server = Server::start(&world.server, TCP, |mut stream, _| async move {
        let peer = stream
            .peer_addr()
            .map(|peer| peer.ip().to_canonical().to_string());
        let _ = stream.write_all(peer.unwrap_or_default().as_bytes()).await;
    })?;
    for (to, own) in [
        (world.server.at(TCP), outside.v4.to_string()),
        (world.server.at6(TCP), outside.v6.to_string()),
    ] {
        let (said, _) = raw::ask(&outside, to, b"").await?;
        assert_eq!(said, own);
    }
    // And where nothing listens, the reset is no slower than without a proxy.
    let start = aquifer_tests::clock::now();
    let end = match outside.netns.connect(world.server.at(4)).await {
        Ok(mut stream) => raw::drain(&mut stream).await?.1,
        Err(_) => End::Reset,
    };
    ensure!(
        end == End::Reset && start.elapsed() < AT_ONCE,
        "{:?}",
        start.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn every_connection_is_logged_with_its_bytes() -> Result<()> {
    let world = World::new().await?;
    let _server = Server::start(&world.server, TCP, |mut stream, _| async move {
        if raw::read_until(&mut stream, b"12345").await.is_ok() {
            let _ = stream.write_all(b"123").await;
        }
    })?;
    raw::ask(&world.client, at(TCP), b"12345").await?;
    let line = world
        .proxy
        .logged(0, |line| line.contains("outbound|9000||app.default"))?;
    assert!(line.contains("\"- - -\" 0 - - - \"-\" 5 3 "), "{line}");
    Ok(())
}

#[tokio::test]
async fn the_name_that_a_tls_client_asks_for_is_logged() -> Result<()> {
    let hello = raw::client_hello("db.example.com");
    let world = World::new().await?;
    let length = hello.len();
    let _server = Server::start(&world.server, AUTO, move |mut stream, _| async move {
        if raw::read_exactly(&mut stream, length).await.is_ok() {
            let _ = stream.write_all(b"a server's hello").await;
        }
    })?;
    let (answer, _) = raw::ask(&world.client, at(AUTO), &hello).await?;
    assert_eq!(answer, "a server's hello");
    world
        .proxy
        .logged(0, |line| line.contains(" db.example.com "))?;
    Ok(())
}
