//! Which connection a stream gets, against servers of the h2 crate in memory.

use std::time::Duration;

use h2::server;
use rustls::RootCertStore;
use tokio::io::DuplexStream;

use super::*;

type Server = server::Connection<DuplexStream, Bytes>;

fn config() -> Arc<ClientConfig> {
    let provider = Arc::clone(crate::tls::provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3");
    let roots = RootCertStore::empty();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

fn key(account: &str) -> Key {
    Key {
        address: IpAddr::from([10, 0, 0, 1]),
        expected: format!("spiffe://td/ns/a/sa/{account}")
            .parse()
            .expect("an identity"),
    }
}

/// Opens what `opening` stands for, to a server that allows so many streams.
async fn open(opening: Opening, streams: u32) -> Server {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (client, server) = tokio::join!(
        h2::client::Builder::new()
            .initial_max_send_streams(STREAMS)
            .handshake::<_, Bytes>(near),
        server::Builder::new()
            .max_concurrent_streams(streams)
            .handshake::<_, Bytes>(far),
    );
    let (send, connection) = client.expect("a client");
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    opening.done(Ok(Opened { send, local: None }));
    server.expect("a server")
}

/// Runs a server until nothing more happens.
async fn settle(server: &mut Server) {
    let accepted = std::future::poll_fn(|cx| server.poll_accept(cx));
    let _ = tokio::time::timeout(Duration::from_millis(20), accepted).await;
}

#[tokio::test]
async fn streams_share_a_connection_as_far_as_its_peer_allows() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            for (allowed, places) in [(1000, 100), (100, 100), (5, 5), (1, 1)] {
                let (pool, config) = (Pool::default(), config());
                assert!(pool.place(&key("a"), &config).is_none());
                let (first, opening) = pool.begin(&key("a"), Arc::clone(&config));
                // Also while it is being opened.
                let second = pool.place(&key("a"), &config).expect("a place");
                assert!(second.reused && !first.reused);
                drop(second);
                let mut server = open(opening, allowed).await;
                settle(&mut server).await;
                assert!(first.opened().await.is_ok());
                let more: Vec<_> = (1..places)
                    .map(|_| pool.place(&key("a"), &config).expect("room"))
                    .collect();
                assert!(pool.place(&key("a"), &config).is_none(), "{allowed}");
                assert!(pool.place(&key("b"), &config).is_none(), "another's");
                drop(more);
                // A peer of one stream has it with the first.
                let again = pool.place(&key("a"), &config).is_some();
                assert_eq!(again, places > 1, "{allowed}");
            }
        })
        .await;
}

#[tokio::test]
async fn what_is_of_the_past_gets_no_more_streams() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let (pool, old) = (Pool::default(), config());
            let begin = async || {
                let (place, opening) = pool.begin(&key("a"), Arc::clone(&old));
                let server = open(opening, 100).await;
                (place, server)
            };
            // A renewed certificate.
            let (_place, _server) = begin().await;
            assert!(pool.place(&key("a"), &old).is_some());
            assert!(pool.place(&key("a"), &config()).is_none());
            assert!(pool.place(&key("a"), &old).is_none(), "nor the next");
            // A peer that is leaving, with a stream still open.
            let (_place, mut server) = begin().await;
            server.graceful_shutdown();
            settle(&mut server).await;
            assert!(pool.place(&key("a"), &old).is_none());
            // One that is gone.
            let (_place, server) = begin().await;
            drop(server);
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(pool.place(&key("a"), &old).is_none());
            // One that failed a stream.
            let (place, _server) = begin().await;
            place.retire();
            assert!(pool.place(&key("a"), &old).is_none());
            // One that could not be opened, of which those who wait hear.
            let (place, opening) = pool.begin(&key("a"), Arc::clone(&old));
            drop(opening);
            assert!(matches!(place.opened().await, Err(Error::Closed)));
            assert!(pool.place(&key("a"), &old).is_none());
        })
        .await;
}

#[tokio::test]
async fn idle_connections_end_in_time() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let (pool, config) = (Pool::default(), config());
            let (place, opening) = pool.begin(&key("a"), Arc::clone(&config));
            let mut server = open(opening, 100).await;
            settle(&mut server).await;
            let later = clock::now() + IDLE + Duration::from_secs(1);
            pool.sweep(later);
            assert!(pool.place(&key("a"), &config).is_some(), "it has a stream");
            drop(place);
            pool.sweep(clock::now());
            assert!(pool.place(&key("a"), &config).is_some(), "not yet");
            pool.sweep(later + IDLE);
            assert!(pool.place(&key("a"), &config).is_none());
            let end = std::future::poll_fn(|cx| server.poll_accept(cx));
            let end = tokio::time::timeout(Duration::from_secs(5), end).await;
            assert!(end.expect("an end").is_none(), "closed in order");
        })
        .await;
}
