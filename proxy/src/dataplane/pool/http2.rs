//! HTTP/2 connections to an endpoint: each carries many requests.

use std::cell::{Cell, OnceCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Notify;

use super::{Held, HostPool, admit, count_connect, reap};
use crate::clock;
use crate::dataplane::cluster::{Host, Local};
use crate::dataplane::connect;
use crate::dataplane::error::Error;
use crate::dataplane::http::upload::RequestBody;
use crate::dataplane::http::{LIST_LIMIT, LocalExecutor};
use crate::dataplane::pod::LocalPod;
use crate::dataplane::worker::{self, Worker};
use crate::mesh::cluster::Policy;
use crate::policy::circuit::Permit;

/// Bytes that may wait to be sent on one HTTP/2 stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of one HTTP/2 stream, and of a connection, that may be under way to us unread.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Streams that a peer is taken to allow before its first SETTINGS (hyper's default).
const UNTOLD: usize = 100;

/// A connection that carries many requests, from when it is begun.
pub(super) struct Shared {
    /// Once it is known what came of opening it.
    connection: OnceCell<Result<Connection, Error>>,
    opened: Notify,
    host: Option<Arc<Host>>,
    /// Streams that its peer takes at a time; what the endpoint said last, until it has said so.
    allowed: Cell<usize>,
    /// Its place is wanted elsewhere: it gets no more requests.
    retiring: Cell<bool>,
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
        Some(self.shared.opened()?.sender.clone())
    }

    fn is_open(&self) -> bool {
        self.shared.opened().is_some()
    }

    /// Waits until the connection is open, or was not to be opened.
    async fn opened(&self) -> Result<(), Error> {
        loop {
            match self.shared.connection.get() {
                Some(Ok(_)) => return Ok(()),
                Some(Err(error)) => return Err(error.of_connecting()),
                None => self.shared.opened.notified().await,
            }
        }
    }

    /// The proxy's own address.
    pub(in crate::dataplane) fn local(&self) -> Option<SocketAddr> {
        self.shared.opened()?.local
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let (shared, pool) = (&self.shared, &self.pool);
        shared.streams.set(shared.streams.get() - 1);
        let now = clock::now();
        shared.since.set(now);
        let (state, own) = (&self.local.state, pool.streams.get());
        if state.is_crowded(own) && state.is_wanted(shared.host.as_deref(), own) {
            shared.retiring.set(true);
        }
        if !shared.is_wanted(now, &self.local.policy()) {
            pool.drop_shared(shared);
        } else if own > 0 {
            pool.room.notify_one();
        }
        reap(&self.local, pool);
    }
}

impl HostPool {
    fn drop_shared(&self, shared: &Rc<Shared>) {
        let mut known = self.shared.borrow_mut();
        known.retain(|one| !Rc::ptr_eq(one, shared));
    }

    /// Closes one connection as soon as its requests are done, unless one is on its way already.
    pub(super) fn retire_one(&self) {
        let mut known = self.shared.borrow_mut();
        if known.iter().any(|one| one.retiring.get()) {
            return;
        }
        let open = |one: &&Rc<Shared>| one.opened().is_some();
        if let Some(one) = known
            .iter()
            .filter(open)
            .min_by_key(|one| one.streams.get())
        {
            one.retiring.set(true);
            known.retain(|one| !one.retiring.get() || one.streams.get() > 0);
        }
    }
}

/// A request that waits for a place on one of an endpoint's connections, until it is dropped.
struct WaitsHere<'a>(&'a HostPool);

impl<'a> WaitsHere<'a> {
    fn new(pool: &'a HostPool) -> Self {
        pool.streams.set(pool.streams.get() + 1);
        Self(pool)
    }
}

impl Drop for WaitsHere<'_> {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

impl Shared {
    fn opened(&self) -> Option<&Connection> {
        self.connection.get()?.as_ref().ok()
    }

    /// Whether a new request may use it.
    fn has_room(&self, now: Instant, policy: &Policy) -> bool {
        !self.retiring.get()
            && self.places(policy) > 0
            && self.is_allowed()
            && self.age_ends(policy).is_none_or(|end| end > now)
            && match self.connection.get() {
                None => true,
                Some(Ok(one)) => !one.sender.is_closed(),
                Some(Err(_)) => false,
            }
    }

    /// Requests that the policy still allows it.
    fn places(&self, policy: &Policy) -> u32 {
        let most = |limit: Option<NonZeroU32>| limit.map_or(u32::MAX, NonZeroU32::get);
        let streams = most(policy.http.max_concurrent_streams).saturating_sub(self.streams.get());
        let requests = most(policy.http.max_requests_per_connection);
        streams.min(requests.saturating_sub(self.requests.get()))
    }

