//! The one place at the end of every connection and every request: what came of it goes to the
//! access log and the counters, and what it held is given back.

mod connection;

use std::borrow::Cow;
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, HeaderValue, Method, Uri};

use super::balance::Lease;
use super::cluster::{Ended, Local, RouteCounters};
use super::error::Error;
use super::http::finish::Finish;
use super::http::upload::Upload;
use super::pool::{Returning, Stream};
use super::worker::Worker;
use crate::clock;
use crate::policy::circuit::Permit;
use crate::telemetry::access_log::{Record, Timestamp};
use crate::types::{ClusterName, ResponseFlags};
use crate::wire::proxy_protocol::Ends;

pub(super) use connection::Connection;

fn millis(started: Instant) -> u64 {
    u64::try_from(clock::now().duration_since(started).as_millis()).unwrap_or(u64::MAX)
}

/// A caller inside the process that has no port of its own gets that of the proxy's `local` end, which
/// the application sees.
fn name_port(source: &mut SocketAddr, local: Option<SocketAddr>) {
    if let Some(local) = local.filter(|_| source.port() == 0) {
        source.set_port(local.port());
    }
}

/// What the access log wants to know of a request, kept only where there is one.
pub(super) struct Requested {
    pub(super) wall: SystemTime,
    pub(super) method: Method,
    pub(super) target: Uri,
    pub(super) protocol: &'static str,
    pub(super) authority: Option<HeaderValue>,
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) forwarded_for: Option<HeaderValue>,
    pub(super) request_id: Option<HeaderValue>,
    /// Who called, where that was proved.
    pub(super) principal: Option<Rc<str>>,
}

/// One request and its answer. It is finished when it is dropped, however it ends.
pub(super) struct Exchange {
    worker: Rc<Worker>,
    /// The client's own address.
    pub(super) source: SocketAddr,
    /// Who the client says that it asks for.
    pub(super) forwarded: Option<IpAddr>,
    /// Over HTTP/2: whether the client's whole connection has ended.
    pub(super) hung_up: Option<Rc<Cell<bool>>>,
    pub(super) destination: SocketAddr,
    started: Instant,
    finished: bool,
    pub(super) requested: Option<Box<Requested>>,
    pub(super) received: Option<Rc<Upload>>,
    pub(super) sent: u64,
    pub(super) status: u16,
    pub(super) flags: ResponseFlags,
    pub(super) details: Cow<'static, str>,
    pub(super) failure: String,
    pub(super) cluster: Option<ClusterName>,
    pub(super) route: Option<Arc<str>>,
    /// Where it is counted by its route.
    pub(super) statistics: Option<Box<Statistics>>,
    pub(super) upstream_host: Option<SocketAddr>,
    pub(super) upstream_local: Option<SocketAddr>,
    pub(super) upstream_protocol: Option<&'static str>,
    /// Milliseconds until the upstream's response headers.
    pub(super) service_time: Option<u64>,
    /// Attempts made.
    pub(super) attempts: u32,
    /// What is done to the answer's head.
    pub(super) finish: Finish,
    /// What the attempt at hand uses.
    pub(super) attempt: Attempt,
}

/// What a request is counted by whose route has a `statPrefix`. On the heap: few have.
pub(super) struct Statistics {
    counters: Arc<RouteCounters>,
    exhausted: bool,
    timed_out: Cell<bool>,
}

/// What an attempt uses; given back when it is over.
#[derive(Default)]
pub(super) struct Attempt {
    pub(super) cluster: Option<Rc<Local>>,
    pub(super) lease: Option<Lease>,
    /// Its place among the cluster's requests.
    pub(super) request: Option<Permit>,
    /// Its place on an HTTP/2 connection.
    pub(super) stream: Option<Stream>,
    /// The upstream connection, to go back to its pool once the answer is complete.
    pub(super) returning: Option<Returning>,
}

