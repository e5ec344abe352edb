//! HBONE out of a local pod: a stream to a port of another workload, on a connection that its own pod
//! has to that workload.
//!
//! The connection is dialled from the pod's namespace with its address, shows the pod's certificate
//! and takes nobody but the workload's own identity. Where that can't be had the stream fails: there
//! is no way back to plain text.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Builder, Connection, ResponseFuture};
use http::header::{FORWARDED, HeaderName};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::failure::{self, Failure};
use super::pool::{Key, Opened, Opening, Place, UNTOLD};
use super::{
    CONNECTION_WINDOW, FRAME, HANDSHAKE, PORT, RESPONSE_HEADERS, SEND_BUFFER, SMALL_FRAMES,
    STREAM_WINDOW, Tunnel, keepalive,
};
use crate::dataplane::connect;
use crate::dataplane::error::Error;
use crate::dataplane::pod::LocalPod;
use crate::dataplane::standing::Standing;
use crate::dataplane::task;
use crate::dataplane::worker::Worker;
use crate::mesh::cluster::Tcp;
use crate::net::ahead::Ahead;
use crate::tls::Peer;
use crate::types::{ClusterName, Identity, Reason};

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// How often a stream is tried on another connection, where one turned out to be lost before it was
/// answered: nothing of the application's has been sent by then.
const TRIES: usize = 3;
/// How often a connection is looked at on which no answer comes; with less time than that, twice. One
/// that its peer is leaving (GOAWAY) is given up at the second look: a ztunnel that ends takes no more
/// streams then, and answers those that were under way neither yes nor no.
const LOOK: Duration = Duration::from_millis(500);
/// How long the peer of a connection that was there before may take to say that it is still there.
const SILENCE: Duration = Duration::from_secs(2);
/// How long TCP may take to open a connection. Whoever has more time than that has it tried again,
/// sooner than the kernel would send its third SYN once more.
const DIAL: Duration = Duration::from_secs(3);

type Http2 = Connection<TlsStream<Ahead<TcpStream>>, Bytes>;

/// On whose behalf a tunnel is opened. Its other end is told, for telemetry alone.
#[derive(Clone, Copy, Debug)]
pub(in crate::dataplane) struct Behalf<'a> {
    /// The client's port; `None` where requests of several share the tunnel.
    pub(in crate::dataplane) port: Option<u16>,
    /// What it was chosen from.
    pub(in crate::dataplane) cluster: &'a ClusterName,
}

/// A tunnel to `to`, whose workload must be one of `expected`, within the time that the policy gives.
pub(in crate::dataplane) async fn connect(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    to: SocketAddr,
    expected: Arc<[Identity]>,
    policy: &Tcp,
    behalf: Behalf<'_>,
) -> Result<(Tunnel, Place), Error> {
    worker.counters.hbone_upstream_rq.increment();
    let connected = tokio::time::timeout(
        policy.connect_timeout,
        attempts(worker, pod, to, expected, policy, behalf),
    );
    let connected = connected.await.unwrap_or_else(|_| {
        tracing::debug!(%to, "HBONE was not answered in time");
        worker.counters.hbone_upstream_rq_timeout.increment();
        Err(Error::ConnectTimeout)
    });
    if let Err(error) = &connected {
        let failed = &worker.counters.hbone_upstream_rq_fail;
        failed.increment(failure::reason(error));
    }
    connected
}

async fn attempts(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    to: SocketAddr,
    expected: Arc<[Identity]>,
    policy: &Tcp,
    behalf: Behalf<'_>,
) -> Result<(Tunnel, Place), Error> {
    let own = pod.identity(worker).map_err(Failure::from)?;
    let key = Key {
        address: to.ip(),
        expected,
    };
    let look = LOOK.min(policy.connect_timeout / 2);
    let mut tries = TRIES;
    loop {
        let config = worker
            .secrets
            .client(&own, &key.expected)
            .ok_or_else(|| Failure::NoCertificate(own.clone()))?;
        let place = match pod.tunnels().place(&key, &config) {
            Some(place) => place,
            None => begin(worker, pod, &key, config),
        };
        match place.admitted().await {
            Ok(true) => {}
            // The peer takes fewer than it was thought to.
            Ok(false) => continue,
            // That is the opening's limit, and not that of whoever waits for it.
            Err(Error::ConnectTimeout) => continue,
            Err(Error::Tunnel(Failure::Late)) if place.reused => continue,
            Err(error) => return Err(error),
        }
        match ask(worker, pod, &place, to, behalf, look).await {
            Ok(tunnel) => return Ok((tunnel, place)),
            // The connection was there before, and turned out to be lost or full.
            Err(Error::Tunnel(failure @ (Failure::Lost(_) | Failure::Leaving))) => {
                place.retire();
                let again = place.reused || matches!(failure, Failure::Leaving);
                tries -= 1;
                if !again || tries == 0 {
                    return Err(failure.into());
                }
                worker.counters.hbone_upstream_rq_retry.increment();
            }
            Err(error) => return Err(error),
        }
    }
}

