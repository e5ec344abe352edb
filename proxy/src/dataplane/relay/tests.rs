//! What a relay passes on, over real sockets.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.expect("connected"), far.expect("accepted").0)
}

/// A relay under test: the client's end, the server's end, and how it ended.
async fn relayed(play: impl AsyncFnOnce(TcpStream, TcpStream)) -> (End, u64, u64) {
    let (client, downstream) = pair().await;
    let (upstream, server) = pair().await;
    let meter = Meter::default();
    let (end, ()) = tokio::join!(
        relay(downstream, upstream, &meter, Limits::default()),
        play(client, server)
    );
    (end, meter.received.get(), meter.sent.get())
}

#[tokio::test]
async fn a_half_close_leaves_the_other_direction_open() {
    let outcome = relayed(async |mut client, mut server| {
        client.write_all(b"question").await.expect("sent");
        client.shutdown().await.expect("half-closed");
        let mut question = String::new();
        server.read_to_string(&mut question).await.expect("an end");
        assert_eq!(question, "question");
        server
            .write_all(b"a long answer")
            .await
            .expect("still open");
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("an end");
        assert_eq!(answer, "a long answer");
    })
    .await;
    assert_eq!(outcome, (End::Closed, 8, 13));
}

#[tokio::test]
async fn an_end_right_behind_bytes_is_seen_however_many_they_are() {
    for size in [1, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER] {
        let data = vec![7; size];
        let (end, received, _) = relayed(async |mut client, mut server| {
            let mut found = Vec::new();
            let reading = async {
                server.read_to_end(&mut found).await.expect("an end");
                drop(server);
            };
            let writing = async {
                client.write_all(&data).await.expect("sent");
                client.shutdown().await.expect("half-closed");
                assert_eq!(client.read(&mut [0]).await.expect("an end"), 0);
            };
            tokio::join!(reading, writing);
            assert!(found == data, "{} of {size} bytes", found.len());
        })
        .await;
        assert_eq!((end, received), (End::Closed, size as u64));
    }
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    for upstream_resets in [true, false] {
        let (end, ..) = relayed(async |client, server| {
            let (resetting, mut other) = if upstream_resets {
                (server, client)
            } else {
                (client, server)
            };
            socket::reset(resetting);
            let error = other.read(&mut [0]).await.expect_err("a reset and no end");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        })
        .await;
        assert_eq!(
            end,
            if upstream_resets {
                End::Upstream
            } else {
                End::Downstream
            }
        );
    }
}

#[tokio::test]
async fn a_side_that_does_not_read_holds_the_other_back() {
    const TOTAL: usize = 32 << 20;
    let (end, received, _) = relayed(async |client, mut server| {
        // Until the sockets on the way are full nothing is read: then the client must wait.
        let block = vec![7; 1 << 16];
        let mut written = 0;
        while let Ok(Ok(())) =
            tokio::time::timeout(Duration::from_millis(200), client.writable()).await
        {
            match client.try_write(&block) {
                Ok(count) => written += count,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert!(written < TOTAL, "{written} bytes went nowhere");
        let mut client = client;
        let rest = async {
            client
                .write_all(&vec![7; TOTAL - written])
                .await
                .expect("sent");
            client.shutdown().await.expect("closed");
        };
        let all = async {
            let mut all = Vec::new();
            server.read_to_end(&mut all).await.expect("an end");
            assert!(all.len() == TOTAL && all.iter().all(|byte| *byte == 7));
            drop(server);
        };
        tokio::join!(rest, all);
    })
    .await;
    assert_eq!((end, received), (End::Closed, TOTAL as u64));
}

#[tokio::test]
async fn what_a_side_said_before_it_reset_is_passed_on() {
    for client_resets in [true, false] {
        let (end, ..) = relayed(async |client, server| {
            let (mut resetting, mut other) = if client_resets {
                (client, server)
            } else {
                (server, client)
            };
            let answer = vec![7; 20_000];
            // Sent on and on, so that the relay finds out by writing.
            let (mut read, mut write) = other.split();
            let writing = async {
                loop {
                    if let Err(error) = write.write_all(&[1; 4096]).await {
                        break error;
                    }
                }
            };
            let reading = async {
                let mut found = vec![0; answer.len()];
                read.read_exact(&mut found).await.expect("the answer");
                assert!(found == answer);
                read.read(&mut [0]).await
            };
            let resets = async {
                resetting.read_exact(&mut [0; 4096]).await.expect("some");
                resetting.write_all(&answer).await.expect("sent");
                socket::reset(resetting);
            };
            let (written, read, ()) = tokio::join!(writing, reading, resets);
            // Told once, to whoever comes first. After an end it would be a broken pipe.
            let error = read.err().unwrap_or(written);
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        })
        .await;
        let side = if client_resets {
            End::Downstream
        } else {
            End::Upstream
        };
        assert_eq!(end, side);
    }
}

#[tokio::test]
async fn bytes_behind_urgent_data_are_not_waited_for() {
    let outcome = relayed(async |mut client, mut server| {
        client.write_all(b"before").await.expect("sent");
        let urgent = socket2::SockRef::from(&client).send_out_of_band(b"!");
        assert_eq!(urgent.expect("sent"), 1);
        client.write_all(b"behind").await.expect("sent");
        // The urgent byte itself is not passed on, and a read ends in front of it.
        let mut all = [0; 12];
        server.read_exact(&mut all).await.expect("both");
        assert_eq!(&all, b"beforebehind");
    })
    .await;
    assert_eq!((outcome.1, outcome.2), (12, 0));
}
