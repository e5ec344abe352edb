//! HBONE into a local pod: one connection of a peer, and each CONNECT on it.
//!
//! Who asks is who the certificate names, from where is where the TCP connection comes from, and what
//! may be asked for is the address that it came to. Each CONNECT is admitted by the pod's policies, and
//! ends when they no longer allow it; the connection ends when its peer is no longer trusted.

use std::future::{pending, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{RecvStream, SendStream};
use http::header::HeaderName;
use http::{HeaderValue, Request, Response, StatusCode};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::expiry::Expiry;
use super::failure::{self, Failure};
use super::{
    CONNECTION_WINDOW, FRAME, HANDSHAKE, REQUEST_HEADERS, SEND_BUFFER, SMALL_FRAMES, STREAM_WINDOW,
    STREAMS, Tunnel, keepalive, request,
};
use crate::dataplane::arriving;
use crate::dataplane::authorize::{self, Admitted, Arrival, Met, Unseen};
use crate::dataplane::connect;
use crate::dataplane::error::Error;
use crate::dataplane::http::inbound::certificate;
use crate::dataplane::origin::Captured;
use crate::dataplane::outcome;
use crate::dataplane::pod::LocalPod;
use crate::dataplane::relay::{Limits, relay_tunnel};
use crate::dataplane::standing::Standing;
use crate::dataplane::task;
use crate::dataplane::worker::Worker;
use crate::net::ahead::Ahead;
use crate::net::socket;
use crate::tls::{self, Peer};
use crate::types::{ClusterName, Identity, Reason, ResponseFlags};

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
/// How long a peer may take to hear that its connection ends at once.
const FAREWELL: Duration = Duration::from_millis(200);

/// What is read at most of a peer that was refused.
const LEFT_OVER: u64 = 1 << 20;

type Http2 = Connection<TlsStream<Ahead<TcpStream>>, Bytes>;

/// What the streams of one connection share.
struct Session {
    worker: Rc<Worker>,
    pod: Rc<LocalPod>,
    peer: Identity,
    /// Of its certificate.
    leaf: Option<CertificateDer<'static>>,
    source: SocketAddr,
    destination: SocketAddr,
}

impl Session {
    /// What the application is told about the peer's certificate.
    fn certificate(&self) -> Option<HeaderValue> {
        let own = self.pod.identity(&self.worker).ok()?;
        certificate::element(&own, &self.peer, self.leaf.as_deref())
    }
}

/// A peer that was verified.
struct Verified {
    identity: Identity,
    standing: Standing,
}

/// Carries a connection to the HBONE port to its end.
pub(in crate::dataplane) async fn serve(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    captured: Captured,
) {
    let Captured {
        stream,
        source,
        destination,
        mut permit,
    } = captured;
    // The applications' connections are counted by stream.
    permit.shrink(1);
    worker.counters.hbone_downstream_cx.increment();
    let opened = tokio::time::timeout(HANDSHAKE, open(worker, pod, stream)).await;
    let (connection, verified) = match opened.unwrap_or(Err(Failure::Late)) {
        Ok(opened) => opened,
        Err(failure) => {
            tracing::debug!(%source, %destination, %failure, "refused by HBONE");
            let refused = &worker.counters.hbone_downstream_cx_refused;
            refused.increment(failure.reason());
            let cluster = ClusterName::inbound(destination.port());
            let mut log = outcome::Connection::begin(worker, source, destination, cluster);
            log.refuse(&format_args!("hbone: {failure}"));
            return;
        }
    };
    let session = Rc::new(Session {
        worker: Rc::clone(worker),
        pod: Rc::clone(pod),
        peer: verified.identity,
        leaf: verified.standing.leaf().cloned(),
        source,
        destination,
    });
    tracing::debug!(%source, %destination, peer = %session.peer, "an HBONE connection");
    run(&session, connection, verified.standing).await;
}

async fn open(
    worker: &Worker,
    pod: &LocalPod,
    stream: TcpStream,
) -> Result<(Http2, Verified), Failure> {
    let own = pod
        .pod()
        .workload
        .identity(worker.secrets.trust().domain())?;
    let changes = worker.secrets.subscribe();
    let Some(config) = worker.secrets.server(&own) else {
        // At once, and without a word that could be taken for an answer.
        socket::reset(stream);
        return Err(Failure::NoCertificate(own));
    };
    let accepting = TlsAcceptor::from(config).accept(Ahead::new(stream));
    let stream = match accepting.into_fallible().await {
        Ok(stream) => stream,
        Err((error, stream)) => {
            leave(stream).await;
            return Err(Failure::tls(&error));
        }
    };
    let (_, session) = stream.get_ref();
    let verified = Verified {
        identity: tls::peer(session)?,
        standing: Standing::in_mesh((&worker.secrets, changes), Peer::Client, session),
    };
    let connection = Builder::new()
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(STREAMS as usize)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(REQUEST_HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SMALL_FRAMES)
        .handshake(stream)
        .await?;
    Ok((connection, verified))
}

/// Closes so that the peer can read the alert: a close with bytes unread would be a reset, which takes
/// the alert away from it.
async fn leave(mut stream: Ahead<TcpStream>) {
    let drained = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LEFT_OVER), &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(FAREWELL, drained).await;
}