/// Sends a CONNECT, and waits for its answer.
async fn ask(
    worker: &Worker,
    pod: &LocalPod,
    place: &Place,
    to: SocketAddr,
    behalf: Behalf<'_>,
    look: Duration,
) -> Result<Tunnel, Error> {
    let opened = place.opened().await?;
    let lost = |error: h2::Error| Failure::unanswered(&error);
    let mut send = opened.send.clone().ready().await.map_err(lost)?;
    let mut request = request(to)?;
    tell(worker, pod, to, behalf, request.headers_mut());
    let (response, stream) = send.send_request(request, false).map_err(lost)?;
    let response = answer(place, opened, response, look).await?;
    match response.status() {
        StatusCode::OK => Ok(Tunnel::new(stream, response.into_body())),
        StatusCode::UNAUTHORIZED => Err(Failure::Denied.into()),
        other => Err(Failure::Status(other.as_u16()).into()),
    }
}

/// What is answered.
async fn answer(
    place: &Place,
    opened: &Opened,
    response: ResponseFuture,
    look: Duration,
) -> Result<Response<RecvStream>, Failure> {
    let mut response = pin!(response);
    let (mut was_leaving, mut first) = (false, true);
    loop {
        match tokio::time::timeout(look, &mut response).await {
            Ok(answered) => return answered.map_err(|error| Failure::unanswered(&error)),
            Err(_) if was_leaving => return Err(Failure::Leaving),
            Err(_) if place.reused && place.doubted().is_some_and(|since| since >= SILENCE) => {
                return Err(Failure::Lost("its other end is silent".into()));
            }
            Err(_) => {
                was_leaving = !opened.takes_streams();
                if std::mem::take(&mut first) {
                    place.doubt();
                }
            }
        }
    }
}

fn request(to: SocketAddr) -> Result<Request<()>, Error> {
    let authority = Authority::try_from(to.to_string());
    let uri = Uri::from(authority.map_err(|error| Failure::Http2(error.to_string()))?);
    let mut request = Request::new(());
    *request.method_mut() = http::Method::CONNECT;
    *request.uri_mut() = uri;
    Ok(request)
}

/// Says who asks, for whom, and in which trace, as ztunnel does. Nobody believes it.
fn tell(
    worker: &Worker,
    pod: &LocalPod,
    to: SocketAddr,
    behalf: Behalf<'_>,
    headers: &mut HeaderMap,
) {
    if let Some(baggage) = pod.baggage(worker) {
        headers.insert(BAGGAGE, baggage);
    }
    let forwarded = pod
        .address_like(to.ip())
        .map(|own| forwarded(own, behalf.port, behalf.cluster.host()));
    if let Some(Ok(forwarded)) = forwarded.map(HeaderValue::try_from) {
        headers.insert(FORWARDED, forwarded);
    }
    let trace = u128::from(worker.draw()) << 64 | u128::from(worker.draw());
    if let Ok(parent) = HeaderValue::try_from(traceparent(trace, worker.draw())) {
        headers.insert(TRACEPARENT, parent);
    }
}

/// RFC 7239.
fn forwarded(own: IpAddr, port: Option<u16>, host: Option<&str>) -> String {
    let mut text = match (own, port) {
        (own, Some(port)) => format!("for=\"{}\"", SocketAddr::new(own, port)),
        (IpAddr::V4(own), None) => format!("for={own}"),
        (IpAddr::V6(own), None) => format!("for=\"[{own}]\""),
    };
    if let Some(host) = host {
        text.push_str(";host=");
        text.push_str(host);
    }
    text
}

/// W3C Trace Context, of a trace that nobody samples. Neither number may be 0.
fn traceparent(trace: u128, span: u64) -> String {
    format!("00-{:032x}-{:016x}-00", trace.max(1), span.max(1))
}

/// A place on a connection that is begun for it. The opening goes on where whoever asked for it does
/// not, and whoever gets a place meanwhile fails with it or has it.
fn begin(worker: &Rc<Worker>, pod: &Rc<LocalPod>, key: &Key, config: Arc<ClientConfig>) -> Place {
    let (place, opening) = pod.tunnels().begin(key, Arc::clone(&config));
    let (serving, own) = (Rc::clone(worker), Rc::clone(pod));
    let to = SocketAddr::new(key.address, PORT);
    task::spawn(worker, pod, async move {
        drive(&serving, &own, to, config, opening).await;
    });
    place
}

