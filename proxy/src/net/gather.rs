//! A stream that sends small pieces at once: a message's head and a short body are one `send`
//! instead of one `writev`, which the kernel serves more quickly. Larger pieces are not copied.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use arrayvec::ArrayVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is copied together at most, in bytes.
const SMALL: usize = 2048;

/// The stream.
#[derive(Debug)]
pub struct Gather<S>(pub S);

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.0);
        if let [only] = slices {
            return stream.poll_write(cx, only);
        }
        let mut together = ArrayVec::<u8, SMALL>::new();
        let fits = slices
            .iter()
            .all(|slice| together.try_extend_from_slice(slice).is_ok());
        if fits {
            stream.poll_write(cx, &together)
        } else {
            stream.poll_write_vectored(cx, slices)
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn pieces_arrive_in_order_however_large() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let mut near = Gather(near.expect("connected"));
        let mut far = far.expect("accepted").0;
        for sizes in [
            &[5][..],
            &[1000, 1048],
            &[2000, 49],
            &[10, 70_000, 3],
            &[0, 7],
        ] {
            let pieces: Vec<Vec<u8>> = (0..).zip(sizes).map(|(n, len)| vec![n; *len]).collect();
            let all = pieces.concat();
            let mut sent = 0;
            while sent < all.len() {
                // What is left of each piece.
                let mut skip = sent;
                let rest: Vec<IoSlice<'_>> = pieces
                    .iter()
                    .map(|piece| {
                        let from = skip.min(piece.len());
                        skip -= from;
                        IoSlice::new(&piece[from..])
                    })
                    .collect();
                sent += near.write_vectored(&rest).await.expect("written");
            }
            let mut read = vec![0; all.len()];
            far.read_exact(&mut read).await.expect("read");
            assert!(read == all, "{sizes:?}");
        }
    }
}
