//! A stream whose peer is heard to the end although nothing more can be said to it: a server that
//! answers before it has read the whole request, and then resets the connection, has answered.
//!
//! Whoever reads and writes by turns would find out by writing, and never read what the kernel still
//! holds (Linux keeps what was received before a reset). Does not know what is said over it.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// The stream. A failure to write is told once the peer has been heard to its end, or is out of time.
#[derive(Debug)]
pub struct LastWords<S> {
    stream: S,
    /// How long the peer may take.
    patience: Duration,
    failure: Option<Failure>,
}

/// A failure to write.
#[derive(Debug)]
struct Failure {
    kind: ErrorKind,
    /// When it is told at the latest.
    until: Pin<Box<Sleep>>,
    /// The peer was heard to its end.
    heard: bool,
}

impl<S> LastWords<S> {
    /// `stream`, whose peer may take so long for its last words.
    pub fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            failure: None,
        }
    }

    /// Whether it can still be written to: not told for as long as there is something to hear.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(failure) = &mut self.failure else {
            return Poll::Ready(Ok(()));
        };
        if !failure.heard {
            // Whoever reads is woken by the reset itself.
            ready!(failure.until.as_mut().poll(cx));
        }
        Poll::Ready(Err(failure.kind.into()))
    }

    fn poll_written<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Poll::Ready(Err(error)) = &polled else {
            return polled;
        };
        self.failure = Some(Failure {
            kind: error.kind(),
            until: Box::pin(sleep(self.patience)),
            heard: false,
        });
        ready!(self.poll_writable(cx))?;
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LastWords<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(failure) = &mut this.failure else {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        };
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer));
        if read.is_ok() && buffer.filled().len() > before {
            return Poll::Ready(Ok(()));
        }
        failure.heard = true;
        // The error was told to whoever wrote: to whoever reads it looks like a regular end.
        Poll::Ready(Err(failure.kind.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LastWords<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_writable(cx))?;
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.poll_written(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_writable(cx))?;
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.poll_written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_writable(cx))?;
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.poll_written(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::socket;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn what_was_said_before_a_reset_is_read_although_writing_has_failed() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let near = LastWords::new(near.expect("connected"), LONG);
        let mut far = far.expect("accepted").0;
        let (mut read, mut write) = tokio::io::split(near);
        far.write_all(b"no").await.expect("sent");
        socket::reset(far);
        let writing = async {
            loop {
                if let Err(error) = write.write_all(b"more").await {
                    break error;
                }
            }
        };
        let reading = async {
            let mut said = [0; 2];
            // Once writing has failed.
            tokio::task::yield_now().await;
            read.read_exact(&mut said).await.expect("what was said");
            assert_eq!(&said, b"no");
            read.read(&mut said).await.expect_err("no regular end")
        };
        let (written, read) = tokio::join!(writing, reading);
        for error in [written, read] {
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                ),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn whoever_only_writes_hears_of_the_failure_in_time() {
        for patience in [Duration::ZERO, Duration::from_millis(1)] {
            let (near, far) = tokio::io::duplex(100);
            let mut near = LastWords::new(near, patience);
            drop(far);
            near.write_all(b"more").await.expect_err("nobody is there");
            near.flush().await.expect_err("nor later");
        }
    }
}
