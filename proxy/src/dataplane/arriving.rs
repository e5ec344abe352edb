//! What becomes of a connection into a pod that came without a socket of its own, by HBONE or from a
//! pod of this node, where the pod's policies ask about requests: looked at, then judged request by
//! request, or as the bytes that it is.
//!
//! Nothing is dialled, and nothing of the application's reaches the caller, before it is known what
//! may, but where its bytes as such are allowed: then only tokens are looked for, or somebody wants to
//! be told, and an application that speaks first is heard at once.

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
use super::protocol::{Gone, Seen, Version, Wanted};
use super::relay::{End, IDLE, Meter};
use super::worker::Worker;
use crate::policy::authorization::Denial;
use crate::types::{Protocol, ResponseFlags};
use crate::wire::client_hello::{self, Asked};
use crate::wire::sniff::{Verdict, may_be_preface, sniff_strictly};

/// A caller's stream whose first bytes can be looked at, and are read again by whoever serves it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Abort + Unpin + Send + 'static {
    /// What has come so far, once it is more than `seen` bytes; as many where no more will come.
    fn poll_first(&mut self, cx: &mut Context<'_>, seen: usize) -> Poll<std::io::Result<Bytes>>;

    /// Resolves when the caller has given it up.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()>;

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
    let wanted = unseen.wanted();
    let arrival = unseen.arrival();
    let ends = (arrival.source, arrival.destination);
    let mut early = None;
    let seen = tokio::select! {
        biased;
        seen = spoken(&mut stream, wanted) => seen,
        denial = unseen.revoked() => return refuse(stream, &denial, &mut log),
        () = connect::spoken(worker, pod, ends, &mut early), if wanted.early => Ok(Seen::Bytes(None)),
    };
    match seen {
        Ok(Seen::Requests(version)) => {
            log.discard();
            let arriving = Arriving {
                admitted: unseen.requests(),
                version,
                certificate,
                encrypted,
                application: early,
            };
            inbound::serve(worker, pod, stream, arriving).await;
        }
        Ok(Seen::Bytes(name)) => {
            log.server_name.clone_from(&name);
            match unseen.bytes(worker, name) {
                Ok(admitted) => carry(worker, pod, stream, early, &admitted, &mut log).await,
                Err(denial) => refuse(stream, &denial, &mut log),
            }
        }
        Err(Gone) => log.flags = ResponseFlags::DOWNSTREAM_CLOSED,
    }
}

fn refuse(mut stream: impl Stream, denial: &Denial, log: &mut Connection) {
    tracing::debug!(source = %log.source, %denial, "refused");
    log.deny(denial);
    stream.abort();
}

