//! An answer's body on its way to the client. It streams: nothing is collected, and a client that
//! does not read holds the upstream back.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::deadline::Deadline;
use crate::dataplane::outcome::Exchange;
use crate::types::ResponseFlags;

/// A response's body on its way to the client. When it ends, so does the exchange.
pub(crate) struct ResponseBody {
    source: Source,
    exchange: Box<Exchange>,
    /// The rule's timeout, which goes on until the answer is complete.
    deadline: Option<Box<Deadline>>,
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenOff {
    /// The upstream's side.
    #[error(transparent)]
    Upstream(hyper::Error),
    /// The rule's timeout.
    #[error("the route's timeout")]
    Timeout,
}

enum Source {
    /// The proxy's own words; `None` once they are sent.
    Local(Option<Bytes>),
    /// The upstream's.
    Streamed(Incoming),
}

impl ResponseBody {
    /// The proxy's own words.
    pub(super) fn local(text: Bytes, exchange: Box<Exchange>) -> Self {
        Self {
            source: Source::Local(Some(text).filter(|text| !text.is_empty())),
            exchange,
            deadline: None,
        }
    }

    /// The upstream's body.
    pub(super) fn streamed(
        body: Incoming,
        mut exchange: Box<Exchange>,
        deadline: Option<Box<Deadline>>,
    ) -> Self {
        if body.is_end_stream() {
            exchange.complete();
        }
        Self {
            source: Source::Streamed(body),
            exchange,
            deadline,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = &mut *self;
        let frame = match &mut this.source {
            Source::Local(text) => text.take().map(|text| Ok(Frame::data(text))),
            Source::Streamed(body) => match Pin::new(body).poll_frame(cx) {
                Poll::Ready(frame) => frame.map(|frame| frame.map_err(BrokenOff::Upstream)),
                Poll::Pending => {
                    let Some(deadline) = &mut this.deadline else {
                        return Poll::Pending;
                    };
                    ready!(deadline.poll_answer(cx));
                    Some(Err(BrokenOff::Timeout))
                }
            },
        };
        match &frame {
            Some(Ok(frame)) => {
                this.exchange.sent += frame.data_ref().map_or(0, Bytes::len) as u64;
                if this.is_end_stream() {
                    this.exchange.complete();
                }
            }
            Some(Err(BrokenOff::Timeout)) => {
                this.exchange.timed_out();
                this.exchange.details = "response_timeout".into();
                this.exchange.abandon(ResponseFlags::UPSTREAM_TIMEOUT);
            }
            Some(Err(BrokenOff::Upstream(_))) => {
                this.exchange.details =
                    "upstream_reset_after_response_started{connection_termination}".into();
                this.exchange.abandon(ResponseFlags::UPSTREAM_CLOSED);
            }
            None => this.exchange.complete(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Local(text) => text.is_none(),
            Source::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Local(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Source::Streamed(body) => body.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // A local answer needs nobody's reading: to HEAD its text is not even asked for.
        if matches!(self.source, Source::Local(_)) || self.is_end_stream() {
            self.exchange.complete();
        }
        // Otherwise the exchange itself tells that the client did not wait for the end.
    }
}
