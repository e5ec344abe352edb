//! Asking.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, TE};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use prost::Message;

use super::{Broken, Code, Status, frame, read, timeout};

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A connection that calls go over.
pub type Sender = SendRequest<Full<Bytes>>;

/// Everything of a call but its message.
#[derive(Clone, Debug)]
pub struct Call {
    /// `https://HOST:PORT/SERVICE/METHOD`.
    pub uri: Uri,
    /// Headers of one's own, as `authorization`.
    pub metadata: HeaderMap,
    /// What the other side is told of the caller's patience. The caller bounds its own.
    pub patience: Duration,
    /// The largest answer that is taken, in bytes.
    pub limit: usize,
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The connection, or the stream on it, ended.
    #[error("{0}")]
    Connection(String),
    /// The other side says so.
    #[error("{0}")]
    Status(Status),
    /// What came is not gRPC.
    #[error("an answer that is not gRPC: HTTP status {status}, content type {kind:?}")]
    NotGrpc {
        /// Of HTTP.
        status: u16,
        /// As far as it can be shown.
        kind: String,
    },
    /// What came is not one message.
    #[error("an answer that can't be read: {0}")]
    Broken(Broken),
}

/// Sends a message and waits for the answer.
///
/// # Errors
/// Where there is none, for whatever reason.
pub async fn call<A: Message + Default>(
    sender: &mut Sender,
    call: Call,
    message: &impl Message,
) -> Result<A, Failure> {
    let ended = |error: hyper::Error| Failure::Connection(told(&error));
    sender.ready().await.map_err(ended)?;
    let mut request = Request::new(Full::new(frame(message)));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = call.uri;
    *request.headers_mut() = call.metadata;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(super::CONTENT_TYPE));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    if let Ok(value) = timeout::write(call.patience).try_into() {
        headers.insert(TIMEOUT, value);
    }
    let response = sender.send_request(request).await.map_err(ended)?;
    let (head, body) = response.into_parts();
    // A server that fails at once says so in the headers.
    if let Some(status) = Status::of(&head.headers)
        && status.code != Code::Ok
    {
        return Err(Failure::Status(status));
    }
    let kind = head.headers.get(CONTENT_TYPE);
    let kind = kind.map_or("", |kind| kind.to_str().unwrap_or("?"));
    if !head.status.is_success() {
        // Something in between: what gRPC makes of its status says whether to come again.
        let text = format!("HTTP status {}", head.status.as_u16());
        return Err(Failure::Status(Status::new(
            Code::of_http(head.status),
            text,
        )));
    }
    if !is_grpc(kind) {
        return Err(Failure::NotGrpc {
            status: head.status.as_u16(),
            kind: kind.chars().take(64).collect(),
        });
    }
    match read(body, call.limit).await {
        Ok((answer, trailers)) => match Status::of(&trailers) {
            Some(status) if status.code == Code::Ok => Ok(answer),
            Some(status) => Err(Failure::Status(status)),
            None => Err(Failure::Broken(Broken::Short)),
        },
        Err((_, Some(status))) if status.code != Code::Ok => Err(Failure::Status(status)),
        Err((broken, _)) => Err(Failure::Broken(broken)),
    }
}

/// Whether a content type is gRPC's: with the format of the messages, or parameters, behind it.
pub(super) fn is_grpc(kind: &str) -> bool {
    kind.strip_prefix(super::CONTENT_TYPE)
        .is_some_and(|rest| matches!(rest.as_bytes().first(), None | Some(b'+' | b';')))
}

/// With its causes: hyper's own words alone say "http2 error".
fn told(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(one) = cause {
        text = format!("{text}: {one}");
        cause = one.source();
    }
    text
}
