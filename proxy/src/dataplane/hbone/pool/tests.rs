//! Which connection a stream gets, against servers of the h2 crate in memory.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use h2::{Ping, server};
use rustls::RootCertStore;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;

use super::*;

type Server = server::Connection<DuplexStream, Bytes>;

pub(in crate::dataplane::hbone) fn config() -> Arc<ClientConfig> {
    let provider = Arc::clone(crate::tls::provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3");
    let roots = RootCertStore::empty();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

pub(in crate::dataplane::hbone) fn key(account: &str) -> Key {
    Key {
        address: IpAddr::from([10, 0, 0, 1]),
        expected: std::iter::once(format!("spiffe://td/ns/a/sa/{account}"))
            .map(|one| one.parse().expect("an identity"))
            .collect(),
    }
}

/// Opens what `opening` stands for, to a server that allows so many streams. With what ends when the
/// client has seen the connection end.
async fn open(opening: Opening, streams: u32) -> (Server, JoinHandle<()>) {
    let (server, ended, _) = opened(opening, streams).await;
    (server, ended)
}

/// The same, with what its driver keeps.
async fn opened(opening: Opening, streams: u32) -> (Server, JoinHandle<()>, Opening) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (client, server) = tokio::join!(
        h2::client::Builder::new()
            .initial_max_send_streams(UNTOLD)
            .handshake::<_, Bytes>(near),
        server::Builder::new()
            .max_concurrent_streams(streams)
            .handshake::<_, Bytes>(far),
    );
    let (send, connection) = client.expect("a client");
    let ended = tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    opening.done(Ok(Opened { send, local: None }));
    (server.expect("a server"), ended, opening)
}

/// Runs a server until its client has heard all that it has said. Once for each.
async fn settle(server: &mut Server) {
    let mut pings = server.ping_pong().expect("the first time");
    let accepted = std::future::poll_fn(|cx| server.poll_accept(cx));
    tokio::select! {
        answered = pings.ping(Ping::opaque()) => {
            answered.expect("it is there");
        }
        // It has left already.
        _ = accepted => {}
    }
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
                let (mut server, _) = open(opening, allowed).await;
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
async fn who_came_before_the_peer_said_how_many_it_allows_is_held_to_it() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            for (allowed, admitted) in [(1000, 20), (20, 20), (5, 5), (1, 1), (0, 1)] {
                let (pool, config) = (Pool::default(), config());
                let (first, opening) = pool.begin(&key("a"), Arc::clone(&config));
                let more = (1..20).map(|_| pool.place(&key("a"), &config).expect("room"));
                let places: Vec<_> = std::iter::once(first).chain(more).collect();
                let (mut server, _, opening) = opened(opening, allowed).await;
                let mut all: FuturesUnordered<_> = places.iter().map(Place::admitted).collect();
                assert!(all.next().await.expect("one").expect("it is open"));
                assert!(all.next().now_or_never().is_none(), "{allowed}: not yet");
                settle(&mut server).await;
                opening.look();
                let mut found = 1;
                while let Some(one) = all.next().await {
                    found += usize::from(one.expect("it is open"));
                }
                assert_eq!(found, admitted, "{allowed}");
                // The next is taken to be like this one.
                let (next, _opening) = pool.begin(&key("a"), Arc::clone(&config));
                assert_eq!(next.shared.assumed, (allowed as usize).clamp(1, STREAMS));
                // Each that leaves lets another in.
                drop(all);
                drop(places);
                let again = pool.place(&key("a"), &config).expect("room");
                assert!(matches!(again.admitted().await, Ok(true)), "{allowed}");
            }
        })
        .await;
}

#[tokio::test]
async fn who_waits_on_a_connection_that_ends_is_told() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let (pool, config) = (Pool::default(), config());
            let (first, opening) = pool.begin(&key("a"), Arc::clone(&config));
            let second = pool.place(&key("a"), &config).expect("room");
            let (server, ended, opening) = opened(opening, 5).await;
            assert!(matches!(first.admitted().await, Ok(true)));
            let waits = async {
                // It fails with its stream, and is asked for again elsewhere.
                assert!(matches!(second.admitted().await, Ok(true)));
            };
            let ends = async {
                drop(server);
                ended.await.expect("no panic");
                drop(opening);
            };
            tokio::join!(waits, ends);
        })
        .await;
}

#[tokio::test]
async fn a_connection_in_doubt_gets_no_streams_until_its_peer_is_heard() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let (pool, config) = (Pool::default(), config());
            let (place, opening) = pool.begin(&key("a"), Arc::clone(&config));
            let (mut server, _, opening) = opened(opening, 100).await;
            settle(&mut server).await;
            assert!(place.doubted().is_none());
            place.doubt();
            assert!(opening.doubted().now_or_never().is_some(), "it is asked");
            assert!(place.doubted().is_some());
            assert!(pool.place(&key("a"), &config).is_none());
            opening.heard();
            assert!(place.doubted().is_none());
            assert!(pool.place(&key("a"), &config).is_some());
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
                let (server, ended) = open(opening, 100).await;
                (place, server, ended)
            };
            // A renewed certificate.
            let (_place, _server, _) = begin().await;
            assert!(pool.place(&key("a"), &old).is_some());
            assert!(pool.place(&key("a"), &config()).is_none());
            assert!(pool.place(&key("a"), &old).is_none(), "nor the next");
            // A peer that is leaving, with a stream still open.
            let (_place, mut server, _) = begin().await;
            server.graceful_shutdown();
            settle(&mut server).await;
            assert!(pool.place(&key("a"), &old).is_none());
            // One that is gone.
            let (_place, server, ended) = begin().await;
            drop(server);
            ended.await.expect("no panic");
            assert!(pool.place(&key("a"), &old).is_none());
            // One that failed a stream.
            let (place, _server, _) = begin().await;
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
async fn a_closed_pool_keeps_nothing() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let (pool, config) = (Pool::default(), config());
            let begin = async || {
                let (place, opening) = pool.begin(&key("a"), Arc::clone(&config));
                let (server, ended, opening) = opened(opening, 100).await;
                (place, server, ended, opening)
            };
            let (before, _near, ended, _opening) = begin().await;
            pool.close();
            let (after, _far, ended_after, _kept) = begin().await;
            assert!(pool.place(&key("a"), &config).is_none());
            assert!(!ended.is_finished() && !ended_after.is_finished());
            // Each ends with its last stream.
            drop((before, after));
            ended.await.expect("no panic");
            ended_after.await.expect("no panic");
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
            let (mut server, _, _opening) = opened(opening, 100).await;
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
