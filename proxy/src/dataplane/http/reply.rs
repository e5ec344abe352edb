//! Answers that the proxy makes itself, in Envoy's form.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, SERVER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::Downstream;
use super::body::ResponseBody;
use crate::clock;
use crate::dataplane::error::Error;
use crate::dataplane::outcome::{Exchange, Requested};
use crate::dataplane::protocol::Version;
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

/// Answers a request whose `exchange` came to nothing because of `error`.
pub(super) fn local(
    mut exchange: Box<Exchange>,
    error: &Error,
    grpc: bool,
) -> Response<ResponseBody> {
    exchange.fail(error);
    let (status, text) = (error.status(), error.body());
    let (status, text, grpc_status) = if grpc {
        (
            StatusCode::OK,
            String::new(),
            Some((grpc_status(status), text)),
        )
    } else {
        (status, text, None)
    };
    exchange.status = status.as_u16();
    let text = Bytes::from(text);
    let has_text = !text.is_empty();
    let mut response = Response::new(ResponseBody::local(text, exchange));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(SERVER, HeaderValue::from_static("envoy"));
    if has_text {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    if let Some((code, message)) = grpc_status {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(code));
        let message = utf8_percent_encode(&message, GRPC_MESSAGE).to_string();
        if let Ok(message) = HeaderValue::try_from(message) {
            headers.insert("grpc-message", message);
        }
    }
    response
}

/// Envoy's `grpc/status.cc`: the gRPC status that stands for an HTTP status.
fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Logs a request that hyper could not read and has answered by itself.
pub(super) fn log_malformed(downstream: &Downstream, error: &hyper::Error) {
    if !downstream.worker.logs() {
        return;
    }
    let mut exchange = Exchange::begin(
        &downstream.worker,
        downstream.source,
        downstream.destination,
    );
    exchange.status = if error.is_parse_too_large() { 431 } else { 400 };
    exchange.details = "http1.codec_error".into();
    exchange.failure = error.to_string();
    exchange.requested = Some(Box::new(Requested {
        wall: clock::wall(),
        method: http::Method::from_bytes(b"-").unwrap_or_default(),
        target: http::Uri::default(),
        protocol: match downstream.version {
            Version::Http1 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
        },
        authority: None,
        user_agent: None,
        forwarded_for: None,
        request_id: None,
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
