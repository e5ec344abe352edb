//! Which protocol a connection speaks: what its port declares, otherwise what its first bytes say.
//!
//! On a port that declares nothing the TCP path is opened while the bytes are waited for, so that
//! a server which speaks first (SMTP, MySQL) is heard without delay. One of HTTP/2 may do so as well
//! (SETTINGS): then its client is waited for as ever. The bytes are peeked at, not taken, where it is not
//! certain who will serve the connection.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, Interest, Ready};
use tokio::net::TcpStream;

use super::connect::Outbound;
use super::error::Error;
use super::origin::Captured;
use super::outcome::Connection;
use super::pod::LocalPod;
use super::pool;
use super::relay::IDLE;
use super::resolve::Target;
use super::tcp::{self, Opening};
use super::upstream::Upstream;
use super::worker::Worker;
use crate::mesh::L4Kind;
use crate::types::{self, ResponseFlags};
use crate::wire::client_hello::{self, Asked, Hello};
use crate::wire::proxy_protocol::Ends;
use crate::wire::sniff::{LIMIT, Verdict, may_be_preface, sniff, sniff_strictly};

/// How long first bytes are waited for. It ends the waiting, not the connection, which is relayed
/// as opaque from then on.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How long a client may still show that it speaks HTTP (and be answered 503) after the endpoint of
/// its service has refused; then it is reset.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// Bytes of a first request that are read at once: the heads of most.
const FIRST: usize = 2048;

/// The version of HTTP that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// What is to be done with a connection.
pub(super) enum Protocol {
    /// Requests are read, of which some was read before.
    Http(Captured, Version, Vec<u8>),
    /// Bytes are relayed.
    Opaque(Box<Opening>),
}

/// Decides. `None`: the client is gone or was reset.
pub(super) async fn detect(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    mut captured: Captured,
    target: &Target,
) -> Option<Protocol> {
    let declared = target.protocol();
    if declared.is_http() {
        // The port says HTTP, the preface says which: clients of an `http` port may speak either.
        let (version, first) = tokio::select! {
            biased;
            opening = opening(&mut captured.stream) => opening?,
            () = worker.idlers.watch(&Rc::default()) => return None,
        };
        return Some(Protocol::Http(captured, version, first));
    }
    let destination = captured.destination;
    let mut log = Connection::begin(worker, captured.source, destination, tcp::cluster(target));
    if declared != types::Protocol::Auto {
        let mut captured = captured;
        if declared == types::Protocol::Tls {
            log.server_name = match asks_for_names(worker, pod, target) {
                true => {
                    let name = awaited_server_name(&captured.stream).await;
                    captured.stream = afresh(captured.stream).ok()?;
                    name
                }
                false if worker.logs() => server_name(&captured.stream),
                false => None,
            };
        }
        let name = log.server_name.as_deref();
        let upstream = tcp::dial(worker, pod, &captured, target, name).await;
        return Some(Protocol::Opaque(Box::new(Opening {
            captured,
            upstream,
            log,
        })));
    }
    let decision = undeclared(worker, pod, &captured, target).await;
    match decision {
        Decision::Http(version, early) => {
            log.discard();
            if let Some(outbound) = early.filter(|_| version == Version::Http1) {
                adopt(worker, pod, outbound, captured.ends());
            }
            Some(Protocol::Http(captured, version, Vec::new()))
        }
        Decision::Opaque(upstream) => {
            if worker.logs() {
                log.server_name = server_name(&captured.stream);
            }
            let captured = Captured {
                stream: afresh(captured.stream).ok()?,
                ..captured
            };
            log.upstream_host = upstream.as_ref().ok().and_then(|up| up.stream.peer_addr());
            Some(Protocol::Opaque(Box::new(Opening {
                captured,
                upstream,
                log,
            })))
        }
        Decision::Gone => {
            log.flags = ResponseFlags::DOWNSTREAM_CLOSED;
            None
        }
    }
}

/// What is looked for in a connection into a pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Requests, on a port that is declared so: HTTP, or nothing. `None`: whatever it carries, they are
    /// not read.
    pub(super) requests: Option<types::Protocol>,
    /// The server name of TLS.
    pub(super) name: bool,
    /// Whether the bytes would be allowed as such, so that the application may be dialled before they
    /// come, and whoever speaks first is heard. Nobody gains by being silent then.
    pub(super) early: bool,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Requests of this version of HTTP.
    Requests(Version),
    /// Bytes, and the server name of their TLS, where that was looked for: empty where there is none,
    /// `None` where it can't be told.
    Bytes(Option<String>),
}

