//! HTTP/2 connections to an endpoint: each carries many requests.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::metered::Metered;
use super::shared::{Connection, Shared, Stream, UNTOLD, WaitsHere};
use super::{Held, HostPool, Purpose, Waiting, admit, count_connect};
use crate::clock;
use crate::dataplane::cluster::Local;
use crate::dataplane::error::Error;
use crate::dataplane::http::{DELAYED_CLOSE, LIST_LIMIT, LocalExecutor};
use crate::dataplane::pod::LocalPod;
use crate::dataplane::secured::Speech;
use crate::dataplane::task;
use crate::dataplane::upstream;
use crate::dataplane::worker::Worker;
use crate::net::gather::Gather;
use crate::net::last_words::LastWords;
use crate::policy::circuit::Permit;

/// Bytes that may wait to be sent on one HTTP/2 stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of one HTTP/2 stream, and of a connection, that may be under way to us unread.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

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
    let waiting = Waiting::new(local);
    let opened = async {
        let stream = match place {
            Some(stream) => stream,
            None => begin(worker, pod, local, pool, address).await?,
        };
        stream.opened().await?;
        Ok::<_, Error>(stream)
    };
    let opened = opened.await;
    waiting.told();
    let stream = opened?;
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
    Some(shared.reserve(local, pool))
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
        // Requests of both versions may share the endpoint (`useClientProtocol`), and with it the
        // limit.
        pool.give_up_idle();
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
    let shared = Shared::begin(pool, held.host.clone());
    pool.shared.borrow_mut().push(Rc::clone(&shared));
    let stream = shared.reserve(local, pool);
    // As many of those who wait here as it has places for.
    let others = pool.streams.get().saturating_sub(1);
    let places = shared.places(&local.policy()) as usize;
    (0..others.min(places)).for_each(|_| pool.room.notify_one());
    let opening = Opening {
        shared,
        pool: Rc::clone(pool),
    };
    let (serving, own, local) = (Rc::clone(worker), Rc::clone(pod), Rc::clone(local));
    task::spawn(worker, pod, async move {
        let opened = open_held(&serving, &own, &local, &opening.pool, address, held).await;
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
        self.shared.settle(opened);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !self.shared.is_settled() {
            self.done(Err(Error::Closed));
        }
    }
}

async fn open_held(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    local: &Rc<Local>,
    pool: &HostPool,
    address: SocketAddr,
    mut held: Held,
) -> Result<Connection, Error> {
    held.count_descriptor(worker)?;
    let policy = local.policy();
    let Purpose { host, client } = &pool.purpose;
    let speech = Speech::Http2(host.as_deref());
    let connected = upstream::connect(worker, pod, address, local, speech, *client).await;
    count_connect(&local.state.counters, &connected);
    let stream = connected?;
    let name = stream.local_addr();
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
    let metered = Metered {
        stream: LastWords::new(Gather(stream), DELAYED_CLOSE),
        traffic: Arc::default(),
        _held: held,
    };
    let (sender, connection) = builder
        .handshake(TokioIo::new(metered))
        .await
        .map_err(|_| Error::Closed)?;
    let driver = Rc::new(RefCell::new(connection));
    let seen = Rc::downgrade(&driver);
    task::spawn(worker, pod, async move {
        let _ = poll_fn(|cx| Pin::new(&mut *driver.borrow_mut()).poll(cx)).await;
    });
    Ok(Connection {
        sender,
        driver: seen,
        local: name,
    })
}
