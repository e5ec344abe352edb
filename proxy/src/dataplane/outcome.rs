//! The one place at the end of every connection and every request: what came of it goes to the
//! access log and the counters, and what it held is given back.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{HeaderValue, Method, Uri};

use super::balance::Lease;
use super::error::Error;
use super::http::body::Progress;
use super::pool::Returning;
use super::relay::Meter;
use super::worker::Worker;
use crate::clock;
use crate::telemetry::access_log::{Record, Timestamp};
use crate::types::{ClusterName, ResponseFlags};

/// A connection of opaque bytes. It is logged when it is dropped, however it ends.
pub(super) struct Connection {
    worker: Rc<Worker>,
    started: Instant,
    wall: SystemTime,
    source: SocketAddr,
    destination: SocketAddr,
    cluster: ClusterName,
    meter: Meter,
    details: Cow<'static, str>,
    failure: String,
    discarded: bool,
    pub(super) flags: ResponseFlags,
    pub(super) upstream_host: Option<SocketAddr>,
    pub(super) upstream_local: Option<SocketAddr>,
    /// Of the TLS ClientHello that went by, where there was one.
    pub(super) server_name: Option<String>,
}

impl Connection {
    pub(super) fn begin(
        worker: &Rc<Worker>,
        source: SocketAddr,
        destination: SocketAddr,
        cluster: ClusterName,
    ) -> Self {
        Self {
            worker: Rc::clone(worker),
            started: clock::now(),
            wall: clock::wall(),
            source,
            destination,
            cluster,
            meter: Meter::default(),
            details: Cow::Borrowed(""),
            failure: String::new(),
            discarded: false,
            flags: ResponseFlags::NONE,
            upstream_host: None,
            upstream_local: None,
            server_name: None,
        }
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// It came to nothing, because of `error`.
    pub(super) fn fail(&mut self, error: &Error) {
        self.flags = error.flag();
        self.details = error.details();
        self.failure = error.transport_failure();
    }

    /// It is served by the HTTP engine, which logs requests.
    pub(super) fn discard(mut self) {
        self.discarded = true;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.discarded || !self.worker.logs() {
            return;
        }
        self.worker.log(&Record {
            start_time: Timestamp(self.wall),
            method: "",
            path: "",
            protocol: "",
            response_code: 0,
            response_flags: &self.flags.to_string(),
            response_code_details: &self.details,
            upstream_transport_failure_reason: &self.failure,
            bytes_received: self.meter.received.get(),
            bytes_sent: self.meter.sent.get(),
            duration: millis(self.started),
            upstream_service_time: None,
            x_forwarded_for: "",
            user_agent: "",
            request_id: "",
            authority: "",
            upstream_host: self.upstream_host,
            upstream_cluster: self.cluster.as_str(),
            upstream_local_address: self.upstream_local,
            downstream_local_address: Some(self.destination),
            downstream_remote_address: Some(self.source),
            requested_server_name: self.server_name.as_deref().unwrap_or_default(),
            route_name: "",
        });
    }
}

fn millis(started: Instant) -> u64 {
    u64::try_from(clock::now().duration_since(started).as_millis()).unwrap_or(u64::MAX)
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
}

/// One request and its answer. It is finished when it is dropped, however it ends.
pub(super) struct Exchange {
    worker: Rc<Worker>,
    source: SocketAddr,
    destination: SocketAddr,
    started: Instant,
    finished: bool,
    pub(super) requested: Option<Box<Requested>>,
    pub(super) received: Option<Rc<Progress>>,
    pub(super) sent: u64,
    pub(super) status: u16,
    pub(super) flags: ResponseFlags,
    pub(super) details: Cow<'static, str>,
    pub(super) failure: String,
    pub(super) cluster: Option<ClusterName>,
    pub(super) route: Option<Arc<str>>,
    pub(super) upstream_host: Option<SocketAddr>,
    pub(super) upstream_local: Option<SocketAddr>,
    /// Milliseconds until the upstream's response headers.
    pub(super) service_time: Option<u64>,
    pub(super) lease: Option<Lease>,
    /// The upstream connection, to go back to its pool once the answer is complete.
    pub(super) returning: Option<Returning>,
}

impl Exchange {
    pub(super) fn begin(worker: &Rc<Worker>, source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            worker: Rc::clone(worker),
            source,
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
            upstream_host: None,
            upstream_local: None,
            service_time: None,
            lease: None,
            returning: None,
        }
    }

    /// Milliseconds since the request began.
    pub(super) fn elapsed(&self) -> u64 {
        millis(self.started)
    }

    /// The proxy answers it, because of `error`.
    pub(super) fn fail(&mut self, error: &Error) {
        self.flags = self.flags | error.flag();
        self.details = error.details();
        self.failure = error.transport_failure();
    }

    /// The answer is complete: the upstream connection can be used again.
    pub(super) fn complete(&mut self) {
        // An upstream that answered before it had the whole request may still be sent the rest.
        let sent = self
            .received
            .as_ref()
            .is_none_or(|progress| progress.ended.get());
        if let Some(returning) = self.returning.take().filter(|_| sent) {
            returning.put_back(&self.worker);
        }
        self.finish();
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
        self.lease = None;
        self.returning = None;
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
            upstream_transport_failure_reason: &self.failure,
            bytes_received: self
                .received
                .as_ref()
                .map_or(0, |progress| progress.bytes.get()),
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
            downstream_remote_address: Some(self.source),
            requested_server_name: "",
            route_name: self.route.as_deref().unwrap_or_default(),
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.finished {
            // Whoever had an answer said so; what is left is a client that did not wait for it.
            self.abandon(ResponseFlags::DOWNSTREAM_CLOSED);
        }
    }
}