impl Exchange {
    pub(super) fn begin(worker: &Rc<Worker>, source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            worker: Rc::clone(worker),
            source,
            forwarded: None,
            hung_up: None,
            destination,
            started: clock::now(),
            finished: false,
            requested: None,
            received: None,
            sent: 0,
            status: 0,
            flags: ResponseFlags::NONE,
            details: Cow::Borrowed(""),
            failure: String::new(),
            cluster: None,
            route: None,
            statistics: None,
            upstream_host: None,
            upstream_local: None,
            upstream_protocol: None,
            service_time: None,
            attempts: 0,
            finish: Finish::default(),
            attempt: Attempt::default(),
        }
    }

    /// Counts it by its route, under `name`.
    pub(super) fn count(&mut self, name: &str) {
        self.statistics = Some(Box::new(Statistics {
            counters: self.worker.route(name),
            exhausted: false,
            timed_out: Cell::new(false),
        }));
    }

    /// The application has a connection from `local`.
    pub(super) fn seen_from(&mut self, local: Option<SocketAddr>) {
        self.upstream_local = local;
        name_port(&mut self.source, local);
    }

    /// Who asked, as Envoy tells it: who the client asks for, where it says so, without a port.
    pub(super) fn remote(&self) -> SocketAddr {
        self.forwarded
            .map_or(self.source, |address| SocketAddr::new(address, 0))
    }

    /// When the request began.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// When the request began, by the wall clock.
    pub(super) fn wall(&self) -> SystemTime {
        self.requested
            .as_ref()
            .map_or_else(clock::wall, |requested| requested.wall)
    }

    /// This machine's name.
    pub(super) fn hostname(&self) -> &str {
        self.worker.hostname()
    }

    /// One that nobody asked for and nobody is told about.
    pub(super) fn silent(worker: &Rc<Worker>) -> Self {
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        Self::begin(worker, nobody, nobody)
    }

    /// The ends of the client's connection; `None` where no client waits for it.
    pub(super) fn ends(&self) -> Option<Ends> {
        (self.source.port() > 0).then_some(Ends {
            source: self.source,
            destination: self.destination,
        })
    }

    /// The worker that it runs on.
    pub(super) fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Changes the answer's head as the rule asks.
    pub(super) fn edit(&self, headers: &mut HeaderMap) {
        self.finish.apply(self, headers);
    }

    /// Every retry was used up.
    pub(super) fn exhausted(&mut self) {
        if let Some(statistics) = &mut self.statistics {
            statistics.exhausted = true;
        }
        self.flags = self.flags | ResponseFlags::RETRY_LIMIT;
        if let Some(cluster) = &self.attempt.cluster {
            let counters = &cluster.state.counters;
            counters.upstream_rq_retry_limit_exceeded.increment();
        }
    }

    /// A circuit breaker forbade a retry.
    pub(super) fn overflowed(&mut self) {
        self.flags = self.flags | ResponseFlags::OVERFLOW;
    }

    /// Bytes of the request's body so far.
    pub(super) fn bytes_received(&self) -> u64 {
        self.received.as_ref().map_or(0, |upload| upload.bytes())
    }

    /// The rule's timeout ended it.
    pub(super) fn timed_out(&self) {
        if let Some(statistics) = &self.statistics {
            statistics.timed_out.set(true);
        }
        if let Some(cluster) = &self.attempt.cluster {
            cluster.state.counters.upstream_rq_timeout.increment();
        }
    }

    /// Milliseconds since the request began.
    pub(super) fn elapsed(&self) -> u64 {
        millis(self.started)
    }

    /// The proxy answers it, because of `error`.
    pub(super) fn fail(&mut self, error: &Error) {
        // A stream that has not ended yet is reset, and no longer counts as this exchange's.
        self.attempt.stream = None;
        self.flags = self.flags | error.flag();
        self.details = error.details();
        self.failure = error.transport_failure();
    }

    /// The answer is complete: the upstream connection can be used again.
    pub(super) fn complete(&mut self) {
        // An upstream that answered before it had the whole request may still be sent the rest.
        let sent = self.received.as_ref().is_none_or(|upload| upload.ended());
        if let Some(stream) = self.attempt.stream.as_ref().filter(|_| sent) {
            stream.over();
        }
        if let Some(returning) = self.attempt.returning.take().filter(|_| sent) {
            returning.put_back(&self.worker);
        }
        self.finish();
    }

    /// The upstream broke an answer off that had begun.
    pub(super) fn broke_off(&mut self, error: &Error) {
        self.stream_failed(error);
        self.details = error.details_of_body().into();
        self.abandon(error.flag());
    }

    /// The upstream ended the attempt's stream, where it is one of HTTP/2.
    pub(super) fn stream_failed(&self, error: &Error) {
        if let (Some(stream), Some(cluster)) = (&self.attempt.stream, &self.attempt.cluster) {
            stream.over();
            cluster.state.counters.stream_failed(error);
        }
    }

    /// The client did not wait for the answer's end (Envoy tells those who reset a stream from those
    /// who are gone).
    pub(super) fn left(&mut self) {
        let reset = self.hung_up.as_ref().is_some_and(|hung_up| !hung_up.get());
        let (flag, details) = if reset {
            (ResponseFlags::DOWNSTREAM_RESET, "http2.remote_reset")
        } else {
            (
                ResponseFlags::DOWNSTREAM_CLOSED,
                "downstream_remote_disconnect",
            )
        };
        self.details = details.into();
        self.abandon(flag);
    }

    /// Whether it was logged, and what it held given back.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// The answer broke off; `flag` says on whose side.
    pub(super) fn abandon(&mut self, flag: ResponseFlags) {
        self.flags = self.flags | flag;
        self.finish();
    }

    fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.attempt = Attempt::default();
        if let Some(statistics) = self.statistics.take() {
            statistics.counters.count(Ended {
                status: self.status,
                attempts: self.attempts,
                exhausted: statistics.exhausted,
                timed_out: statistics.timed_out.get(),
            });
        }
        let Some(requested) = self.requested.take() else {
            return;
        };
        let text = |value: &Option<HeaderValue>| -> String {
            value
                .as_ref()
                .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
                .unwrap_or_default()
        };
        self.worker.log(&Record {
            start_time: Timestamp(requested.wall),
            method: requested.method.as_str(),
            path: requested
                .target
                .path_and_query()
                .map_or("", |path| path.as_str()),
            protocol: requested.protocol,
            response_code: self.status,
            response_flags: &self.flags.to_string(),
            response_code_details: &self.details,
            connection_termination_details: "",
            upstream_transport_failure_reason: &self.failure,
            bytes_received: self.bytes_received(),
            bytes_sent: self.sent,
            duration: millis(self.started),
            upstream_service_time: self.service_time,
            x_forwarded_for: &text(&requested.forwarded_for),
            user_agent: &text(&requested.user_agent),
            request_id: &text(&requested.request_id),
            authority: &text(&requested.authority),
            upstream_host: self.upstream_host,
            upstream_cluster: self.cluster.as_ref().map_or("", ClusterName::as_str),
            upstream_local_address: self.upstream_local,
            downstream_local_address: Some(self.destination),
            downstream_remote_address: Some(self.remote()),
            requested_server_name: "",
            route_name: self.route.as_deref().unwrap_or_default(),
            downstream_principal: requested.principal.as_deref().unwrap_or_default(),
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.finished {
            // Whoever had an answer said so; what is left is a client that did not wait for it.
            self.left();
        }
    }
}
