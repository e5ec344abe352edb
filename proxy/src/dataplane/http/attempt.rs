//! One attempt to have a request answered: an endpoint, a connection to it, the request sent, the
//! response's head received.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use http::{Response, StatusCode};
use hyper::body::Incoming;

use super::message::Message;
use crate::clock;
use crate::dataplane::balance::{self, Choice, Wanted};
use crate::dataplane::cluster::Local;
use crate::dataplane::error::Error;
use crate::dataplane::outcome::Exchange;
use crate::dataplane::pod::LocalPod;
use crate::dataplane::pool::{self, HostPool, Returning};
use crate::dataplane::worker::Worker;
use crate::policy::circuit::Permit;
use crate::policy::outlier::Outcome;
use crate::policy::retry::Sent;

/// Where a request's attempts go.
pub(super) struct Upstream {
    /// The cluster.
    pub(super) cluster: Rc<Local>,
    /// The one address that is meant, where nothing is to be balanced.
    pub(super) original: Option<SocketAddr>,
    /// What the client dialled.
    pub(super) wanted: Wanted,
    /// For consistent hashing.
    pub(super) hash: Option<u64>,
    /// Whether it speaks HTTP/2 with its endpoints.
    pub(super) http2: bool,
}

/// Why an attempt came to nothing, and what of the request was sent.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) sent: Sent,
}

impl From<Error> for Failure {
    /// Before anything was sent.
    fn from(error: Error) -> Self {
        Self {
            error,
            sent: Sent::Nothing,
        }
    }
}

/// What an attempt has to know beside the message.
pub(super) struct Try<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) pod: &'a Rc<LocalPod>,
    pub(super) upstream: &'a Upstream,
    /// Endpoints that were tried before.
    pub(super) avoid: &'a [SocketAddr],
    /// Priorities to leave out, a bit each.
    pub(super) tried_priorities: u64,
    /// Set once there is a connection.
    pub(super) connected: &'a Cell<bool>,
}

impl Upstream {
    /// The only attempt at a request that no client waits for: its answer's status is counted.
    pub(super) async fn once(
        &self,
        (worker, pod): (&Rc<Worker>, &Rc<LocalPod>),
        exchange: &mut Exchange,
        message: &Message,
    ) -> Result<Response<Incoming>, Error> {
        let attempt = Try {
            worker,
            pod,
            upstream: self,
            avoid: &[],
            tried_priorities: 0,
            connected: &Cell::new(false),
        };
        let sent = attempt.send(exchange, message).await;
        let counters = &self.cluster.state.counters;
        let count = |answer: &Response<Incoming>| counters.response(answer.status().as_u16());
        sent.map_err(|failure| failure.error).inspect(count)
    }
}

