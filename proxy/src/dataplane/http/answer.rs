//! What becomes of one request, in the order in which Envoy's filters see it: one unambiguous
//! request → the rule → faults → CORS → what the rule does.

use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE, USER_AGENT};
use http::{HeaderValue, Method, Response, StatusCode, Version, request};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;

use super::attempt::Upstream;
use super::body::ResponseBody;
use super::canonical::Canonical;
use super::entry::{self, Entered};
use super::fields::Fields;
use super::finish::Finish;
use super::forward::{Answer, Forward};
use super::message::{Message, Outgoing};
use super::route::{self, Route};
use super::upload::Upload;
use super::{Downstream, admission, headers, mirror, reply, rewrite, upgrade};
use crate::clock;
use crate::dataplane::error::Error;
use crate::dataplane::outcome::{Exchange, Requested};
use crate::dataplane::protocol;
use crate::mesh::{Action, Cluster, Rule, Snapshot, route as mesh};
use crate::policy::redirect;
use crate::policy::retry;
use crate::policy::rewrite::Matched;
use crate::policy::timeout::Limits;
use crate::types::name::without_port;
use crate::types::{ClusterName, Hostname};

/// Answers one request, whatever becomes of it.
pub(super) async fn answer(
    downstream: Rc<Downstream>,
    parts: Box<request::Parts>,
    body: Incoming,
) -> Response<ResponseBody> {
    let worker = &downstream.worker;
    worker.counters.downstream_rq.increment();
    let mut exchange = Box::new(Exchange::begin(
        worker,
        downstream.source,
        downstream.destination,
    ));
    exchange.hung_up.clone_from(&downstream.hung_up);
    if worker.logs() {
        exchange.requested = Some(Box::new(requested(&parts)));
    }
    let fields = Fields::of(&parts.headers);
    let grpc = fields.has(Fields::CONTENT_TYPE) && reply::is_grpc(&parts.headers);
    if fields.has(Fields::HOP) && body.is_end_stream() && headers::is_last(&parts.headers) {
        downstream.half_close.allow();
    }
    let is_connect = parts.method == Method::CONNECT;
    match serve(&downstream, &mut exchange, (parts, fields), body, grpc).await {
        Ok(Served::Upstream(answer)) => deliver(&downstream, exchange, answer),
        Ok(Served::Local(reply)) => {
            worker.counters.local_replies.increment();
            reply.response(exchange)
        }
        Err(Error::RequestBody) if exchange.received.as_ref().is_some_and(|one| one.is_gone()) => {
            exchange.left();
            reply::failed(exchange, &Error::RequestBody, grpc)
        }
        Err(error) => {
            worker.counters.local_replies.increment();
            let mut response = reply::failed(exchange, &error, grpc);
            // What follows a CONNECT was meant for somebody else.
            let closes = closes(&error) || is_connect;
            if closes && downstream.version == protocol::Version::Http1 {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    }
}

/// After a request that could not be understood nothing on its connection can be trusted.
pub(super) fn closes(error: &Error) -> bool {
    matches!(
        error,
        Error::BadRequest(_) | Error::HeadersTooLarge | Error::TransferCoding | Error::RequestBody
    )
}

pub(super) fn requested(parts: &request::Parts) -> Requested {
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
        principal: None,
    }
}

/// Who answered.
enum Served {
    Upstream(Answer),
    Local(reply::Local),
}

async fn serve(
    downstream: &Rc<Downstream>,
    exchange: &mut Exchange,
    (parts, fields): (Box<request::Parts>, Fields),
    body: Incoming,
    grpc: bool,
) -> Result<Served, Error> {
    let worker = &downstream.worker;
    let Entered {
        mut canonical,
        client,
    } = entry::enter(worker, exchange, parts, fields)?;
    if fields.has(Fields::CLIENT_CERT) {
        // No client of a pod's shows a certificate to the pod's own proxy (Envoy's `SANITIZE`).
        canonical.parts.headers.remove(headers::CLIENT_CERT);
    }
    let snapshot = worker.snapshot();
    let request = Incomplete {
        downstream,
        canonical,
        body,
        grpc,
        client,
    };
    let route = route::choose(&snapshot, downstream, &request.canonical)?;
    let mut forward = match &route {
        Route::AllowAny(cluster) => {
            exchange.route = Some(Arc::clone(&route::ALLOW_ANY));
            request.allow_any(exchange, cluster.as_ref())?
        }
        Route::Rule(rule, matched) => {
            exchange.route = Some(Arc::clone(&rule.name));
            let chosen = match &rule.action {
                Action::Forward(forward) => {
                    if let Some(prefix) = &rule.stat_prefix {
                        request.count(exchange, &snapshot, prefix);
                    }
                    let chosen = forward.weights.pick(worker.draw());
                    let destination = forward.destinations.get(chosen);
                    exchange.cluster = destination.map(|one| one.cluster.clone());
                    chosen
                }
                Action::Redirect(_) | Action::Respond(_) => 0,
            };
            exchange.finish = Finish::of(rule, &request.canonical, exchange.requested.as_deref());
            if let Some(fault) = &rule.fault {
                // On the heap: few requests need it.
                if let Some(reply) = Box::pin(admission::inject(fault, exchange, grpc)).await {
                    return Ok(Served::Local(reply));
                }
            }
            if let Some(policy) = &rule.cors
                && let Some(reply) = admission::admit(policy, exchange, &request.canonical)
            {
                return Ok(Served::Local(reply));
            }
            match &rule.action {
                Action::Respond(response) => {
                    let itself = || request.location(&redirect::Redirect::ITSELF, *matched);
                    let reply = reply::Local::direct(response, itself, grpc);
                    return Ok(Served::Local(reply));
                }
                Action::Redirect(redirect) => {
                    let location = request.location(redirect, *matched);
                    let reply = reply::Local::redirect(redirect.status, location);
                    return Ok(Served::Local(reply));
                }
                Action::Forward(forward) => {
                    request.forward(exchange, &snapshot, rule, (forward, chosen), *matched)?
                }
            }
        }
    };
    // However long the answer takes, it does not keep an old configuration.
    drop(snapshot);
    Ok(Served::Upstream(forward.send(exchange).await?))
}

/// The retries of requests that no rule is about: Envoy's route to the original destination has none.
static NO_RETRIES: LazyLock<retry::Policy> = LazyLock::new(retry::Policy::never);

/// A request that has a rule and no destination yet.
struct Incomplete<'a> {
    downstream: &'a Rc<Downstream>,
    canonical: Canonical,
    body: Incoming,
    grpc: bool,
    /// The client's side of an upgrade that it asks for, and to what.
    client: Option<(OnUpgrade, HeaderValue)>,
}

