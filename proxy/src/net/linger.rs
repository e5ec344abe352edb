//! A stream that is not closed while its peer is still sending: closing a socket with unread bytes
//! resets it, and the peer's kernel may throw away the answer that was on its way.
//!
//! Envoy's `delayed_close_timeout` and nginx's `lingering_close`. Does not know what is said over it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::through::write_through;

/// What is read at a time to be thrown away, in bytes.
const PIECE: usize = 16 * 1024;
/// What is thrown away at most, in bytes; a peer that sends more is no longer read. One that reads
/// while it sends hears its answer all the same.
const MOST: usize = 2 << 20;

/// Says of a stream that its two directions end each for itself from here on: those of a connection
/// that has changed its protocol do, and nobody waits for a peer that has said that it is done.
///
/// Not in order: it is told before the stream changes hands.
#[derive(Clone, Debug, Default)]
pub struct HalfClose(Arc<AtomicBool>);

impl HalfClose {
    /// From here on.
    pub fn allow(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The stream. Shutting it down is done once the peer has ended too, or is out of time; what it sends
/// meanwhile is thrown away.
#[derive(Debug)]
pub struct Lingering<S> {
    stream: S,
    /// How long the peer may take to read what it was told, and to stop sending.
    patience: Duration,
    half_close: HalfClose,
    /// The peer has ended.
    ended: bool,
    /// Once it is shut down on this side: when the peer's end is no longer waited for.
    until: Option<Pin<Box<Sleep>>>,
    /// What was thrown away so far, in bytes.
    thrown: usize,
}

impl<S> Lingering<S> {
    /// `stream`, whose peer may take so long to end, until `half_close` is allowed.
    pub fn new(stream: S, patience: Duration, half_close: HalfClose) -> Self {
        Self {
            stream,
            patience,
            half_close,
            ended: false,
            until: None,
            thrown: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        self.ended = read.is_err() || (buffer.filled().len() == before && room > 0);
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    write_through!(stream);

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.until.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if this.ended || this.half_close.0.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let patience = this.patience;
        let until = this.until.get_or_insert_with(|| Box::pin(sleep(patience)));
        // Before the bytes: however many there are, they end.
        while until.as_mut().poll(cx).is_pending() {
            if this.thrown >= MOST {
                return Poll::Pending;
            }
            let mut piece = [std::mem::MaybeUninit::uninit(); PIECE];
            let mut piece = ReadBuf::uninit(&mut piece);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut piece)) {
                Ok(()) if !piece.filled().is_empty() => this.thrown += piece.filled().len(),
                // Its end, or one that nothing can be told any more.
                _ => break,
            }
        }
        this.ended = true;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const ROOM: usize = 1000;

    fn pair(patience: Duration) -> (DuplexStream, Lingering<DuplexStream>, HalfClose) {
        let (peer, stream) = duplex(ROOM);
        let half_close = HalfClose::default();
        let lingering = Lingering::new(stream, patience, half_close.clone());
        (peer, lingering, half_close)
    }

    #[tokio::test]
    async fn a_peer_that_is_still_sending_is_told_and_heard_to_its_end() {
        let (mut peer, mut lingering, _) = pair(Duration::MAX);
        let sends = async {
            peer.write_all(&[7; 100 * ROOM]).await.expect("read");
            let mut answer = String::new();
            peer.read_to_string(&mut answer).await.expect("an end");
            drop(peer);
            answer
        };
        let closes = async {
            lingering.write_all(b"no").await.expect("room");
            lingering.shutdown().await.expect("shut down");
            drop(lingering);
        };
        let (answer, ()) = tokio::join!(sends, closes);
        assert_eq!(answer, "no");
    }

    #[tokio::test]
    async fn nobody_is_waited_for_longer_than_that() {
        for endless in [false, true] {
            let (mut peer, mut lingering, _) = pair(Duration::from_millis(1));
            let mut sent = 0;
            let sends = async {
                while endless && peer.write_all(&[7; ROOM]).await.is_ok() {
                    sent += ROOM;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                done = lingering.shutdown() => done.expect("shut down"),
                () = sends => {}
            }
            assert!(sent <= MOST + PIECE + ROOM, "{sent} bytes were taken");
        }
    }

    #[tokio::test]
    async fn a_peer_that_has_ended_is_not_waited_for() {
        let (mut peer, mut lingering, _) = pair(Duration::MAX);
        peer.write_all(b"all").await.expect("room");
        peer.shutdown().await.expect("an end");
        let mut all = String::new();
        lingering.read_to_string(&mut all).await.expect("an end");
        lingering.shutdown().await.expect("shut down");
        assert_eq!(all, "all");
    }

    #[tokio::test]
    async fn directions_that_end_each_for_itself_stay_open_each_for_itself() {
        let (mut peer, mut lingering, half_close) = pair(Duration::MAX);
        half_close.allow();
        lingering.shutdown().await.expect("shut down");
        peer.write_all(b"more").await.expect("still open");
        let mut more = [0; 4];
        lingering.read_exact(&mut more).await.expect("still open");
        assert_eq!(&more, b"more");
    }
}
