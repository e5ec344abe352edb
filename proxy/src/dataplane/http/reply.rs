//! Answers that the proxy makes itself, in Envoy's form.

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, LOCATION, SERVER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::body::ResponseBody;
use super::inbound::tokens::Refused;
use crate::clock;
use crate::dataplane::error::Error;
use crate::dataplane::outcome::{Exchange, Requested};
use crate::dataplane::protocol::Version;
use crate::dataplane::worker::Worker;
use crate::mesh::DirectResponse;
use crate::policy::external::Refusal;
use crate::policy::{fault, grpc};
use crate::types::ResponseFlags;

/// Bytes of a `grpc-message` that are percent-encoded (gRPC over HTTP/2, "Responses").
const GRPC_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// Whether a request is gRPC, whose failures are told by `grpc-status` (Envoy's test of the
/// content type).
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'+')
    })
}

/// An answer of the proxy's own.
pub(super) struct Local {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    details: &'static str,
}

impl Local {
    fn new(status: StatusCode, body: Bytes, details: &'static str) -> Self {
        let mut headers = HeaderMap::new();
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        Self {
            status,
            headers,
            body,
            details,
        }
    }

    /// A rule's `directResponse`. `itself` is where the request went, which Envoy tells as the
    /// location of what was created or moved.
    pub(super) fn direct(
        response: &DirectResponse,
        itself: impl FnOnce() -> HeaderValue,
        grpc: bool,
    ) -> Self {
        let status = response.status;
        if grpc {
            let text = String::from_utf8_lossy(&response.body);
            return Self::grpc(grpc::Status::of_http(status), &text, "direct_response");
        }
        let mut reply = Self::new(status, response.body.clone(), "direct_response");
        if status == StatusCode::CREATED || status.is_redirection() {
            reply.headers.insert(LOCATION, itself());
        }
        reply
    }

    /// A rule's `redirect`.
    pub(super) fn redirect(status: StatusCode, location: HeaderValue) -> Self {
        let mut reply = Self::new(status, Bytes::new(), "direct_response");
        reply.headers.insert(LOCATION, location);
        reply
    }

    /// A fault's abort.
    pub(super) fn aborted(status: fault::Status, grpc: bool) -> Self {
        let body = Bytes::from_static(fault::BODY.as_bytes());
        match status {
            fault::Status::Http(status) if !grpc => Self::new(status, body, fault::DETAILS),
            fault::Status::Http(status) => {
                Self::grpc(grpc::Status::of_http(status), fault::BODY, fault::DETAILS)
            }
            fault::Status::Grpc(status) if grpc => Self::grpc(status, fault::BODY, fault::DETAILS),
            // Nothing of gRPC for a client that speaks none (Envoy 1.40 was seen to do so).
            fault::Status::Grpc(_) => Self::new(StatusCode::OK, body, fault::DETAILS),
        }
    }

    /// The answer to a preflight.
    pub(super) fn preflight(headers: HeaderMap) -> Self {
        Self {
            headers,
            ..Self::new(StatusCode::OK, Bytes::new(), "cors_response")
        }
    }

    /// What the policies of the pod that is asked do not allow (Envoy's RBAC filter).
    pub(super) fn forbidden(grpc: bool) -> Self {
        const TEXT: &str = "RBAC: access denied";
        let status = StatusCode::FORBIDDEN;
        if grpc {
            return Self::grpc(grpc::Status::of_http(status), TEXT, "");
        }
        Self::new(status, Bytes::from_static(TEXT.as_bytes()), "")
    }

    /// A request whose token is not valid (Envoy's JWT filter).
    pub(super) fn refused(refused: Refused, grpc: bool) -> Self {
        let Refused { refusal, challenge } = refused;
        let (status, text) = (refusal.status(), refusal.to_string());
        let mut reply = if grpc {
            Self::grpc(grpc::Status::of_http(status), &text, "")
        } else {
            Self::new(status, Bytes::from(text), "")
        };
        reply.headers.insert(WWW_AUTHENTICATE, challenge);
        reply
    }

    /// What an external authorizer has answered to a client (Envoy's filter of that name).
    pub(super) fn external(refusal: Refusal, grpc: bool, details: &'static str) -> Self {
        let Refusal {
            status,
            headers,
            body,
        } = refusal;
        let mut reply = if grpc {
            let text = String::from_utf8_lossy(&body);
            Self::grpc(grpc::Status::of_http(status), &text, details)
        } else {
            Self::new(status, body, details)
        };
        for name in headers
            .keys()
            .filter(|name| !(grpc && *name == CONTENT_TYPE))
        {
            reply.headers.remove(name);
            for value in headers.get_all(name) {
                reply.headers.append(name, value.clone());
            }
        }
        reply
    }

    /// A failure as gRPC tells it: 200, the status in the head, no body.
    fn grpc(status: grpc::Status, message: &str, details: &'static str) -> Self {
        let mut reply = Self::new(StatusCode::OK, Bytes::new(), details);
        let headers = &mut reply.headers;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(status.code()));
        let message = utf8_percent_encode(message, GRPC_MESSAGE).to_string();
        if let Some(message) = HeaderValue::try_from(message)
            .ok()
            .filter(|message| !message.is_empty())
        {
            headers.insert("grpc-message", message);
        }
        reply
    }

    /// The response, with the rule's operations on it.
    pub(super) fn response(self, mut exchange: Box<Exchange>) -> Response<ResponseBody> {
        exchange.status = self.status.as_u16();
        if exchange.details.is_empty() {
            exchange.details = self.details.into();
        }
        let mut headers = self.headers;
        headers.insert(SERVER, HeaderValue::from_static("envoy"));
        exchange.edit(&mut headers);
        let mut response = Response::new(ResponseBody::local(self.body, exchange));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

/// Answers a request whose `exchange` came to nothing because of `error`.
pub(super) fn failed(
    mut exchange: Box<Exchange>,
    error: &Error,
    grpc: bool,
) -> Response<ResponseBody> {
    exchange.fail(error);
    let (status, text) = (error.status(), error.body(exchange.attempts > 1));
    let mut reply = if grpc {
        Local::grpc(grpc::Status::of_http(status), &text, "")
    } else {
        Local::new(status, Bytes::from(text), "")
    };
    if error.is_overflow() {
        let overloaded = HeaderName::from_static("x-envoy-overloaded");
        reply
            .headers
            .insert(overloaded, HeaderValue::from_static("true"));
    }
    reply.response(exchange)
}

/// Makes an answer one of the destination's proxy: Istio's call themselves so.
pub(super) fn from_destination(headers: &mut HeaderMap) {
    headers.insert(SERVER, HeaderValue::from_static("istio-envoy"));
}

/// Logs a request that hyper could not read and has answered by itself.
pub(super) fn log_malformed(
    worker: &Rc<Worker>,
    (source, destination): (SocketAddr, SocketAddr),
    version: Version,
    error: &hyper::Error,
) {
    if !worker.logs() {
        return;
    }
    let mut exchange = Exchange::begin(worker, source, destination);
    exchange.status = if error.is_parse_too_large() { 431 } else { 400 };
    exchange.details = "http1.codec_error".into();
    exchange.failure = error.to_string();
    exchange.requested = Some(Box::new(Requested {
        wall: clock::wall(),
        method: http::Method::from_bytes(b"-").unwrap_or_default(),
        target: http::Uri::default(),
        protocol: match version {
            Version::Http1 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
        },
        authority: None,
        user_agent: None,
        forwarded_for: None,
        request_id: None,
        principal: None,
    }));
    exchange.abandon(ResponseFlags::DOWNSTREAM_PROTOCOL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
    }
}
