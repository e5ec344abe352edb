//! A socket that counts what it reads: whether an upstream answered a single byte decides whether a
//! request may be sent again.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::dataplane::upstream::Upstream;
use crate::net::gather::Gather;
use crate::net::last_words::LastWords;

use super::Held;

/// Bytes read and written so far.
#[derive(Debug, Default)]
pub(in crate::dataplane) struct Traffic {
    read: AtomicU64,
    written: AtomicU64,
}

impl Traffic {
    /// Bytes read from the upstream.
    pub(in crate::dataplane) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes written to it.
    pub(in crate::dataplane) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// One task reads and writes: no addition is lost.
    fn add(counter: &AtomicU64, count: usize) {
        if count > 0 {
            counter.store(
                counter.load(Ordering::Relaxed) + count as u64,
                Ordering::Relaxed,
            );
        }
    }

    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &polled {
            Self::add(&self.written, *count);
        }
        polled
    }
}

/// The socket.
pub(super) struct Metered {
    pub(super) stream: LastWords<Gather<Upstream>>,
    pub(super) traffic: Arc<Traffic>,
    /// Its place in its cluster's count: kept with the socket, which outlives HTTP where a
    /// connection is upgraded.
    pub(super) _held: Held,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let count = buffer.filled().len() - before;
        Traffic::add(&self.traffic.read, count);
        polled
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.traffic.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.traffic.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
