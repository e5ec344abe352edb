//! HTTP/1.1 connections to an endpoint: one request at a time each.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::metered::Metered;
use super::{Held, HostPool, Purpose, Waiting, admit, count_connect, reap};
use crate::clock;
use crate::dataplane::cluster::Local;
use crate::dataplane::error::Error;
use crate::dataplane::http::DELAYED_CLOSE;
use crate::dataplane::http::upload::RequestBody;
use crate::dataplane::pod::LocalPod;
use crate::dataplane::secured::Speech;
use crate::dataplane::task;
use crate::dataplane::upstream::{self, Upstream};
use crate::dataplane::worker::Worker;
use crate::mesh::cluster::Policy;
use crate::net::gather::Gather;
use crate::net::last_words::LastWords;
use crate::policy::circuit::{Limits, Permit};

pub(in crate::dataplane) use super::metered::Traffic;

/// hyper's read buffer. It grows as far as an upstream fills it: an answer of 64 KiB is one read. A
/// client that does not read costs about three times as much.
const READ_BUFFER: usize = 128 * 1024;

/// How often a connection goes to requests of its own worker while requests wait on another, which
/// would wait for ever where there are always some here.
const FAIR: u32 = 32;

/// A connection that carries one request at a time.
pub(in crate::dataplane) struct Http1 {
    pub(in crate::dataplane) sender: http1::SendRequest<RequestBody>,
    /// What went over it so far.
    pub(in crate::dataplane) traffic: Arc<Traffic>,
    pub(in crate::dataplane) local: Option<SocketAddr>,
    /// Requests that it has carried before.
    pub(in crate::dataplane) requests: u32,
    opened: Instant,
    address: SocketAddr,
    /// Of its pool, when it was begun.
    generation: u32,
    /// How often it went from request to request here while others waited elsewhere.
    kept: u32,
}

impl Http1 {
    /// Whether it can take a request, once that is certain.
    async fn ready(&mut self) -> bool {
        self.sender.is_ready() || self.sender.ready().await.is_ok()
    }

    /// Whether it may carry one more request.
    fn is_fresh(&self, now: Instant, policy: &Policy) -> bool {
        let most = policy.http.max_requests_per_connection;
        !self.sender.is_closed()
            && most.map_or(u32::MAX, NonZeroU32::get) > self.requests
            && policy
                .tcp
                .max_connection_duration
                .is_none_or(|limit| now.duration_since(self.opened) < limit)
    }
}

/// A connection without a request.
pub(super) struct Idle {
    connection: Http1,
    since: Instant,
}

impl Idle {
    pub(super) fn is_open(&self) -> bool {
        !self.connection.sender.is_closed()
    }

    /// When it is to be closed.
    pub(super) fn ends(&self, policy: &Policy) -> Instant {
        let idle = self.since + policy.http.idle_timeout;
        match policy.tcp.max_connection_duration {
            Some(limit) => idle.min(self.connection.opened + limit),
            None => idle,
        }
    }
}

impl HostPool {
    /// The most recently used connection that is still open, and was not idle for longer than the
    /// policy of the moment says. Its last answer is complete, but it may have to be polled once more
    /// before it is [`Http1::ready`].
    fn take(&self, now: Instant, policy: &Policy) -> Option<Http1> {
        let mut idle = self.idle.borrow_mut();
        while let Some(last) = idle.pop() {
            if last.is_open() && last.ends(policy) > now {
                return Some(last.connection);
            }
        }
        None
    }
}

/// A connection on its way back to its pool.
pub(in crate::dataplane) struct Returning {
    pub(in crate::dataplane) pod: Rc<LocalPod>,
    pub(in crate::dataplane) cluster: Rc<Local>,
    pub(in crate::dataplane) pool: Rc<HostPool>,
    pub(in crate::dataplane) connection: Http1,
}

impl Returning {
    /// Gives the connection to whoever waits for it, or keeps it for the next request, where it is
    /// open and there is room.
    pub(in crate::dataplane) fn put_back(self, worker: &Worker) {
        let Self {
            pod,
            cluster,
            pool,
            connection,
        } = self;
        let now = clock::now();
        if pod.is_gone()
            || connection.generation != pool.generation.get()
            || !connection.is_fresh(now, &cluster.members().cluster.policy)
        {
            return;
        }
        let mut connection = connection;
        let own = pool.waiting.borrow().len();
        if own > 0 && cluster.state.is_crowded(own) {
            connection.kept += 1;
            if connection.kept > FAIR {
                return;
            }
        }
        while let Some(waiting) = next_waiting(&pool) {
            match waiting.send(connection) {
                Ok(()) => return,
                Err(unsent) => connection = unsent,
            }
        }
        // Somebody on another worker waits for a place: closing this one makes room.
        if cluster.state.is_crowded(0) {
            let host = cluster.members().host(connection.address).cloned();
            if cluster.state.is_wanted(host.as_deref(), 0) {
                return;
            }
        }
        if worker.descriptors.is_scarce() {
            return;
        }
        pool.idle.borrow_mut().push(Idle {
            connection,
            since: now,
        });
        reap(&cluster, &pool);
    }
}

fn next_waiting(pool: &HostPool) -> Option<oneshot::Sender<Http1>> {
    pool.waiting.borrow_mut().pop_front()
}

impl HostPool {
    /// A place in the queue for the next connection that becomes free.
    fn enqueue(&self) -> oneshot::Receiver<Http1> {
        /// So many may have left the queue without anybody caring.
        const FEW: usize = 64;
        let (sender, receiver) = oneshot::channel();
        let mut queue = self.waiting.borrow_mut();
        if queue.len() >= self.crowd.get().max(FEW) {
            queue.retain(|sender| !sender.is_closed());
            self.crowd.set(queue.len() * 2);
        }
        queue.push_back(sender);
        receiver
    }
}

