//! Carries one request to an upstream and its answer back.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use http::header::{CONNECTION, HOST, UPGRADE, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, request};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;

use super::body::{Progress, RequestBody, ResponseBody};
use super::canonical::Canonical;
use super::route::{Destination, Route};
use super::{Downstream, headers, reply, route, upgrade};
use crate::clock;
use crate::dataplane::error::Error;
use crate::dataplane::outcome::{Exchange, Requested};
use crate::dataplane::pool::{self, Http2, Returning};
use crate::dataplane::{balance, protocol};
use crate::types::Protocol;

/// Answers one request, whatever becomes of it.
pub(super) async fn answer(
    downstream: &Rc<Downstream>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let worker = &downstream.worker;
    worker.counters.downstream_rq.increment();
    let mut exchange = Box::new(Exchange::begin(
        worker,
        downstream.source,
        downstream.destination,
    ));
    let (parts, body) = request.into_parts();
    if worker.logs() {
        exchange.requested = Some(Box::new(requested(&parts)));
    }
    let grpc = reply::is_grpc(&parts.headers);
    match forward(downstream, &mut exchange, parts, body).await {
        Ok(response) => deliver(downstream, exchange, response),
        Err(error) => {
            worker.counters.local_replies.increment();
            let mut response = reply::local(exchange, &error, grpc);
            if closes(&error) && downstream.version == protocol::Version::Http1 {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    }
}

/// After a request that could not be understood nothing on its connection can be trusted.
fn closes(error: &Error) -> bool {
    matches!(
        error,
        Error::BadRequest(_) | Error::HeadersTooLarge | Error::TransferCoding | Error::RequestBody
    )
}

fn requested(parts: &request::Parts) -> Requested {
    let field = |name| parts.headers.get(name).cloned();
    Requested {
        wall: clock::wall(),
        method: parts.method.clone(),
        target: parts.uri.clone(),
        protocol: match parts.version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        },
        authority: field(HOST).or_else(|| {
            let authority = parts.uri.authority()?;
            HeaderValue::from_str(authority.as_str()).ok()
        }),
        user_agent: field(USER_AGENT),
        forwarded_for: field(headers::FORWARDED_FOR),
        request_id: field(headers::REQUEST_ID),
    }
}

/// An upstream's answer, and what it takes to deliver it.
struct Answer {
    response: Response<Incoming>,
    /// The client's side of an upgrade that the upstream accepted.
    upgraded: Option<OnUpgrade>,
    /// The upstream refused while the client was still sending: the rest would be read as the next
    /// request, so the connection must not be used again.
    early: bool,
}

async fn forward(
    downstream: &Rc<Downstream>,
    exchange: &mut Exchange,
    mut parts: request::Parts,
    body: Incoming,
) -> Result<Answer, Error> {
    let worker = &downstream.worker;
    let client = parts.extensions.remove::<OnUpgrade>();
    let mut canonical = Canonical::new(parts)?;
    let snapshot = worker.snapshot();
    let Route {
        name,
        cluster,
        destination,
    } = route::choose(&snapshot, downstream, &canonical, worker.draw())?;
    drop(snapshot);
    exchange.route = Some(name);
    exchange.cluster = Some(cluster);

    let http2 = speaks_http2(downstream, &destination);
    let upgrade = match http2 {
        // RFC 9113 has no Upgrade; the request goes on as a plain one.
        true => None,
        false => headers::upgrade(&canonical.parts.headers),
    };
    let random = || u128::from(worker.draw()) << 64 | u128::from(worker.draw());
    headers::to_upstream(&mut canonical.parts.headers, upgrade.as_ref(), random);
    if let Some(requested) = &mut exchange.requested {
        requested.request_id = canonical.parts.headers.get(headers::REQUEST_ID).cloned();
    }

    let address = match &destination {
        Destination::Cluster(cluster) => {
            let wanted = downstream.target.wanted(downstream.destination);
            let lease = balance::pick(worker, &downstream.pod, cluster, wanted)?;
            let address = lease.address;
            exchange.lease = Some(lease);
            address
        }
        Destination::Original(address) => *address,
        Destination::Missing => return Err(Error::NoCluster),
    };
    exchange.upstream_host = Some(address);

    let body = if body.is_end_stream() {
        RequestBody::Empty
    } else {
        let progress = Rc::new(Progress::default());
        exchange.received = Some(Rc::clone(&progress));
        RequestBody::Streamed { body, progress }
    };
    let response = if http2 {
        send_http2(downstream, exchange, canonical, body, address).await?
    } else {
        send_http1(downstream, exchange, canonical, body, address).await?
    };
    exchange.service_time = Some(exchange.elapsed());
    if headers::has_two_lengths(response.headers()) {
        exchange.returning = None;
        return Err(Error::Protocol);
    }
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let upgraded = match (switching, &upgrade, client) {
        (true, Some(_), Some(client)) => Some(client),
        // An upgrade that nobody asked for.
        (true, ..) => return Err(Error::Protocol),
        (false, ..) => None,
    };
    let early = response.status().is_client_error()
        && exchange
            .received
            .as_ref()
            .is_some_and(|progress| !progress.ended.get());
    Ok(Answer {
        response,
        upgraded,
        early,
    })
}

/// The service's port says what its pods speak; where it says nothing, or nothing is known, the
/// client's own protocol is kept (Istio's protocol selection).
fn speaks_http2(downstream: &Downstream, destination: &Destination) -> bool {
    let declared = match destination {
        Destination::Cluster(cluster) => cluster.protocol,
        Destination::Original(_) | Destination::Missing => Protocol::Auto,
    };
    match declared {
        Protocol::Http2 | Protocol::Grpc => true,
        Protocol::Http => false,
        Protocol::Auto | Protocol::Tcp | Protocol::Tls => {
            downstream.version == protocol::Version::Http2
        }
    }
}

/// Sends by HTTP/1.1. A request on a reused connection that its peer had closed is sent once more,
/// on a fresh one, where no byte of it was answered and nothing is done twice by it.
async fn send_http1(
    downstream: &Rc<Downstream>,
    exchange: &mut Exchange,
    canonical: Canonical,
    body: RequestBody,
    address: SocketAddr,
) -> Result<Response<Incoming>, Error> {
    let (worker, pod) = (&downstream.worker, &downstream.pod);
    let mut parts = canonical.parts;
    parts.version = Version::HTTP_11;
    if downstream.version == protocol::Version::Http2 {
        headers::join_cookies(&mut parts.headers);
    }
    let mut connection = pool::http1(worker, pod, address).await?;
    let replay = (connection.reused && body.is_empty() && parts.method.is_idempotent())
        .then(|| parts.clone());
    let mut request = Request::from_parts(parts, body);
    let mut replay = replay.map(|parts| Request::from_parts(parts, RequestBody::Empty));
    loop {
        exchange.upstream_local = connection.local;
        let before = connection.read.load(Ordering::Relaxed);
        let mut failure = match connection.sender.try_send_request(request).await {
            Ok(response) => {
                if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    let pod = Rc::clone(pod);
                    exchange.returning = Some(Returning {
                        pod,
                        address,
                        connection,
                    });
                }
                return Ok(response);
            }
            Err(failure) => failure,
        };
        let answered = connection.read.load(Ordering::Relaxed) != before;
        // The message comes back where not a byte of it was written.
        let again = failure
            .take_message()
            .or_else(|| replay.take().filter(|_| !answered));
        match again.filter(|_| connection.reused) {
            Some(again) => {
                worker.counters.upstream_rq_stale_retry.increment();
                request = again;
                connection = pool::open_http1(worker, pod, address).await?;
            }
            None => return Err(classify(failure.error(), answered)),
        }
    }
}

