//! The two clocks of a request: how long it may take, and how long one attempt may take.
//!
//! Both begin when the client's request is complete (Envoy), an attempt's not before it has a
//! connection. One timer serves both, set to whichever ends first.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::upload::Upload;
use crate::clock;
use crate::policy::timeout::Limits;

/// A request's time limits while it is under way.
pub(crate) struct Deadline {
    limits: Limits,
    /// The request's body; `None` for a request that is complete from the start.
    upload: Option<Rc<Upload>>,
    /// When the request was complete.
    complete: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What came first.
pub(super) enum First<T> {
    /// The work was done.
    Done(T),
    /// The request's limit.
    Request,
    /// The attempt's limit.
    Attempt,
}

impl Deadline {
    /// For a request that begins now.
    pub(super) fn new(limits: Limits, upload: Option<Rc<Upload>>) -> Self {
        Self {
            limits,
            upload,
            complete: None,
            timer: None,
        }
    }

    /// How long ago the request was complete; zero while it is not.
    pub(super) fn elapsed(&self) -> Duration {
        let complete = self.complete;
        complete.map_or(Duration::ZERO, |at| clock::now().duration_since(at))
    }

    /// Whether the whole request is limited, also while its answer is read.
    pub(super) fn limits_answer(&self) -> bool {
        self.limits.request.is_some()
    }

    /// Does `work`, as far as the limits allow. The attempt's limit counts from when `connected` is
    /// set.
    pub(super) async fn run<T>(
        &mut self,
        connected: &Cell<bool>,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> First<T> {
        if self.limits.request.is_none() && self.limits.attempt.is_none() {
            return First::Done(work.await);
        }
        let mut began = None;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(First::Done(done));
            }
            let Some(complete) = self.complete(cx) else {
                return Poll::Pending;
            };
            if began.is_none() && connected.get() {
                began = Some(if self.upload.is_some() || self.timer.is_some() {
                    clock::now()
                } else {
                    complete
                });
            }
            let request = self.limits.request.map(|limit| complete + limit);
            let attempt = began.zip(self.limits.attempt).map(|(at, limit)| at + limit);
            let (end, first) = match (request, attempt) {
                (Some(request), Some(attempt)) if attempt < request => (attempt, First::Attempt),
                (Some(request), _) => (request, First::Request),
                (None, Some(attempt)) => (attempt, First::Attempt),
                (None, None) => return Poll::Pending,
            };
            self.poll_timer(cx, end).map(|()| first)
        })
        .await
    }

    /// Waits for `wait`; false where the request's limit came first.
    pub(super) async fn pause(&mut self, wait: Duration) -> bool {
        let pause = pin!(tokio::time::sleep(wait));
        matches!(self.run(&Cell::new(false), pause).await, First::Done(()))
    }

    /// Ready once the request's limit is over: for whoever reads the answer.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (Some(limit), Some(complete)) = (self.limits.request, self.complete(cx)) else {
            return Poll::Pending;
        };
        self.poll_timer(cx, complete + limit)
    }

    /// When the request was complete. Whoever asks before is woken when it is.
    fn complete(&mut self, cx: &Context<'_>) -> Option<Instant> {
        if self.complete.is_none() {
            match &self.upload {
                Some(upload) if !upload.ended() => upload.wake_at_end(cx.waker()),
                _ => self.complete = Some(clock::now()),
            }
        }
        self.complete
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, end: Instant) -> Poll<()> {
        let end = tokio::time::Instant::from_std(end);
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if timer.deadline() != end {
            timer.as_mut().reset(end);
        }
        timer.as_mut().poll(cx)
    }
}
