//! An answer's body on its way to the client. It streams: nothing is collected, and a client that
//! does not read holds the upstream back, for as long as the rule's timeout allows.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::task::{AbortHandle, spawn_local};

use super::attempt;
use super::deadline::Deadline;
use super::inbound::Aborting;
use crate::dataplane::authorize::{Judged, Revocable};
use crate::dataplane::error::Error;
use crate::dataplane::outcome::Exchange;
use crate::policy::authorization::Denial;
use crate::types::ResponseFlags;

/// From so many bytes on hyper may wait for the client instead of asking for more of the body, and
/// the timeout needs somebody who waits for it. Smaller answers are spared that.
const WATCHED: u64 = 32 * 1024;

/// A response's body on its way to the client. When it ends, so does the exchange.
pub(crate) struct ResponseBody {
    /// As a rule.
    own: Option<Passing>,
    /// Where its timeout is watched. Neither: it took too long.
    watch: Option<Watch>,
}

/// Ends an answer from outside, whether or not its client reads.
struct Watch {
    rest: Rc<Rest>,
    by: By,
}

/// Who watches.
enum By {
    /// Whoever waits for its time to be over.
    Deadline(AbortHandle),
    /// Whoever knows for how long it is allowed.
    Policies(#[expect(dead_code, reason = "it is only held on to")] Judged),
}

/// What is left of a watched answer.
struct Rest {
    passing: RefCell<Option<Passing>>,
    /// Whoever reads, while it waits for the upstream.
    reader: RefCell<Option<Waker>>,
    /// The connection that ends with it.
    aborting: Option<Rc<Aborting>>,
}

impl Revocable for Rest {
    fn revoke(&self, denial: &Denial) {
        if let Some(mut passing) = self.passing.take() {
            passing.revoke(denial);
            if let Some(aborting) = &self.aborting {
                aborting.abort();
            }
        }
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// What passes, and what ends with it.
struct Passing {
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
    /// The upstream's side, in silence: hyper takes RST_STREAM with CANCEL for an end.
    #[error("the upstream cancelled the answer")]
    Cancelled,
    /// The rule's timeout.
    #[error("the route's timeout")]
    Timeout,
    /// Whoever watches over it.
    #[error("it was ended")]
    Ended,
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
        let text = Some(text).filter(|text| !text.is_empty());
        Self::new(Source::Local(text), exchange, None)
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
        Self::new(Source::Streamed(body), exchange, deadline)
    }

    /// The application's body, for as long as the request is allowed. `aborting`: what ends with it.
    pub(super) fn judged(
        body: Incoming,
        mut exchange: Box<Exchange>,
        judged: Judged,
        aborting: Option<Rc<Aborting>>,
    ) -> Self {
        if body.is_end_stream() {
            exchange.complete();
        }
        let rest = Rc::new(Rest {
            passing: RefCell::new(Some(Passing {
                source: Source::Streamed(body),
                exchange,
                deadline: None,
            })),
            reader: RefCell::default(),
            aborting,
        });
        let weak: Weak<Rest> = Rc::downgrade(&rest);
        judged.carried_by(weak);
        Self {
            own: None,
            watch: Some(Watch {
                rest,
                by: By::Policies(judged),
            }),
        }
    }

    fn new(source: Source, exchange: Box<Exchange>, deadline: Option<Box<Deadline>>) -> Self {
        let own = Some(Passing {
            source,
            exchange,
            deadline,
        });
        Self { own, watch: None }
    }

    /// Has what is left of an answer watched.
    fn watch(&mut self) {
        let Some(mut passing) = self.own.take() else {
            return;
        };
        let deadline = passing.deadline.take();
        let rest = Rc::new(Rest {
            passing: RefCell::new(Some(passing)),
            reader: RefCell::default(),
            aborting: None,
        });
        let watched = Rc::downgrade(&rest);
        let task = spawn_local(async move {
            let Some(mut deadline) = deadline else {
                return;
            };
            std::future::poll_fn(|cx| deadline.poll_answer(cx)).await;
            let Some(rest) = watched.upgrade() else {
                return;
            };
            if let Some(mut overdue) = rest.passing.take() {
                overdue.time_out();
            }
            if let Some(reader) = rest.reader.take() {
                reader.wake();
            }
        });
        let by = By::Deadline(task.abort_handle());
        self.watch = Some(Watch { rest, by });
    }

    /// Asks what passes; where there is nothing left, that is `None`.
    fn ask<T>(&self, ask: impl FnOnce(&Passing) -> T) -> Option<T> {
        match &self.watch {
            None => self.own.as_ref().map(ask),
            Some(watch) => watch.rest.passing.borrow().as_ref().map(ask),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let By::Deadline(task) = &self.by {
            task.abort();
        }
    }
}

impl Passing {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let frame = match &mut self.source {
            Source::Local(text) => text.take().map(|text| Ok(Frame::data(text))),
            Source::Streamed(body) => match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(None) if self.exchange.upstream_protocol == Some("HTTP/2") => {
                    let whole = body.is_end_stream();
                    (!whole).then_some(Err(BrokenOff::Cancelled))
                }
                Poll::Ready(frame) => frame.map(|frame| frame.map_err(BrokenOff::Upstream)),
                Poll::Pending => {
                    let Some(deadline) = &mut self.deadline else {
                        return Poll::Pending;
                    };
                    ready!(deadline.poll_answer(cx));
                    Some(Err(BrokenOff::Timeout))
                }
            },
        };
        match &frame {
            Some(Ok(frame)) => {
                self.exchange.sent += frame.data_ref().map_or(0, Bytes::len) as u64;
                if self.is_end_stream() {
                    self.exchange.complete();
                }
            }
            Some(Err(BrokenOff::Timeout)) => self.time_out(),
            Some(Err(BrokenOff::Upstream(error))) => {
                self.exchange.broke_off(&attempt::classify(error, true));
            }
            Some(Err(BrokenOff::Cancelled)) => self.exchange.broke_off(&Error::Reset),
            // What is ended from outside is not asked any more.
            Some(Err(BrokenOff::Ended)) => {}
            None => self.exchange.complete(),
        }
        Poll::Ready(frame)
    }

