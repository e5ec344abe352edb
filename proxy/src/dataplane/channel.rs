//! A connection inside the process: bytes both ways, half-closes, resets, without a socket. For what
//! goes from one pod of the node to another by way of the HTTP engine of the other.
//!
//! Knows nobody's rights.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;

use super::arriving;
use super::http::inbound::Abort;
use super::relay::{End, Limits, Meter, relay_streams};

/// Bytes that may be under way, each way.
const ROOM: usize = 64 << 10;
/// What is read to be looked at, at most, each time.
const LOOK: usize = 4096;

/// One end. Dropping it before it has said that nothing more comes resets the other.
#[derive(Debug)]
pub(super) struct Channel {
    io: DuplexStream,
    /// Read, and not yet taken.
    first: BytesMut,
    /// Whether nothing more will be written.
    finished: bool,
    /// Whether the other end has said that nothing more comes.
    ended: bool,
    /// Not in order: HTTP wants streams that could go to another thread, though none does.
    reset: Arc<AtomicBool>,
}

/// The two ends.
pub(super) fn pair() -> (Channel, Channel) {
    let (one, other) = tokio::io::duplex(ROOM);
    let reset = Arc::<AtomicBool>::default();
    let end = |io| Channel {
        io,
        first: BytesMut::new(),
        finished: false,
        ended: false,
        reset: Arc::clone(&reset),
    };
    (end(one), end(other))
}

impl Channel {
    /// Resolves when there is something to read, an end or an error included.
    pub(super) async fn speaks(&mut self) {
        // An error is found again by whoever reads.
        let _ = poll_fn(|cx| self.poll_more(cx, 0)).await;
    }

    /// Whether it is open and the other end has said nothing.
    pub(super) fn is_silent(&mut self) -> bool {
        poll_fn(|cx| self.poll_more(cx, 0)).now_or_never().is_none()
    }

    /// Reads ahead until there are more than `seen` bytes, or the end.
    fn poll_more(&mut self, cx: &mut Context<'_>, seen: usize) -> Poll<io::Result<()>> {
        while self.first.len() <= seen && !self.ended {
            let mut read = [0; LOOK];
            let mut read = ReadBuf::new(&mut read);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            self.ended = read.filled().is_empty();
            self.first.extend_from_slice(read.filled());
            if self.ended {
                self.check()?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// An end that is none.
    fn check(&self) -> io::Result<()> {
        if self.reset.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl Abort for Channel {
    fn abort(&mut self) {
        self.finished = false;
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if !self.finished {
            self.reset.store(true, Ordering::Relaxed);
        }
    }
}

impl arriving::Stream for Channel {
    fn poll_first(&mut self, cx: &mut Context<'_>, seen: usize) -> Poll<io::Result<Bytes>> {
        ready!(self.poll_more(cx, seen))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(&self.first)))
    }

    fn poll_reset(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        // Found by whoever reads: its caller is of this node, and waits for the same dial.
        Poll::Pending
    }

    async fn relay(
        self,
        application: TcpStream,
        meter: &Meter,
        stop: impl Future<Output = ()>,
    ) -> End {
        relay_streams(self, application, meter, Limits::default(), stop).await
    }
}

impl AsyncRead for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let count = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first[..count]);
            self.first.advance(count);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if buffer.filled().len() == before && buffer.remaining() > 0 {
            self.ended = true;
            self.check()?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn an_end_is_told_from_a_reset() {
        let (mut near, mut far) = pair();
        near.write_all(b"question").await.unwrap();
        far.speaks().await;
        assert!(!far.is_silent() && near.is_silent());
        near.shutdown().await.unwrap();
        let mut said = String::new();
        far.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "question");
        // The other half goes on.
        far.write_all(b"answer").await.unwrap();
        far.shutdown().await.unwrap();
        drop(far);
        said.clear();
        near.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "answer");
    }

    #[tokio::test]
    async fn what_was_said_before_a_reset_is_heard() {
        for abort in [false, true] {
            let (mut near, mut far) = pair();
            near.write_all(b"first").await.unwrap();
            if abort {
                near.shutdown().await.unwrap();
                near.abort();
            }
            drop(near);
            let mut said = [0; 5];
            far.read_exact(&mut said).await.unwrap();
            assert_eq!(&said, b"first");
            let error = far.read(&mut said).await.expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            assert!(far.write_all(b"unheard").await.is_err());
        }
    }

    #[tokio::test]
    async fn what_was_looked_at_is_read_again() {
        let (mut near, mut far) = pair();
        let mut look = async |seen| {
            poll_fn(|cx| arriving::Stream::poll_first(&mut far, cx, seen))
                .await
                .unwrap()
        };
        near.write_all(b"ab").await.unwrap();
        assert_eq!(look(0).await, "ab");
        near.write_all(b"c").await.unwrap();
        assert_eq!(look(2).await, "abc");
        near.shutdown().await.unwrap();
        assert_eq!(look(3).await, "abc");
        let mut said = String::new();
        far.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "abc");
    }
}
