//! External authorizers: asked about a request before its own policies judge it (CUSTOM). Who is asked
//! is a Service like any other to the pod that is called: its connections are the pod's, pooled,
//! limited, and by HBONE where it is in the mesh.
//!
//! What can't be asked denies, unless the provider says otherwise. A provider that nobody knows, or
//! whose Service there is not, always does.

mod grpc;
mod http;

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use ::http::{HeaderMap, HeaderValue, StatusCode, request};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http_body::Body as _;
use hyper::body::Incoming;

use super::super::attempt::Upstream;
use super::super::canonical::Canonical;
use super::super::content::Content;
use super::super::message::{Message, Outgoing};
use super::super::upload::{Reader, RequestBody, Upload};
use super::Inbound;
use crate::dataplane::allowance::Allowance;
use crate::dataplane::balance::Wanted;
use crate::dataplane::error::Error;
use crate::dataplane::outcome::Exchange;
use crate::mesh::{Cluster, Guard};
use crate::policy::authorization::{Denial, Policy, Request};
use crate::policy::external::{Body, Changes, Protocol, Provider, Refusal};
use crate::policy::jwt::Verified;
use crate::types::Protocol as Spoken;

/// Requests of one worker that may be asked about at a time.
const MOST: usize = 4096;
/// Bytes of an answer's body, at most.
const ANSWER: usize = 1 << 20;
/// Tells an authorizer whether it was told all of a body (Envoy).
const PARTIAL: &str = "x-envoy-auth-partial-body";

thread_local! {
    static ASKING: Allowance = const { Allowance::new(MOST) };
}

/// Why a request goes no further.
pub(super) enum Refused {
    /// An authorizer denies it, or could not be asked. With Envoy's name of which.
    Reply(Refusal, &'static str),
    /// There is nobody to be asked: the policy denies what it matches (Istio).
    Denied(Denial),
    /// It can't be asked about.
    Error(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// What came of asking one.
enum Answer {
    Allowed(Box<Changes>),
    Denied(Refusal),
}

/// Why one could not be asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Error(Error),
    #[error("it took too long")]
    Late,
    #[error("too many requests are asked about already")]
    Crowded,
    #[error("its answer can't be read: {0}")]
    Answer(String),
    #[error("it says {0}")]
    Status(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// A request, as an authorizer is told of it.
struct Subject<'a> {
    inbound: &'a Rc<Inbound>,
    parts: &'a request::Parts,
    host: &'a HeaderValue,
    told: Option<Told>,
    /// The whole body's length, where it is known.
    size: Option<u64>,
}

/// What is told of a body.
struct Told {
    bytes: Bytes,
    partial: bool,
    as_bytes: bool,
}
/// Asks those whom the policies name that match the request, one after the other: all must allow it.
/// What they change of its head is changed; what they change of its answer is returned.
///
/// On the heap and without its type: it may lead to a pod of this node, whose requests may be asked
/// about in turn, and a future can't have itself in it. The futures of requests that nobody is asked
/// about stay small.
pub(super) fn ask<'a>(
    inbound: &'a Rc<Inbound>,
    guard: &Guard,
    exchange: &Exchange,
    canonical: &'a mut Canonical,
    token: Option<&'a Verified>,
    upload: Option<&'a Rc<Upload>>,
) -> LocalBoxFuture<'a, Result<Changes, Refused>> {
    let matching = matching(inbound, guard, exchange, canonical, token);
    Box::pin(ask_all(inbound, matching, canonical, upload))
}

async fn ask_all(
    inbound: &Rc<Inbound>,
    matching: Vec<(Arc<Policy>, usize)>,
    canonical: &mut Canonical,
    upload: Option<&Rc<Upload>>,
) -> Result<Changes, Refused> {
    let worker = &inbound.worker;
    let mut changes = Changes::default();
    let mut kept = false;
    for (policy, rule) in matching {
        let denied = |policy| {
            worker.counters.rbac_rq_denied.increment();
            Refused::Denied(Denial::Matched { policy, rule })
        };
        // A policy that was never valid names none.
        let name = policy.provider.as_deref().unwrap_or_default();
        let provider = worker.snapshot().providers.get(name).cloned();
        let Some(provider) = provider else {
            tracing::debug!(
                provider = name,
                "no such external authorizer: a request is denied"
            );
            return Err(denied(Arc::clone(&policy)));
        };
        let (told, size) = match (provider.body, upload) {
            (Some(limits), Some(upload)) => {
                // Later readers begin with what was kept for the first.
                if !std::mem::replace(&mut kept, true) {
                    upload.keep();
                }
                let told = read(upload, limits).await?;
                (Some(told), upload.ended().then(|| upload.bytes()))
            }
            (Some(_), None) => (None, Some(0)),
            (None, Some(_)) => (None, None),
            (None, None) => (None, Some(0)),
        };
        let answer = {
            let subject = Subject {
                inbound,
                parts: &canonical.parts,
                host: &canonical.authority,
                told,
                size,
            };
            tokio::time::timeout(provider.timeout, asked(&provider, &subject)).await
        };
        match answer.unwrap_or(Err(Failure::Late)) {
            Ok(Answer::Allowed(mut more)) => {
                worker.counters.ext_authz_ok.increment();
                more.apply(&mut canonical.parts.headers);
                changes.and(*more);
            }
            Ok(Answer::Denied(refusal)) => {
                worker.counters.ext_authz_denied.increment();
                return Err(Refused::Reply(refusal, "ext_authz_denied"));
            }
            Err(failure) => {
                tracing::debug!(provider = name, %failure, "an external authorizer could not be asked");
                worker.counters.ext_authz_error.increment();
                if matches!(failure, Failure::Error(Error::NoCluster)) {
                    return Err(denied(Arc::clone(&policy)));
                }
                if !provider.fail_open {
                    let refusal = Refusal::of(provider.status_on_error);
                    return Err(Refused::Reply(refusal, "ext_authz_error"));
                }
                worker.counters.ext_authz_failure_mode_allowed.increment();
            }
        }
    }
    Ok(changes)
}

/// The policies that match, the first of each provider.
fn matching(
    inbound: &Inbound,
    guard: &Guard,
    exchange: &Exchange,
    canonical: &Canonical,
    token: Option<&Verified>,
) -> Vec<(Arc<Policy>, usize)> {
    let request = Request {
        method: canonical.parts.method.as_str(),
        path: canonical.parts.uri.path(),
        host: canonical.authority(),
        headers: &canonical.parts.headers,
        remote: exchange.remote().ip(),
        token: token.map(|token| &*token.token),
    };
    let mut first: Vec<(Arc<Policy>, usize)> = Vec::new();
    for (policy, rule) in inbound.admitted.custom(guard, &request) {
        if !first.iter().any(|(one, _)| one.provider == policy.provider) {
            first.push((policy, rule));
        }
    }
    first
}

/// Reads as much of a body as is told.
async fn read(upload: &Rc<Upload>, limits: Body) -> Result<Told, Refused> {
    let mut body = RequestBody::Read(Reader::new(upload));
    let mut held = Vec::new();
    loop {
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        match frame {
            None => break,
            Some(Err(_)) => return Err(Error::RequestBody.into()),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    held.extend_from_slice(&data);
                }
            }
        }
        if held.len() > limits.most && !limits.partial {
            return Err(Refused::Reply(
                Refusal::of(StatusCode::PAYLOAD_TOO_LARGE),
                "request_payload_too_large",
            ));
        }
        if held.len() >= limits.most && limits.partial {
            break;
        }
    }
    let partial = held.len() > limits.most || !upload.ended();
    held.truncate(limits.most);
    Ok(Told {
        bytes: held.into(),
        partial,
        as_bytes: limits.bytes,
    })
}