impl Try<'_> {
    /// Makes the attempt. What it uses is noted in `exchange`, also while it is under way.
    pub(super) async fn send(
        self,
        exchange: &mut Exchange,
        message: &Message,
    ) -> Result<Response<Incoming>, Failure> {
        let upstream = self.upstream;
        let cluster = &upstream.cluster;
        exchange.attempt.cluster = Some(Rc::clone(cluster));
        let address = match upstream.original {
            Some(address) => address,
            None => {
                let choice = Choice {
                    wanted: upstream.wanted,
                    hash: upstream.hash,
                    avoid: self.avoid,
                    tried_priorities: self.tried_priorities,
                };
                let lease = balance::pick(self.worker, cluster, choice)?;
                let address = lease.address();
                exchange.attempt.lease = Some(lease);
                address
            }
        };
        exchange.upstream_host = Some(address);
        let own = (self.worker, self.pod);
        let pool = pool::of(own, cluster, address, &message.parts, exchange.ends());
        let sent = if upstream.http2 {
            exchange.upstream_protocol = Some("HTTP/2");
            // On the heap: the futures of requests that don't need it stay small.
            Box::pin(self.http2(exchange, message, &pool, address)).await
        } else {
            exchange.upstream_protocol = Some("HTTP/1.1");
            self.http1(exchange, message, &pool, address).await
        };
        let counters = &cluster.state.counters;
        if let Err(failure) = &sent {
            match failure.error {
                Error::PendingOverflow => counters.upstream_rq_pending_overflow.increment(),
                Error::RequestOverflow => counters.upstream_rq_active_overflow.increment(),
                Error::Connect(_) | Error::Tunnel(_) | Error::Tls(_) | Error::ConnectTimeout => {
                    counters.upstream_rq_pending_failure_eject.increment();
                }
                // The request was given up with its body, by its client.
                Error::RequestBody => {}
                ref error => exchange.stream_failed(error),
            }
        }
        sent
    }

    /// A connection is there: the request is as good as on its way.
    fn begin(&self, exchange: &mut Exchange, permit: Permit) {
        exchange.attempt.request = Some(permit);
        if let Some(lease) = &exchange.attempt.lease {
            lease.report(Outcome::Connected);
        }
        let counters = &self.upstream.cluster.state.counters;
        counters.upstream_rq_total.increment();
        self.connected.set(true);
    }

    /// By HTTP/1.1. A request on a reused connection that its peer had closed is sent once more, on
    /// a fresh one, where no byte of it was answered and nothing is done twice by it.
    async fn http1(
        &self,
        exchange: &mut Exchange,
        message: &Message,
        pool: &Rc<HostPool>,
        address: SocketAddr,
    ) -> Result<Response<Incoming>, Failure> {
        let (worker, pod, cluster) = (self.worker, self.pod, &self.upstream.cluster);
        let (mut connection, permit) =
            pool::http1::acquire(worker, pod, cluster, pool, address, exchange.started()).await?;
        self.begin(exchange, permit);
        loop {
            exchange.upstream_local = connection.local;
            let (read, written) = (connection.traffic.read(), connection.traffic.written());
            let mut failure = match connection.sender.try_send_request(message.request()).await {
                Ok(response) => {
                    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                        connection.requests += 1;
                        exchange.attempt.returning = Some(Returning {
                            pod: Rc::clone(pod),
                            cluster: Rc::clone(cluster),
                            pool: Rc::clone(pool),
                            connection,
                        });
                    }
                    return Ok(response);
                }
                Err(failure) => failure,
            };
            let answered = connection.traffic.read() != read;
            let error = classify(failure.error(), answered);
            // The message comes back where not a byte of it was written.
            let sent =
                if failure.take_message().is_some() || connection.traffic.written() == written {
                    Sent::Nothing
                } else {
                    Sent::Something
                };
            let safe = sent == Sent::Nothing
                || !answered && message.parts.method.is_idempotent() && message.is_replayable();
            let stale = connection.requests > 0 && !matches!(error, Error::RequestBody);
            if !stale || !safe {
                return Err(Failure { error, sent });
            }
            cluster.state.counters.upstream_rq_total.increment();
            worker.counters.upstream_rq_stale_retry.increment();
            let opening = pool::http1::open(worker, pod, cluster, pool, address);
            connection = Box::pin(opening).await?;
        }
    }

    /// By HTTP/2. A stream that the peer's GOAWAY left out is sent once more on a fresh connection.
    async fn http2(
        &self,
        exchange: &mut Exchange,
        message: &Message,
        pool: &Rc<HostPool>,
        address: SocketAddr,
    ) -> Result<Response<Incoming>, Failure> {
        let (worker, pod, cluster) = (self.worker, self.pod, &self.upstream.cluster);
        let mut again = true;
        loop {
            let (stream, permit) =
                pool::http2::acquire(worker, pod, cluster, pool, address).await?;
            let sender = stream.sender();
            exchange.upstream_local = stream.local();
            exchange.attempt.stream = Some(stream);
            self.begin(exchange, permit);
            let Some(mut sender) = sender else {
                return Err(Error::Closed.into());
            };
            let mut failure = match sender.try_send_request(message.request()).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            let unsent = failure.take_message().is_some();
            let left_out = unsent || left_out(failure.error());
            let sent = if unsent {
                Sent::Nothing
            } else {
                Sent::Something
            };
            if !(left_out && again && message.is_replayable()) {
                let error = classify(failure.error(), false);
                return Err(Failure { error, sent });
            }
            again = false;
            if let Some(stream) = &exchange.attempt.stream {
                stream.over();
            }
            exchange.attempt.request = None;
            exchange.attempt.stream = None;
            worker.counters.upstream_rq_stale_retry.increment();
        }
    }
}

/// RFC 9113, section 6.8: a peer that goes away has done nothing about streams beyond its last.
pub(super) fn left_out(error: &hyper::Error) -> bool {
    h2_error(error)
        .is_some_and(|error| error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR))
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error)?.downcast_ref::<h2::Error>()
}

/// Why an upstream's answer did not come. `answered`: some bytes of one did.
pub(super) fn classify(error: &hyper::Error, answered: bool) -> Error {
    if let Some(h2) = h2_error(error) {
        return match h2 {
            error if error.reason() == Some(h2::Reason::REFUSED_STREAM) && error.is_remote() => {
                Error::Refused
            }
            error if error.reason() == Some(h2::Reason::PROTOCOL_ERROR) => Error::Protocol,
            error if error.is_reset() && error.is_remote() => Error::Reset,
            error if error.is_io() || error.is_go_away() && error.is_remote() => Error::Closed,
            _ => Error::Protocol,
        };
    }
    if error.is_user() || error.is_body_write_aborted() {
        return Error::RequestBody;
    }
    if error.is_parse() || answered {
        return Error::Protocol;
    }
    Error::Closed
}

/// Tells the attempt's endpoint what became of it.
pub(super) fn report(exchange: &Exchange, result: Result<u16, &Error>) {
    let outcome = match result {
        Ok(status) => Some(Outcome::Response(status)),
        Err(error) => error.outcome(),
    };
    if let (Some(outcome), Some(lease)) = (outcome, &exchange.attempt.lease) {
        lease.report(outcome);
    }
}

/// A place among the cluster's retries under way, where there is one.
pub(super) fn permit_for_retry(cluster: &Local) -> Option<Permit> {
    cluster.members().breaker.try_retry(clock::now()).ok()
}
