//! A stream that reads ahead: whoever asks for little at a time costs one system call for all that is
//! there. rustls reads 4 KiB at a time, a quarter of a record.
//!
//! The buffer is the thread's own and lent only while there is something in it.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::through::write_through;

/// One read's worth: four TLS records.
const BUFFER: usize = 4 * (16 * 1024 + 5 + 17) + 4096;
/// Buffers that a thread keeps.
const KEPT: usize = 8;

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// The stream.
#[derive(Debug)]
pub struct Ahead<S> {
    stream: S,
    /// What was read and not yet asked for: `buffer[from..to]`. Empty where `from == to`.
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
}

impl<S> Ahead<S> {
    /// Holds no buffer yet.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: Box::default(),
            from: 0,
            to: 0,
        }
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    fn borrow(&mut self) {
        if self.buffer.is_empty() {
            let kept = BUFFERS.with_borrow_mut(Vec::pop);
            self.buffer = kept.unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice());
        }
    }

    fn give_back(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        if !buffer.is_empty() {
            BUFFERS.with_borrow_mut(|kept| {
                if kept.len() < KEPT {
                    kept.push(buffer);
                }
            });
        }
    }
}

impl<S> Drop for Ahead<S> {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        wanted: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.from == this.to {
            if wanted.remaining() >= BUFFER {
                return Pin::new(&mut this.stream).poll_read(cx, wanted);
            }
            this.borrow();
            let mut read = ReadBuf::new(&mut this.buffer);
            let polled = Pin::new(&mut this.stream).poll_read(cx, &mut read);
            let count = read.filled().len();
            (this.from, this.to) = (0, count);
            if count == 0 || !matches!(polled, Poll::Ready(Ok(()))) {
                this.give_back();
            }
            ready!(polled)?;
        }
        let count = wanted.remaining().min(this.to - this.from);
        wanted.put_slice(&this.buffer[this.from..this.from + count]);
        this.from += count;
        if this.from == this.to {
            this.give_back();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    write_through!(stream);

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_read_in_pieces_is_read_once_and_in_order() {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let mut ahead = Ahead::new(far);
        let all: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        near.write_all(&all).await.unwrap();
        drop(near);
        let mut found = Vec::new();
        for size in [1, 5, 4096, 70_000, 3, 100_000].iter().cycle() {
            let mut piece = vec![0; *size];
            let count = ahead.read(&mut piece).await.unwrap();
            if count == 0 {
                break;
            }
            found.extend_from_slice(&piece[..count]);
        }
        assert!(found == all);
        assert!(ahead.buffer.is_empty(), "nothing is held at the end");
    }
}
