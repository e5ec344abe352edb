//! Moves bytes both ways between two sockets, a socket and a tunnel, or what else carries them:
//! half-closes pass as half-closes, resets as resets.
//!
//! Memory is taken only while bytes are under way: an idle connection holds no buffer.

mod course;
mod secured;
mod tunnelled;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf};
use tokio::net::TcpStream;

use self::course::{Course, Side};
pub(super) use self::course::{End, Meter};
pub(super) use self::secured::relay_secured;
use super::hbone::Tunnel;
use super::http::inbound::Abort;
use crate::mesh::cluster::Tcp;
use crate::net::socket;

/// One read's worth.
const BUFFER: usize = 64 * 1024;
/// Buffers that a worker keeps for the next connection that has something to say.
const KEPT: usize = 32;
/// How long the first bytes from a tunnel may be waited for before its application hears of the
/// connection.
const FIRST_BYTES: Duration = Duration::from_millis(1);
/// How long a side to which nothing can be written any more may take for what it has said before.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Envoy's default idle timeout of TCP connections.
pub(super) const IDLE: Duration = Duration::from_secs(3600);

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer on loan from the worker.
struct Buffer(Box<[u8]>);

impl Buffer {
    fn take() -> Self {
        let kept = BUFFERS.with_borrow_mut(Vec::pop);
        Self(kept.unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        BUFFERS.with_borrow_mut(|kept| {
            if kept.len() < KEPT {
                kept.push(buffer);
            }
        });
    }
}

/// How long a relay may go on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Without a byte; `None`: for ever.
    pub(super) idle: Option<Duration>,
    /// At all.
    pub(super) age: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Some(IDLE),
            age: None,
        }
    }
}

impl Limits {
    /// Those of a DestinationRule.
    pub(super) fn of(policy: &Tcp) -> Self {
        Self {
            idle: policy.idle_timeout,
            age: policy.max_connection_duration,
        }
    }
}

/// What leads to an upstream.
#[derive(Debug)]
pub(super) enum Wire {
    /// Bytes as they are.
    Socket(TcpStream),
    /// Bytes in a stream of HBONE.
    Tunnel(Tunnel),
}

impl From<TcpStream> for Wire {
    fn from(stream: TcpStream) -> Self {
        Self::Socket(stream)
    }
}

/// Relays until both sides have closed or one has failed.
pub(super) async fn relay(
    downstream: TcpStream,
    upstream: impl Into<Wire>,
    meter: &Meter,
    limits: Limits,
) -> End {
    relay_until(downstream, upstream, meter, limits, std::future::pending()).await
}

