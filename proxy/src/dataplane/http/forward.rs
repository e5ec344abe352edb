//! Sends a request on, as often as its rule allows, and takes the answer.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::attempt::{self, Failure, Try, Upstream};
use super::deadline::{Deadline, First};
use super::message::Message;
use super::{Downstream, headers};
use crate::clock;
use crate::dataplane::balance::Lease;
use crate::dataplane::error::Error;
use crate::dataplane::outcome::{Attempt, Exchange};
use crate::policy::circuit::Permit;
use crate::policy::grpc;
use crate::policy::retry::{self, Attempts, Outcome, Reason, Reset, Verdict};
use crate::policy::timeout::Limits;

/// An upstream's answer, and what it takes to deliver it.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    /// The client's side of an upgrade that the upstream accepted.
    pub(super) upgraded: Option<OnUpgrade>,
    /// The protocol that was asked for.
    pub(super) asked: Option<HeaderValue>,
    /// The upstream refused while the client was still sending: the rest would be read as the next
    /// request, so the connection must not be used again.
    pub(super) early: bool,
    /// Goes on while the answer is read, where the rule has a timeout.
    pub(super) deadline: Option<Box<Deadline>>,
}

/// A request to be sent on.
pub(super) struct Forward<'a> {
    pub(super) downstream: &'a Rc<Downstream>,
    pub(super) upstream: Upstream,
    pub(super) message: Message,
    pub(super) retry: &'a retry::Policy,
    pub(super) limits: Limits,
    pub(super) grpc: bool,
    /// Where the request asks for an upgrade: the client's side, and to what.
    pub(super) client: Option<(OnUpgrade, HeaderValue)>,
}

impl Forward<'_> {
    /// Sends it until an answer is good enough or no attempt is left.
    pub(super) async fn send(&mut self, exchange: &mut Exchange) -> Result<Answer, Error> {
        let mut attempts = Attempts::new(self.retry);
        let upload = self.message.upload().cloned();
        if let Some(upload) = upload.as_ref().filter(|_| attempts.may_retry()) {
            upload.keep();
        }
        let mut deadline = Deadline::new(self.limits, upload.clone());
        let avoids = self
            .retry
            .avoids_previous_hosts(self.upstream.hash.is_some());
        let mut tried = Tried::default();
        // The place of a retry among those under way, until its outcome is known.
        let mut retrying: Option<Permit> = None;
        let result = loop {
            exchange.attempts = attempts.number();
            let expected = self.limits.expected(deadline.elapsed());
            let fields = &mut self.message.parts.headers;
            headers::announce(fields, attempts.number(), expected, self.grpc);
            let result = self.attempt(exchange, &mut deadline, &tried).await;
            let Some(verdict) = verdict(&mut attempts, &result) else {
                break result;
            };
            let backoff = match verdict {
                Verdict::Retry(backoff) => backoff,
                Verdict::No(Reason::NotRetriable) => {
                    if exchange.attempts > 1 {
                        let counters = &self.upstream.cluster.state.counters;
                        counters.upstream_rq_retry_success.increment();
                    }
                    break result;
                }
                Verdict::No(Reason::Exhausted) => {
                    exchange.exhausted();
                    break result;
                }
            };
            let counters = &self.upstream.cluster.state.counters;
            if !self.message.is_replayable() {
                break result;
            }
            // The last retry's place goes first: it is the next one's where there is but one (Envoy,
            // `RetryStateImpl::shouldRetry`).
            drop(retrying.take());
            retrying = attempt::permit_for_retry(&self.upstream.cluster);
            if retrying.is_none() {
                counters.upstream_rq_retry_overflow.increment();
                exchange.overflowed();
                break result;
            }
            counters.upstream_rq_retry.increment();
            counters.upstream_rq_retry_backoff_exponential.increment();
            if let Ok(response) = &result {
                counters.retried(response.status().as_u16());
            }
            tried.add(exchange, avoids, self.retry.remote_localities);
            if let Some(upload) = &upload {
                // What the last attempt still sends would go on in the meantime.
                upload.cut_off();
            }
            drop(result);
            exchange.attempt = Attempt::default();
            let worker = &self.downstream.worker;
            // On the heap: few requests are retried.
            if !Box::pin(deadline.pause(backoff.wait(worker.draw()))).await {
                break Err(self.timed_out(exchange).into());
            }
        };
        let response = result.map_err(|failure| failure.error)?;
        let counters = &self.upstream.cluster.state.counters;
        counters.response(response.status().as_u16());
        self.take(exchange, response, deadline)
    }

    async fn attempt(
        &self,
        exchange: &mut Exchange,
        deadline: &mut Deadline,
        tried: &Tried,
    ) -> Result<Response<Incoming>, Failure> {
        let connected = Cell::new(false);
        let attempt = Try {
            worker: &self.downstream.worker,
            pod: &self.downstream.pod,
            upstream: &self.upstream,
            avoid: &tried.endpoints,
            tried_priorities: tried.left_out,
            connected: &connected,
        };
        let first = {
            let sending = pin!(attempt.send(exchange, &self.message));
            deadline.run(&connected, sending).await
        };
        let result = match first {
            First::Done(result) => result,
            First::Request => Err(self.timed_out(exchange).into()),
            First::Attempt => {
                let counters = &self.upstream.cluster.state.counters;
                counters.upstream_rq_per_try_timeout.increment();
                Err(Failure {
                    error: Error::TryTimeout,
                    sent: retry::Sent::Something,
                })
            }
        };
        match &result {
            Ok(response) => {
                if exchange
                    .attempt
                    .lease
                    .as_ref()
                    .is_some_and(Lease::is_watched)
                {
                    let told = accounted(response.status(), response.headers());
                    attempt::report(exchange, Ok(told.as_u16()));
                }
            }
            Err(failure) => attempt::report(exchange, Err(&failure.error)),
        }
        result
    }

    fn timed_out(&self, exchange: &Exchange) -> Error {
        exchange.timed_out();
        Error::Timeout
    }

    fn take(
        &mut self,
        exchange: &mut Exchange,
        response: Response<Incoming>,
        deadline: Deadline,
    ) -> Result<Answer, Error> {
        let upload = self.message.upload();
        // From the request's end; an answer that is there before it, as any to an upgrade is, took no
        // time that could be told (Envoy).
        exchange.service_time = match upload {
            _ if self.client.is_some() => None,
            None => Some(exchange.elapsed()),
            Some(upload) => upload.complete().map(|at| {
                let took = clock::now().duration_since(at).as_millis();
                u64::try_from(took).unwrap_or(u64::MAX)
            }),
        };
        if let Some(upload) = upload {
            // Nothing is sent again once an answer is passed on.
            upload.forget();
        }
        if headers::has_two_lengths(response.headers()) {
            exchange.attempt.returning = None;
            return Err(Error::Protocol);
        }
        let status = response.status();
        let switching = status == StatusCode::SWITCHING_PROTOCOLS;
        let accepted = if self.upstream.http2 {
            status.is_success()
        } else {
            switching
        };
        let (upgraded, asked) = match self.client.take() {
            Some((client, asked)) if accepted => (Some(client), Some(asked)),
            // An upgrade that nobody asked for, or that HTTP/2 does not have.
            _ if switching => return Err(Error::Protocol),
            _ => (None, None),
        };
        let early =
            response.status().is_client_error() && upload.is_some_and(|upload| !upload.ended());
        Ok(Answer {
            response,
            upgraded,
            asked,
            early,
            deadline: deadline.limits_answer().then(|| Box::new(deadline)),
        })
    }
}

