//! Bodies on their way through. They stream: nothing is collected, and a side that does not read
//! holds the other back.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::dataplane::outcome::Exchange;
use crate::types::ResponseFlags;

/// A request's body on its way to the upstream.
pub(crate) enum RequestBody {
    /// There is none.
    Empty,
    /// The client's, with its bytes counted.
    Streamed {
        /// From the client.
        body: Incoming,
        /// How much of it there was.
        progress: Rc<Progress>,
    },
}

/// How far a request's body has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Bytes so far.
    pub bytes: Cell<u64>,
    /// Whether its end was seen.
    pub ended: Cell<bool>,
}

impl RequestBody {
    /// Whether nothing will be sent: only such a request can be sent again.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Streamed { body, progress } => {
                let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
                if let Some(Ok(frame)) = &frame {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    progress.bytes.set(progress.bytes.get() + bytes as u64);
                }
                progress.ended.set(frame.is_none() || body.is_end_stream());
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streamed { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streamed { body, .. } => body.size_hint(),
        }
    }
}

/// A response's body on its way to the client. When it ends, so does the exchange.
pub(crate) struct ResponseBody {
    source: Source,
    exchange: Box<Exchange>,
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
        }
    }

    /// The upstream's body.
    pub(super) fn streamed(body: Incoming, mut exchange: Box<Exchange>) -> Self {
        if body.is_end_stream() {
            exchange.complete();
        }
        Self {
            source: Source::Streamed(body),
            exchange,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let frame = match &mut this.source {
            Source::Local(text) => text.take().map(|text| Ok(Frame::data(text))),
            Source::Streamed(body) => ready!(Pin::new(body).poll_frame(cx)),
        };
        match &frame {
            Some(Ok(frame)) => {
                this.exchange.sent += frame.data_ref().map_or(0, Bytes::len) as u64;
                if this.is_end_stream() {
                    this.exchange.complete();
                }
            }
            Some(Err(_)) => {
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