/// Looks at the first bytes of a connection into a pod. Bytes that don't come in time are taken for
/// opaque ones, but where the port says HTTP.
///
/// # Errors
/// The client is gone, or was silent for too long.
pub(super) async fn arriving(stream: &TcpStream, wanted: Wanted) -> Result<Seen, Gone> {
    match wanted.requests {
        Some(declared) if declared.is_http() => {
            return match tokio::time::timeout(IDLE, version(stream)).await {
                Ok(Some(version)) => Ok(Seen::Requests(version)),
                Ok(None) | Err(_) => Err(Gone),
            };
        }
        Some(_) => {
            match tokio::time::timeout(wanted.patience(), verdict(stream, sniff_strictly)).await {
                Ok(Some(Verdict::Http1)) => return Ok(Seen::Requests(Version::Http1)),
                Ok(Some(Verdict::Http2)) => return Ok(Seen::Requests(Version::Http2)),
                Ok(Some(_)) => {}
                Err(_) => return Ok(Seen::Bytes(None)),
                Ok(None) => return Err(Gone),
            }
        }
        None => {}
    }
    if !wanted.name {
        return Ok(Seen::Bytes(None));
    }
    match tokio::time::timeout(PATIENCE, asked(stream)).await {
        Ok(Some(asked)) => Ok(Seen::of(asked)),
        Ok(None) => Err(Gone),
        Err(_) => Ok(Seen::Bytes(None)),
    }
}

impl Wanted {
    /// How long first bytes are waited for on a port that declares nothing.
    pub(super) fn patience(self) -> Duration {
        if self.early { IDLE } else { PATIENCE }
    }
}

impl Seen {
    /// Bytes that ask for a server so.
    pub(super) fn of(asked: Asked) -> Self {
        Self::Bytes(match asked {
            Asked::For(name) => Some(name),
            Asked::ForNobody => Some(String::new()),
            Asked::Unclear | Asked::More => None,
        })
    }
}

/// There is nobody to be served any more.
#[derive(Debug)]
pub(super) struct Gone;

/// What is spoken on a port that declares nothing, and what has come of the early dial.
enum Decision {
    Http(Version, Option<Outbound>),
    Opaque(Result<Outbound, Error>),
    Gone,
}

async fn undeclared(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    captured: &Captured,
    target: &Target,
) -> Decision {
    let mut verdict = std::pin::pin!(verdict(&captured.stream, sniff));
    let mut early = std::pin::pin!(tcp::dial(worker, pod, captured, target, None));
    let mut dialled = tokio::select! {
        biased;
        verdict = &mut verdict => return match verdict {
            // The early connection is not needed: HTTP is routed by its own rules.
            Some(Verdict::Http1) => Decision::Http(Version::Http1, None),
            Some(Verdict::Http2) => Decision::Http(Version::Http2, None),
            Some(_) => Decision::Opaque(early.await),
            None => Decision::Gone,
        },
        dialled = &mut early => dialled,
    };
    let verdict = match (&mut dialled, target) {
        (Ok(outbound), _) => tokio::select! {
            biased;
            verdict = &mut verdict => verdict,
            () = outbound.stream.speaks_first() => Some(Verdict::Opaque),
            () = tokio::time::sleep(PATIENCE) => Some(Verdict::Opaque),
        },
        // A client that speaks HTTP is answered by the HTTP engine, everyone else is reset.
        (Err(_), Target::Service(..)) => tokio::time::timeout(AFTER_FAILURE, verdict)
            .await
            .unwrap_or(Some(Verdict::Opaque)),
        (Err(_), Target::Address) => Some(Verdict::Opaque),
    };
    match verdict {
        Some(Verdict::Http1) => Decision::Http(Version::Http1, dialled.ok()),
        Some(Verdict::Http2) => Decision::Http(Version::Http2, dialled.ok()),
        Some(_) => Decision::Opaque(dialled),
        None => Decision::Gone,
    }
}

/// Gives an early connection that turned out not to be needed to the pool, where the next HTTP/1.1
/// request to that endpoint finds it.
fn adopt(worker: &Worker, pod: &LocalPod, outbound: Outbound, client: Ends) {
    let address: Option<SocketAddr> = outbound.stream.peer_addr();
    // TLS was begun for bytes, with the service's own name and no protocol agreed upon.
    if matches!(outbound.stream, Upstream::Secured(_)) {
        return;
    }
    if let (Some(address), Some((cluster, held))) = (address, outbound.held) {
        let place = (&*cluster, held);
        pool::adopt(worker, pod, place, address, outbound.stream, client);
    }
}

