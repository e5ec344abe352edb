//! An HTTP server, 1.1 and 2 on one port, that answers with what it saw. Tests that want something
//! else hand in an answer of their own.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Frame, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::lab::Pod;

/// The body of an answer.
pub type Body = BoxBody<Bytes, std::io::Error>;
/// An answer in the making.
pub type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// One request, with the connection it came on.
#[derive(Debug)]
pub struct Call {
    /// The request; its body not yet read.
    pub request: Request<Incoming>,
    /// Who connected.
    pub peer: SocketAddr,
    /// To which address.
    pub local: SocketAddr,
}

/// A running server. Ends on drop, with its connections.
#[derive(Debug)]
pub struct Echo {
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
}

impl Echo {
    /// An echo called `name` on `port` of all of the pod's addresses.
    pub fn start(pod: &Pod, port: u16, name: &str) -> Result<Self> {
        let name = name.to_owned();
        Self::answering(pod, port, move |call| Box::pin(echo(name.clone(), call)))
    }

    /// A server on `port` of all of the pod's addresses that answers what `answer` makes.
    pub fn answering(
        pod: &Pod,
        port: u16,
        answer: impl Fn(Call) -> Answer + Clone + Send + Sync + 'static,
    ) -> Result<Self> {
        // `::` takes IPv4 as well.
        Ok(Self::on(
            pod.netns.listen(SocketAddr::from(([0u16; 8], port)))?,
            answer,
        ))
    }

    /// A server on `port` that answers `first`, then `end`, but where the path begins with `/endless`:
    /// there the end never comes.
    pub fn endless(pod: &Pod, port: u16) -> Result<Self> {
        Self::answering(pod, port, move |call| {
            let endless = call.request.uri().path().starts_with("/endless");
            Box::pin(async move {
                let rest = stream::once(async move {
                    if endless {
                        std::future::pending::<()>().await;
                    }
                    Ok(Frame::data("end".into()))
                });
                let first = stream::once(async { Ok(Frame::data("first".into())) });
                Response::new(BodyExt::boxed(StreamBody::new(first.chain(rest))))
            })
        })
    }

    /// A server on `listener`.
    pub fn on(
        listener: TcpListener,
        answer: impl Fn(Call) -> Answer + Clone + Send + Sync + 'static,
    ) -> Self {
        let counts = Arc::new(Counts::default());
        let task = tokio::spawn(serve(listener, counts.clone(), answer));
        Self { counts, task }
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// How many requests it has seen the head of.
    pub fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::Relaxed)
    }

    /// Serves until the task is ended from outside.
    pub async fn join(mut self) {
        let _ = (&mut self.task).await;
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    counts: Arc<Counts>,
    answer: impl Fn(Call) -> Answer + Clone + Send + Sync + 'static,
) {
    // Connections end with the set, and the set with this task.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, peer)) = accepted else {
            continue;
        };
        counts.connections.fetch_add(1, Ordering::Relaxed);
        let Ok(local) = stream.local_addr() else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (answer, counts) = (answer.clone(), counts.clone());
        let service = service_fn(move |request| {
            counts.requests.fetch_add(1, Ordering::Relaxed);
            let (peer, local) = (plain(peer), plain(local));
            let answer = answer(Call {
                request,
                peer,
                local,
            });
            async move { Ok::<_, Infallible>(answer.await) }
        });
        connections.spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            // A peer that goes away is no business of the server's.
            let _ = server
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// An IPv4 address as such, where the socket shows it inside an IPv6 one.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Reads the request and tells what it was. `/status/N` answers with that status, `/bytes/N` with
/// that many bytes instead.
pub async fn echo(name: String, call: Call) -> Response<Body> {
    let (head, body) = call.request.into_parts();
    let Ok(body) = body.collect().await else {
        return respond(
            StatusCode::BAD_REQUEST,
            Bytes::from_static(b"the body broke off"),
        );
    };
    let trailers = body.trailers().cloned().unwrap_or_default();
    let seen = json!({
        "server": name,
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "host": head.uri.authority().map(ToString::to_string),
        "version": format!("{:?}", head.version),
        "peer": call.peer.to_string(),
        "local": call.local.to_string(),
        "headers": pairs(&head.headers),
        "trailers": pairs(&trailers),
        "body_bytes": body.to_bytes().len(),
    });
    let path = head.uri.path();
    let number = |prefix: &str| {
        path.strip_prefix(prefix)
            .and_then(|n| n.parse::<usize>().ok())
    };
    if let Some(count) = number("/bytes/") {
        return respond(StatusCode::OK, Bytes::from(vec![b'x'; count]));
    }
    let status = number("/status/").and_then(|n| StatusCode::from_u16(n.try_into().ok()?).ok());
    let mut response = respond(status.unwrap_or(StatusCode::OK), seen.to_string().into());
    if let Ok(name) = http::HeaderValue::from_str(&name) {
        response.headers_mut().insert("x-server", name);
    }
    response
}

/// A whole response.
pub fn respond(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response
}

fn pairs(headers: &HeaderMap) -> Value {
    let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())])
    };
    headers.iter().map(pair).collect()
}
