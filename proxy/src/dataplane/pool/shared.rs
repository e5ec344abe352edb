//! One HTTP/2 connection that many requests share: who has a place on it, whether it has one more,
//! and when it ends.
//!
//! Does not know how it is opened: that is [`super::http2`]'s.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;

use super::metered::Metered;
use super::{HostPool, reap};
use crate::clock;
use crate::dataplane::cluster::{Host, Local};
use crate::dataplane::error::Error;
use crate::dataplane::http::LocalExecutor;
use crate::dataplane::http::upload::RequestBody;
use crate::mesh::cluster::Policy;

/// Streams that a peer is taken to allow before its first SETTINGS (hyper's default).
pub(super) const UNTOLD: usize = 100;

/// A connection that carries many requests, from when it is begun.
pub(super) struct Shared {
    /// Once it is known what came of opening it.
    connection: OnceCell<Result<Connection, Error>>,
    opened: Notify,
    host: Option<Arc<Host>>,
    /// Streams that its peer is taken to allow at a time, until it has said so.
    assumed: usize,
    /// Its place is wanted elsewhere: it gets no more requests.
    retiring: Cell<bool>,
    streams: Cell<u32>,
    /// Requests so far.
    requests: Cell<u32>,
    /// When the last request ended, or the connection was begun.
    since: Cell<Instant>,
    begun: Instant,
}

/// One that is open.
pub(super) struct Connection {
    pub(super) sender: http2::SendRequest<RequestBody>,
    /// What runs it, as long as it runs.
    pub(super) driver: Weak<RefCell<Driver>>,
    pub(super) local: Option<SocketAddr>,
}

type Driver = http2::Connection<TokioIo<Metered>, RequestBody, LocalExecutor>;

impl Connection {
    /// Streams that its peer takes at a time, once it has said so.
    fn allowed(&self) -> Option<usize> {
        let driver = self.driver.upgrade()?;
        let allowed = driver.try_borrow().ok()?.current_max_send_streams();
        (allowed != UNTOLD).then_some(allowed)
    }
}

/// One request's place on a connection.
pub(in crate::dataplane) struct Stream {
    shared: Rc<Shared>,
    local: Rc<Local>,
    pool: Rc<HostPool>,
    /// Whether a request was sent by it that has not come to its end.
    under_way: Cell<bool>,
}

impl Stream {
    /// To send a request by.
    pub(in crate::dataplane) fn sender(&self) -> Option<http2::SendRequest<RequestBody>> {
        let sender = self.shared.opened()?.sender.clone();
        self.under_way.set(true);
        Some(sender)
    }

    /// The request came to its end, or the upstream ended it: it is not the proxy that resets it.
    pub(in crate::dataplane) fn over(&self) {
        self.under_way.set(false);
    }

    pub(super) fn is_open(&self) -> bool {
        self.shared.opened().is_some()
    }

    /// Waits until the connection is open, or was not to be opened.
    pub(super) async fn opened(&self) -> Result<(), Error> {
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
        if self.under_way.get() {
            self.local.state.counters.upstream_rq_tx_reset.increment();
        }
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
    /// Streams that the endpoint is taken to allow on a new connection: what it said on another.
    fn allowed(&self) -> usize {
        let known = self.shared.borrow();
        let told = known
            .iter()
            .find_map(|one| one.opened().and_then(Connection::allowed));
        if told.is_some() {
            self.allowed.set(told);
        }
        self.allowed.get().unwrap_or(UNTOLD)
    }

    /// Lets go of a connection: it ends with its last request.
    pub(super) fn drop_shared(&self, shared: &Rc<Shared>) {
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
pub(super) struct WaitsHere<'a>(&'a HostPool);

impl<'a> WaitsHere<'a> {
    pub(super) fn new(pool: &'a HostPool) -> Self {
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
    /// One that is yet to be opened.
    pub(super) fn begin(pool: &HostPool, host: Option<Arc<Host>>) -> Rc<Self> {
        let now = clock::now();
        Rc::new(Self {
            connection: OnceCell::new(),
            opened: Notify::new(),
            host,
            assumed: pool.allowed(),
            retiring: Cell::new(false),
            streams: Cell::new(0),
            requests: Cell::new(0),
            since: Cell::new(now),
            begun: now,
        })
    }

    /// A place on it.
    pub(super) fn reserve(self: &Rc<Self>, local: &Rc<Local>, pool: &Rc<HostPool>) -> Stream {
        self.streams.set(self.streams.get() + 1);
        self.requests.set(self.requests.get().saturating_add(1));
        Stream {
            shared: Rc::clone(self),
            local: Rc::clone(local),
            pool: Rc::clone(pool),
            under_way: Cell::new(false),
        }
    }

    /// Tells everybody who has a place what came of opening it. Only the first word counts.
    pub(super) fn settle(&self, opened: Result<Connection, Error>) {
        let _ = self.connection.set(opened);
        self.opened.notify_waiters();
    }

    /// Whether it is known what came of opening it.
    pub(super) fn is_settled(&self) -> bool {
        self.connection.get().is_some()
    }

    fn opened(&self) -> Option<&Connection> {
        self.connection.get()?.as_ref().ok()
    }

    /// Whether a new request may use it.
    pub(super) fn has_room(&self, now: Instant, policy: &Policy) -> bool {
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
    pub(super) fn places(&self, policy: &Policy) -> u32 {
        let most = |limit: Option<NonZeroU32>| limit.map_or(u32::MAX, NonZeroU32::get);
        let streams = most(policy.http.max_concurrent_streams).saturating_sub(self.streams.get());
        let requests = most(policy.http.max_requests_per_connection);
        streams.min(requests.saturating_sub(self.requests.get()))
    }

    /// Whether its peer takes one more stream now. Otherwise hyper would let the request wait for the
    /// end of another, which may never come.
    fn is_allowed(&self) -> bool {
        let streams = self.streams.get() as usize;
        let told = || self.opened().and_then(Connection::allowed);
        streams == 0 || streams < told().unwrap_or(self.assumed)
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