/// Sends by HTTP/2. A stream that the peer refused unseen, or that its GOAWAY left out, is sent
/// once more on a fresh connection where it has no body to lose.
async fn send_http2(
    downstream: &Rc<Downstream>,
    exchange: &mut Exchange,
    canonical: Canonical,
    body: RequestBody,
    address: SocketAddr,
) -> Result<Response<Incoming>, Error> {
    let (worker, pod) = (&downstream.worker, &downstream.pod);
    let uri = absolute(&canonical)?;
    let mut parts = canonical.parts;
    parts.version = Version::HTTP_2;
    parts.uri = uri;
    parts.headers.remove(HOST);
    let replay = body.is_empty().then(|| parts.clone());
    let mut request = Request::from_parts(parts, body);
    let mut replay = replay.map(|parts| Request::from_parts(parts, RequestBody::Empty));
    loop {
        let Http2 {
            mut sender, local, ..
        } = pool::http2(worker, pod, address).await?;
        exchange.upstream_local = local;
        let mut failure = match sender.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        let unseen = refused_unseen(failure.error());
        let again = failure
            .take_message()
            .or_else(|| replay.take().filter(|_| unseen));
        match again {
            Some(again) if replay.is_some() || unseen => {
                worker.counters.upstream_rq_stale_retry.increment();
                replay = None;
                request = again;
            }
            Some(_) | None => return Err(classify(failure.error(), false)),
        }
    }
}