impl<'a> Incomplete<'a> {
    /// Has the request counted by its route's `statPrefix`, for the host that it asks for.
    fn count(&self, exchange: &mut Exchange, snapshot: &Snapshot, prefix: &str) {
        let pod = self.downstream.pod.pod();
        let namespace = &pod.workload.namespace;
        let dialled = self.downstream.destination.port();
        let authority = self.canonical.authority();
        let service = snapshot.host(authority, namespace, dialled);
        let host = match service {
            Some((service, _)) => service.hostname.clone(),
            None => Hostname::new(without_port(authority)),
        };
        // What clients ask for under a domain are not names to be remembered.
        let known = service.is_some() || snapshot.virtual_hosts.contains(&host);
        let host = if known { host.as_str() } else { "*" };
        exchange.count(&format!("{host}:{dialled}.route.{prefix}"));
    }

    fn location(&self, redirect: &redirect::Redirect, matched: Matched) -> HeaderValue {
        let uri = &self.canonical.parts.uri;
        redirect.location(&redirect::Request {
            scheme: redirect::Scheme::Http,
            authority: self.canonical.authority(),
            path: uri.path(),
            query: uri.query(),
            port: self.downstream.destination.port(),
            matched,
        })
    }

    /// To where the client was going.
    fn allow_any(
        self,
        exchange: &mut Exchange,
        cluster: Option<&Arc<Cluster>>,
    ) -> Result<Forward<'a>, Error> {
        exchange.cluster = Some(ClusterName::passthrough());
        let original = cluster.is_none().then_some(self.downstream.destination);
        let cluster = cluster.unwrap_or(&self.downstream.worker.passthrough);
        let upstream = self.upstream(cluster, original);
        let limits = Limits::new(None, None, None);
        self.toward(exchange, upstream, &NO_RETRIES, limits, None)
    }

    /// To one of the rule's destinations.
    fn forward(
        mut self,
        exchange: &mut Exchange,
        snapshot: &crate::mesh::Snapshot,
        rule: &Rule,
        (forward, chosen): (&'a Arc<mesh::Forward>, usize),
        matched: Matched,
    ) -> Result<Forward<'a>, Error> {
        let downstream = self.downstream;
        // One of them: a rule whose weights and destinations differ in number is not made.
        let destination = forward.destinations.get(chosen).ok_or(Error::NoCluster)?;
        exchange.finish.toward(destination);
        let workload = Arc::clone(&downstream.pod.pod().workload);
        let cluster = snapshot.cluster_for(&destination.cluster, workload.source());
        let cluster = cluster.ok_or(Error::NoCluster)?;
        let edits = [destination.headers.as_deref(), Some(&*rule.headers)];
        rewrite::apply(&mut self.canonical, exchange, &edits, forward, matched)?;
        let mut upstream = self.upstream(cluster, None);
        if cluster.policy.balancer.is_hash() {
            let keys = snapshot.hash_keys(forward, workload.source());
            upstream.hash = rewrite::hash(keys, &self.canonical, downstream, exchange);
        }
        let announced = self.grpc.then(|| {
            let headers = &self.canonical.parts.headers;
            headers.get(headers::GRPC_TIMEOUT)
        });
        let limits = Limits::new(
            forward.timeout,
            forward.retry.per_try_timeout,
            announced.flatten().map(HeaderValue::as_bytes),
        );
        self.toward(exchange, upstream, &forward.retry, limits, Some(forward))
    }

    fn upstream(&self, cluster: &Arc<Cluster>, original: Option<std::net::SocketAddr>) -> Upstream {
        let downstream = self.downstream;
        let worker = &downstream.worker;
        let passes_through =
            cluster.policy.balancer == crate::policy::balance::Algorithm::Passthrough;
        Upstream {
            cluster: downstream.pod.cluster(worker, cluster),
            original: original.or(passes_through.then_some(downstream.destination)),
            wanted: downstream.target.wanted(downstream.destination),
            hash: None,
            http2: downstream.speaks_http2(cluster, original.is_some()),
        }
    }

    fn toward(
        self,
        exchange: &mut Exchange,
        upstream: Upstream,
        retry: &'a retry::Policy,
        limits: Limits,
        forward: Option<&Arc<mesh::Forward>>,
    ) -> Result<Forward<'a>, Error> {
        let upload = (!self.body.is_end_stream()).then(|| Upload::new(self.body));
        exchange.received.clone_from(&upload);
        let http2 = upstream.http2;
        let body = upload.map_or(Outgoing::Nothing, Outgoing::Upload);
        let message = Message::new(self.canonical.parts, body, http2)?;
        if let Some(forward) = forward.filter(|forward| !forward.mirrors.is_empty())
            && self.client.is_none()
        {
            mirror::send(self.downstream, forward, &message, limits, self.grpc);
        }
        Ok(Forward {
            downstream: self.downstream,
            upstream,
            message,
            retry,
            limits,
            grpc: self.grpc,
            client: self.client,
        })
    }
}

