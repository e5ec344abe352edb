//! Answering.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use prost::Message;

use super::client::is_grpc;
use super::{Broken, Code, Status, frame, read, timeout};

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPTED: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// What is taken.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest message, in bytes.
    pub size: usize,
    /// How long a call may take, its message's way here included.
    pub time: Duration,
}

/// The body of an answer: a message and the status behind it, or neither.
#[derive(Debug)]
pub struct Reply {
    message: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let message = self.message.take().map(Frame::data);
        let frame = message.or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.message.as_ref().map_or(0, Bytes::len) as u64)
    }
}

/// Reads one call's message and has `work` answer it; what that says is handed on. The path is the
/// caller's business.
///
/// # Errors
/// Where there is no message for `work`, or it takes too long.
pub async fn unary<B, Q, A, F>(
    request: Request<B>,
    limits: Limits,
    work: impl FnOnce(HeaderMap, Q) -> F,
) -> Result<A, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
    Q: Message + Default,
    F: Future<Output = A>,
{
    let (head, body) = request.into_parts();
    if head.method != Method::POST {
        return Err(Refusal::Http(StatusCode::METHOD_NOT_ALLOWED));
    }
    let text = |name: HeaderName| head.headers.get(name).map(|value| value.to_str().ok());
    if !text(CONTENT_TYPE).flatten().is_some_and(is_grpc) {
        return Err(Refusal::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    if text(ENCODING).is_some_and(|encoding| encoding != Some("identity")) {
        let status = Status::new(Code::Unimplemented, "compressed messages are not taken");
        return Err(Refusal::Status(status));
    }
    let patience = match text(TIMEOUT) {
        None => limits.time,
        Some(value) => match value.and_then(timeout::read) {
            Some(time) => time.min(limits.time),
            None => {
                let status = Status::new(Code::Internal, "grpc-timeout is malformed");
                return Err(Refusal::Status(status));
            }
        },
    };
    let answer = tokio::time::timeout(patience, async {
        let (message, _) = read(body, limits.size)
            .await
            .map_err(|(broken, _)| of_broken(&broken))?;
        Ok(work(head.headers, message).await)
    });
    match answer.await {
        Ok(answer) => answer.map_err(Refusal::Status),
        Err(_) => {
            let status = Status::new(Code::DeadlineExceeded, "the call took too long");
            Err(Refusal::Status(status))
        }
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no call at all.
    Http(StatusCode),
    /// Said in gRPC's way.
    Status(Status),
}

/// As HTTP.
pub fn response<M: Message>(outcome: Result<&M, &Refusal>) -> Response<Reply> {
    let mut response = Response::new(Reply {
        message: None,
        trailers: None,
    });
    let grpc = HeaderValue::from_static(super::CONTENT_TYPE);
    match outcome {
        Ok(message) => {
            response.headers_mut().insert(CONTENT_TYPE, grpc);
            *response.body_mut() = Reply {
                message: Some(frame(message)),
                trailers: Some(Status::new(Code::Ok, "").headers()),
            };
        }
        Err(Refusal::Status(status)) => {
            *response.headers_mut() = status.headers();
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, grpc);
            if status.code == Code::Unimplemented {
                headers.insert(ACCEPTED, HeaderValue::from_static("identity"));
            }
        }
        Err(Refusal::Http(status)) => {
            *response.status_mut() = *status;
            if *status == StatusCode::METHOD_NOT_ALLOWED {
                let headers = response.headers_mut();
                headers.insert(ALLOW, HeaderValue::from_static("POST"));
            }
        }
    }
    response
}

fn of_broken(broken: &Broken) -> Status {
    let code = match broken {
        Broken::Stream(_) => Code::Cancelled,
        Broken::Large { .. } => Code::ResourceExhausted,
        Broken::Flag(_) => Code::Unimplemented,
        Broken::Message(_) | Broken::Short => Code::Internal,
        Broken::Empty | Broken::Long => Code::Unimplemented,
    };
    Status::new(code, format!("the request's body: {broken}"))
}