/// The same, and both sides are reset when `stop` resolves.
pub(super) async fn relay_until(
    downstream: TcpStream,
    upstream: impl Into<Wire>,
    meter: &Meter,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> End {
    match upstream.into() {
        Wire::Socket(upstream) => {
            let (up, down) = (
                copy(&downstream, &upstream, meter.up()),
                copy(&upstream, &downstream, meter.down()),
            );
            let end = carry(up, down, meter, limits, stop).await;
            if end != End::Closed {
                socket::reset(downstream);
                socket::reset(upstream);
            }
            end
        }
        Wire::Tunnel(upstream) => {
            let (up, down) = (
                tunnelled::into_tunnel(&downstream, &upstream, meter.up()),
                tunnelled::out_of_tunnel(&upstream, &downstream, meter.down()),
            );
            // On the heap: relays of two sockets stay small.
            let end = Box::pin(carry(up, down, meter, limits, stop)).await;
            if end != End::Closed {
                socket::reset(downstream);
                break_off(&upstream, end).await;
            }
            end
        }
    }
}

/// Relays what came by a tunnel to an application, which was dialled for the bytes to come.
pub(super) async fn relay_tunnel(
    downstream: Tunnel,
    upstream: TcpStream,
    meter: &Meter,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> End {
    let up = tunnelled::out_of_tunnel(&downstream, &upstream, meter.up());
    let down = async {
        let mut down = pin!(tunnelled::into_tunnel(&upstream, &downstream, meter.down()));
        tokio::select! {
            biased;
            ended = &mut down => return ended,
            () = tokio::time::sleep(FIRST_BYTES) => {}
        }
        // The application may be the one who speaks first, and has no connection before that.
        if meter.received.get() == 0 {
            socket::acknowledge(&upstream);
        }
        down.await
    };
    let end = carry(up, down, meter, limits, stop).await;
    if end != End::Closed {
        break_off(&downstream, end).await;
        socket::reset(upstream);
    }
    end
}

/// Resets a tunnel, once its connection has had a turn to send what was said before: a reset overtakes
/// what still waits.
async fn break_off(tunnel: &Tunnel, end: End) {
    if end != End::Stopped {
        tokio::task::yield_now().await;
    }
    tunnel.reset();
}

/// The same for streams of any other kind: nothing is saved here.
pub(super) async fn relay_streams<D, U>(
    mut downstream: D,
    mut upstream: U,
    meter: &Meter,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> End
where
    D: AsyncRead + AsyncWrite + Abort + Unpin,
    U: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let end = {
        let (from, to_downstream) = tokio::io::split(&mut downstream);
        let (back, to_upstream) = tokio::io::split(&mut upstream);
        let (up, down) = (
            pump(from, to_upstream, meter.up()),
            pump(back, to_downstream, meter.down()),
        );
        carry(up, down, meter, limits, stop).await
    };
    if end != End::Closed {
        downstream.abort();
        upstream.abort();
    }
    end
}

/// Runs both directions within the limits. A side that takes nothing more is heard to the end: it may
/// have answered before it reset.
async fn carry(
    up: impl Future<Output = Result<(), Side>>,
    down: impl Future<Output = Result<(), Side>>,
    meter: &Meter,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> End {
    let both = async {
        let (mut up, mut down) = (pin!(up), pin!(down));
        let (upward, ended) = tokio::select! {
            ended = &mut up => (true, ended),
            ended = &mut down => (false, ended),
        };
        let (end, lost) = match (upward, ended) {
            (true, Ok(())) => return down.await.err().map_or(End::Closed, Side::downward),
            (false, Ok(())) => return up.await.err().map_or(End::Closed, Side::upward),
            (true, Err(Side::To)) => (End::Upstream, &meter.upstream_lost),
            (false, Err(Side::To)) => (End::Downstream, &meter.client_lost),
            (true, Err(side)) => return side.upward(),
            (false, Err(side)) => return side.downward(),
        };
        lost.set(true);
        let rest = async {
            let _ = if upward { down.await } else { up.await };
        };
        let _ = tokio::time::timeout(LAST_WORDS, rest).await;
        end
    };
    tokio::select! {
        end = both => end,
        () = idle(meter, limits.idle) => End::Idle,
        () = after(limits.age) => End::Old,
        () = stop => End::Stopped,
    }
}

/// Resolves after `limit`, or never.
async fn after(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Resolves when `limit` has passed without a byte, an eighth of it late at most: looking from time
/// to time spares every byte a look at the clock.
async fn idle(meter: &Meter, limit: Option<Duration>) {
    const LOOKS: u32 = 8;
    let mut before = None;
    let mut quiet = 0;
    while quiet < LOOKS {
        after(limit.map(|limit| limit / LOOKS)).await;
        let now = Some((meter.received.get(), meter.sent.get()));
        quiet = if before == now { quiet + 1 } else { 0 };
        before = now;
    }
}

async fn copy(from: &TcpStream, to: &TcpStream, course: Course<'_>) -> Result<(), Side> {
    loop {
        from.readable().await.map_err(|_| Side::From)?;
        let mut buffer = Buffer::take();
        let read = match from.try_read(&mut buffer.0) {
            Ok(0) => {
                course.ended()?;
                return shut_down_write(to).map_err(|_| Side::To);
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(Side::From),
        };
        let mut rest = &buffer.0[..read];
        while !rest.is_empty() {
            match to.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    to.writable().await.map_err(|_| Side::To)?;
                }
                Err(_) => return Err(Side::To),
            }
        }
        course.moved(read);
        // A pair that always has bytes ready must not keep the worker from everybody else.
        tokio::task::coop::consume_budget().await;
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    course: Course<'_>,
) -> Result<(), Side> {
    loop {
        let read = poll_fn(|cx| {
            let mut buffer = Buffer::take();
            let mut read = ReadBuf::new(&mut buffer.0);
            ready!(Pin::new(&mut from).poll_read(cx, &mut read))?;
            let count = read.filled().len();
            Poll::Ready(io::Result::Ok((buffer, count)))
        });
        let (buffer, count) = read.await.map_err(|_| Side::From)?;
        if count == 0 {
            course.ended()?;
            return to.shutdown().await.map_err(|_| Side::To);
        }
        let written = to.write_all(&buffer.0[..count]).await;
        written.map_err(|_| Side::To)?;
        course.moved(count);
        tokio::task::coop::consume_budget().await;
    }
}

fn shut_down_write(stream: &TcpStream) -> io::Result<()> {
    match socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write) {
        // The peer was faster.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        done => done,
    }
}

/// Resolves when `stream` has something to read, an end or an error included.
pub(super) async fn speaks(stream: &TcpStream) {
    // An error is found again by whoever reads.
    let _ = stream.ready(Interest::READABLE).await;
}

#[cfg(test)]
mod tests;