/// Takes CONNECTs until the connection ends.
async fn run(session: &Rc<Session>, mut connection: Http2, standing: Standing) {
    let expiry = Expiry::of(standing.leaf());
    let mut expired = pin!(expiry.comes());
    let mut untrusted = pin!(standing.watch(&session.worker, &session.pod));
    let mut silent = pin!(keepalive::silent(
        connection.ping_pong(),
        (keepalive::INTERVAL, keepalive::PATIENCE),
        pending,
        || {},
    ));
    let mut draining = pin!(session.pod.draining());
    let mut is_draining = false;
    loop {
        tokio::select! {
            biased;
            accepted = poll_fn(|cx| connection.poll_accept(cx)) => match accepted {
                Some(Ok((_, mut respond))) if expiry.is_over() => {
                    // The caller may ask again, and shows another certificate then.
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                    is_draining = true;
                    connection.graceful_shutdown();
                }
                Some(Ok((request, respond))) => {
                    let (session, worker, pod) =
                        (Rc::clone(session), &session.worker, &session.pod);
                    task::spawn(worker, pod, async move {
                        stream(&session, request, respond).await;
                    });
                }
                Some(Err(error)) => {
                    tracing::debug!(source = %session.source, %error, "an HBONE connection ended");
                    return;
                }
                None => return,
            },
            () = &mut draining, if !is_draining => {
                is_draining = true;
                connection.graceful_shutdown();
            }
            () = &mut expired, if !is_draining => {
                tracing::debug!(
                    source = %session.source, peer = %session.peer,
                    "the certificate of an HBONE connection's peer has expired: no more streams"
                );
                is_draining = true;
                connection.graceful_shutdown();
            }
            refusal = &mut untrusted => {
                tracing::info!(
                    source = %session.source, peer = %session.peer, %refusal,
                    "an open HBONE connection is no longer trusted"
                );
                session.worker.counters.hbone_downstream_cx_untrusted.increment();
                break;
            }
            () = &mut silent => {
                tracing::debug!(source = %session.source, "the peer of an HBONE connection is silent");
                break;
            }
        }
    }
    // Its streams end with it, as errors.
    connection.abrupt_shutdown(h2::Reason::NO_ERROR);
    let farewell = poll_fn(|cx| connection.poll_closed(cx));
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}