/// Opens a connection and runs it to its end. No cluster's settings count here: those of several may
/// share it.
async fn drive(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    to: SocketAddr,
    config: Arc<ClientConfig>,
    opening: Opening,
) {
    worker.counters.hbone_upstream_cx.increment();
    let Some(_descriptor) = worker.descriptors.take(1) else {
        let failed = &worker.counters.hbone_upstream_cx_fail;
        failed.increment(Reason::Overflow);
        opening.done(Err(Error::ConnectionOverflow));
        return;
    };
    let opened = async {
        let policy = Tcp {
            connect_timeout: DIAL,
            ..Tcp::default()
        };
        let stream = connect::upstream(worker, pod, to, &policy).await?;
        let handshake = handshake(worker, stream, to, config);
        let handshake = tokio::time::timeout(HANDSHAKE, handshake);
        handshake.await.unwrap_or(Err(Failure::Late.into()))
    };
    let (opened, mut connection, standing) = match opened.await {
        Ok(opened) => opened,
        Err(error) => {
            tracing::debug!(%to, %error, "no HBONE connection");
            let failed = &worker.counters.hbone_upstream_cx_fail;
            failed.increment(failure::reason(&error));
            opening.done(Err(error));
            return;
        }
    };
    let silent = keepalive::silent(
        connection.ping_pong(),
        (keepalive::INTERVAL, keepalive::PATIENCE),
        || opening.doubted(),
        || opening.heard(),
    );
    let untrusted = standing.watch(worker, pod);
    opening.done(Ok(opened));
    let ended = poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        opening.look();
        ended
    });
    tokio::select! {
        biased;
        ended = ended => {
            if let Err(error) = ended {
                tracing::debug!(%to, %error, "an HBONE connection ended");
            }
        }
        refusal = untrusted => {
            tracing::info!(%to, %refusal, "an open HBONE connection is no longer trusted");
            worker.counters.hbone_upstream_cx_untrusted.increment();
        }
        () = silent => {
            tracing::debug!(%to, "the peer of an HBONE connection is silent");
        }
    }
}

async fn handshake(
    worker: &Worker,
    stream: TcpStream,
    to: SocketAddr,
    config: Arc<ClientConfig>,
) -> Result<(Opened, Http2, Standing), Error> {
    let local = stream.local_addr().ok();
    // Never sent; the certificate is compared with the identity alone.
    let name = ServerName::IpAddress(to.ip().into());
    let connected = TlsConnector::from(config)
        .connect(name, Ahead::new(stream))
        .await;
    let stream = connected.map_err(|error| Failure::tls(&error))?;
    let mut changes = worker.secrets.subscribe();
    // Since `config` was chosen there may have been some.
    changes.mark_changed();
    let trust = (&worker.secrets, changes);
    let standing = Standing::in_mesh(trust, Peer::Server, stream.get_ref().1);
    let (send, connection) = Builder::new()
        .enable_push(false)
        .initial_max_send_streams(UNTOLD)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(RESPONSE_HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SMALL_FRAMES)
        .handshake(stream)
        .await
        .map_err(Failure::from)?;
    Ok((Opened { send, local }, connection, standing))
}

#[cfg(test)]
mod tests {
    use h2::server;

    use super::*;
    use crate::dataplane::hbone::pool::Pool;
    use crate::dataplane::hbone::pool::tests::{config, key};

    #[tokio::test]
    async fn one_who_leaves_without_an_answer_is_waited_for_a_second_at_most() {
        for leaves in [true, false] {
            let (near, far) = tokio::io::duplex(1 << 16);
            let (client, server) = tokio::join!(
                Builder::new().handshake::<_, Bytes>(near),
                server::Builder::new().handshake::<_, Bytes>(far),
            );
            let (mut send, connection) = client.expect("a client");
            let mut server = server.expect("a server");
            tokio::spawn(connection);
            let request = Request::connect("10.0.0.1:80").body(()).expect("a request");
            let (response, _stream) = send.send_request(request, false).expect("a stream");
            let server = tokio::spawn(async move {
                let taken = server.accept().await.expect("a stream").expect("CONNECT");
                if leaves {
                    server.graceful_shutdown();
                }
                let _ = server.accept().await;
                drop(taken);
            });
            let (place, opening) = Pool::default().begin(&key("a"), config());
            opening.done(Ok(Opened { send, local: None }));
            let opened = place.opened().await.expect("it is open");
            let long = 3 * LOOK;
            let answered = answer(&place, opened, response, LOOK);
            let answered = tokio::time::timeout(long, answered).await;
            match answered {
                Ok(Err(Failure::Leaving)) => assert!(leaves),
                Err(_) => assert!(!leaves, "one who stays may take its time"),
                other => panic!("{other:?}"),
            }
            server.abort();
        }
    }

    #[test]
    fn the_other_end_is_told_as_by_ztunnel() {
        for (own, port, host, expected) in [
            ("10.0.0.1", Some(4000), None, "for=\"10.0.0.1:4000\""),
            (
                "10.0.0.1",
                Some(4000),
                Some("a.b.svc.cluster.local"),
                "for=\"10.0.0.1:4000\";host=a.b.svc.cluster.local",
            ),
            ("fd00::1", Some(1), None, "for=\"[fd00::1]:1\""),
            ("10.0.0.1", None, Some("a"), "for=10.0.0.1;host=a"),
            ("fd00::1", None, None, "for=\"[fd00::1]\""),
        ] {
            let own = own.parse().expect("an address");
            assert_eq!(forwarded(own, port, host), expected);
        }
        for (trace, span, expected) in [
            (
                0,
                0,
                "00-00000000000000000000000000000001-0000000000000001-00",
            ),
            (
                u128::MAX,
                0xabc,
                "00-ffffffffffffffffffffffffffffffff-0000000000000abc-00",
            ),
        ] {
            assert_eq!(traceparent(trace, span), expected);
        }
    }
}