    /// Whether its peer takes one more stream now. Otherwise hyper would let the request wait for the
    /// end of another, which may never come.
    fn is_allowed(&self) -> bool {
        let streams = self.streams.get() as usize;
        streams == 0 || streams < self.allowed.get()
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
    stream.opened().await?;
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
    let _here = WaitsHere::new(pool);
    loop {
        let host = local.members().host(address).cloned();
        // All from before the look: room that comes in between is not missed.
        let waiting = local.state.waits(host.as_ref());
        let (mut any, mut own, mut here) = (
            pin!(local.state.room.told.notified()),
            pin!(waiting.room.told.notified()),
            pin!(pool.room.notified()),
        );
        any.as_mut().enable();
        own.as_mut().enable();
        here.as_mut().enable();
        if let Some(stream) = place(local, pool) {
            return Ok(stream);
        }
        match admit(local, address) {
            Ok(held) => return Ok(open(worker, pod, local, pool, address, held)),
            Err(_) if overflowed => {}
            Err(_) => {
                overflowed = true;
                local.state.counters.upstream_cx_overflow.increment();
            }
        }
        worker.ask_others(pod, local, address);
        tokio::select! {
            () = here => {}
            () = any => {}
            () = own => {}
        }
    }
}

/// Begins to open a connection. It goes on where the request that it is for does not, and whoever
/// gets a place on it meanwhile fails with it or has it.
fn open(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    local: &Rc<Local>,
    pool: &Rc<HostPool>,
    address: SocketAddr,
    held: Held,
) -> Stream {
    let now = clock::now();
    let shared = Rc::new(Shared {
        connection: OnceCell::new(),
        opened: Notify::new(),
        host: held.host.clone(),
        retiring: Cell::new(false),
        allowed: Cell::new(pool.allowed.get().unwrap_or(UNTOLD)),
        streams: Cell::new(0),
        requests: Cell::new(0),
        since: Cell::new(now),
        begun: now,
    });
    pool.shared.borrow_mut().push(Rc::clone(&shared));
    let stream = reserve(&shared, local, pool);
    // As many of those who wait here as it has places for.
    let others = pool.streams.get().saturating_sub(1);
    let places = shared.places(&local.policy()) as usize;
    (0..others.min(places)).for_each(|_| pool.room.notify_one());
    let opening = Opening {
        shared,
        pool: Rc::clone(pool),
    };
    let (serving, own, local) = (Rc::clone(worker), Rc::clone(pod), Rc::clone(local));
    worker::spawn(worker, pod, async move {
        let opened = open_held(
            &serving,
            &own,
            &local,
            (&opening.shared, &opening.pool),
            address,
            held,
        )
        .await;
        opening.done(opened);
    });
    stream
}

/// A connection that is being opened. Where that is given up, so is it.
struct Opening {
    shared: Rc<Shared>,
    pool: Rc<HostPool>,
}

impl Opening {
    fn done(&self, opened: Result<Connection, Error>) {
        if opened.is_err() {
            self.pool.drop_shared(&self.shared);
        }
        let _ = self.shared.connection.set(opened);
        self.shared.opened.notify_waiters();
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if self.shared.connection.get().is_none() {
            self.done(Err(Error::Closed));
        }
    }
}

async fn open_held(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    local: &Rc<Local>,
    (shared, pool): (&Rc<Shared>, &Rc<HostPool>),
    address: SocketAddr,
    mut held: Held,
) -> Result<Connection, Error> {
    held.count_descriptor(worker)?;
    let policy = local.policy();
    let connected = connect::upstream(worker, pod, address, &policy.tcp).await;
    count_connect(&local.state.counters, &connected);
    let stream = connected?;
    let name = stream.local_addr().ok();
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_max_send_streams(UNTOLD)
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
    let (shared, pool) = (Rc::downgrade(shared), Rc::downgrade(pool));
    worker::spawn(worker, pod, async move {
        // Its place in its cluster's count goes with the socket.
        let _held = held;
        let mut connection = pin!(connection);
        let _ = poll_fn(|cx| {
            let polled = connection.as_mut().poll(cx);
            let told = connection.current_max_send_streams();
            if told != UNTOLD
                && let (Some(shared), Some(pool)) = (shared.upgrade(), pool.upgrade())
            {
                shared.allowed.set(told);
                pool.allowed.set(Some(told));
            }
            polled
        })
        .await;
    });
    Ok(Connection {
        sender,
        local: name,
    })
}