/// RFC 9113, sections 8.7 and 6.8: the peer has done nothing about such a stream.
fn refused_unseen(error: &hyper::Error) -> bool {
    let h2 = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    h2.is_some_and(|error| {
        error.reason() == Some(h2::Reason::REFUSED_STREAM)
            || error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)
    })
}

fn absolute(canonical: &Canonical) -> Result<Uri, Error> {
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = canonical.authority().parse().ok();
    uri.path_and_query = canonical.parts.uri.path_and_query().cloned();
    Uri::from_parts(uri).map_err(|_| Error::BadRequest("invalid_host"))
}

/// Why an upstream's answer did not come. `answered`: some bytes of one did.
fn classify(error: &hyper::Error, answered: bool) -> Error {
    let source = std::error::Error::source(error);
    if let Some(h2) = source.and_then(|source| source.downcast_ref::<h2::Error>()) {
        return match h2 {
            error if error.is_reset() && error.is_remote() => Error::Reset,
            error if error.is_io() || error.is_go_away() && error.is_remote() => Error::Closed,
            _ => Error::Protocol,
        };
    }
    if error.is_user() || error.is_body_write_aborted() {
        return Error::RequestBody;
    }
    if error.is_parse() || answered {
        return Error::Protocol;
    }
    Error::Closed
}

fn deliver(
    downstream: &Rc<Downstream>,
    mut exchange: Box<Exchange>,
    answer: Answer,
) -> Response<ResponseBody> {
    let Answer {
        mut response,
        upgraded,
        early,
    } = answer;
    exchange.status = response.status().as_u16();
    exchange.details = "via_upstream".into();
    let service_time = exchange.service_time.unwrap_or_default();
    if let Some(client) = upgraded {
        let protocol = response.headers().get(UPGRADE).cloned();
        headers::to_downstream(response.headers_mut(), service_time);
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = protocol {
            response.headers_mut().insert(UPGRADE, protocol);
        }
        upgrade::relay(downstream, client, &mut response, exchange);
        let silent = Exchange::begin(
            &downstream.worker,
            downstream.source,
            downstream.destination,
        );
        let (parts, _) = response.into_parts();
        return Response::from_parts(
            parts,
            ResponseBody::local(bytes::Bytes::new(), Box::new(silent)),
        );
    }
    let (mut parts, body) = response.into_parts();
    headers::to_downstream(&mut parts.headers, service_time);
    parts.extensions.remove::<ReasonPhrase>();
    parts.version = Version::HTTP_11;
    if early && downstream.version == protocol::Version::Http1 {
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Response::from_parts(parts, ResponseBody::streamed(body, exchange))
}
