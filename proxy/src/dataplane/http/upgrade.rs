//! A connection that changed its protocol (101): from here on bytes go both ways untouched.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::dataplane::error::Error;
use crate::dataplane::outcome::Exchange;
use crate::dataplane::pod::LocalPod;
use crate::dataplane::task;
use crate::dataplane::worker::Worker;
use crate::policy::authorization::Denial;
use crate::types::ResponseFlags;

/// One read's worth, each way.
const BUFFER: usize = 16 * 1024;

/// One side of the conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Upstream,
}

/// What happened so far.
#[derive(Debug, Default)]
struct Course {
    /// Who ended it, or failed, first.
    first: Cell<Option<Side>>,
    /// Bytes from the upstream.
    sent: Cell<u64>,
}

impl Course {
    fn ends(&self, side: Side) {
        self.first.set(self.first.get().or(Some(side)));
    }
}

/// A side's socket, which notes its end.
struct Watched<'a> {
    io: TokioIo<Upgraded>,
    side: Side,
    course: &'a Course,
}

impl Watched<'_> {
    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|_| self.course.ends(self.side))
    }
}

impl AsyncRead for Watched<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buffer));
        let count = buffer.filled().len() - before;
        if read.is_ok() && count == 0 && room > 0 {
            self.course.ends(self.side);
        }
        if self.side == Side::Upstream {
            let sent = &self.course.sent;
            sent.set(sent.get() + count as u64);
        }
        Poll::Ready(self.noted(read))
    }
}

impl AsyncWrite for Watched<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes));
        Poll::Ready(self.noted(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.io).poll_flush(cx));
        Poll::Ready(self.noted(flushed))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
        Poll::Ready(self.noted(shut))
    }
}

/// Relays between the two sides once both have changed over; the exchange ends with it. Who ended it
/// is told as Envoy tells it; the other side may still finish what it was saying. When `revoked`
/// resolves, both end at once.
pub(super) fn relay(
    (worker, pod): (&Rc<Worker>, &Rc<LocalPod>),
    (client, upstream): (OnUpgrade, OnUpgrade),
    mut exchange: Box<Exchange>,
    revoked: impl Future<Output = Denial> + 'static,
) {
    task::spawn(worker, pod, async move {
        let (Ok(client), Ok(upstream)) = (client.await, upstream.await) else {
            exchange.left();
            return;
        };
        let course = Course::default();
        let watched = |io, side| Watched {
            io: TokioIo::new(io),
            side,
            course: &course,
        };
        let mut client = watched(client, Side::Client);
        let mut upstream = watched(upstream, Side::Upstream);
        let moved =
            tokio::io::copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER);
        let whole = tokio::select! {
            moved = moved => moved.is_ok(),
            denial = revoked => {
                exchange.sent = course.sent.get();
                exchange.details = denial.details();
                exchange.abandon(ResponseFlags::NONE);
                return;
            }
        };
        exchange.sent = course.sent.get();
        match course.first.get() {
            Some(Side::Client) => exchange.left(),
            // Over HTTP/2 the end of a stream is no loss of the connection.
            _ if whole && exchange.upstream_protocol == Some("HTTP/2") => exchange.complete(),
            _ => exchange.broke_off(&Error::Closed),
        }
    });
}
