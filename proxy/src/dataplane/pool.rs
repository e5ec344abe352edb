//! Upstream HTTP connections of one local pod: kept open, used again, closed with the pod.
//!
//! Keyed by address within a pod: connections of two pods are never shared, since address,
//! NetworkPolicy and life are the pod's own.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use super::connect;
use super::error::Error;
use super::http::body::RequestBody;
use super::http::{LIST_LIMIT, LocalExecutor};
use super::pod::LocalPod;
use super::worker::{self, Worker};
use crate::clock;
use crate::net::descriptors::Permit;

/// Envoy's default idle timeout of upstream connections.
const IDLE: Duration = Duration::from_secs(3600);
/// hyper's read buffer. It grows as far as an upstream fills it: an answer of 64 KiB is one read. A
/// client that does not read costs about three times as much.
const READ_BUFFER: usize = 128 * 1024;
/// Bytes that may wait to be sent on one HTTP/2 stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of one HTTP/2 stream, and of a connection, that may be under way to us unread.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// A connection that carries one request at a time.
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<RequestBody>,
    /// Bytes read from the upstream so far.
    pub(super) read: Arc<AtomicU64>,
    pub(super) local: Option<SocketAddr>,
    /// Whether it has carried a request before.
    pub(super) reused: bool,
}

impl Http1 {
    /// Whether it can take a request, once that is certain.
    async fn ready(&mut self) -> bool {
        self.sender.is_ready() || self.sender.ready().await.is_ok()
    }
}

/// A connection that carries many.
#[derive(Clone)]
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<RequestBody>,
    pub(super) local: Option<SocketAddr>,
    _permit: Rc<Option<Permit>>,
}

struct Idle {
    connection: Http1,
    since: Instant,
    _permit: Permit,
}

/// A pod's connections.
#[derive(Default)]
pub(super) struct Pools {
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>, RandomState>>,
    shared: RefCell<HashMap<SocketAddr, Rc<OnceCell<Http2>>>>,
    /// Connections opened early for a request that went elsewhere.
    spare: RefCell<HashMap<SocketAddr, (TcpStream, Instant)>>,
    closed: Cell<bool>,
}

/// A connection on its way back to its pool.
pub(super) struct Returning {
    pub(super) pod: Rc<LocalPod>,
    pub(super) address: SocketAddr,
    pub(super) connection: Http1,
}

impl Returning {
    /// Keeps the connection for the next request, where it is open and there is room.
    pub(super) fn put_back(self, worker: &Worker) {
        let pools = &self.pod.pools;
        if pools.closed.get() || self.connection.sender.is_closed() {
            return;
        }
        let Some(permit) = worker.descriptors.take(1) else {
            return;
        };
        let connection = Http1 {
            reused: true,
            ..self.connection
        };
        let idle = Idle {
            connection,
            since: clock::now(),
            _permit: permit,
        };
        pools
            .idle
            .borrow_mut()
            .entry(self.address)
            .or_default()
            .push(idle);
    }
}

impl Pools {
    /// The most recently used connection to `address` that is still open. Its last answer is
    /// complete, but it may have to be polled once more before it is [`Http1::ready`].
    pub(super) fn take(&self, address: SocketAddr) -> Option<Http1> {
        let mut pools = self.idle.borrow_mut();
        let idle = pools.get_mut(&address)?;
        while let Some(last) = idle.pop() {
            if !last.connection.sender.is_closed() {
                return Some(last.connection);
            }
        }
        None
    }

    /// Closes everything, now and from now on.
    pub(super) fn clear(&self) {
        self.closed.set(true);
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
        self.spare.borrow_mut().clear();
    }

    /// Closes what was idle for too long, or was closed by its peer.
    pub(super) fn sweep(&self, now: Instant) {
        let old = |since: Instant| now.duration_since(since) >= IDLE;
        self.idle.borrow_mut().retain(|_, idle| {
            idle.retain(|idle| !old(idle.since) && !idle.connection.sender.is_closed());
            !idle.is_empty()
        });
        self.spare.borrow_mut().retain(|_, (_, since)| !old(*since));
        self.shared.borrow_mut().retain(|_, shared| {
            // One that is still being opened has no value yet.
            shared
                .get()
                .is_none_or(|connection| !connection.sender.is_closed())
        });
    }