async fn asked(provider: &Provider, subject: &Subject<'_>) -> Result<Answer, Failure> {
    let _share = Allowance::take(&ASKING, 1).ok_or(Failure::Crowded)?;
    match &provider.protocol {
        Protocol::Http(settings) => http::ask(provider, settings, subject).await,
        Protocol::Grpc => grpc::ask(provider, subject).await,
    }
}

/// An answer's head and body, and what has the connection that they come by.
struct Sent {
    status: StatusCode,
    headers: HeaderMap,
    body: Incoming,
    exchange: Exchange,
}

/// Sends a request to the provider's service.
async fn send(
    provider: &Provider,
    subject: &Subject<'_>,
    parts: request::Parts,
    body: Option<Bytes>,
    is_http2: impl FnOnce(&Cluster) -> bool,
) -> Result<Sent, Failure> {
    let (worker, pod) = (&subject.inbound.worker, &subject.inbound.pod);
    let snapshot = worker.snapshot();
    let workload = Arc::clone(&pod.pod().workload);
    let cluster = snapshot.cluster_for(&provider.cluster, workload.source());
    let cluster = cluster.ok_or(Error::NoCluster)?;
    let upstream = Upstream {
        http2: is_http2(cluster),
        cluster: pod.cluster(worker, cluster),
        original: None,
        wanted: Wanted::Like(subject.inbound.admitted.arrival().destination),
        hash: None,
    };
    let body = body.map_or(Outgoing::Nothing, |body| Outgoing::Copy(Content::of(body)));
    let message = Message::new(Box::new(parts), body, upstream.http2)?;
    let mut exchange = Exchange::silent(worker);
    let sent = upstream.once((worker, pod), &mut exchange, &message);
    let response = sent.await?;
    let (head, body) = response.into_parts();
    Ok(Sent {
        status: head.status,
        headers: head.headers,
        body,
        exchange,
    })
}

/// Whether a service is spoken with by HTTP/2.
fn speaks_http2(cluster: &Cluster) -> bool {
    match cluster.protocol {
        Spoken::Http2 | Spoken::Grpc => true,
        Spoken::Http | Spoken::Auto | Spoken::Tcp | Spoken::Tls => cluster.policy.http.upgrade,
    }
}
