//! HTTP/2 connections to an endpoint: each carries many requests.

use std::cell::Cell;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::OnceCell;

use super::{Held, HostPool, admit, count_connect, reap};
use crate::clock;
use crate::dataplane::cluster::Local;
use crate::dataplane::connect;
use crate::dataplane::error::Error;
use crate::dataplane::http::upload::RequestBody;
use crate::dataplane::http::{LIST_LIMIT, LocalExecutor};
use crate::dataplane::pod::LocalPod;
use crate::dataplane::worker::{self, Worker};
use crate::mesh::cluster::Policy;
use crate::net::descriptors;
use crate::policy::circuit::Permit;

/// Bytes that may wait to be sent on one HTTP/2 stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of one HTTP/2 stream, and of a connection, that may be under way to us unread.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// A connection that carries many requests, from when it is begun.
pub(super) struct Shared {
    connection: OnceCell<Connection>,
    streams: Cell<u32>,
    /// Requests so far.
    requests: Cell<u32>,
    /// When the last request ended, or the connection was begun.
    since: Cell<Instant>,
    begun: Instant,
}

struct Connection {
    sender: http2::SendRequest<RequestBody>,
    local: Option<SocketAddr>,
    _permit: Option<descriptors::Permit>,
}

/// One request's place on a connection.
pub(in crate::dataplane) struct Stream {
    shared: Rc<Shared>,
    local: Rc<Local>,
    pool: Rc<HostPool>,
}

impl Stream {
    /// To send a request by.
    pub(in crate::dataplane) fn sender(&self) -> Option<http2::SendRequest<RequestBody>> {
        Some(self.shared.connection.get()?.sender.clone())
    }

    fn is_open(&self) -> bool {
        self.shared.connection.initialized()
    }

    /// The proxy's own address.
    pub(in crate::dataplane) fn local(&self) -> Option<SocketAddr> {
        self.shared.connection.get()?.local
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.streams.set(self.shared.streams.get() - 1);
        self.shared.since.set(clock::now());
        self.local.state.released();
        reap(&self.local, &self.pool);
    }
}

impl Shared {
    /// Whether a new request may use it.
    fn has_room(&self, now: Instant, policy: &Policy) -> bool {
        let most = |limit: Option<NonZeroU32>| limit.map_or(u32::MAX, NonZeroU32::get);
        self.streams.get() < most(policy.http.max_concurrent_streams)
            && self.requests.get() < most(policy.http.max_requests_per_connection)
            && self.age_ends(policy).is_none_or(|end| end > now)
            && self
                .connection
                .get()
                .is_none_or(|one| !one.sender.is_closed())
    }

    fn age_ends(&self, policy: &Policy) -> Option<Instant> {
        Some(self.begun + policy.tcp.max_connection_duration?)
    }

    /// When it is to be closed, unless a request comes; `None` while it has some.
    pub(super) fn ends(&self, policy: &Policy) -> Option<Instant> {
        if self.streams.get() > 0 {
            return None;
        }
        let idle = self.since.get() + policy.http.idle_timeout;
        Some(self.age_ends(policy).map_or(idle, |age| age.min(idle)))
    }

    /// Whether it stays: it carries requests, or may carry more.
    pub(super) fn is_wanted(&self, now: Instant, policy: &Policy) -> bool {
        self.streams.get() > 0 || self.has_room(now, policy) && self.ends(policy) > Some(now)
    }
}

/// A place for one request, with its place in the cluster's count: on a connection that is open or
/// being opened, on a new one, or where no more may be opened on the next that has room.
pub(in crate::dataplane) async fn acquire(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    local: &Rc<Local>,
    pool: &Rc<HostPool>,
    address: SocketAddr,
) -> Result<(Stream, Permit), Error> {
    let place = place(local, pool);
    if place.as_ref().is_some_and(Stream::is_open) {
        let permit = local.members().breaker.try_request(clock::now());
        let permit = permit.map_err(|_| Error::RequestOverflow)?;
        return place.map(|stream| (stream, permit)).ok_or(Error::Closed);
    }
    let pending = local.members().breaker.try_pending();
    let pending = pending.map_err(|_| Error::PendingOverflow)?;
    let stream = match place {
        Some(stream) => stream,
        None => begin(worker, pod, local, pool, address).await?,
    };
    let opened = stream
        .shared
        .connection
        .get_or_try_init(|| open(worker, pod, local, address))
        .await;
    if let Err(error) = opened {
        pool.shared
            .borrow_mut()
            .retain(|one| !Rc::ptr_eq(one, &stream.shared));
        return Err(error);
    }
    let permit = pending
        .into_request(&local.members().breaker, clock::now())
        .map_err(|_| Error::RequestOverflow)?;
    Ok((stream, permit))
}