/// Reads the first of a client's requests, or a part of it, and tells which HTTP it speaks. `None`:
/// the client closed before it sent a byte.
async fn opening(stream: &mut TcpStream) -> Option<(Version, Vec<u8>)> {
    let mut first = Vec::with_capacity(FIRST);
    loop {
        // Not `try_read_buf`, after which the socket counts as readable although it is empty.
        match stream.read_buf(&mut first).await.ok()? {
            0 if first.is_empty() => return None,
            0 => return Some((Version::Http1, first)),
            _ => {}
        }
        match sniff(&first) {
            Verdict::Http2 => return Some((Version::Http2, first)),
            Verdict::More if may_be_preface(&first) => {}
            _ => return Some((Version::Http1, first)),
        }
    }
}

/// Which HTTP the first bytes speak. Whatever is not HTTP/2's preface is for the HTTP/1 parser to
/// judge. `None`: the client closed before it sent a byte.
async fn version(stream: &TcpStream) -> Option<Version> {
    let mut seen = [0; 24];
    loop {
        stream.readable().await.ok()?;
        let count = stream
            .peek(&mut seen)
            .await
            .ok()
            .filter(|count| *count > 0)?;
        match sniff(&seen[..count]) {
            Verdict::Http2 => return Some(Version::Http2),
            Verdict::More if may_be_preface(&seen[..count]) => {
                if more(stream).await.ok()?.is_read_closed() {
                    return Some(Version::Http1);
                }
            }
            _ => return Some(Version::Http1),
        }
    }
}

/// Waits until the first bytes tell what is spoken. `None`: the client was reset without a byte.
async fn verdict(stream: &TcpStream, sniff: fn(&[u8]) -> Verdict) -> Option<Verdict> {
    let mut seen = vec![0; LIMIT];
    let mut ended = false;
    loop {
        stream.readable().await.ok()?;
        // A client that closed its side may still want to hear the server: opaque.
        let verdict = match stream.peek(&mut seen).await.ok()? {
            0 => Verdict::Opaque,
            count => sniff(&seen[..count]),
        };
        match verdict {
            Verdict::More if ended => return Some(Verdict::Opaque),
            Verdict::More => ended = more(stream).await.ok()?.is_read_closed(),
            verdict => return Some(verdict),
        }
    }
}

/// The same socket with its readiness read anew: bytes that were waited on in vain (see [`more`])
/// would not be noticed otherwise.
pub(super) fn afresh(stream: TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(stream.into_std()?)
}

/// The name that a TLS client asks for, where its hello is there already: nobody waits for it.
fn server_name(stream: &TcpStream) -> Option<String> {
    let mut seen = vec![0; LIMIT];
    let count = stream.peek(&mut seen).now_or_never()?.ok()?;
    client_hello::server_name(&seen[..count])
}

/// Whether rules ask for the name that a TLS client asks for.
fn asks_for_names(worker: &Worker, pod: &LocalPod, target: &Target) -> bool {
    let snapshot = worker.snapshot();
    let pod = pod.pod();
    let table = target
        .port()
        .and_then(|port| snapshot.l4(port, &pod.workload.namespace));
    table.is_some_and(|table| table.kind == L4Kind::Tls)
}

/// The name that a TLS client asks for, waited for until its hello is complete.
async fn awaited_server_name(stream: &TcpStream) -> Option<String> {
    let hello = async {
        let mut seen = vec![0; client_hello::LIMIT];
        loop {
            stream.readable().await.ok()?;
            let count = stream.peek(&mut seen).await.ok()?;
            match client_hello::read(&seen[..count]) {
                Hello::Complete(name) => return name,
                Hello::Other => return None,
                Hello::More if count == 0 || count == seen.len() => return None,
                Hello::More if more(stream).await.ok()?.is_read_closed() => return None,
                Hello::More => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, hello).await.ok()?
}

/// Waits until the first bytes tell which server is asked for by name. `None`: the client was reset.
async fn asked(stream: &TcpStream) -> Option<Asked> {
    let mut seen = vec![0; client_hello::LIMIT];
    let mut ended = false;
    loop {
        stream.readable().await.ok()?;
        let count = stream.peek(&mut seen).await.ok()?;
        match client_hello::asked(&seen[..count], ended || count == 0) {
            Asked::More => ended = more(stream).await.ok()?.is_read_closed(),
            asked => return Some(asked),
        }
    }
}

/// Waits for bytes beyond those already there, or the end: peeking leaves the socket ready, so that
/// readiness has to be cleared by hand.
async fn more(stream: &TcpStream) -> io::Result<Ready> {
    let _ = stream.try_io(Interest::READABLE, || {
        Err::<(), _>(io::Error::from(io::ErrorKind::WouldBlock))
    });
    stream.ready(Interest::READABLE).await
}