/// One CONNECT.
async fn stream(session: &Session, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let Session {
        worker,
        pod,
        source,
        ..
    } = session;
    worker.counters.hbone_downstream_rq.increment();
    let dialled = session.destination.ip();
    let asked = request::destination(&request, dialled, |port| pod.is_own_port(port));
    let destination = asked.as_ref().copied().unwrap_or(session.destination);
    let cluster = ClusterName::inbound(destination.port());
    let mut log = outcome::Connection::begin(worker, *source, destination, cluster);
    log.peer = Some(session.peer.clone());
    log.upstream_host = asked.is_ok().then_some(destination);
    if let Err(refusal) = asked {
        tracing::debug!(%source, peer = %session.peer, %refusal, "CONNECT refused");
        log.refuse(&format_args!("hbone: {refusal}"));
        return refuse(worker, respond, refusal.status(), refusal.reason());
    }
    let arrival = Arrival {
        peer: Some(session.peer.clone()),
        source: *source,
        destination,
    };
    let met = match authorize::meet(worker, pod, arrival) {
        Ok(met) => met,
        Err(denial) => {
            tracing::debug!(%source, %destination, peer = %session.peer, %denial, "refused");
            log.deny(&denial);
            return refuse(worker, respond, StatusCode::UNAUTHORIZED, Reason::Policy);
        }
    };
    let Some(_descriptor) = worker.descriptors.take(1) else {
        worker.counters.downstream_cx_overflow.increment();
        log.fail(&Error::ConnectionOverflow);
        return refuse(
            worker,
            respond,
            StatusCode::SERVICE_UNAVAILABLE,
            Reason::Overflow,
        );
    };
    let admitted = match met {
        Met::Admitted(admitted) => admitted,
        Met::Unseen(unseen) => return Box::pin(look(session, unseen, request, respond, log)).await,
    };
    let dialling = connect::application_for_bytes(worker, pod, *source, destination);
    let given_up = tokio::select! {
        biased;
        dialled = dialling => Ok(dialled),
        denial = admitted.revoked() => Err(Some(denial)),
        _ = poll_fn(|cx| respond.poll_reset(cx)) => Err(None),
    };
    let dialled = match given_up {
        Ok(dialled) => dialled,
        Err(denial) => {
            match denial {
                Some(denial) => {
                    log.deny(&denial);
                    refuse(worker, respond, StatusCode::UNAUTHORIZED, Reason::Policy);
                }
                None => log.flags = ResponseFlags::DOWNSTREAM_CLOSED,
            }
            return;
        }
    };
    let application = match dialled {
        Ok(application) => application,
        Err(error) => {
            tracing::debug!(%source, %destination, %error, "not connected: the caller is told 503");
            log.fail(&error);
            let reason = failure::reason(&error);
            return refuse(worker, respond, StatusCode::SERVICE_UNAVAILABLE, reason);
        }
    };
    if worker.logs() {
        log.upstream_local = application.local_addr().ok();
    }
    match accept(worker, pod, &mut respond) {
        Ok(send) => {
            let tunnel = Tunnel::new(send, request.into_body());
            relay(tunnel, application, &admitted, &mut log).await;
        }
        Err(_) => {
            log.flags = ResponseFlags::DOWNSTREAM_CLOSED;
            socket::reset(application);
        }
    }
}

/// One CONNECT to a port where requests are judged: they come over it once it is answered.
async fn look(
    session: &Session,
    unseen: Unseen,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    mut log: outcome::Connection,
) {
    let Session { worker, pod, .. } = session;
    match accept(worker, pod, &mut respond) {
        Ok(send) => {
            let tunnel = Tunnel::new(send, request.into_body());
            let met = arriving::Met {
                unseen,
                log,
                certificate: session.certificate(),
                encrypted: true,
            };
            arriving::serve(worker, pod, tunnel, met).await;
        }
        Err(_) => log.flags = ResponseFlags::DOWNSTREAM_CLOSED,
    }
}

/// Answers 200.
fn accept(
    worker: &Worker,
    pod: &LocalPod,
    respond: &mut SendResponse<Bytes>,
) -> Result<SendStream<Bytes>, h2::Error> {
    let mut response = Response::new(());
    if let Some(baggage) = pod.baggage(worker) {
        response.headers_mut().insert(BAGGAGE, baggage);
    }
    respond.send_response(response, false)
}

/// Relays for as long as the caller is allowed to.
async fn relay(
    tunnel: Tunnel,
    application: TcpStream,
    admitted: &Admitted,
    log: &mut outcome::Connection,
) {
    let mut denial = None;
    let revoked = async { denial = Some(admitted.revoked().await) };
    let limits = Limits::default();
    let end = relay_tunnel(tunnel, application, log.meter(), limits, revoked).await;
    log.ended(end, denial.as_ref());
}

fn refuse(worker: &Worker, mut respond: SendResponse<Bytes>, status: StatusCode, reason: Reason) {
    worker
        .counters
        .hbone_downstream_rq_refused
        .increment(reason);
    let mut response = Response::new(());
    *response.status_mut() = status;
    // An error means that the caller has gone.
    let _: Result<_, h2::Error> = respond.send_response(response, true);
}
