//! The end of one connection of opaque bytes. Knows nothing of requests.

use std::borrow::Cow;
use std::fmt::Display;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use super::{millis, name_port};
use crate::clock;
use crate::dataplane::error::Error;
use crate::dataplane::relay::{End, Meter};
use crate::dataplane::worker::Worker;
use crate::policy::authorization::Denial;
use crate::telemetry::access_log::{Record, Timestamp};
use crate::types::{ClusterName, Identity, ResponseFlags};

/// A connection of opaque bytes. It is logged when it is dropped, however it ends.
pub(in crate::dataplane) struct Connection {
    worker: Rc<Worker>,
    started: Instant,
    wall: SystemTime,
    pub(in crate::dataplane) source: SocketAddr,
    destination: SocketAddr,
    pub(in crate::dataplane) cluster: ClusterName,
    meter: Meter,
    failure: String,
    /// Why the proxy ended it.
    termination: Cow<'static, str>,
    discarded: bool,
    pub(in crate::dataplane) flags: ResponseFlags,
    pub(in crate::dataplane) upstream_host: Option<SocketAddr>,
    pub(in crate::dataplane) upstream_local: Option<SocketAddr>,
    /// Who called, where that was proved.
    pub(in crate::dataplane) peer: Option<Identity>,
    /// Of the TLS ClientHello that went by, where there was one.
    pub(in crate::dataplane) server_name: Option<String>,
}

impl Connection {
    pub(in crate::dataplane) fn begin(
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
            failure: String::new(),
            termination: Cow::Borrowed(""),
            discarded: false,
            flags: ResponseFlags::NONE,
            upstream_host: None,
            upstream_local: None,
            peer: None,
            server_name: None,
        }
    }

    pub(in crate::dataplane) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// It came to nothing, because of `error`. Envoy's TCP proxy names no details, and counts the one
    /// attempt that it makes as the last that it may.
    pub(in crate::dataplane) fn fail(&mut self, error: &Error) {
        self.flags = match error {
            Error::Connect(_) | Error::Tunnel(_) | Error::Tls(_) | Error::ConnectTimeout => {
                error.flag() | ResponseFlags::ONLY_ATTEMPT
            }
            _ => error.flag(),
        };
        self.failure = error.transport_failure();
    }

    /// The pod's policies do not allow it. No flag says so (Envoy's RBAC filter of TCP).
    pub(in crate::dataplane) fn deny(&mut self, denial: &Denial) {
        self.flags = ResponseFlags::NONE;
        self.termination = denial.details();
    }

    /// Its relay is over, because of `denial` where there is one.
    pub(in crate::dataplane) fn ended(&mut self, end: End, denial: Option<&Denial>) {
        match end {
            End::Closed | End::Stopped => {}
            End::Downstream => self.flags = ResponseFlags::DOWNSTREAM_CLOSED,
            End::Upstream => self.flags = ResponseFlags::UPSTREAM_CLOSED,
            End::Idle | End::Old => self.flags = ResponseFlags::LOCAL_RESET,
        }
        if let Some(denial) = denial {
            self.deny(denial);
        }
    }

    /// The application is dialled: a caller without a port of its own is known by the one that it sees.
    pub(in crate::dataplane) fn seen_from(&mut self, local: Option<SocketAddr>) {
        self.upstream_local = local;
        name_port(&mut self.source, local);
    }

    /// It was not taken. In one word, as Envoy writes details.
    pub(in crate::dataplane) fn refuse(&mut self, why: &impl Display) {
        self.flags = ResponseFlags::NONE;
        self.termination = Cow::Owned(why.to_string().replace(' ', "_"));
    }

    /// It is served by the HTTP engine, which logs requests.
    pub(in crate::dataplane) fn discard(mut self) {
        self.discarded = true;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.discarded || !self.worker.logs() {
            return;
        }
        let peer = self.peer.as_ref().map(|peer| peer.principal().to_string());
        self.worker.log(&Record {
            start_time: Timestamp(self.wall),
            method: "",
            path: "",
            protocol: "",
            response_code: 0,
            response_flags: &self.flags.to_string(),
            response_code_details: "",
            connection_termination_details: &self.termination,
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
            downstream_principal: peer.as_deref().unwrap_or_default(),
        });
    }
}
