//! Upstream connections of one local pod to one endpoint of a cluster, in one worker: kept open,
//! used again, closed with the pod.
//!
//! Connections of two pods, or of two clusters, are never shared: address, NetworkPolicy and life
//! are the pod's own, and a cluster's limits count its own connections. Whoever needs a connection
//! asks [`http1`] or [`http2`], which keep the cluster's limits ([`admit`]).

pub(super) mod http1;
pub(super) mod http2;
mod metered;
mod shared;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request;
use tokio::sync::{Notify, oneshot};
use tokio::task::spawn_local;

pub(super) use http1::{Http1, Returning};
pub(super) use shared::Stream;

use super::cluster::{Counters, Host, Local, State};
use super::error::Error;
use super::pod::LocalPod;
use super::secured;
use super::upstream::Upstream;
use super::way::{self, Made};
use super::worker::{SWEEP, Worker};
use crate::clock;
use crate::mesh::cluster::Policy;
use crate::net::descriptors;
use crate::policy::circuit::Permit;
use crate::wire::proxy_protocol::Ends;

/// The connections of one worker to one endpoint.
#[derive(Default)]
pub(super) struct HostPool {
    /// HTTP/1.1 connections without a request, the most recently used last.
    idle: RefCell<Vec<http1::Idle>>,
    /// Requests that wait for one of them, because no more may be opened, and some that did.
    waiting: RefCell<VecDeque<oneshot::Sender<Http1>>>,
    /// How many there may be before those that wait no more are looked for.
    crowd: Cell<usize>,
    /// HTTP/2 connections, also those that are being opened.
    shared: RefCell<Vec<Rc<shared::Shared>>>,
    /// Requests that wait for a place on one of them, and where they are told of one.
    streams: Cell<usize>,
    room: Notify,
    /// Streams that the endpoint takes at a time on one of them, once it has said so.
    allowed: Cell<Option<usize>>,
    /// A connection opened before it was known what it would be for.
    spare: RefCell<Option<Spare>>,
    /// Whether [`reap`] runs.
    reaping: Cell<bool>,
    /// Counts how often what its connections are made by has changed: those of before get no more
    /// requests.
    generation: Cell<u32>,
    /// What they are made by, where certificates are signed.
    made: RefCell<Option<Made>>,
    /// The snapshot and the certificates by which that was looked at last.
    seen: Cell<Option<(u64, u64)>>,
    purpose: Purpose,
}

/// What the connections of a pool are for, beside their endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Purpose {
    /// What requests say is their host, where TLS is asked for by it.
    host: Option<Rc<str>>,
    /// The client's connection, where the endpoint is told of it.
    client: Option<Ends>,
}

impl Purpose {
    /// Whether they are for this client's connection alone.
    pub(super) fn is_for(&self, client: Ends) -> bool {
        self.client == Some(client)
    }
}

/// The connections by which a request goes to `address`: of all requests, unless its TLS asks for the
/// request's own host, or the endpoint is told of the client's connection.
pub(super) fn of(
    (worker, pod): (&Rc<Worker>, &Rc<LocalPod>),
    cluster: &Local,
    address: SocketAddr,
    parts: &request::Parts,
    client: Option<Ends>,
) -> Rc<HostPool> {
    let (by_host, greets) = {
        let policy = &cluster.members().cluster.policy;
        let by_host = policy.tls.as_ref().is_some_and(|tls| tls.name.is_none());
        (by_host, policy.proxy_protocol.is_some())
    };
    let pool = if by_host || greets {
        let purpose = Purpose {
            host: by_host.then(|| secured::host(parts)),
            client: client.filter(|_| greets),
        };
        if purpose.client.is_some() {
            pod.keeps_clients_apart();
        }
        cluster.pool_of(address, purpose)
    } else {
        cluster.pool(address)
    };
    pool.keep_up(worker, pod, address);
    pool
}

