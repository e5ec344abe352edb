//! What becomes of one request into a pod: one unambiguous request → judged → the application.

use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Response, StatusCode, request};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;
use tokio::sync::oneshot;

use super::super::answer::{closes, requested};
use super::super::body::ResponseBody;
use super::super::canonical::Canonical;
use super::super::entry::{self, Entered};
use super::super::fields::Fields;
use super::super::message::{Message, Outgoing};
use super::super::upload::Upload;
use super::super::{headers, reply, upgrade};
use super::external::{self, Refused};
use super::{Inbound, tokens};
use crate::dataplane::authorize::{Head, Judged};
use crate::dataplane::error::Error;
use crate::dataplane::outcome::Exchange;
use crate::dataplane::protocol;
use crate::mesh::Guard;
use crate::policy::authorization::Denial;
use crate::policy::external::{Changes, Refusal};
use crate::types::{ClusterName, ResponseFlags};

/// The name of the one route there is (Istio's).
static ROUTE: LazyLock<Arc<str>> = LazyLock::new(|| "default".into());

/// Why there is no answer of the application's.
enum Failure {
    Denied(Denial),
    /// Its token is not valid.
    Token(tokens::Refused),
    External(Refusal, &'static str),
    Error(Error),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Reply(refusal, details) => Self::External(refusal, details),
            Refused::Denied(denial) => Self::Denied(denial),
            Refused::Error(error) => Self::Error(error),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// The application's answer, and what it takes to deliver it.
struct Answer {
    response: Response<Incoming>,
    judged: Judged,
    /// The client's side of an upgrade that the application accepted, and to what.
    upgraded: Option<(OnUpgrade, HeaderValue)>,
    /// The application refused while the client was still sending.
    early: bool,
    /// What an external authorizer changes of it.
    changes: Option<Box<Changes>>,
}

/// Answers one request, whatever becomes of it.
pub(super) async fn answer(
    inbound: &Rc<Inbound>,
    parts: Box<request::Parts>,
    body: Incoming,
) -> Response<ResponseBody> {
    let worker = &inbound.worker;
    let arrival = inbound.admitted.arrival();
    worker.counters.inbound_rq.increment();
    let mut exchange = Box::new(Exchange::begin(worker, arrival.source, arrival.destination));
    exchange.hung_up.clone_from(&inbound.hung_up);
    exchange.cluster = Some(ClusterName::inbound(arrival.destination.port()));
    exchange.route = Some(Arc::clone(&ROUTE));
    let guard = inbound.admitted.guard(worker);
    if worker.logs() {
        let mut requested = requested(&parts);
        requested.principal.clone_from(&inbound.principal);
        // Whatever becomes of it.
        tokens::conceal(&guard, &mut requested.target);
        exchange.requested = Some(Box::new(requested));
    }
    let fields = Fields::of(&parts.headers);
    let grpc = fields.has(Fields::CONTENT_TYPE) && reply::is_grpc(&parts.headers);
    let has_body = !body.is_end_stream();
    if fields.has(Fields::HOP) && !has_body && headers::is_last(&parts.headers) {
        inbound.half_close.allow();
    }
    let (mut response, close) =
        match serve(inbound, guard, &mut exchange, (parts, fields), body).await {
            Ok(answer) => return deliver(inbound, exchange, answer),
            Err(Failure::Denied(denial)) => {
                worker.counters.local_replies.increment();
                exchange.details = denial.details();
                // What is left of a body is for nobody.
                let close = has_body;
                (reply::Local::forbidden(grpc).response(exchange), close)
            }
            Err(Failure::Token(refused)) => {
                worker.counters.local_replies.increment();
                exchange.details = refused.refusal.details().into();
                (
                    reply::Local::refused(refused, grpc).response(exchange),
                    has_body,
                )
            }
            Err(Failure::External(refusal, details)) => {
                worker.counters.local_replies.increment();
                exchange.flags = exchange.flags | ResponseFlags::EXTERNAL_AUTHORIZATION;
                let reply = reply::Local::external(refusal, grpc, details);
                (reply.response(exchange), has_body)
            }
            Err(Failure::Error(Error::RequestBody))
                if exchange.received.as_ref().is_some_and(|one| one.is_gone()) =>
            {
                exchange.left();
                (reply::failed(exchange, &Error::RequestBody, grpc), true)
            }
            Err(Failure::Error(error)) => {
                worker.counters.local_replies.increment();
                (reply::failed(exchange, &error, grpc), closes(&error))
            }
        };
    reply::from_destination(response.headers_mut());
    if close && inbound.version == protocol::Version::Http1 {
        let fields = response.headers_mut();
        fields.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// By `guard`, the pod's rules as they are when the request comes, as far as to whom else is asked.
async fn serve(
    inbound: &Rc<Inbound>,
    guard: Arc<Guard>,
    exchange: &mut Exchange,
    (parts, fields): (Box<request::Parts>, Fields),
    body: Incoming,
) -> Result<Answer, Failure> {
    let worker = &inbound.worker;
    let Entered {
        mut canonical,
        client,
    } = entry::enter(worker, exchange, parts, fields)?;
    if inbound.encrypted && !fields.has(Fields::FORWARDED_PROTO) {
        headers::came_by_tls(&mut canonical.parts.headers);
    }
    let told = worker.snapshot().client_certificate;
    told.apply(&mut canonical.parts.headers, inbound.certificate.as_ref());
    let Canonical { parts, authority } = &mut canonical;
    let token = tokens::examine(worker, &guard, exchange, parts, authority);
    let token = token.map_err(Failure::Token)?;
    let upload = (!body.is_end_stream()).then(|| Upload::new(body));
    exchange.received.clone_from(&upload);
    let changes = if guard.has_custom() {
        let asking = external::ask(
            inbound,
            &guard,
            exchange,
            &mut canonical,
            token.as_ref(),
            upload.as_ref(),
        );
        Some(Box::new(asking.await?))
    } else {
        None
    };
    let head = Head {
        method: canonical.parts.method.clone(),
        target: canonical.parts.uri.clone(),
        authority: canonical.authority,
        headers: canonical.parts.headers.clone(),
        remote: exchange.remote().ip(),
        token,
    };
    // By the policies of this moment, which may be others than before somebody was asked.
    drop(guard);
    let judged = inbound.admitted.judge(worker, head);
    let judged = judged.map_err(Failure::Denied)?;
    let http2 = inbound.version == protocol::Version::Http2;
    // What is changed of a request after it was judged is to be changed here: it may be sent twice.
    let message = |parts| {
        let body = upload.clone().map_or(Outgoing::Nothing, Outgoing::Upload);
        Message::new(parts, body, http2)
    };
    let response = {
        let again = || message(Box::new(judged.head().parts()));
        let sending = inbound
            .application
            .send(inbound, exchange, message(canonical.parts)?, again);
        tokio::select! {
            biased;
            denial = judged.revoked() => return Err(Failure::Denied(denial)),
            response = sending => response?,
        }
    };
    if headers::has_two_lengths(response.headers()) {
        return Err(Error::Protocol.into());
    }
    let status = response.status();
    let accepted = if http2 {
        status.is_success()
    } else {
        status == StatusCode::SWITCHING_PROTOCOLS
    };
    let upgraded = match client {
        Some(asked) if accepted => Some(asked),
        // An upgrade that nobody asked for, or that HTTP/2 does not have.
        _ if status == StatusCode::SWITCHING_PROTOCOLS => return Err(Error::Protocol.into()),
        _ => None,
    };
    let early = status.is_client_error() && upload.is_some_and(|upload| !upload.ended());
    Ok(Answer {
        response,
        judged,
        upgraded,
        early,
        changes,
    })
}

fn deliver(
    inbound: &Rc<Inbound>,
    mut exchange: Box<Exchange>,
    answer: Answer,
) -> Response<ResponseBody> {
    let Answer {
        mut response,
        judged,
        upgraded,
        early,
        changes,
    } = answer;
    exchange.details = "via_upstream".into();
    if upgraded.is_none() {
        exchange.service_time = Some(exchange.elapsed());
    }
    let http1 = inbound.version == protocol::Version::Http1;
    if let Some((client, asked)) = upgraded {
        let protocol = response.headers().get(UPGRADE).cloned().unwrap_or(asked);
        headers::leave(response.headers_mut());
        let fields = response.headers_mut();
        if http1 {
            inbound.half_close.allow();
            fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            fields.insert(UPGRADE, protocol);
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        } else {
            *response.status_mut() = StatusCode::OK;
        }
        exchange.status = response.status().as_u16();
        let (done, relayed) = oneshot::channel();
        let own = Rc::clone(inbound);
        if http1 {
            inbound.upgraded.replace(Some(relayed));
        }
        let revoked = async move {
            // Dropped with the relay.
            let _done: oneshot::Sender<()> = done;
            if !http1 {
                return judged.revoked().await;
            }
            let denial = tokio::select! {
                denial = judged.revoked() => denial,
                denial = own.ended() => denial,
            };
            own.aborting.abort();
            denial
        };
        let upstream = hyper::upgrade::on(&mut response);
        upgrade::relay(
            (&inbound.worker, &inbound.pod),
            (client, upstream),
            exchange,
            revoked,
        );
        let arrival = inbound.admitted.arrival();
        let silent = Exchange::begin(&inbound.worker, arrival.source, arrival.destination);
        let (parts, _) = response.into_parts();
        return Response::from_parts(parts, ResponseBody::local(Bytes::new(), Box::new(silent)));
    }
    exchange.status = response.status().as_u16();
    let (mut parts, body) = response.into_parts();
    headers::leave(&mut parts.headers);
    if let Some(mut changes) = changes {
        changes.apply_to_answer(&mut parts.headers);
    }
    parts.extensions.remove::<ReasonPhrase>();
    parts.version = http::Version::HTTP_11;
    if early && http1 {
        let fields = &mut parts.headers;
        fields.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Response::from_parts(
        parts,
        ResponseBody::judged(body, exchange, judged, inbound.aborting()),
    )
}
