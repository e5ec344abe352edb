//! Upgrades over HTTP/2 (RFC 8441): an extended CONNECT on one side, HTTP/1.1's Upgrade on the other.

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    World,
    lab::Pod,
    raw::{self, End, Server},
    world::{HTTP, at},
};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::Empty;
use hyper::{
    body::Incoming, client::conn::http2 as client, ext::Protocol, server::conn::http2 as server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Answers extended CONNECTs and echoes what comes, in capital letters.
fn shouting(pod: &Pod, port: u16) -> Result<tokio::task::JoinHandle<()>> {
    let listener = pod.netns.listen(pod.at(port))?;
    Ok(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|mut request: Request<Incoming>| async move {
                let asked = request.extensions().get::<Protocol>();
                let asked = asked.is_some_and(|one| one.as_str() == "websocket");
                let mut response = Response::new(Empty::<Bytes>::new());
                if request.method() != Method::CONNECT || !asked {
                    *response.status_mut() = StatusCode::BAD_REQUEST;
                    return Ok::<_, std::convert::Infallible>(response);
                }
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let Ok(upgraded) = upgrade.await else {
                        return;
                    };
                    let mut io = TokioIo::new(upgraded);
                    let mut bytes = [0; 64];
                    while let Ok(count) = io.read(&mut bytes).await {
                        if count == 0 {
                            break;
                        }
                        let loud = bytes[..count].to_ascii_uppercase();
                        if io.write_all(&loud).await.is_err() {
                            break;
                        }
                    }
                    let _ = io.shutdown().await;
                });
                Ok(response)
            });
            let mut builder = server::Builder::new(TokioExecutor::new());
            builder.enable_connect_protocol();
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    }))
}

#[tokio::test]
async fn a_websocket_of_http1_reaches_an_http2_server() -> Result<()> {
    let world = World::with(&[], |manifests| {
        let address = "10.96.0.11".parse().into_iter().collect::<Vec<_>>();
        manifests.service(
            "two",
            &address,
            &[("http2", 80, 8082)],
            &[("app", "server")],
        )
    })
    .await?;
    let server = shouting(&world.server, 8082)?;
    let mut stream = world.client.netns.connect("10.96.0.11:80".parse()?).await?;
    let head = "GET /chat HTTP/1.1\r\nhost: two\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-key: k\r\nsec-websocket-version: 13\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let said = raw::read_until(&mut stream, b"\r\n\r\n").await?;
    let said = String::from_utf8_lossy(&said).to_ascii_lowercase();
    ensure!(said.starts_with("http/1.1 101 "), "{said}");
    ensure!(said.contains("\r\nupgrade: websocket\r\n"), "{said}");
    stream.write_all(b"ping").await?;
    raw::read_until(&mut stream, b"PING").await?;
    stream.shutdown().await?;
    assert_eq!(raw::drain(&mut stream).await?, (Vec::new(), End::Closed));
    server.abort();
    Ok(())
}

#[tokio::test]
async fn an_extended_connect_reaches_an_http1_server() -> Result<()> {
    let world = World::new().await?;
    let _server = Server::start(&world.server, 8080, |mut stream, _| async move {
        let Ok(head) = raw::read_until(&mut stream, b"\r\n\r\n").await else {
            return;
        };
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let asked = head.starts_with("get /chat ") && head.contains("\r\nupgrade: websocket\r\n");
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                       upgrade: websocket\r\n\r\nearly";
        if asked && stream.write_all(answer).await.is_ok() {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.write_all(b"bye").await;
        }
    })?;
    let stream = world.client.netns.connect(at(HTTP)).await?;
    let (mut sender, connection) = client::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await?;
    let connection = tokio::spawn(connection);
    // The settings that allow an extended CONNECT come with the server's first frame.
    let plain = Request::get("http://app/").version(Version::HTTP_2);
    let _ = sender
        .send_request(plain.body(Empty::<Bytes>::new())?)
        .await;
    let mut request = Request::connect("http://app/chat")
        .version(Version::HTTP_2)
        .body(Empty::<Bytes>::new())?;
    request
        .extensions_mut()
        .insert(Protocol::from_static("websocket"));
    let mut response = sender.send_request(request).await?;
    assert_eq!(response.status(), 200);
    let mut io = TokioIo::new(hyper::upgrade::on(&mut response).await?);
    let mut early = [0; 5];
    io.read_exact(&mut early).await.context("early bytes")?;
    assert_eq!(&early, b"early");
    io.write_all(b"ping").await?;
    let mut pong = [0; 4];
    io.read_exact(&mut pong).await.context("the echo")?;
    assert_eq!(&pong, b"ping");
    io.shutdown().await?;
    let mut rest = Vec::new();
    io.read_to_end(&mut rest).await?;
    assert_eq!(rest, b"bye");
    connection.abort();
    Ok(())
}
