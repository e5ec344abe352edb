//! Copying between a socket and a tunnel.
//!
//! What is read from the socket becomes the tunnel's frames, and what the tunnel has is written to the
//! socket, without a copy in between. Nothing is read that could not go on at once.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::Poll;
use std::time::Duration;

use arrayvec::ArrayVec;
use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;

use super::{Course, Side, shut_down_write};
use crate::dataplane::hbone::{Gone, Tunnel};

/// One read's worth: the payload of four TLS records with the frame's head.
const READ: usize = 4 * 16 * 1024 - 64;
/// What is read at most with little room left in the worker's buffer.
const LEAST: usize = 16 * 1024;
/// Less than this is copied out of the worker's buffer: what waits in a tunnel must not keep it.
const SMALL: usize = 4 * 1024;
/// Reads that empty a socket, of 6 MiB by Linux's default.
const UNREAD: usize = 128;
/// How long a socket may take nothing of what a peer said that has left: as long, about, as the kernel
/// waits for one whose owner has closed it.
const ORPHANED: Duration = Duration::from_secs(60);
/// Frames that are written to the socket at once.
const GATHERED: usize = 16;

thread_local! {
    /// Where a worker reads into. Its allocation is used again once nobody has a part of it.
    static BUFFER: RefCell<BytesMut> = RefCell::default();
}

/// From the socket into the tunnel, until the socket ends, or the tunnel's peer has said all and gone:
/// then the socket is closed too, and whoever sends on is reset by the kernel.
pub(super) async fn into_tunnel(
    from: &TcpStream,
    to: &Tunnel,
    course: Course<'_>,
) -> Result<(), Side> {
    let copied = copy_into(from, to, course).await;
    let may_have_gone = !matches!(copied, Err(Side::From));
    if may_have_gone && gone(to).await == Some(Gone::Closed) {
        empty(from);
        return Ok(());
    }
    copied
}

async fn copy_into(from: &TcpStream, to: &Tunnel, course: Course<'_>) -> Result<(), Side> {
    loop {
        let gone = poll_fn(|cx| match to.poll_gone(cx) {
            Poll::Ready(Gone::Reset) => Poll::Ready(Err(Side::To)),
            Poll::Ready(Gone::Closed) => Poll::Ready(Ok(true)),
            Poll::Pending => from
                .poll_read_ready(cx)
                .map_ok(|()| false)
                .map_err(|_| Side::From),
        });
        if gone.await? {
            return Ok(());
        }
        let room = poll_fn(|cx| to.poll_capacity(cx, READ)).await;
        let read = match read(from, room.map_err(|_| Side::To)?) {
            Ok(read) if read.is_empty() => {
                to.unreserve();
                course.ended()?;
                return to.finish().map_err(|_| Side::To);
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                to.unreserve();
                continue;
            }
            Err(_) => return Err(Side::From),
        };
        let count = read.len();
        to.send(read).map_err(|_| Side::To)?;
        to.unreserve();
        course.moved(count);
        tokio::task::coop::consume_budget().await;
    }
}

fn read(from: &TcpStream, room: usize) -> io::Result<Bytes> {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.capacity() < LEAST {
            buffer.reserve(READ);
        }
        let most = room.min(buffer.capacity());
        let count = from.try_read_buf(&mut bytes::BufMut::limit(&mut *buffer, most))?;
        Ok(if count < SMALL {
            let read = Bytes::copy_from_slice(buffer);
            buffer.clear();
            read
        } else {
            buffer.split().freeze()
        })
    })
}

/// From the tunnel into the socket, until the tunnel ends.
pub(super) async fn out_of_tunnel(
    from: &Tunnel,
    to: &TcpStream,
    course: Course<'_>,
) -> Result<(), Side> {
    loop {
        let mut chunks = ArrayVec::<Bytes, GATHERED>::new();
        let ended = poll_fn(|cx| {
            while !chunks.is_full() {
                match from.poll_chunk(cx) {
                    Poll::Ready(Ok(Some(chunk))) => chunks.push(chunk),
                    Poll::Ready(Ok(None)) => return Poll::Ready(Ok(true)),
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Side::From)),
                    Poll::Pending if chunks.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(false))
        })
        .await?;
        let count = write_all(from, to, &mut chunks).await?;
        from.consumed(count);
        course.moved(count);
        if ended {
            let ended = shut_down_write(to).map_err(|_| Side::To);
            if gone(from).await.is_some() {
                empty(to);
            }
            return ended;
        }
        tokio::task::coop::consume_budget().await;
    }
}

async fn write_all(
    from: &Tunnel,
    to: &TcpStream,
    chunks: &mut ArrayVec<Bytes, GATHERED>,
) -> Result<usize, Side> {
    let total = chunks.iter().map(Bytes::len).sum();
    let mut rest = total;
    while rest > 0 {
        let written = {
            let slices: ArrayVec<IoSlice<'_>, GATHERED> =
                chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
            to.try_write_vectored(&slices)
        };
        match written {
            Ok(written) => {
                rest -= written;
                advance(chunks, written);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let alone = poll_fn(|cx| match from.poll_gone(cx) {
                    Poll::Ready(Gone::Reset) => Poll::Ready(Err(Side::From)),
                    Poll::Ready(Gone::Closed) => Poll::Ready(Ok(true)),
                    Poll::Pending => to
                        .poll_write_ready(cx)
                        .map_ok(|()| false)
                        .map_err(|_| Side::To),
                });
                if alone.await? {
                    Box::pin(takes_more(to)).await?;
                }
            }
            Err(_) => return Err(Side::To),
        }
    }
    Ok(total)
}

/// Waits for a socket that nobody hears any more to take more: one that must be heard before it reads on
/// would stay as it is.
async fn takes_more(to: &TcpStream) -> Result<(), Side> {
    let takes = poll_fn(|cx| {
        while to.poll_read_ready(cx).is_ready() && discard(to) {}
        to.poll_write_ready(cx)
    });
    match tokio::time::timeout(ORPHANED, takes).await {
        Ok(takes) => takes.map_err(|_| Side::To),
        Err(_) => Err(Side::From),
    }
}

/// How the tunnel's peer left, if it has.
async fn gone(tunnel: &Tunnel) -> Option<Gone> {
    poll_fn(|cx| match tunnel.poll_gone(cx) {
        Poll::Ready(gone) => Poll::Ready(Some(gone)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Reads what is there before a socket is closed: with bytes unread closing resets it, and takes from
/// it what it has not read yet.
fn empty(from: &TcpStream) {
    let _ = (0..UNREAD).take_while(|_| discard(from)).count();
}

/// Reads a while and forgets it; whether there was something.
fn discard(from: &TcpStream) -> bool {
    read(from, READ).is_ok_and(|read| !read.is_empty())
}

fn advance(chunks: &mut ArrayVec<Bytes, GATHERED>, mut count: usize) {
    while count > 0 {
        let Some(first) = chunks.first_mut() else {
            return;
        };
        if count < first.len() {
            let _ = first.split_to(count);
            return;
        }
        count -= first.len();
        chunks.remove(0);
    }
}