/// Gives a connection that was opened for a client before it was known what it would be for to
/// whoever may use it.
pub(super) fn adopt(
    worker: &Worker,
    pod: &LocalPod,
    (cluster, held): (&Local, Held),
    address: SocketAddr,
    stream: Upstream,
    client: Ends,
) {
    let (greets, tunnels) = {
        let policy = &cluster.members().cluster.policy;
        (policy.proxy_protocol.is_some(), policy.tunnel.is_some())
    };
    // It may lead to somebody else.
    if tunnels {
        return;
    }
    let pool = if greets {
        pod.keeps_clients_apart();
        cluster.pool_of(
            address,
            Purpose {
                host: None,
                client: Some(client),
            },
        )
    } else {
        cluster.pool(address)
    };
    pool.keep_up(worker, pod, address);
    pool.adopt(worker, stream, held);
}

/// A connection with nothing said on it yet.
struct Spare {
    stream: Upstream,
    held: Held,
    since: Instant,
}

/// A connection's place in its cluster's count, as long as it is open.
#[derive(Debug)]
pub(super) struct Held {
    permit: Option<Permit>,
    host: Option<Arc<Host>>,
    state: Arc<State>,
    /// Its descriptor, where it is not its client's connection that counts it.
    descriptor: Option<descriptors::Permit>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(host) = &self.host {
            host.closed();
        }
        self.permit = None;
        self.state.released(self.host.as_deref());
    }
}

impl Held {
    /// Counts its descriptor by itself: one connection of a client's may have a thousand requests.
    fn count_descriptor(&mut self, worker: &Worker) -> Result<(), Error> {
        if self.descriptor.is_none() {
            let descriptor = worker.descriptors.take(1);
            self.descriptor = Some(descriptor.ok_or(Error::ConnectionOverflow)?);
        }
        Ok(())
    }

    /// Whether closing the connection would help somebody, beside `own` requests of this worker.
    fn is_wanted(&self, own: usize) -> bool {
        self.state.is_wanted(self.host.as_deref(), own)
    }
}

/// A place for one more connection to `address`. An endpoint that has no connection at all gets one
/// beyond the limit (Envoy: otherwise a request might wait for a connection that nobody opens).
pub(super) fn admit(local: &Local, address: SocketAddr) -> Result<Held, Error> {
    let members = local.members();
    let host = members.host(address).cloned();
    let first = host.as_ref().is_some_and(|host| host.opened() == 0);
    let permit = match members.breaker.try_connection() {
        Ok(permit) => permit,
        Err(_) if first => members.breaker.first_connection(),
        Err(_) => {
            if let Some(host) = &host {
                host.closed();
            }
            return Err(Error::ConnectionOverflow);
        }
    };
    local.state.counters.upstream_cx_total.increment();
    Ok(Held {
        permit: Some(permit),
        host,
        state: Arc::clone(&local.state),
        descriptor: None,
    })
}

/// A request that waits for a connection. It is counted where it is dropped before it was told what
/// came of that (Envoy).
struct Waiting<'a>(Option<&'a Counters>);

impl<'a> Waiting<'a> {
    fn new(local: &'a Local) -> Self {
        Self(Some(&local.state.counters))
    }

    fn told(mut self) {
        self.0 = None;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(counters) = self.0 {
            counters.upstream_rq_cancelled.increment();
        }
    }
}

/// Counts what came of opening a connection.
pub(super) fn count_connect<T>(counters: &Counters, connected: &Result<T, Error>) {
    match connected {
        Ok(_) => {}
        Err(Error::ConnectTimeout) => {
            counters.upstream_cx_connect_timeout.increment();
            counters.upstream_cx_connect_fail.increment();
        }
        Err(_) => counters.upstream_cx_connect_fail.increment(),
    }
}

impl HostPool {
    /// Takes a connection that was opened before it was known what it would be for, where none is
    /// waiting already: one early dial a client's connection must not add up. Otherwise it is closed.
    fn adopt(&self, worker: &Worker, stream: Upstream, mut held: Held) {
        if held.is_wanted(0)
            || worker.descriptors.is_scarce()
            || held.count_descriptor(worker).is_err()
        {
            return;
        }
        let mut spare = self.spare.borrow_mut();
        if self.idle.borrow().is_empty() && spare.is_none() {
            let since = clock::now();
            *spare = Some(Spare {
                stream,
                held,
                since,
            });
        }
    }