/// A place on a connection that there is already.
fn place(local: &Rc<Local>, pool: &Rc<HostPool>) -> Option<Stream> {
    let (now, policy) = (clock::now(), local.policy());
    let mut known = pool.shared.borrow_mut();
    known.retain(|one| one.is_wanted(now, &policy));
    let shared = known.iter().find(|one| one.has_room(now, &policy))?;
    Some(reserve(shared, local, pool))
}

fn reserve(shared: &Rc<Shared>, local: &Rc<Local>, pool: &Rc<HostPool>) -> Stream {
    shared.streams.set(shared.streams.get() + 1);
    shared.requests.set(shared.requests.get().saturating_add(1));
    Stream {
        shared: Rc::clone(shared),
        local: Rc::clone(local),
        pool: Rc::clone(pool),
    }
}

/// A place on a connection that is to be opened, as soon as the limits allow one, or on one that
/// has room meanwhile.
async fn begin(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    local: &Rc<Local>,
    pool: &Rc<HostPool>,
    address: SocketAddr,
) -> Result<Stream, Error> {
    let mut overflowed = false;
    loop {
        // Both from before the look: room that comes in between is not missed.
        let waiting = local.state.waits();
        let mut room = pin!(local.state.room());
        room.as_mut().enable();
        if let Some(stream) = place(local, pool) {
            return Ok(stream);
        }
        match admit(local, address) {
            Ok(held) => {
                drop(waiting);
                let now = clock::now();
                let shared = Rc::new(Shared {
                    connection: OnceCell::new(),
                    streams: Cell::new(0),
                    requests: Cell::new(0),
                    since: Cell::new(now),
                    begun: now,
                });
                pool.shared.borrow_mut().push(Rc::clone(&shared));
                let stream = reserve(&shared, local, pool);
                let opened = shared
                    .connection
                    .get_or_try_init(|| open_held(worker, pod, local, address, held))
                    .await;
                if let Err(error) = opened {
                    pool.shared
                        .borrow_mut()
                        .retain(|one| !Rc::ptr_eq(one, &shared));
                    return Err(error);
                }
                return Ok(stream);
            }
            Err(_) if overflowed => {}
            Err(_) => {
                overflowed = true;
                local.state.counters.upstream_cx_overflow.increment();
            }
        }
        worker.ask_others(pod, local, address);
        room.await;
        drop(waiting);
    }
}

/// For whoever finds that the connection it waited for was not made.
async fn open(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    local: &Rc<Local>,
    address: SocketAddr,
) -> Result<Connection, Error> {
    let held = admit(local, address)?;
    open_held(worker, pod, local, address, held).await
}

async fn open_held(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    local: &Rc<Local>,
    address: SocketAddr,
    held: Held,
) -> Result<Connection, Error> {
    let policy = local.policy();
    let connected = connect::upstream(worker, pod, address, &policy.tcp).await;
    count_connect(&local.state.counters, &connected);
    let stream = connected?;
    let name = stream.local_addr().ok();
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(LIST_LIMIT)
        .max_send_buf_size(SEND_BUFFER);
    if let Some(keepalive) = policy.http.http2_keepalive {
        builder
            .keep_alive_interval(keepalive.interval)
            .keep_alive_timeout(keepalive.timeout)
            .keep_alive_while_idle(true);
    }
    let (sender, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Error::Closed)?;
    worker::spawn(worker, pod, async move {
        let _held = held;
        let _ = connection.await;
    });
    Ok(Connection {
        sender,
        local: name,
        _permit: worker.descriptors.take(1),
    })
}