impl Drop for Forward<'_> {
    fn drop(&mut self) {
        // Whether or not another attempt was wanted in the end (Envoy).
        let lost = self.message.upload().is_some_and(|upload| upload.is_lost());
        if lost && Attempts::new(self.retry).may_retry() {
            let counters = &self.upstream.cluster.state.counters;
            counters.retry_or_shadow_abandoned.increment();
        }
    }
}

/// Where attempts went.
#[derive(Default)]
struct Tried {
    /// Endpoints to avoid.
    endpoints: Vec<SocketAddr>,
    /// Priorities that were tried, a bit each.
    priorities: u64,
    attempts: u32,
    /// Priorities to leave out now.
    left_out: u64,
}

impl Tried {
    /// Envoy looks at the priorities that were tried after every second attempt, which is what Istio
    /// sets for `retryRemoteLocalities` (`update_frequency` 2).
    const UPDATE: u32 = 2;

    fn add(&mut self, exchange: &Exchange, avoids: bool, remote: bool) {
        self.attempts += 1;
        if avoids
            && let Some(address) = exchange.upstream_host
            && !self.endpoints.contains(&address)
        {
            self.endpoints.push(address);
        }
        if remote && let Some(lease) = &exchange.attempt.lease {
            self.priorities |= 1_u64.checked_shl(lease.priority).unwrap_or(0);
            if self.attempts.is_multiple_of(Self::UPDATE) {
                self.left_out = self.priorities;
            }
        }
    }
}

/// What an attempt's result means for the next. `None`: nothing that retries are about.
fn verdict(
    attempts: &mut Attempts<'_>,
    result: &Result<Response<Incoming>, Failure>,
) -> Option<Verdict> {
    let outcome = match result {
        Ok(response) => Outcome::Response {
            status: response.status(),
            headers: response.headers(),
        },
        Err(Failure { error, sent }) => Outcome::Reset {
            reset: error.reset().filter(|reset| *reset != Reset::Overflow)?,
            sent: *sent,
        },
    };
    Some(attempts.verdict(&outcome))
}

/// The status that outlier detection sees: gRPC's own where the head has it.
fn accounted(status: StatusCode, headers: &HeaderMap) -> StatusCode {
    grpc::Status::told(headers).map_or(status, grpc::Status::to_http)
}
