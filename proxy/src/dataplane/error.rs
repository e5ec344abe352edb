//! Why a connection or request was not carried to an upstream: whose fault, what the client is
//! told, and which flag goes into the access log (Envoy's texts, so that what people grep for is
//! found).

use std::borrow::Cow;
use std::io;

use http::StatusCode;

use crate::types::ResponseFlags;

/// One variant per cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    /// The connection was not there in time.
    #[error("connect: timed out")]
    ConnectTimeout,
    /// The upstream closed the connection before it answered.
    #[error("the upstream closed the connection")]
    Closed,
    /// The upstream reset the stream before it answered.
    #[error("the upstream reset the stream")]
    Reset,
    /// The upstream answered with something that is not HTTP.
    #[error("the upstream broke the protocol")]
    Protocol,
    /// The client's body ended before it was complete, or was malformed.
    #[error("the request's body broke off")]
    RequestBody,
}

const RESET: &str = "upstream connect error or disconnect/reset before headers. reset reason: ";

impl Error {
    /// What an HTTP client is answered.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::RequestBody => StatusCode::BAD_REQUEST,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Protocol => StatusCode::BAD_GATEWAY,
            Self::NoCluster
            | Self::NoHealthyUpstream
            | Self::Connect(_)
            | Self::ConnectTimeout
            | Self::Closed
            | Self::Reset => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The access log's flag.
    pub fn flag(&self) -> ResponseFlags {
        match self {
            Self::BadRequest(_)
            | Self::HeadersTooLarge
            | Self::TransferCoding
            | Self::RequestBody => ResponseFlags::DOWNSTREAM_PROTOCOL,
            Self::NoRoute => ResponseFlags::NO_ROUTE,
            Self::NoCluster => ResponseFlags::NO_CLUSTER,
            Self::NoHealthyUpstream => ResponseFlags::NO_HEALTHY_UPSTREAM,
            Self::Connect(_) | Self::ConnectTimeout => ResponseFlags::CONNECTION_FAILURE,
            Self::Closed => ResponseFlags::UPSTREAM_CLOSED,
            Self::Reset => ResponseFlags::UPSTREAM_RESET,
            Self::Protocol => ResponseFlags::UPSTREAM_PROTOCOL,
        }
    }

    /// The body of the answer; empty where Envoy's is.
    pub fn body(&self) -> String {
        match self {
            Self::BadRequest(_)
            | Self::HeadersTooLarge
            | Self::TransferCoding
            | Self::NoRoute
            | Self::NoCluster
            | Self::RequestBody => String::new(),
            Self::NoHealthyUpstream => "no healthy upstream".into(),
            Self::Connect(_) => format!(
                "{RESET}remote connection failure, transport failure reason: {}",
                self.transport_failure()
            ),
            Self::ConnectTimeout => format!("{RESET}connection timeout"),
            Self::Closed => format!("{RESET}connection termination"),
            Self::Reset => format!("{RESET}remote reset"),
            Self::Protocol => format!("{RESET}protocol error"),
        }
    }

    /// Envoy's name of what answered.
    pub fn details(&self) -> Cow<'static, str> {
        match self {
            Self::BadRequest(what) => Cow::Borrowed(what),
            Self::HeadersTooLarge => Cow::Borrowed("http1.headers_too_large"),
            Self::TransferCoding => Cow::Borrowed("http1.invalid_transfer_encoding"),
            Self::RequestBody => Cow::Borrowed("downstream_body_incomplete"),
            Self::NoRoute => Cow::Borrowed("route_not_found"),
            Self::NoCluster => Cow::Borrowed("cluster_not_found"),
            Self::NoHealthyUpstream => Cow::Borrowed("no_healthy_upstream"),
            Self::Connect(_) => Cow::Owned(format!(
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
            Self::Protocol => {
                Cow::Borrowed("upstream_reset_before_response_started{protocol_error}")
            }
        }
    }

    /// Why the transport failed; empty where it did not.
    pub fn transport_failure(&self) -> String {
        match self {
            Self::Connect(source) => {
                let text = source.to_string();
                // std appends ` (os error N)`, Envoy does not.
                let text = text.split(" (os error").next().unwrap_or(&text);
                format!("delayed connect error: {text}")
            }
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
            refused().body(),
            "upstream connect error or disconnect/reset before headers. reset reason: remote \
             connection failure, transport failure reason: delayed connect error: Connection refused"
        );
    }
}
