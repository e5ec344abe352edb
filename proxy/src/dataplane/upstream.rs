//! What leads to an endpoint: a socket, a tunnel, or a connection inside the process. HTTP rides on
//! each alike.

use std::future::{pending, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt as _;
use send_wrapper::SendWrapper;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::channel::Channel;
use super::cluster::Local;
use super::error::Error;
use super::hbone::client::Behalf;
use super::hbone::{self, Failure, Place, Tunnel};
use super::pod::LocalPod;
use super::proxied::Posted;
use super::relay::speaks;
use super::secured::{self, Secured, Speech};
use super::within::{self, Connected, Within};
use super::worker::Worker;
use super::{connect, way};
use crate::mesh::cluster::Tcp;
use crate::net::socket;
use crate::wire::proxy_protocol::{Ends, Version};
use crate::wire::sniff::{FRAME_HEAD, is_settings};

/// A connection to an endpoint.
pub(super) enum Upstream {
    /// As it is: to whoever is not in the mesh.
    Socket(TcpStream),
    /// To a pod of this node.
    Within(TcpStream, Own<Within>),
    /// To the proxy's own side of a pod of this node that judges requests; its address.
    Judged(Channel, SocketAddr),
    /// To a pod of the mesh.
    Tunnel(Own<Tunnelled>),
    /// By TLS of the proxy's own, over any of the others.
    Secured(Own<Secured>),
    /// In the bodies of a request to an HTTP proxy, over any of the others.
    Posted(Own<Posted>),
}

/// What stays on the worker's thread. hyper asks of connections that may be upgraded that they could
/// go to another; these panic there, and never do.
pub(super) type Own<T> = SendWrapper<Box<T>>;

/// A tunnel with its place among others.
pub(super) struct Tunnelled {
    pub(super) tunnel: Tunnel,
    pub(super) place: Place,
    pub(super) to: SocketAddr,
}

/// Connects to an endpoint of a cluster, to say `speech` to it; for a `client`'s connection, where it
/// is for one alone.
pub(super) async fn connect(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    to: SocketAddr,
    cluster: &Local,
    speech: Speech<'_>,
    client: Option<Ends>,
) -> Result<Upstream, Error> {
    let policy = cluster.policy();
    let behalf = Behalf {
        port: client.map(|ends| ends.source.port()),
        cluster: &cluster.state.name,
    };
    let greeting = policy.proxy_protocol.map(|version| (version, client));
    match &policy.tls {
        None => transport(worker, pod, to, &policy.tcp, behalf, greeting).await,
        Some(settings) => {
            let asked = secured::Asked {
                cluster,
                settings,
                tcp: &policy.tcp,
                speech,
                behalf,
                greeting,
            };
            Box::pin(secured::connect(worker, pod, to, asked)).await
        }
    }
}

/// What an endpoint is told first: in which form, and of which client's connection.
pub(super) type Greeting = Option<(Version, Option<Ends>)>;

/// Connects in the way that leads there.
pub(super) async fn transport(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    to: SocketAddr,
    policy: &Tcp,
    behalf: Behalf<'_>,
    greeting: Greeting,
) -> Result<Upstream, Error> {
    let mut stream = lead(worker, pod, to, policy, behalf).await?;
    if let Some((version, client)) = greeting {
        let told = Box::pin(greet(&mut stream, version, client));
        let told = tokio::time::timeout(policy.connect_timeout, told).await;
        let told = told.unwrap_or(Err(Error::ConnectTimeout));
        told.inspect_err(|_| worker.counters.upstream_cx_connect_fail.increment())?;
    }
    Ok(stream)
}

/// Tells the endpoint whose connection it is, before the client says anything (Envoy).
async fn greet(stream: &mut Upstream, version: Version, client: Option<Ends>) -> Result<(), Error> {
    let header = match (client, stream.local_addr(), stream.peer_addr()) {
        (Some(ends), ..) => version.header(ends),
        (None, Some(source), Some(destination)) => version.of_nobody(Ends {
            source,
            destination,
        }),
        // Inside the process there is no address of the proxy's own.
        (None, ..) => Version::Two.of_nobody(Ends::NOBODY),
    };
    stream.write_all(&header).await.map_err(Error::Connect)
}

async fn lead(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    to: SocketAddr,
    policy: &Tcp,
    behalf: Behalf<'_>,
) -> Result<Upstream, Error> {
    match way::to(worker, pod, to)? {
        way::Way::Plain => {
            let stream = connect::upstream(worker, pod, to, policy).await?;
            Ok(Upstream::Socket(stream))
        }
        // On the heap: the futures of connections to strangers stay small.
        way::Way::Within(at) => {
            let connected =
                Box::pin(within::connect(worker, pod, &at, to, policy, behalf.port)).await;
            count(worker, &connected);
            Ok(match connected? {
                Connected::Bytes(stream, within) => Upstream::Within(stream, Own::new(within)),
                Connected::Requests(channel) => Upstream::Judged(channel, to),
            })
        }
        way::Way::Tunnel(expected) => {
            let opening = hbone::client::connect(worker, pod, to, expected, policy, behalf);
            let (tunnel, place) = Box::pin(opening).await?;
            let tunnelled = Tunnelled { tunnel, place, to };
            Ok(Upstream::Tunnel(Own::new(Box::new(tunnelled))))
        }
    }
}

/// A refusal counts as a failed connection; the dial to the application counts itself.
fn count<T>(worker: &Worker, connected: &Result<T, Error>) {
    if let Err(Error::Tunnel(Failure::Denied)) = connected {
        worker.counters.upstream_cx_connect_fail.increment();
    }
}

impl Upstream {
    /// The proxy's own end.
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(stream) | Self::Within(stream, _) => stream.local_addr().ok(),
            Self::Tunnel(tunnelled) => tunnelled.place.local(),
            Self::Judged(..) => None,
            Self::Secured(secured) => secured.over(Self::local_addr).flatten(),
            Self::Posted(posted) => posted.over().local_addr(),
        }
    }

    /// The endpoint.
    pub(super) fn peer_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(stream) | Self::Within(stream, _) => stream.peer_addr().ok(),
            Self::Tunnel(tunnelled) => Some(tunnelled.to),
            Self::Judged(_, to) => Some(*to),
            Self::Secured(secured) => secured.over(Self::peer_addr).flatten(),
            Self::Posted(posted) => posted.over().peer_addr(),
        }
    }

    /// Its end, when it comes, is a reset.
    pub(super) fn reset_on_close(&self) {
        match self {
            Self::Socket(stream) | Self::Within(stream, _) => socket::reset_on_close(stream),
            Self::Tunnel(tunnelled) => tunnelled.tunnel.reset(),
            // It resets where it is dropped.
            Self::Judged(..) => {}
            Self::Secured(secured) => {
                secured.over(Self::reset_on_close);
            }
            Self::Posted(posted) => posted.over().reset_on_close(),
        }
    }

    /// Resolves when there is something to read, an end or an error included.
    pub(super) async fn speaks(&mut self) {
        match self {
            Self::Socket(stream) => speaks(stream).await,
            Self::Within(stream, within) => tokio::select! {
                () = speaks(stream) => {}
                _ = within.revoked() => {}
            },
            Self::Tunnel(tunnelled) => tunnelled.tunnel.speaks().await,
            Self::Judged(channel, _) => channel.speaks().await,
            Self::Secured(secured) => secured.speaks().await,
            Self::Posted(posted) => posted.speaks().await,
        }
    }

    /// Resolves when it speaks before its client, and not as a server of HTTP/2 may, whose client is still
    /// to be heard; an end or an error included.
    pub(super) async fn speaks_first(&mut self) {
        self.speaks().await;
        if !self.begins_http2() {
            return;
        }
        tracing::debug!(upstream = ?self.peer_addr(), "a server of HTTP/2 speaks first");
        match self {
            Self::Within(_, within) => drop(within.revoked().await),
            Self::Secured(secured) => secured.cut().await,
            Self::Tunnel(tunnelled) => {
                poll_fn(|cx| tunnelled.tunnel.poll_gone(cx)).await;
            }
            _ => pending().await,
        }
    }

    /// Whether what it has said, and nobody has taken, is HTTP/2's SETTINGS.
    fn begins_http2(&self) -> bool {
        match self {
            Self::Socket(stream) | Self::Within(stream, _) => first_of(stream, is_settings),
            Self::Tunnel(tunnelled) => tunnelled.tunnel.begins(is_settings),
            Self::Secured(secured) => secured.begins(is_settings),
            // The other side of the first tells requests by itself.
            Self::Judged(..) | Self::Posted(_) => false,
        }
    }

    /// Looks once more whether there is something to read: a socket counts as readable from the last
    /// bytes on that it had, until somebody finds it empty.
    pub(super) fn look_again(&self) {
        if let Self::Socket(stream) | Self::Within(stream, _) = self {
            let _ = stream.peek(&mut [0]).now_or_never();
        }
    }

    /// Whether it is open and has said nothing.
    pub(super) fn is_silent(&mut self) -> bool {
        match self {
            Self::Socket(stream) | Self::Within(stream, _) => {
                let read = stream.try_read(&mut [0]);
                matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Tunnel(tunnelled) => tunnelled.tunnel.is_silent(),
            Self::Judged(channel, _) => channel.is_silent(),
            Self::Secured(secured) => secured.is_silent(),
            // Nobody keeps one for later.
            Self::Posted(_) => false,
        }
    }
}