    /// Takes a connection that was opened before it was known what it would be for, where none is
    /// waiting already: one early dial a client's connection must not add up. Otherwise it is closed.
    pub(super) fn adopt(&self, address: SocketAddr, stream: TcpStream) {
        let waiting = self
            .idle
            .borrow()
            .get(&address)
            .is_some_and(|idle| !idle.is_empty());
        if !self.closed.get() && !waiting {
            self.spare
                .borrow_mut()
                .entry(address)
                .or_insert((stream, clock::now()));
        }
    }

    fn spare(&self, address: SocketAddr) -> Option<TcpStream> {
        let (stream, _) = self.spare.borrow_mut().remove(&address)?;
        // It may have been closed since: a read tells.
        let mut byte = [0];
        let read = stream.try_read(&mut byte);
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock).then_some(stream)
    }
}

/// A connection to `address`: one that is open and idle, or a new one.
pub(super) async fn http1(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    address: SocketAddr,
) -> Result<Http1, Error> {
    while let Some(mut connection) = pod.pools.take(address) {
        if connection.ready().await {
            return Ok(connection);
        }
    }
    open_http1(worker, pod, address).await
}

/// Opens an HTTP/1.1 connection to `address`.
pub(super) async fn open_http1(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    address: SocketAddr,
) -> Result<Http1, Error> {
    let stream = match pod.pools.spare(address) {
        Some(stream) => stream,
        None => connect::upstream(worker, pod, address).await?,
    };
    let local = stream.local_addr().ok();
    let read = Arc::new(AtomicU64::new(0));
    let metered = Metered {
        stream,
        read: Arc::clone(&read),
    };
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(READ_BUFFER)
        .allow_obsolete_multiline_headers_in_responses(true)
        .handshake(TokioIo::new(metered))
        .await
        .map_err(|_| Error::Closed)?;
    worker::spawn(worker, pod, async move {
        // Its error is told to whoever waits for an answer on it.
        let _ = connection.with_upgrades().await;
    });
    Ok(Http1 {
        sender,
        read,
        local,
        reused: false,
    })
}

/// The HTTP/2 connection to `address`: the one that is open, or a new one that everybody who asks
/// meanwhile waits for.
pub(super) async fn http2(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    address: SocketAddr,
) -> Result<Http2, Error> {
    let cell = {
        let mut shared = pod.pools.shared.borrow_mut();
        let cell = shared.entry(address).or_default();
        if cell
            .get()
            .is_some_and(|connection| connection.sender.is_closed())
        {
            *cell = Rc::default();
        }
        Rc::clone(cell)
    };
    cell.get_or_try_init(|| open_http2(worker, pod, address))
        .await
        .cloned()
}

async fn open_http2(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    address: SocketAddr,
) -> Result<Http2, Error> {
    let stream = connect::upstream(worker, pod, address).await?;
    let local = stream.local_addr().ok();
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(LIST_LIMIT)
        .max_send_buf_size(SEND_BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Error::Closed)?;
    worker::spawn(worker, pod, async move {
        let _ = connection.await;
    });
    let permit = Rc::new(worker.descriptors.take(1));
    Ok(Http2 {
        sender,
        local,
        _permit: permit,
    })
}

/// A socket that counts what it reads: whether an upstream answered a single byte decides whether a
/// request may be sent again.
struct Metered {
    stream: TcpStream,
    read: Arc<AtomicU64>,
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
        if count > 0 {
            self.read.fetch_add(count as u64, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn early_connections_do_not_add_up() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let dial = async || TcpStream::connect(address).await.expect("connected");
        let pools = Pools::default();
        let first = dial().await;
        let name = first.local_addr().expect("an address");
        pools.adopt(address, first);
        pools.adopt(address, dial().await);
        assert_eq!(pools.spare.borrow().len(), 1);
        let spare = pools.spare(address).expect("the first");
        assert_eq!(spare.local_addr().expect("an address"), name);
        assert!(pools.spare(address).is_none());

        pools.adopt(address, spare);
        let (accepted, _) = listener.accept().await.expect("accepted");
        drop(accepted);
        let waiting = pools.spare.borrow().get(&address).map(|(stream, _)| {
            socket2::SockRef::from(stream)
                .try_clone()
                .expect("another handle")
        });
        let waiting = TcpStream::from_std(waiting.expect("a spare").into()).expect("a stream");
        waiting.readable().await.expect("the end is there");
        assert!(pools.spare(address).is_none(), "closed by its peer");

        pools.clear();
        pools.adopt(address, dial().await);
        assert!(pools.spare(address).is_none(), "the pod is gone");
    }
}
