//! What becomes of an application's connection when its caller leaves, frame by frame.

use std::net::Ipv4Addr;
use std::time::Duration;

use http::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpSocket;
use tokio::sync::Notify;

use super::*;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// In pieces of this size, and less than a window.
const PIECE: usize = 16 << 10;
const PIECES: usize = 60;

fn frame(kind: u8, flags: u8, id: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    let [_, length @ ..] = length;
    [&length[..], &[kind, flags, 0, 0, 0, id], payload].concat()
}

/// A connection whose kernel keeps little.
async fn narrow() -> (TcpStream, TcpStream) {
    let listener = TcpSocket::new_v4().expect("a socket");
    listener.set_recv_buffer_size(8 << 10).expect("a size");
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    listener.bind(any).expect("a port");
    let listener = listener.listen(1).expect("a listener");
    let to = listener.local_addr().expect("an address");
    let near = TcpSocket::new_v4().expect("a socket");
    near.set_send_buffer_size(8 << 10).expect("a size");
    near.set_recv_buffer_size(8 << 10).expect("a size");
    let (near, far) = tokio::join!(near.connect(to), listener.accept());
    (near.expect("connected"), far.expect("accepted").0)
}

/// The server's end of a connection on which a caller has sent `frames`, and its first stream.
async fn called(
    frames: &[Vec<u8>],
) -> (
    h2::server::Connection<DuplexStream, Bytes>,
    DuplexStream,
    Tunnel,
) {
    let (mut near, far) = tokio::io::duplex(4 << 20);
    near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .expect("room");
    let settings = frame(SETTINGS, 0, 0, &[]);
    // RFC 7541: literals without indexing, of the static table's `:method` and `:authority`.
    let section = [&[0x02, 7][..], b"CONNECT", &[0x01, 11], b"10.0.0.1:80"].concat();
    let connect = frame(HEADERS, END_HEADERS, 1, &section);
    near.write_all(&[settings, connect].concat())
        .await
        .expect("room");
    let mut server = h2::server::Builder::new()
        .initial_window_size(4 << 20)
        .initial_connection_window_size(4 << 20)
        .handshake(far)
        .await
        .expect("a client");
    let accepted = server.accept().await.expect("a stream");
    let (request, mut respond) = accepted.expect("CONNECT");
    let send = respond.send_response(Response::new(()), false);
    // With the server's settings acknowledged its windows are in force.
    let acknowledged = frame(SETTINGS, ACK, 0, &[]);
    let frames = [acknowledged, frames.concat()].concat();
    near.write_all(&frames).await.expect("room");
    let tunnel = Tunnel::new(send.expect("an answer"), request.into_body());
    (server, near, tunnel)
}

#[tokio::test]
async fn whoever_leaves_when_it_is_told_more_has_still_said_all() {
    const SAID: usize = 12 << 10;
    let data = frame(DATA, END_STREAM, 1, &[7; SAID]);
    // Little, and more than its caller has room for (65,535 bytes).
    for says in [1 << 10, 66 << 10] {
        let (mut server, mut caller, tunnel) = called(std::slice::from_ref(&data)).await;
        let (near, mut application) = narrow().await;
        let meter = Meter::default();
        let limits = Limits::default();
        let relayed = relay_tunnel(tunnel, near, &meter, limits, std::future::pending());
        let written = Notify::new();
        let application = async {
            let (mut read, mut write) = application.split();
            write.write_all(&vec![1; says]).await?;
            written.notify_one();
            let mut found = Vec::new();
            read.read_to_end(&mut found).await?;
            io::Result::Ok(found.len())
        };
        // A caller that has closed both ways says so when it is told more.
        let leaves = async {
            let mut seen = vec![0; says.min(65_535)];
            caller.read_exact(&mut seen).await.expect("some of it");
            written.notified().await;
            let reset = frame(RST_STREAM, 0, 1, &0_u32.to_be_bytes());
            caller.write_all(&reset).await.expect("room");
            std::future::pending::<()>().await;
        };
        let serves = async {
            while server.accept().await.is_some() {}
            std::future::pending::<()>().await;
        };
        let both = async { tokio::join!(relayed, application) };
        let limit = Duration::from_secs(20);
        let (end, found) = tokio::select! {
            both = tokio::time::timeout(limit, both) => both.expect("an end"),
            () = leaves => unreachable!(),
            () = serves => unreachable!(),
        };
        assert_eq!((end, found.expect("all")), (End::Closed, SAID), "{says}");
    }
}

#[tokio::test]
async fn whoever_had_said_all_is_heard_to_the_end_by_who_reads_slowly() {
    let cancel = 8_u32.to_be_bytes();
    let no_error = 0_u32.to_be_bytes();
    let connect_error = 10_u32.to_be_bytes();
    let end = |flags| frame(DATA, flags, 1, &[7; PIECE]);
    let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0, 1, b'a', 1, b'b']);
    for (name, last, reset, whole) in [
        ("an end, then NO_ERROR", end(END_STREAM), no_error, true),
        ("an end, then CANCEL", end(END_STREAM), cancel, true),
        ("trailers, then NO_ERROR", trailers, no_error, true),
        (
            "an end, then a reset",
            end(END_STREAM),
            connect_error,
            false,
        ),
        ("no end, and NO_ERROR", end(0), no_error, false),
        ("no end, and CANCEL", end(0), cancel, false),
    ] {
        let length = PIECE * PIECES + if last[3] == DATA { PIECE } else { 0 };
        let mut frames = vec![end(0); PIECES];
        frames.extend([last, frame(RST_STREAM, 0, 1, &reset)]);
        let (mut server, _caller, tunnel) = called(&frames).await;
        let (near, mut application) = narrow().await;
        let meter = Meter::default();
        let relayed = relay_tunnel(
            tunnel,
            near,
            &meter,
            Limits::default(),
            std::future::pending(),
        );
        let application = async {
            // One that says more than its caller's side has room for before it reads at all.
            let (mut read, mut write) = application.split();
            let said = async {
                if whole {
                    write.write_all(&[1; 1 << 20]).await?;
                }
                io::Result::Ok(())
            };
            said.await?;
            let mut found = Vec::new();
            read.read_to_end(&mut found).await?;
            assert!(found.iter().all(|byte| *byte == 7));
            io::Result::Ok(found.len())
        };
        let (end, found) = tokio::time::timeout(Duration::from_secs(20), async {
            let both = async { tokio::join!(relayed, application) };
            tokio::select! {
                both = both => both,
                // The connection's own driver.
                _ = async { while server.accept().await.is_some() {} std::future::pending::<()>().await } => unreachable!(),
            }
        })
        .await
        .expect(name);
        if whole {
            assert_eq!(found.expect(name), length, "{name}");
            assert_eq!(end, End::Closed, "{name}");
        } else {
            let error = found.expect_err(name);
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{name}");
            assert_eq!(end, End::Downstream, "{name}");
        }
    }
}