impl AsyncRead for Upstream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Within(stream, within) => {
                if let Poll::Ready(denial) = within.poll_revoked(cx) {
                    if let Some(denial) = denial {
                        within.log.deny(&denial);
                    }
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                let before = buffer.filled().len();
                ready!(Pin::new(stream).poll_read(cx, buffer))?;
                let sent = &within.log.meter().sent;
                sent.set(sent.get() + (buffer.filled().len() - before) as u64);
                Poll::Ready(Ok(()))
            }
            Self::Tunnel(tunnelled) => tunnelled.tunnel.poll_read(cx, buffer),
            Self::Judged(channel, _) => Pin::new(channel).poll_read(cx, buffer),
            Self::Secured(secured) => secured.poll(cx, |one, cx| one.poll_read(cx, buffer)),
            Self::Posted(posted) => Pin::new(&mut ***posted).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Socket(stream) => write(stream, cx, slices),
            Self::Within(stream, within) => {
                let written = ready!(write(stream, cx, slices))?;
                let received = &within.log.meter().received;
                received.set(received.get() + written as u64);
                Poll::Ready(Ok(written))
            }
            Self::Tunnel(tunnelled) => tunnelled.tunnel.poll_write(cx, slices),
            Self::Judged(channel, _) => Pin::new(channel).poll_write_vectored(cx, slices),
            Self::Secured(secured) => {
                secured.poll(cx, |one, cx| one.poll_write_vectored(cx, slices))
            }
            Self::Posted(posted) => Pin::new(&mut ***posted).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Secured(secured) => secured.poll(cx, TlsStream::poll_flush),
            Self::Posted(posted) => Pin::new(&mut ***posted).poll_flush(cx),
            // The others hold nothing back.
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(stream) | Self::Within(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Tunnel(tunnelled) => Poll::Ready(tunnelled.tunnel.finish()),
            Self::Judged(channel, _) => Pin::new(channel).poll_shutdown(cx),
            Self::Secured(secured) => secured.poll(cx, TlsStream::poll_shutdown),
            Self::Posted(posted) => Pin::new(&mut ***posted).poll_shutdown(cx),
        }
    }
}

/// Whether the bytes at hand begin so. Not where there is an end: a look at a reset would take it away
/// from whoever reads.
fn first_of(stream: &TcpStream, so: fn(&[u8]) -> bool) -> bool {
    let ready = stream.ready(Interest::READABLE).now_or_never();
    if !matches!(ready, Some(Ok(ready)) if !ready.is_read_closed()) {
        return false;
    }
    let mut first = [0; FRAME_HEAD];
    let peeked = stream.peek(&mut first).now_or_never();
    matches!(peeked, Some(Ok(count)) if so(&first[..count]))
}

/// One piece is a `send`, which the kernel serves more quickly than a `writev`.
fn write(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    match slices {
        [only] => Pin::new(stream).poll_write(cx, only),
        _ => Pin::new(stream).poll_write_vectored(cx, slices),
    }
}