/// A connection for one request, with the request's place in the cluster's count: one that is open
/// and idle, a new one, or where no more may be opened the next that becomes free.
pub(in crate::dataplane) async fn acquire(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    local: &Rc<Local>,
    pool: &Rc<HostPool>,
    address: SocketAddr,
    now: Instant,
) -> Result<(Http1, Permit), Error> {
    loop {
        let taken = pool.take(now, &local.members().cluster.policy);
        let Some(mut connection) = taken else {
            break;
        };
        if connection.ready().await {
            let place = local.members().breaker.try_request(now);
            return match place {
                Ok(permit) => Ok((connection, permit)),
                Err(_) => {
                    give_back(worker, pod, local, pool, connection);
                    Err(Error::RequestOverflow)
                }
            };
        }
    }
    // On the heap: the futures of requests that find a connection stay small.
    Box::pin(new(worker, pod, local, pool, address)).await
}

/// A connection that has yet to be opened, or to become free.
async fn new(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    local: &Rc<Local>,
    pool: &Rc<HostPool>,
    address: SocketAddr,
) -> Result<(Http1, Permit), Error> {
    let pending = local.members().breaker.try_pending();
    let pending = pending.map_err(|_| Error::PendingOverflow)?;
    let waiting = Waiting::new(local);
    let opened = open(worker, pod, local, pool, address).await;
    waiting.told();
    let connection = opened?;
    let request = pending.into_request(&local.members().breaker, clock::now());
    match request.map_err(|_| Error::RequestOverflow) {
        Ok(permit) => Ok((connection, permit)),
        Err(error) => {
            give_back(worker, pod, local, pool, connection);
            Err(error)
        }
    }
}

/// Puts a connection back that was not used after all.
fn give_back(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    local: &Rc<Local>,
    pool: &Rc<HostPool>,
    connection: Http1,
) {
    let returning = Returning {
        pod: Rc::clone(pod),
        cluster: Rc::clone(local),
        pool: Rc::clone(pool),
        connection,
    };
    returning.put_back(worker);
}

/// Opens a connection, or waits until there is one or room for one.
pub(in crate::dataplane) async fn open(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    local: &Rc<Local>,
    pool: &Rc<HostPool>,
    address: SocketAddr,
) -> Result<Http1, Error> {
    let limit = local.members().breaker.limits().max_connections;
    if limit == Limits::UNLIMITED {
        let place = place(pool, local, address)?;
        return open_at(worker, pod, local, pool, address, place).await;
    }
    let mut overflowed = false;
    let mut turn = None;
    let place = loop {
        let host = local.members().host(address).cloned();
        // All from before the look: room that comes in between is not missed.
        let waiting = local.state.waits(host.as_ref());
        let (mut any, mut own) = (
            pin!(local.state.room.told.notified()),
            pin!(waiting.room.told.notified()),
        );
        any.as_mut().enable();
        own.as_mut().enable();
        match place(pool, local, address) {
            Ok(place) => break place,
            Err(_) if overflowed => {}
            Err(_) => {
                overflowed = true;
                local.state.counters.upstream_cx_overflow.increment();
            }
        }
        // Its place in the queue stays, however often it looks.
        let next = turn.get_or_insert_with(|| pool.enqueue());
        // HTTP/2's may hold the place, where requests of both versions share the endpoint.
        pool.retire_one();
        worker.ask_others(pod, local, address);
        let handed = tokio::select! {
            biased;
            handed = next => handed.ok(),
            () = any => continue,
            () = own => continue,
        };
        turn = None;
        if let Some(mut connection) = handed
            && connection.ready().await
        {
            return Ok(connection);
        }
    };
    open_at(worker, pod, local, pool, address, place).await
}

/// Where a connection may be opened, or one that was opened early.
enum Place {
    Spare(Upstream, Held),
    New(Held),
}

fn place(pool: &HostPool, local: &Local, address: SocketAddr) -> Result<Place, Error> {
    match pool.spare() {
        Some((stream, held)) => Ok(Place::Spare(stream, held)),
        None => admit(local, address).map(Place::New),
    }
}

async fn open_at(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    local: &Rc<Local>,
    pool: &HostPool,
    address: SocketAddr,
    place: Place,
) -> Result<Http1, Error> {
    let generation = pool.generation.get();
    let (stream, held) = match place {
        Place::Spare(stream, held) => (stream, held),
        Place::New(mut held) => {
            held.count_descriptor(worker)?;
            let Purpose { host, client } = &pool.purpose;
            let speech = Speech::Http1(host.as_deref());
            let connected = upstream::connect(worker, pod, address, local, speech, *client).await;
            count_connect(&local.state.counters, &connected);
            (connected?, held)
        }
    };
    let name = stream.local_addr();
    let traffic = Arc::new(Traffic::default());
    let metered = Metered {
        stream: LastWords::new(Gather(stream), DELAYED_CLOSE),
        traffic: Arc::clone(&traffic),
        _held: held,
    };
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(READ_BUFFER)
        .allow_obsolete_multiline_headers_in_responses(true)
        .handshake(TokioIo::new(metered))
        .await
        .map_err(|_| Error::Closed)?;
    task::spawn(worker, pod, async move {
        // Its error is told to whoever waits for an answer on it.
        let _ = connection.with_upgrades().await;
    });
    Ok(Http1 {
        sender,
        traffic,
        local: name,
        requests: 0,
        opened: clock::now(),
        address,
        generation,
        kept: 0,
    })
}