/// Relays for as long as the caller is allowed to. `early`: the application, where it was dialled
/// already.
async fn carry(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    mut stream: impl Stream,
    early: Option<TcpStream>,
    admitted: &Admitted,
    log: &mut Connection,
) {
    let (source, destination): (SocketAddr, SocketAddr) =
        (admitted.arrival().source, admitted.arrival().destination);
    let dialled = async {
        match early {
            Some(application) => Ok(application),
            None => connect::application(worker, pod, source, destination).await,
        }
    };
    let dialled = tokio::select! {
        dialled = dialled => dialled,
        denial = admitted.revoked() => return refuse(stream, &denial, log),
        () = poll_fn(|cx| stream.poll_reset(cx)) => {
            log.flags = ResponseFlags::DOWNSTREAM_CLOSED;
            return;
        }
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
    log.seen_from(application.local_addr().ok());
    let mut denial = None;
    let revoked = async { denial = Some(admitted.revoked().await) };
    let end = stream.relay(application, log.meter(), revoked).await;
    log.ended(end, denial.as_ref());
}

/// Looks at the first bytes of a stream, as [`super::protocol::arriving`] does at those of a socket.
async fn spoken(stream: &mut impl Stream, wanted: Wanted) -> Result<Seen, Gone> {
    let declared = is_http(wanted);
    let limit = if declared { IDLE } else { wanted.patience() };
    match tokio::time::timeout(limit, first(stream, wanted)).await {
        Ok(seen) => seen,
        Err(_) if declared => Err(Gone),
        Err(_) => Ok(Seen::Bytes(None)),
    }
}

/// Whether it is HTTP, whatever it looks like.
fn is_http(wanted: Wanted) -> bool {
    wanted.requests.is_some_and(Protocol::is_http)
}

/// The same, without a limit of time.
async fn first(stream: &mut impl Stream, wanted: Wanted) -> Result<Seen, Gone> {
    let declared = is_http(wanted);
    let mut seen = 0;
    loop {
        let bytes = poll_fn(|cx| stream.poll_first(cx, seen)).await;
        let bytes = bytes.map_err(|_| Gone)?;
        let ended = bytes.len() <= seen;
        seen = bytes.len();
        if wanted.requests.is_some() {
            match sniff_strictly(&bytes) {
                Verdict::Http2 => return Ok(Seen::Requests(Version::Http2)),
                Verdict::Http1 => return Ok(Seen::Requests(Version::Http1)),
                // Only what may still become HTTP/2's preface is waited for.
                Verdict::More if !ended && (!declared || may_be_preface(&bytes)) => {
                    continue;
                }
                // The end without a byte.
                _ if seen == 0 && declared => return Err(Gone),
                // The parser says what is wrong with it.
                _ if declared => return Ok(Seen::Requests(Version::Http1)),
                _ => {}
            }
        }
        if !wanted.name {
            return Ok(Seen::Bytes(None));
        }
        match client_hello::asked(&bytes, ended) {
            Asked::More => {}
            asked => return Ok(Seen::of(asked)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::dataplane::channel;

    async fn seen(pieces: &[&[u8]], wanted: Wanted) -> Option<Seen> {
        let (mut near, mut far) = channel::pair();
        let says = async {
            for piece in pieces {
                near.write_all(piece).await.expect("room");
                tokio::task::yield_now().await;
            }
            near.shutdown().await.expect("an end");
        };
        let (seen, ()) = tokio::join!(first(&mut far, wanted), says);
        seen.ok()
    }

    #[tokio::test]
    async fn the_first_bytes_tell_what_is_spoken() {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let requests = |version| Some(Seen::Requests(version));
        let (one, two) = (requests(Version::Http1), requests(Version::Http2));
        let (no_name, unknown) = (Some(Seen::Bytes(Some(String::new()))), || {
            Some(Seen::Bytes(None))
        });
        for (pieces, undeclared, declared) in [
            (&[&b"GET / HTTP/1.1\r\n"[..]][..], &one, &one),
            (&[b"G", b"ET", b" / HTTP/1.1\r\n"], &one, &one),
            (&[b"GET /"], &no_name, &one),
            (&[PREFACE], &two, &two),
            (&[&PREFACE[..1], &PREFACE[1..5], &PREFACE[5..]], &two, &two),
            (&[&PREFACE[..5]], &no_name, &one),
            (&[b"PRIVMSG x\r\n"], &no_name, &one),
            (&[b"\0\0"], &no_name, &one),
            // TLS of which nothing can be read.
            (&[b"\x16\x03", b"\x01"], &unknown(), &one),
            (&[b"\x15", b"\x03\x01\0\x02\x01\0"], &unknown(), &one),
            // An end without a byte: whoever says nothing may still want to hear.
            (&[], &no_name, &None),
        ] {
            let wanted = |protocol, name| Wanted {
                requests: Some(protocol),
                name,
                early: false,
            };
            let found = seen(pieces, wanted(Protocol::Auto, true)).await;
            assert_eq!(found, *undeclared, "{pieces:?}");
            let found = seen(pieces, wanted(Protocol::Auto, false)).await;
            let requests = undeclared
                .clone()
                .filter(|seen| matches!(seen, Seen::Requests(_)));
            assert_eq!(found, requests.or(unknown()), "{pieces:?}");
            let found = seen(pieces, wanted(Protocol::Http, true)).await;
            assert_eq!(found, *declared, "{pieces:?}");
        }
    }
}
