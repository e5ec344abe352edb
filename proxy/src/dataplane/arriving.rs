//! What becomes of a connection into a pod that came without a socket of its own, by HBONE or from a
//! pod of this node, where the pod's policies ask about requests: looked at, then judged request by
//! request, or as the bytes that it is.
//!
//! Nothing is dialled, and nothing of the application's reaches the caller, before it is known what
//! may: a connection comes here only where its bytes as such would not be allowed, or where a policy
//! on trial wants to be told.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::authorize::{Admitted, Unseen};
use super::connect;
use super::http::inbound::{self, Abort, Arriving};
use super::outcome::Connection;
use super::pod::LocalPod;
use super::protocol::{Gone, PATIENCE, Version};
use super::relay::{End, IDLE, Meter};
use super::worker::Worker;
use crate::policy::authorization::Denial;
use crate::types::{Protocol, ResponseFlags};
use crate::wire::sniff::{Verdict, sniff};

/// A caller's stream whose first bytes can be looked at, and are read again by whoever serves it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Abort + Unpin + Send + 'static {
    /// What has come so far, once it is more than `seen` bytes; as many where no more will come.
    fn poll_first(&mut self, cx: &mut Context<'_>, seen: usize) -> Poll<std::io::Result<Bytes>>;

    /// Relays to the application until both have ended, or until `stop` resolves.
    fn relay(
        self,
        application: TcpStream,
        meter: &Meter,
        stop: impl Future<Output = ()>,
    ) -> impl Future<Output = End>;
}

/// A connection whose requests, if it has any, are judged each by itself.
pub(super) struct Met {
    pub(super) unseen: Unseen,
    /// The line of a connection that turns out to carry no requests.
    pub(super) log: Connection,
    /// What the application is told about the caller's certificate.
    pub(super) certificate: Option<HeaderValue>,
    /// Whether it came encrypted.
    pub(super) encrypted: bool,
}

/// Serves it to its end.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    mut stream: impl Stream,
    met: Met,
) {
    let Met {
        unseen,
        mut log,
        certificate,
        encrypted,
    } = met;
    let seen = tokio::select! {
        seen = spoken(&mut stream, unseen.declared()) => seen,
        denial = unseen.revoked() => return refuse(stream, &denial, &mut log),
    };
    match seen {
        Ok(Some(version)) => {
            log.discard();
            let arriving = Arriving {
                admitted: unseen.requests(),
                version,
                certificate,
                encrypted,
                application: None,
            };
            inbound::serve(worker, pod, stream, arriving).await;
        }
        Ok(None) => match unseen.bytes(worker) {
            Ok(admitted) => carry(worker, pod, stream, &admitted, &mut log).await,
            Err(denial) => refuse(stream, &denial, &mut log),
        },
        Err(Gone) => log.flags = ResponseFlags::DOWNSTREAM_CLOSED,
    }
}

fn refuse(mut stream: impl Stream, denial: &Denial, log: &mut Connection) {
    tracing::debug!(source = %log.source, %denial, "refused");
    log.deny(denial);
    stream.abort();
}

/// Relays for as long as the caller is allowed to.
async fn carry(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    mut stream: impl Stream,
    admitted: &Admitted,
    log: &mut Connection,
) {
    let (source, destination): (SocketAddr, SocketAddr) =
        (admitted.arrival().source, admitted.arrival().destination);
    let dialled = tokio::select! {
        dialled = connect::application(worker, pod, source, destination) => dialled,
        denial = admitted.revoked() => return refuse(stream, &denial, log),
    };
    let application = match dialled {
        Ok(application) => application,
        Err(error) => {
            tracing::debug!(%source, %destination, %error, "not connected: the caller is reset");
            log.fail(&error);
            stream.abort();
            return;
        }
    };
    log.upstream_local = application.local_addr().ok();
    let mut denial = None;
    let revoked = async { denial = Some(admitted.revoked().await) };
    let end = stream.relay(application, log.meter(), revoked).await;
    log.ended(end, denial.as_ref());
}

/// Which version of HTTP a stream speaks whose port is `declared` so; `None`: none. As
/// [`super::protocol::arriving`] has it of a socket.
async fn spoken(stream: &mut impl Stream, declared: Protocol) -> Result<Option<Version>, Gone> {
    let declared = declared.is_http();
    let limit = if declared { IDLE } else { PATIENCE };
    match tokio::time::timeout(limit, first(stream, declared)).await {
        Ok(seen) => seen,
        Err(_) if declared => Err(Gone),
        Err(_) => Ok(None),
    }
}

/// The same, without a limit of time. `declared`: it is HTTP, whatever it looks like.
async fn first(stream: &mut impl Stream, declared: bool) -> Result<Option<Version>, Gone> {
    let mut seen = 0;
    loop {
        let bytes = poll_fn(|cx| stream.poll_first(cx, seen)).await;
        let bytes = bytes.map_err(|_| Gone)?;
        let ended = bytes.len() <= seen;
        seen = bytes.len();
        return Ok(match sniff(&bytes) {
            Verdict::Http2 => Some(Version::Http2),
            Verdict::Http1 => Some(Version::Http1),
            // Only what may still become HTTP/2's preface is waited for.
            Verdict::More if !ended && (!declared || b"PRI ".starts_with(prefix(&bytes))) => {
                continue;
            }
            // The end without a byte.
            _ if seen == 0 && declared => return Err(Gone),
            // The parser says what is wrong with it.
            _ if declared => Some(Version::Http1),
            _ => None,
        });
    }
}

fn prefix(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(4)]
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::dataplane::channel;

    async fn seen(pieces: &[&[u8]], declared: bool) -> Option<Option<Version>> {
        let (mut near, mut far) = channel::pair();
        let says = async {
            for piece in pieces {
                near.write_all(piece).await.expect("room");
                tokio::task::yield_now().await;
            }
            near.shutdown().await.expect("an end");
        };
        let (seen, ()) = tokio::join!(first(&mut far, declared), says);
        seen.ok()
    }

    #[tokio::test]
    async fn the_first_bytes_tell_what_is_spoken() {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let (one, two) = (Some(Some(Version::Http1)), Some(Some(Version::Http2)));
        for (pieces, undeclared, declared) in [
            (&[&b"GET / HTTP/1.1\r\n"[..]][..], one, one),
            (&[b"G", b"ET", b" / HTTP/1.1\r\n"], one, one),
            (&[b"GET /"], Some(None), one),
            (&[PREFACE], two, two),
            (&[&PREFACE[..1], &PREFACE[1..5], &PREFACE[5..]], two, two),
            (&[&PREFACE[..5]], Some(None), one),
            (&[b"PRIVMSG x\r\n"], Some(None), one),
            (&[b"\0\0"], Some(None), one),
            // An end without a byte: whoever says nothing may still want to hear.
            (&[], Some(None), None),
        ] {
            assert_eq!(seen(pieces, false).await, undeclared, "{pieces:?}");
            assert_eq!(seen(pieces, true).await, declared, "{pieces:?}");
        }
    }
}
