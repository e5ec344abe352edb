//! Why a connection or request was not carried to an upstream: whose fault, what the client is
//! told, and which flag goes into the access log (Envoy's texts, so that what people grep for is
//! found).

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use http::StatusCode;

use super::hbone::Failure;
use crate::policy::outlier::Outcome;
use crate::policy::retry::Reset;
use crate::types::ResponseFlags;

/// One variant per cause.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The request breaks HTTP, or is ambiguous.
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    /// Its header section is too large.
    #[error("request header fields too large")]
    HeadersTooLarge,
    /// It needs a transfer coding that proxies don't do.
    #[error("transfer coding not supported")]
    TransferCoding,
    /// No rule matches.
    #[error("no route")]
    NoRoute,
    /// The rule's destination does not exist.
    #[error("no such cluster")]
    NoCluster,
    /// The destination exists and nobody answers for it.
    #[error("no healthy upstream")]
    NoHealthyUpstream,
    /// The connection could not be made.
    #[error("connect: {0}")]
    Connect(io::Error),
    /// The mesh did not let it be made.
    #[error("hbone: {0}")]
    Tunnel(#[from] Failure),
    /// TLS with the endpoint came to nothing.
    #[error("TLS: {0}")]
    Tls(Arc<str>),
    /// The connection was not there in time.
    #[error("connect: timed out")]
    ConnectTimeout,
    /// The upstream closed the connection before it answered.
    #[error("the upstream closed the connection")]
    Closed,
    /// The upstream reset the stream before it answered.
    #[error("the upstream reset the stream")]
    Reset,
    /// The upstream refused the stream without looking at it.
    #[error("the upstream refused the stream")]
    Refused,
    /// The cluster's limit on connections allows no more.
    #[error("too many connections")]
    ConnectionOverflow,
    /// The cluster's limit on requests that wait for a connection allows no more.
    #[error("too many pending requests")]
    PendingOverflow,
    /// The cluster's limit on requests allows no more.
    #[error("too many requests")]
    RequestOverflow,
    /// The rule's timeout.
    #[error("the request took too long")]
    Timeout,
    /// The rule's timeout of one attempt.
    #[error("the attempt took too long")]
    TryTimeout,
    /// The upstream answered with something that is not HTTP.
    #[error("the upstream broke the protocol")]
    Protocol,
    /// The client's body ended before it was complete, or was malformed.
    #[error("the request's body broke off")]
    RequestBody,
}

/// How an answer begins when no response came, in the first attempt and in a later one.
const RESET: &str = "upstream connect error or disconnect/reset before headers. reset reason: ";
const RESET_AGAIN: &str = "upstream connect error or disconnect/reset before headers. retried and \
                           the latest reset reason: ";

