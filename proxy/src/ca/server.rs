//! The listener: TLS, HTTP/2, bounds on all that a stranger may take, and a clean end.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::{Counters, Keeper, Service};
use crate::clock;

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 1024;
/// Of these from one address: a node proxy has one.
const FROM_ONE: usize = 32;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A connection without a call for so long is ended; so long a call may still take then.
const IDLE: Duration = Duration::from_secs(15);
/// Calls at once on a connection.
const STREAMS: u32 = 64;
/// A token has at most a few KiB.
const HEADERS: u32 = 32 * 1024;
/// What a client may send ahead, on a stream and on a connection, in bytes.
const WINDOW: u32 = 64 * 1024;
const WINDOWS: u32 = 128 * 1024;

/// Serves until it is told to stop.
#[derive(Debug)]
pub struct Server {
    /// What answers.
    pub service: Arc<Service>,
    /// What it shows.
    pub keeper: Arc<Keeper>,
    /// What it counts.
    pub counters: Arc<Counters>,
}

/// Binds the listener. The error names the address.
///
/// # Errors
/// Where the address can't be had.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("listen on {address}: {error}")))
}

impl Server {
    /// Takes connections until `stop` says true; then those that are open have `drain` to finish
    /// what they have begun.
    pub async fn run(
        self,
        listener: TcpListener,
        mut stop: watch::Receiver<bool>,
        drain: Duration,
    ) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let crowd = Arc::new(Crowd::default());
        let mut open = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &room) => accepted,
                Some(_) = open.join_next() => continue,
                // Its sender is gone: that is a stop too.
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let (stream, address, permit) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            self.counters.connections.fetch_add(1, Relaxed);
            let Some(place) = Crowd::enter(&crowd, address.ip()) else {
                self.counters.crowded.fetch_add(1, Relaxed);
                tracing::debug!(%address, "refused: it has {FROM_ONE} connections");
                continue;
            };
            let tls = TlsAcceptor::from(self.keeper.tls());
            let (service, counters) = (Arc::clone(&self.service), Arc::clone(&self.counters));
            let stop = stop.clone();
            open.spawn(async move {
                let handshake = timeout(HANDSHAKE, tls.accept(stream)).await;
                match handshake.map_err(io::Error::from) {
                    Ok(Ok(stream)) => converse(stream, service, stop).await,
                    Ok(Err(error)) | Err(error) => {
                        counters.handshakes.fetch_add(1, Relaxed);
                        tracing::debug!(%address, %error, "no TLS handshake");
                    }
                }
                drop((place, permit));
            });
        }
        drop(listener);
        let ended = async { while open.join_next().await.is_some() {} };
        if timeout(drain, ended).await.is_err() {
            tracing::warn!(?drain, "connections are cut off");
        }
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await;
    let permit = permit.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    Ok((stream, address, permit))
}

/// One connection, until it ends, is idle, or everything stops.
async fn converse(
    stream: tokio_rustls::server::TlsStream<TcpStream>,
    service: Arc<Service>,
    mut stop: watch::Receiver<bool>,
) {
    let activity = Arc::new(Activity::default());
    let calls = Arc::clone(&activity);
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        let call = Call::begin(&calls);
        async move {
            let answer = service.answer(request).await;
            drop(call);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOWS)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = pin!(connection);
    let mut ending = false;
    loop {
        let wait = activity
            .quiet(clock::now())
            .map_or(IDLE, |since| IDLE.saturating_sub(since));
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            _ = stop.wait_for(|stop| *stop), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep(wait) => {
                let quiet = activity.quiet(clock::now()).is_some_and(|since| since >= IDLE);
                if ending && quiet {
                    // The client does not take its leave.
                    return;
                }
                if quiet {
                    ending = true;
                    activity.touch();
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Calls of one connection.
#[derive(Debug)]
struct Activity {
    calls: AtomicUsize,
    last: Mutex<Instant>,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            calls: AtomicUsize::new(0),
            last: Mutex::new(clock::now()),
        }
    }
}

impl Activity {
    /// For how long there has been no call; `None` while there is one.
    fn quiet(&self, now: Instant) -> Option<Duration> {
        if self.calls.load(Relaxed) > 0 {
            return None;
        }
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        Some(now.saturating_duration_since(last))
    }

    fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = clock::now();
    }
}

/// A call under way.
struct Call(Arc<Activity>);

impl Call {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.calls.fetch_add(1, Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.touch();
        self.0.calls.fetch_sub(1, Relaxed);
    }
}

/// How many connections each address has.
#[derive(Debug, Default)]
struct Crowd(Mutex<HashMap<IpAddr, usize>>);

/// One of them.
struct Place {
    crowd: Arc<Crowd>,
    address: IpAddr,
}

impl Crowd {
    fn enter(crowd: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut all = crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(address).or_default();
        if *count >= FROM_ONE {
            return None;
        }
        *count += 1;
        Some(Place {
            crowd: Arc::clone(crowd),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.address);
            }
        }
    }
}
