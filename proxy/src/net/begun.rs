//! A stream of which some was read before: what was read comes first, and then the rest.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::through::write_through;

/// The stream.
#[derive(Debug)]
pub struct Begun<S> {
    stream: S,
    /// What was read.
    first: Vec<u8>,
    /// How much of that was asked for since.
    from: usize,
}

impl<S> Begun<S> {
    /// `stream`, of which `first` was read.
    pub fn new(stream: S, first: Vec<u8>) -> Self {
        Self {
            stream,
            first,
            from: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        wanted: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.first.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, wanted);
        }
        let rest = &this.first[this.from..];
        let count = wanted.remaining().min(rest.len());
        wanted.put_slice(&rest[..count]);
        this.from += count;
        if this.from == this.first.len() {
            this.first = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
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
    async fn what_was_read_comes_before_the_rest_in_pieces_of_any_size() {
        for first in ["", "f", "first"] {
            for size in [1, 3, 100] {
                let (mut near, far) = tokio::io::duplex(100);
                let mut begun = Begun::new(far, first.into());
                near.write_all(b"the rest").await.unwrap();
                drop(near);
                let (mut found, mut piece) = (Vec::new(), vec![0; size]);
                loop {
                    let count = begun.read(&mut piece).await.unwrap();
                    if count == 0 {
                        break;
                    }
                    found.extend_from_slice(&piece[..count]);
                }
                let whole = format!("{first}the rest");
                assert_eq!(String::from_utf8(found).unwrap(), whole, "{size}");
            }
        }
    }
}
