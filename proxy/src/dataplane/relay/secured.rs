//! Between a client's socket and an upstream by TLS: the end of either half is the end of that half
//! of the other, and an end without TLS's own farewell is a failure, since anyone on the way could
//! have made it. One that is cut has failed.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead as _, AsyncWrite as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{Buffer, Course, End, Limits, Meter, Side, carry, shut_down_write};
use crate::dataplane::secured::{Secured, Stream};
use crate::net::socket;

/// Relays until both sides have closed or one has failed.
pub(in crate::dataplane) async fn relay_secured(
    downstream: TcpStream,
    upstream: Secured,
    meter: &Meter,
    limits: Limits,
) -> End {
    let (up, down) = (
        encrypt(&downstream, &upstream, meter.up()),
        decrypt(&upstream, &downstream, meter.down()),
    );
    let end = carry(up, down, meter, limits, upstream.cut()).await;
    if end != End::Closed {
        socket::reset(downstream);
        upstream.reset();
    }
    match end {
        // To its client it is as if the server had reset it.
        End::Stopped => End::Upstream,
        end => end,
    }
}

async fn encrypt(from: &TcpStream, to: &Secured, course: Course<'_>) -> Result<(), Side> {
    loop {
        from.readable().await.map_err(|_| Side::From)?;
        let buffer = {
            let mut buffer = Buffer::take();
            match from.try_read(&mut buffer.0) {
                Ok(0) => {
                    course.ended()?;
                    break;
                }
                Ok(read) => (buffer, read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return Err(Side::From),
            }
        };
        let mut rest = &buffer.0.0[..buffer.1];
        while !rest.is_empty() {
            let written = poll_fn(|cx| to.poll(cx, |one, cx| one.poll_write(cx, rest))).await;
            match written {
                Ok(0) | Err(_) => return Err(Side::To),
                Ok(written) => rest = &rest[written..],
            }
        }
        poll_fn(|cx| to.poll(cx, TlsStream::poll_flush))
            .await
            .map_err(|_| Side::To)?;
        course.moved(buffer.1);
        // A pair that always has bytes ready must not keep the worker from everybody else.
        tokio::task::coop::consume_budget().await;
    }
    match poll_fn(|cx| to.poll(cx, TlsStream::poll_shutdown)).await {
        // The server was faster.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        done => done.map_err(|_| Side::To),
    }
}

async fn decrypt(from: &Secured, to: &TcpStream, course: Course<'_>) -> Result<(), Side> {
    loop {
        let read = poll_fn(|cx| from.poll(cx, |stream, cx| pass_on(stream, to, cx))).await;
        let count = read.map_err(|_| Side::From)??;
        if count == 0 {
            course.ended()?;
            return shut_down_write(to).map_err(|_| Side::To);
        }
        course.moved(count);
        tokio::task::coop::consume_budget().await;
    }
}

/// Passes on what was decrypted: how much, or that the client takes nothing more. Nothing is the end.
fn pass_on(
    mut from: Pin<&mut Stream>,
    to: &TcpStream,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Result<usize, Side>>> {
    let plain = ready!(from.as_mut().poll_fill_buf(cx))?;
    let written = loop {
        if plain.is_empty() {
            break 0;
        }
        match to.try_write(plain) {
            Ok(written) => break written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if ready!(to.poll_write_ready(cx)).is_err() {
                    return Poll::Ready(Ok(Err(Side::To)));
                }
            }
            Err(_) => return Poll::Ready(Ok(Err(Side::To))),
        }
    };
    from.consume(written);
    Poll::Ready(Ok(Ok(written)))
}
