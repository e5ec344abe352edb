//! What is counted of one cluster, under the names that Envoy gives it.

use crate::dataplane::error::Error;
use crate::telemetry::counters::counters;

counters! {
    /// One client pod's counters of one cluster, shared by the workers.
    pub(in crate::dataplane) struct Counters;

    /// Connections made or tried.
    upstream_cx_total,
    /// Connections that failed.
    upstream_cx_connect_fail,
    /// Connections that were not there within `connectTimeout`.
    upstream_cx_connect_timeout,
    /// Connections refused or put off because of `maxConnections`.
    upstream_cx_overflow,
    /// Requests sent, retries too.
    upstream_rq_total,
    /// Responses by class, but those for which the request was sent again.
    upstream_rq_1xx,
    /// Responses by class, but those for which the request was sent again.
    upstream_rq_2xx,
    /// Responses by class, but those for which the request was sent again.
    upstream_rq_3xx,
    /// Responses by class, but those for which the request was sent again.
    upstream_rq_4xx,
    /// Responses by class, but those for which the request was sent again.
    upstream_rq_5xx,
    /// Responses by class for which the request was sent again: Envoy's `retry.upstream_rq_2xx`.
    retried_rq_2xx,
    /// Responses by class for which the request was sent again: Envoy's `retry.upstream_rq_3xx`.
    retried_rq_3xx,
    /// Responses by class for which the request was sent again: Envoy's `retry.upstream_rq_4xx`.
    retried_rq_4xx,
    /// Responses by class for which the request was sent again: Envoy's `retry.upstream_rq_5xx`.
    retried_rq_5xx,
    /// Requests given up while they waited for a connection.
    upstream_rq_cancelled,
    /// Requests refused because of `http1MaxPendingRequests`.
    upstream_rq_pending_overflow,
    /// Requests refused because of `http2MaxRequests`.
    upstream_rq_active_overflow,
    /// Requests whose connection failed while they waited for it, or over HTTP/2 at any time.
    upstream_rq_pending_failure_eject,
    /// Requests that ran into the route's timeout.
    upstream_rq_timeout,
    /// Attempts that ran into `perTryTimeout`.
    upstream_rq_per_try_timeout,
    /// Requests over HTTP/2 that the upstream reset.
    upstream_rq_rx_reset,
    /// Requests over HTTP/2 that the proxy gave up, or that broke the protocol.
    upstream_rq_tx_reset,
    /// Retries.
    upstream_rq_retry,
    /// Retries whose outcome needed no other (Envoy).
    upstream_rq_retry_success,
    /// Retries not made because of `maxRetries` or the retry budget.
    upstream_rq_retry_overflow,
    /// Requests that failed with no attempt left.
    upstream_rq_retry_limit_exceeded,
    /// Retries after a back-off of the policy's own.
    upstream_rq_retry_backoff_exponential,
    /// Requests whose body was too large to be kept for a retry.
    retry_or_shadow_abandoned,
    /// Requests balanced over endpoints that were not healthy, because too few were.
    lb_healthy_panic,
}

impl Counters {
    /// Counts a stream of HTTP/2 that the upstream ended by `error` (Envoy 1.40, seen: it counts
    /// nothing of the kind for HTTP/1).
    pub(in crate::dataplane) fn stream_failed(&self, error: &Error) {
        match error {
            Error::Reset => self.upstream_rq_rx_reset.increment(),
            Error::Protocol => self.upstream_rq_tx_reset.increment(),
            Error::Closed => self.upstream_rq_pending_failure_eject.increment(),
            _ => {}
        }
    }

    /// Counts a response by its class for which the request is sent again.
    pub(in crate::dataplane) fn retried(&self, status: u16) {
        match status / 100 {
            2 => self.retried_rq_2xx.increment(),
            3 => self.retried_rq_3xx.increment(),
            4 => self.retried_rq_4xx.increment(),
            _ => self.retried_rq_5xx.increment(),
        }
    }

    /// Counts a response by its class.
    pub(in crate::dataplane) fn response(&self, status: u16) {
        match status / 100 {
            1 => self.upstream_rq_1xx.increment(),
            2 => self.upstream_rq_2xx.increment(),
            3 => self.upstream_rq_3xx.increment(),
            4 => self.upstream_rq_4xx.increment(),
            _ => self.upstream_rq_5xx.increment(),
        }
    }
}