impl Error {
    /// The same once more, for each of those who waited for one connection.
    pub(super) fn of_connecting(&self) -> Self {
        match self {
            Self::Connect(source) => Self::Connect(match source.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => source.kind().into(),
            }),
            Self::Tunnel(failure) => Self::Tunnel(failure.clone()),
            Self::Tls(reason) => Self::Tls(Arc::clone(reason)),
            Self::ConnectTimeout => Self::ConnectTimeout,
            Self::ConnectionOverflow => Self::ConnectionOverflow,
            _ => Self::Closed,
        }
    }

    /// What an HTTP client is answered.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::RequestBody => StatusCode::BAD_REQUEST,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Protocol => StatusCode::BAD_GATEWAY,
            Self::Timeout | Self::TryTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::NoCluster
            | Self::NoHealthyUpstream
            | Self::Connect(_)
            | Self::Tunnel(_)
            | Self::Tls(_)
            | Self::ConnectTimeout
            | Self::Closed
            | Self::Reset
            | Self::Refused
            | Self::ConnectionOverflow
            | Self::PendingOverflow
            | Self::RequestOverflow => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The access log's flag.
    pub(super) fn flag(&self) -> ResponseFlags {
        match self {
            // Read as HTTP and refused later (Envoy 1.40, seen).
            Self::BadRequest("path_normalization_failed") => ResponseFlags::NONE,
            Self::BadRequest(_)
            | Self::HeadersTooLarge
            | Self::TransferCoding
            | Self::RequestBody => ResponseFlags::DOWNSTREAM_PROTOCOL,
            Self::NoRoute => ResponseFlags::NO_ROUTE,
            Self::NoCluster => ResponseFlags::NO_CLUSTER,
            Self::NoHealthyUpstream => ResponseFlags::NO_HEALTHY_UPSTREAM,
            Self::Connect(_) | Self::Tunnel(_) | Self::Tls(_) | Self::ConnectTimeout => {
                ResponseFlags::CONNECTION_FAILURE
            }
            Self::Closed => ResponseFlags::UPSTREAM_CLOSED,
            Self::Reset | Self::Refused => ResponseFlags::UPSTREAM_RESET,
            Self::ConnectionOverflow | Self::PendingOverflow | Self::RequestOverflow => {
                ResponseFlags::OVERFLOW
            }
            Self::Timeout | Self::TryTimeout => ResponseFlags::UPSTREAM_TIMEOUT,
            Self::Protocol => ResponseFlags::UPSTREAM_PROTOCOL,
        }
    }

    /// The body of the answer; empty where Envoy's is. `retried`: it was not the first attempt.
    pub(super) fn body(&self, retried: bool) -> String {
        let reset = if retried { RESET_AGAIN } else { RESET };
        match self {
            Self::BadRequest(_)
            | Self::HeadersTooLarge
            | Self::TransferCoding
            | Self::NoRoute
            | Self::NoCluster
            | Self::RequestBody => String::new(),
            Self::NoHealthyUpstream => "no healthy upstream".into(),
            // The reason is in the log alone (Envoy 1.40, seen).
            Self::Connect(_) | Self::Tunnel(_) | Self::Tls(_) => {
                format!("{reset}remote connection failure")
            }
            Self::ConnectTimeout => format!("{reset}connection timeout"),
            Self::Closed => format!("{reset}connection termination"),
            Self::Reset => format!("{reset}remote reset"),
            Self::Refused => format!("{reset}remote refused stream reset"),
            Self::ConnectionOverflow | Self::PendingOverflow | Self::RequestOverflow => {
                format!("{reset}overflow")
            }
            Self::Protocol => format!("{reset}protocol error"),
            Self::Timeout | Self::TryTimeout => "upstream request timeout".into(),
        }
    }

    /// Envoy's name of what answered.
    pub(super) fn details(&self) -> Cow<'static, str> {
        match self {
            Self::BadRequest(what) => Cow::Borrowed(what),
            Self::HeadersTooLarge => Cow::Borrowed("http1.headers_too_large"),
            Self::TransferCoding => Cow::Borrowed("http1.invalid_transfer_encoding"),
            Self::RequestBody => Cow::Borrowed("downstream_body_incomplete"),
            Self::NoRoute => Cow::Borrowed("route_not_found"),
            Self::NoCluster => Cow::Borrowed("cluster_not_found"),
            Self::NoHealthyUpstream => Cow::Borrowed("no_healthy_upstream"),
            Self::Connect(_) | Self::Tunnel(_) | Self::Tls(_) => Cow::Owned(format!(
                "upstream_reset_before_response_started{{remote_connection_failure|{}}}",
                self.transport_failure().replace(' ', "_")
            )),
            Self::ConnectTimeout => {
                Cow::Borrowed("upstream_reset_before_response_started{connection_timeout}")
            }
            Self::Closed => {
                Cow::Borrowed("upstream_reset_before_response_started{connection_termination}")
            }
            Self::Reset => Cow::Borrowed("upstream_reset_before_response_started{remote_reset}"),
            Self::Refused => {
                Cow::Borrowed("upstream_reset_before_response_started{remote_refused_stream_reset}")
            }
            Self::ConnectionOverflow | Self::PendingOverflow | Self::RequestOverflow => {
                Cow::Borrowed("upstream_reset_before_response_started{overflow}")
            }
            Self::Timeout => Cow::Borrowed("response_timeout"),
            Self::TryTimeout => Cow::Borrowed("upstream_per_try_timeout"),
            Self::Protocol => {
                Cow::Borrowed("upstream_reset_before_response_started{protocol_error}")
            }
        }
    }

    /// Envoy's name of what broke an answer off that had begun.
    pub(super) fn details_of_body(&self) -> &'static str {
        match self {
            Self::Reset => "upstream_reset_after_response_started{remote_reset}",
            Self::Refused => "upstream_reset_after_response_started{remote_refused_stream_reset}",
            Self::Protocol => "upstream_reset_after_response_started{protocol_error}",
            _ => "upstream_reset_after_response_started{connection_termination}",
        }
    }

    /// Whether a circuit breaker refused.
    pub(super) fn is_overflow(&self) -> bool {
        matches!(
            self,
            Self::ConnectionOverflow | Self::PendingOverflow | Self::RequestOverflow
        )
    }

    /// As retry conditions see it: an attempt that ended without a response. `None` where nothing
    /// was attempted, or nothing may be attempted again.
    pub(super) fn reset(&self) -> Option<Reset> {
        match self {
            Self::Connect(_) | Self::Tunnel(_) | Self::Tls(_) | Self::ConnectTimeout => {
                Some(Reset::Connect)
            }
            Self::Closed => Some(Reset::Closed),
            Self::Reset => Some(Reset::Stream),
            Self::Refused => Some(Reset::Refused),
            Self::Protocol => Some(Reset::Protocol),
            Self::TryTimeout => Some(Reset::Local),
            Self::ConnectionOverflow | Self::PendingOverflow | Self::RequestOverflow => {
                Some(Reset::Overflow)
            }
            Self::BadRequest(_)
            | Self::HeadersTooLarge
            | Self::TransferCoding
            | Self::NoRoute
            | Self::NoCluster
            | Self::NoHealthyUpstream
            | Self::Timeout
            | Self::RequestBody => None,
        }
    }

    /// What it says about the endpoint, for outlier detection.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::ConnectTimeout | Self::Timeout | Self::TryTimeout => Some(Outcome::TimedOut),
            Self::Connect(_)
            | Self::Tunnel(_)
            | Self::Tls(_)
            | Self::Closed
            | Self::Reset
            | Self::Refused
            | Self::Protocol => Some(Outcome::Failed),
            Self::BadRequest(_)
            | Self::HeadersTooLarge
            | Self::TransferCoding
            | Self::NoRoute
            | Self::NoCluster
            | Self::NoHealthyUpstream
            | Self::ConnectionOverflow
            | Self::PendingOverflow
            | Self::RequestOverflow
            | Self::RequestBody => None,
        }
    }

    /// Why the transport failed; empty where it did not.
    pub(super) fn transport_failure(&self) -> String {
        match self {
            Self::Connect(source) => {
                let text = source.to_string();
                // std appends ` (os error N)`, Envoy does not.
                let text = text.split(" (os error").next().unwrap_or(&text);
                format!("delayed connect error: {text}")
            }
            Self::Tunnel(failure) => format!("hbone: {failure}"),
            // As Envoy frames what its own library says.
            Self::Tls(reason) => format!("TLS_error:|{reason}:TLS_error_end"),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_and_operators_are_told_what_envoy_tells_them() {
        let refused = || Error::Connect(io::Error::from_raw_os_error(111));
        for (error, status, flag, details) in [
            (Error::NoRoute, 404, "NR", "route_not_found"),
            (Error::NoCluster, 503, "NC", "cluster_not_found"),
            (Error::NoHealthyUpstream, 503, "UH", "no_healthy_upstream"),
            (
                refused(),
                503,
                "UF",
                "upstream_reset_before_response_started{remote_connection_failure|\
                 delayed_connect_error:_Connection_refused}",
            ),
            (
                Error::Protocol,
                502,
                "UPE",
                "upstream_reset_before_response_started{protocol_error}",
            ),
        ] {
            assert_eq!(error.status().as_u16(), status);
            assert_eq!(error.flag().to_string(), flag);
            assert_eq!(error.details(), details);
        }
        assert_eq!(
            refused().body(false),
            "upstream connect error or disconnect/reset before headers. reset reason: remote \
             connection failure"
        );
    }
}
