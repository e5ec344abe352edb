//! The HTTP engine: reads requests of one downstream connection and answers each, in reading
//! order: [`answer`] (the whole sequence) → [`entry`] (one unambiguous request, [`canonical`]) →
//! [`route`] → [`rewrite`] → [`forward`] (retries) → [`attempt`] → [`finish`] → [`body`].
//!
//! At the destination: [`inbound`] → [`entry`] → judged → the application → [`body`].
//!
//! hyper reads and writes HTTP; this module decides everything it leaves open.

mod admission;
mod answer;
mod attempt;
pub(super) mod body;
mod canonical;
pub(super) mod content;
mod deadline;
mod entry;
mod fields;
pub(super) mod finish;
mod forward;
mod headers;
pub(super) mod inbound;
mod message;
mod mirror;
mod reply;
mod rewrite;
mod route;
mod upgrade;
pub(super) mod upload;
mod variables;

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_local;

use self::body::ResponseBody;
use super::idle::Activity;
use super::origin::Captured;
use super::pod::LocalPod;
use super::protocol::Version;
use super::resolve::Target;
use super::worker::Worker;
use crate::mesh::Cluster;
use crate::net::begun::Begun;
use crate::net::gather::Gather;
use crate::net::linger::{HalfClose, Lingering};
use crate::types::Protocol;
use crate::wire::proxy_protocol::Ends;

/// Envoy's default bound of a header section, 60 KiB.
pub(super) const LIST_LIMIT: u32 = 60 * 1024;
/// hyper's read buffer: at 64 KiB a client that does not read costs 0.3 MB instead of 1.5 MB.
const READ_BUFFER: usize = 64 * 1024;
/// Streams that one HTTP/2 client may have open.
const STREAMS: u32 = 1024;
/// Bytes that a client may send ahead of the upstream, by stream and by connection. The h2 crate
/// also bounds the number of small unread DATA frames by a share of the latter.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// How long a client that was answered may still be sending (Envoy's `delayed_close_timeout`), and an
/// upstream that takes nothing more may take to be heard.
pub(super) const DELAYED_CLOSE: Duration = Duration::from_secs(1);
/// Bytes that may wait to be sent to a client, by stream.
const SEND_BUFFER: usize = 64 * 1024;

/// What every request of one downstream connection shares.
pub(super) struct Downstream {
    worker: Rc<Worker>,
    pod: Rc<LocalPod>,
    source: SocketAddr,
    destination: SocketAddr,
    target: Target,
    version: Version,
    /// Over HTTP/2: whether the connection has ended, and not only one of its streams.
    hung_up: Option<Rc<Cell<bool>>>,
    /// For when it changes its protocol.
    half_close: HalfClose,
    activity: Rc<Activity>,
}

impl Downstream {
    /// Whether a cluster is spoken to by HTTP/2. Its policy says what its endpoints are spoken to,
    /// otherwise its service's port; where neither says anything, or nothing is known (`unknown`), the
    /// client's own protocol is kept (Istio's protocol selection).
    fn speaks_http2(&self, cluster: &Cluster, unknown: bool) -> bool {
        let client = self.version == Version::Http2;
        if unknown || cluster.policy.http.use_client_protocol {
            return client;
        }
        match cluster.protocol {
            Protocol::Http2 | Protocol::Grpc => true,
            Protocol::Http => cluster.policy.http.upgrade,
            Protocol::Auto | Protocol::Tcp | Protocol::Tls => client || cluster.policy.http.upgrade,
        }
    }
}

/// Runs hyper's tasks on the worker's own thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalExecutor;

impl<F> Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// Reads requests and writes what `service` answers, until the connection ends. When `end` resolves
/// no more requests are taken, and those under way are finished. A client that is still sending when
/// it was answered is heard for [`DELAYED_CLOSE`] more, so that it hears the answer, unless
/// `half_close` was allowed.
async fn speak<I, S>(
    io: I,
    half_close: &HalfClose,
    version: Version,
    service: S,
    end: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible>,
    S::Future: 'static,
{
    let io = TokioIo::new(Lingering::new(io, DELAYED_CLOSE, half_close.clone()));
    match version {
        Version::Http1 => {
            let mut builder = http1::Builder::new();
            builder
                .half_close(false)
                .max_buf_size(READ_BUFFER)
                .max_header_size(LIST_LIMIT as usize);
            let mut connection = pin!(builder.serve_connection(io, service).with_upgrades());
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = end => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
        Version::Http2 => {
            let mut builder = http2::Builder::new(LocalExecutor);
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(LIST_LIMIT)
                .max_send_buf_size(SEND_BUFFER)
                .enable_connect_protocol();
            // On the heap: connections of HTTP/1.1 stay small.
            let mut connection = Box::pin(builder.serve_connection(io, service));
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = end => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    }
}

/// Serves the requests of a connection, of which some was read before, until it ends.
pub(super) async fn proxy(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    (captured, first): (Captured, Vec<u8>),
    target: Target,
    version: Version,
) {
    let Captured {
        stream,
        source,
        destination,
        mut permit,
    } = captured;
    // Upstream connections of HTTP count themselves: they come and go by request.
    permit.shrink(1);
    let downstream = Rc::new(Downstream {
        worker: Rc::clone(worker),
        pod: Rc::clone(pod),
        source,
        destination,
        target,
        version,
        hung_up: (version == Version::Http2).then(Rc::default),
        half_close: HalfClose::default(),
        activity: Rc::default(),
    });
    let service = {
        let downstream = Rc::clone(&downstream);
        service_fn(move |request: Request<Incoming>| {
            let downstream = Rc::clone(&downstream);
            let (parts, body) = request.into_parts();
            let parts = Box::new(parts);
            // On the heap, because hyper moves it about.
            Box::pin(async move {
                let _asked = downstream.activity.asked();
                let answer = answer::answer(Rc::clone(&downstream), parts, body).await;
                Ok::<_, Infallible>(answer)
            })
        })
    };
    let end = async {
        tokio::select! {
            () = pod.draining() => {}
            () = worker.idlers.watch(&downstream.activity) => {}
        }
    };
    let io = Gather(Begun::new(stream, first));
    let ended = speak(io, &downstream.half_close, version, service, end).await;
    pod.forget(Ends {
        source,
        destination,
    });
    if let Some(hung_up) = &downstream.hung_up {
        hung_up.set(true);
    }
    if let Err(error) = ended {
        if error.is_parse() {
            // hyper has answered 400, 414 or 431 by itself.
            worker.counters.downstream_rq_malformed.increment();
            reply::log_malformed(worker, (source, destination), version, &error);
        }
        tracing::debug!(%source, %destination, %error, "an HTTP connection ended");
    }
    drop(permit);
}
