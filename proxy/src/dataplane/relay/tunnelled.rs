//! Copying between a socket and a tunnel.
//!
//! What is read from the socket becomes the tunnel's frames, and what the tunnel has is written to the
//! socket, without a copy in between. Nothing is read that could not go on at once.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::Poll;

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
/// Frames that are written to the socket at once.
const GATHERED: usize = 16;

thread_local! {
    /// Where a worker reads into. Its allocation is used again once nobody has a part of it.
    static BUFFER: RefCell<BytesMut> = RefCell::default();
}

/// From the socket into the tunnel, until the socket ends.
pub(super) async fn into_tunnel(
    from: &TcpStream,
    to: &Tunnel,
    course: Course<'_>,
) -> Result<(), Side> {
    loop {
        let gone = poll_fn(|cx| match to.poll_gone(cx) {
            Poll::Ready(Gone::Reset) => Poll::Ready(Err(Side::To)),
            Poll::Ready(Gone::Closed) => Poll::Ready(Ok(true)),
            Poll::Pending => from
                .poll_read_ready(cx)
                .map_ok(|()| false)
                .map_err(|_| Side::From),
        });
        // Then the socket is closed too: whoever sends on is reset by the kernel.
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
            let gone = poll_fn(|cx| Poll::Ready(from.poll_gone(cx)));
            if gone.await.is_ready() {
                // With bytes unread, closing would take from the socket what it has not read yet.
                let _ = (0..GATHERED).take_while(|_| discard(to)).count();
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
                poll_fn(|cx| {
                    match from.poll_gone(cx) {
                        Poll::Ready(Gone::Reset) => return Poll::Ready(Err(Side::From)),
                        // Nobody hears the socket any more. One that must be heard before it reads
                        // on would stay as it is for ever.
                        Poll::Ready(Gone::Closed) => {
                            while to.poll_read_ready(cx).is_ready() && discard(to) {}
                        }
                        Poll::Pending => {}
                    }
                    to.poll_write_ready(cx).map_err(|_| Side::To)
                })
                .await?;
            }
            Err(_) => return Err(Side::To),
        }
    }
    Ok(total)
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
