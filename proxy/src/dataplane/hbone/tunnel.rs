//! One stream of an HBONE connection, as whoever relays sees it: bytes both ways, a half-close, a
//! reset.
//!
//! Knows no TLS, no socket and nobody's rights.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::dataplane::arriving;
use crate::dataplane::http::inbound::Abort;
use crate::dataplane::relay::{End, Limits, Meter, relay_tunnel};

/// What is copied at most of one write.
const WRITE: usize = 64 << 10;

/// How a peer left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dataplane) enum Gone {
    /// It had said all that it had to say, and wants to hear no more: a closed socket.
    Closed,
    /// A reset, or the loss of the connection.
    Reset,
}

/// A stream after its CONNECT was answered 200. Dropping it before both sides have ended resets it.
#[derive(Debug)]
pub(in crate::dataplane) struct Tunnel {
    send: RefCell<SendStream<Bytes>>,
    /// Whether nothing more will be sent.
    finished: Cell<bool>,
    receive: RefCell<Receive>,
}

#[derive(Debug)]
struct Receive {
    stream: RecvStream,
    /// Received, and not yet taken.
    pending: Option<Bytes>,
    /// What came behind it, where the peer was found to be gone.
    rest: VecDeque<Bytes>,
    ended: bool,
}

impl Tunnel {
    pub(super) fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self {
            send: RefCell::new(send),
            finished: Cell::new(false),
            receive: RefCell::new(Receive {
                stream: receive,
                pending: None,
                rest: VecDeque::new(),
                ended: false,
            }),
        }
    }

    /// Bytes from the peer, once there are some; `None` at the end. Whoever takes them tells
    /// [`Self::consumed`] when they went on: only then may the peer send more.
    pub(in crate::dataplane) fn poll_chunk(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Bytes>>> {
        let mut receive = self.receive.borrow_mut();
        ready!(receive.poll_fill(cx))?;
        Poll::Ready(Ok(receive.pending.take()))
    }

    /// Resolves when there are bytes, or the end, or an error.
    pub(in crate::dataplane) async fn speaks(&self) {
        // An error is found again by whoever reads.
        let _ = poll_fn(|cx| self.receive.borrow_mut().poll_fill(cx)).await;
    }

    /// Whether the bytes at hand, that nobody has taken, begin so.
    pub(in crate::dataplane) fn begins(&self, so: fn(&[u8]) -> bool) -> bool {
        self.receive.borrow().pending.as_deref().is_some_and(so)
    }

    /// So many bytes went on.
    pub(in crate::dataplane) fn consumed(&self, count: usize) {
        // An error means that the stream is over.
        let _ = self
            .receive
            .borrow_mut()
            .stream
            .flow_control()
            .release_capacity(count);
    }

    /// How many bytes, of `wanted`, may be sent now, once there are some. What is not used has to be
    /// given back by [`Self::unreserve`]: other streams wait for it.
    pub(in crate::dataplane) fn poll_capacity(
        &self,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        let mut send = self.send.borrow_mut();
        send.reserve_capacity(wanted);
        loop {
            let capacity = send.capacity();
            if capacity > 0 {
                return Poll::Ready(Ok(capacity.min(wanted)));
            }
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(of(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    /// Asks for no more to send.
    pub(in crate::dataplane) fn unreserve(&self) {
        self.send.borrow_mut().reserve_capacity(0);
    }

    /// Sends bytes for which there is capacity.
    pub(in crate::dataplane) fn send(&self, bytes: Bytes) -> io::Result<()> {
        self.send.borrow_mut().send_data(bytes, false).map_err(of)
    }

    /// Nothing more will be sent.
    pub(in crate::dataplane) fn finish(&self) -> io::Result<()> {
        if self.finished.replace(true) {
            return Ok(());
        }
        let mut send = self.send.borrow_mut();
        send.send_data(Bytes::new(), true).map_err(of)
    }

    /// Whether it is open and the peer has said nothing.
    pub(in crate::dataplane) fn is_silent(&self) -> bool {
        let mut receive = self.receive.borrow_mut();
        poll_fn(|cx| receive.poll_fill(cx)).now_or_never().is_none()
    }

    /// Reads, as of a socket.
    pub(in crate::dataplane) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = {
            let mut receive = self.receive.borrow_mut();
            ready!(receive.poll_fill(cx))?;
            let Some(chunk) = &mut receive.pending else {
                return Poll::Ready(Ok(()));
            };
            let count = chunk.len().min(buffer.remaining());
            buffer.put_slice(&chunk.split_to(count));
            if chunk.is_empty() {
                receive.pending = None;
            }
            count
        };
        self.consumed(count);
        Poll::Ready(Ok(()))
    }

    /// Writes as much as may be sent now, as to a socket.
    pub(in crate::dataplane) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        let mut room = ready!(self.poll_capacity(cx, wanted.min(WRITE)))?;
        let mut bytes = BytesMut::with_capacity(room);
        for slice in slices {
            let count = slice.len().min(room);
            bytes.extend_from_slice(&slice[..count]);
            room -= count;
        }
        let count = bytes.len();
        self.send(bytes.freeze())?;
        Poll::Ready(Ok(count))
    }

    /// Resolves when the peer is gone. What it had said before is still there for whoever reads.
    pub(in crate::dataplane) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<Gone> {
        let reason = ready!(self.send.borrow_mut().poll_reset(cx));
        let in_order = matches!(reason, Ok(Reason::CANCEL | Reason::NO_ERROR));
        Poll::Ready(if in_order && self.receive.borrow_mut().has_ended(cx) {
            Gone::Closed
        } else {
            Gone::Reset
        })
    }

    /// Ends it both ways, as a reset of a TCP connection (RFC 9113, section 8.5).
    pub(in crate::dataplane) fn reset(&self) {
        let mut send = self.send.borrow_mut();
        send.send_reset(Reason::CONNECT_ERROR);
    }
}

impl Abort for Tunnel {
    fn abort(&mut self) {
        self.reset();
    }
}

impl arriving::Stream for Tunnel {
    fn poll_first(&mut self, cx: &mut Context<'_>, seen: usize) -> Poll<io::Result<Bytes>> {
        self.receive.get_mut().poll_first(cx, seen)
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_gone(cx) {
            Poll::Ready(Gone::Reset) => Poll::Ready(()),
            // What it has said is still to be heard.
            Poll::Ready(Gone::Closed) | Poll::Pending => Poll::Pending,
        }
    }

    async fn relay(
        self,
        application: TcpStream,
        meter: &Meter,
        stop: impl Future<Output = ()>,
    ) -> End {
        relay_tunnel(self, application, meter, Limits::default(), stop).await
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Self::poll_read(&self, cx, buffer)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Self::poll_write(&self, cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Self::poll_write(&self, cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A stream of HTTP/2 holds nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish())
    }
}

impl Receive {
    /// Fills until there are more than `seen` bytes, or the end.
    fn poll_first(&mut self, cx: &mut Context<'_>, seen: usize) -> Poll<io::Result<Bytes>> {
        loop {
            let before = self.pending.take();
            let have = before.as_ref().map_or(0, Bytes::len);
            if have > seen || self.ended {
                self.pending.clone_from(&before);
                return Poll::Ready(Ok(before.unwrap_or_default()));
            }
            let filled = self.poll_fill(cx);
            self.pending = match (before, self.pending.take()) {
                (Some(before), Some(more)) => Some([before, more].concat().into()),
                (before, more) => before.or(more),
            };
            ready!(filled)?;
        }
    }

    /// Whether the peer that is gone had said all: its end may lie behind bytes that nobody has taken
    /// yet, at most a window of them.
    fn has_ended(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(bytes))) => self.rest.push_back(bytes),
                Poll::Ready(None) => return true,
                Poll::Ready(Some(Err(_))) | Poll::Pending => return false,
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.pending.is_none() && !self.ended {
            if let Some(bytes) = self.rest.pop_front() {
                self.pending = Some(bytes).filter(|bytes| !bytes.is_empty());
                continue;
            }
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => self.pending = Some(bytes),
                Some(Err(error)) => return Poll::Ready(Err(of(error))),
                // Trailers that may follow say nothing here.
                None => self.ended = true,
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn of(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

#[cfg(test)]
mod tests;
