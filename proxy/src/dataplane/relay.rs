//! Moves bytes both ways between two sockets: half-closes pass as half-closes, resets as resets.
//!
//! Memory is taken only while bytes are under way: an idle connection holds no buffer.

use std::cell::{Cell, RefCell};
use std::io;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::mesh::cluster::Tcp;
use crate::net::socket;

/// One read's worth.
const BUFFER: usize = 64 * 1024;
/// Buffers that a worker keeps for the next connection that has something to say.
const KEPT: usize = 32;
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

/// Bytes moved so far; readable while the relay runs.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// From the client to the upstream.
    pub received: Cell<u64>,
    /// From the upstream to the client.
    pub sent: Cell<u64>,
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides closed in order.
    Closed,
    /// The client's side failed; the upstream was reset.
    Downstream,
    /// The upstream's side failed; the client was reset.
    Upstream,
    /// Nothing moved for too long.
    Idle,
    /// It has lasted as long as it may.
    Old,
    /// Whoever watches over it ended it.
    Stopped,
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

/// Relays until both sides have closed or one has failed.
pub(super) async fn relay(
    downstream: TcpStream,
    upstream: TcpStream,
    meter: &Meter,
    limits: Limits,
) -> End {
    relay_until(downstream, upstream, meter, limits, std::future::pending()).await
}

/// The same, and both sides are reset when `stop` resolves.
pub(super) async fn relay_until(
    downstream: TcpStream,
    upstream: TcpStream,
    meter: &Meter,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> End {
    let end = {
        let up = copy(&downstream, &upstream, &meter.received);
        let down = copy(&upstream, &downstream, &meter.sent);
        let both = async {
            tokio::try_join!(
                async {
                    up.await
                        .map_err(|side| side.of(End::Downstream, End::Upstream))
                },
                async {
                    down.await
                        .map_err(|side| side.of(End::Upstream, End::Downstream))
                },
            )
        };
        tokio::select! {
            both = both => both.err().unwrap_or(End::Closed),
            () = idle(meter, limits.idle) => End::Idle,
            () = after(limits.age) => End::Old,
            () = stop => End::Stopped,
        }
    };
    if end != End::Closed {
        socket::reset(downstream);
        socket::reset(upstream);
    }
    end
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

/// Which end of a copy failed.
enum Side {
    From,
    To,
}

impl Side {
    fn of(self, from: End, to: End) -> End {
        match self {
            Self::From => from,
            Self::To => to,
        }
    }
}

async fn copy(from: &TcpStream, to: &TcpStream, moved: &Cell<u64>) -> Result<(), Side> {
    loop {
        from.readable().await.map_err(|_| Side::From)?;
        let mut buffer = Buffer::take();
        let read = match from.try_read(&mut buffer.0) {
            Ok(0) => {
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
        moved.set(moved.get() + read as u64);
        // A pair that always has bytes ready must not keep the worker from everybody else.
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
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.expect("connected"), far.expect("accepted").0)
    }

    /// A relay under test: the client's end, the server's end, and how it ended.
    async fn relayed(play: impl AsyncFnOnce(TcpStream, TcpStream)) -> (End, u64, u64) {
        let (client, downstream) = pair().await;
        let (upstream, server) = pair().await;
        let meter = Meter::default();
        let (end, ()) = tokio::join!(
            relay(downstream, upstream, &meter, Limits::default()),
            play(client, server)
        );
        (end, meter.received.get(), meter.sent.get())
    }

    #[tokio::test]
    async fn a_half_close_leaves_the_other_direction_open() {
        let outcome = relayed(async |mut client, mut server| {
            client.write_all(b"question").await.expect("sent");
            client.shutdown().await.expect("half-closed");
            let mut question = String::new();
            server.read_to_string(&mut question).await.expect("an end");
            assert_eq!(question, "question");
            server
                .write_all(b"a long answer")
                .await
                .expect("still open");
            drop(server);
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("an end");
            assert_eq!(answer, "a long answer");
        })
        .await;
        assert_eq!(outcome, (End::Closed, 8, 13));
    }

    #[tokio::test]
    async fn a_reset_is_passed_on_as_a_reset() {
        for upstream_resets in [true, false] {
            let (end, ..) = relayed(async |client, server| {
                let (resetting, mut other) = if upstream_resets {
                    (server, client)
                } else {
                    (client, server)
                };
                socket::reset(resetting);
                let error = other.read(&mut [0]).await.expect_err("a reset and no end");
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            })
            .await;
            assert_eq!(
                end,
                if upstream_resets {
                    End::Upstream
                } else {
                    End::Downstream
                }
            );
        }
    }

    #[tokio::test]
    async fn a_side_that_does_not_read_holds_the_other_back() {
        const TOTAL: usize = 32 << 20;
        let (end, received, _) = relayed(async |client, mut server| {
            // Until the sockets on the way are full nothing is read: then the client must wait.
            let block = vec![7; 1 << 16];
            let mut written = 0;
            while let Ok(Ok(())) =
                tokio::time::timeout(Duration::from_millis(200), client.writable()).await
            {
                match client.try_write(&block) {
                    Ok(count) => written += count,
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
            assert!(written < TOTAL, "{written} bytes went nowhere");
            let mut client = client;
            let rest = async {
                client
                    .write_all(&vec![7; TOTAL - written])
                    .await
                    .expect("sent");
                client.shutdown().await.expect("closed");
            };
            let all = async {
                let mut all = Vec::new();
                server.read_to_end(&mut all).await.expect("an end");
                assert!(all.len() == TOTAL && all.iter().all(|byte| *byte == 7));
                drop(server);
            };
            tokio::join!(rest, all);
        })
        .await;
        assert_eq!((end, received), (End::Closed, TOTAL as u64));
    }
}