    fn time_out(&mut self) {
        if self.exchange.is_finished() {
            return;
        }
        self.exchange.timed_out();
        self.exchange.details = "response_timeout".into();
        self.exchange.abandon(ResponseFlags::UPSTREAM_TIMEOUT);
    }

    /// The pod's policies do not allow the request any more.
    fn revoke(&mut self, denial: &Denial) {
        if self.exchange.is_finished() {
            return;
        }
        if let Some(upload) = &self.exchange.received {
            // What the client still sends is for nobody.
            upload.cut_off();
        }
        self.exchange.details = denial.details();
        self.exchange.abandon(ResponseFlags::NONE);
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

    /// Whether there is a limit that the client's reading could put off.
    fn wants_watch(&self) -> bool {
        self.deadline.is_some() && self.exchange.sent >= WATCHED && !self.is_end_stream()
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // A local answer needs nobody's reading: to HEAD its text is not even asked for.
        if matches!(self.source, Source::Local(_)) || self.is_end_stream() {
            self.exchange.complete();
        }
        // Otherwise the exchange itself tells that the client did not wait for the end.
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(watch) = &self.watch {
            return match &mut *watch.rest.passing.borrow_mut() {
                Some(passing) => {
                    let polled = passing.poll_frame(cx);
                    if polled.is_pending() {
                        watch.rest.reader.replace(Some(cx.waker().clone()));
                    }
                    polled
                }
                None => Poll::Ready(Some(Err(BrokenOff::Ended))),
            };
        }
        let Some(own) = &mut self.own else {
            return Poll::Ready(None);
        };
        let frame = ready!(own.poll_frame(cx));
        if own.wants_watch() {
            self.watch();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ask(Passing::is_end_stream).unwrap_or(false)
    }

    fn size_hint(&self) -> SizeHint {
        self.ask(Passing::size_hint).unwrap_or_default()
    }
}