    fn spare(&self) -> Option<(Upstream, Held)> {
        let Spare {
            mut stream, held, ..
        } = self.spare.borrow_mut().take()?;
        // It may have been closed since: a read tells.
        stream.is_silent().then_some((stream, held))
    }

    /// Closes what is without a request; what has one goes on.
    pub(super) fn clear(&self) {
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
        self.spare.borrow_mut().take();
    }

    /// Connections for one purpose.
    pub(super) fn new(purpose: Purpose) -> Self {
        Self {
            purpose,
            ..Self::default()
        }
    }

    /// Sees to it that its connections are made by what is in force.
    fn keep_up(&self, worker: &Worker, pod: &LocalPod, address: SocketAddr) {
        if worker.mutual_tls {
            let now = (worker.snapshot().version, worker.secrets.version());
            if self.seen.replace(Some(now)) != Some(now) {
                self.follow(way::made(worker, pod, address));
            }
        }
    }

    /// Lets no connection that was made by something else than is in force have another request.
    pub(super) fn follow(&self, now: Made) {
        if self.made.borrow().as_ref() != Some(&now) {
            self.made.replace(Some(now));
            self.renew();
        }
    }

    /// Lets no connection of before have another request.
    pub(super) fn renew(&self) {
        self.generation.set(self.generation.get().wrapping_add(1));
        self.clear();
    }

    /// Closes one connection that has no request: another worker may open one in its place. Where
    /// all have some, one of HTTP/2 gets no more of them.
    pub(super) fn give_up_one(&self) {
        if !self.give_up_idle() {
            self.retire_one();
        }
    }

    /// Closes one connection that has no request and can't have one of HTTP/2.
    fn give_up_idle(&self) -> bool {
        self.spare.borrow_mut().take().is_some() || self.idle.borrow_mut().pop().is_some()
    }

    /// Closes what was idle for too long, is too old, or was closed by its peer.
    pub(super) fn sweep(&self, now: Instant, policy: &Policy) {
        self.idle
            .borrow_mut()
            .retain(|idle| idle.is_open() && idle.ends(policy) > now);
        self.waiting
            .borrow_mut()
            .retain(|waiting| !waiting.is_closed());
        self.shared
            .borrow_mut()
            .retain(|shared| shared.is_wanted(now, policy));
        let mut spare = self.spare.borrow_mut();
        if spare
            .as_ref()
            .is_some_and(|spare| spare.since + policy.http.idle_timeout <= now)
        {
            spare.take();
        }
    }

    /// Whether nothing is kept and nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty()
            && self.shared.borrow().is_empty()
            && self.spare.borrow().is_none()
            && self.waiting.borrow().is_empty()
    }

    fn next_end(&self, policy: &Policy) -> Option<Instant> {
        let idle = self.idle.borrow();
        let shared = self.shared.borrow();
        let idle = idle.iter().map(|idle| idle.ends(policy));
        idle.chain(shared.iter().filter_map(|one| one.ends(policy)))
            .min()
    }
}

/// Makes sure that idle connections end in time, where the worker's own sweep comes too rarely.
fn reap(local: &Rc<Local>, pool: &Rc<HostPool>) {
    let policy = local.policy();
    let soon = |limit: Option<Duration>| limit.is_some_and(|limit| limit < SWEEP);
    if !soon(Some(policy.http.idle_timeout)) && !soon(policy.tcp.max_connection_duration)
        || pool.reaping.replace(true)
    {
        return;
    }
    let (local, pool) = (Rc::downgrade(local), Rc::downgrade(pool));
    spawn_local(async move {
        loop {
            let end = {
                let (Some(local), Some(pool)) = (local.upgrade(), pool.upgrade()) else {
                    return;
                };
                let policy = local.policy();
                pool.sweep(clock::now(), &policy);
                match pool.next_end(&policy) {
                    Some(end) => end,
                    None => {
                        pool.reaping.set(false);
                        return;
                    }
                }
            };
            tokio::time::sleep_until(end.into()).await;
        }
    });
}