fn deliver(
    downstream: &Rc<Downstream>,
    mut exchange: Box<Exchange>,
    answer: Answer,
) -> Response<ResponseBody> {
    let Answer {
        mut response,
        upgraded,
        asked,
        early,
        deadline,
    } = answer;
    exchange.status = response.status().as_u16();
    exchange.details = "via_upstream".into();
    let service_time = exchange.service_time;
    if let Some(client) = upgraded {
        let protocol = response.headers().get(UPGRADE).cloned().or(asked);
        headers::to_downstream(response.headers_mut(), service_time);
        exchange.edit(response.headers_mut());
        if downstream.version == protocol::Version::Http1 {
            downstream.half_close.allow();
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let fields = response.headers_mut();
            fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            if let Some(protocol) = protocol {
                fields.insert(UPGRADE, protocol);
            }
        } else {
            *response.status_mut() = StatusCode::OK;
        }
        exchange.status = response.status().as_u16();
        let upstream = hyper::upgrade::on(&mut response);
        upgrade::relay(
            (&downstream.worker, &downstream.pod),
            (client, upstream),
            exchange,
            std::future::pending(),
        );
        let silent = Exchange::begin(
            &downstream.worker,
            downstream.source,
            downstream.destination,
        );
        let (parts, _) = response.into_parts();
        return Response::from_parts(parts, ResponseBody::local(Bytes::new(), Box::new(silent)));
    }
    let (mut parts, body) = response.into_parts();
    headers::to_downstream(&mut parts.headers, service_time);
    exchange.edit(&mut parts.headers);
    parts.extensions.remove::<ReasonPhrase>();
    parts.version = Version::HTTP_11;
    if early && downstream.version == protocol::Version::Http1 {
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Response::from_parts(parts, ResponseBody::streamed(body, exchange, deadline))
}
