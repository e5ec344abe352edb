//! Copies of requests for mirrors: sent once the request is complete, their answers thrown away.
//! Whatever becomes of them, the request itself does not notice.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::request;
use http_body::Body as _;

use super::Downstream;
use super::attempt::Upstream;
use super::content::Content;
use super::headers;
use super::message::{Message, Outgoing};
use super::upload::Upload;
use crate::dataplane::allowance::Allowance;
use crate::dataplane::balance::Wanted;
use crate::dataplane::outcome::Exchange;
use crate::dataplane::task;
use crate::mesh::Cluster;
use crate::mesh::route::Forward;
use crate::policy::balance::Algorithm;
use crate::policy::timeout::Limits;

/// Copies that one worker has under way at most; the clusters' own limits count them too.
const MOST: usize = 256;
/// Bytes of bodies that they hold at most, once their requests are over.
const MOST_BYTES: usize = 32 << 20;
/// How long a copy may take where its request has no timeout: nobody waits for it, so nobody would
/// give it up.
const PATIENCE: Duration = Duration::from_secs(60);

thread_local! {
    static UNDER_WAY: Allowance = const { Allowance::new(MOST) };
    static HELD: Allowance = const { Allowance::new(MOST_BYTES) };
}
/// Sends a copy of `message` to each mirror that draws it (Envoy: once a request, whatever its
/// retries do).
pub(super) fn send(
    downstream: &Rc<Downstream>,
    forward: &Forward,
    message: &Message,
    limits: Limits,
    grpc: bool,
) {
    let worker = &downstream.worker;
    let snapshot = worker.snapshot();
    let workload = Arc::clone(&downstream.pod.pod().workload);
    // A copy has one attempt, and as long for it as the request has for all of its own.
    let told = Limits {
        request: limits.request.or(limits.attempt),
        attempt: None,
    };
    let addresses = &workload.addresses;
    let own = addresses.iter().find(|own| own.is_ipv4());
    let own = own.or(addresses.first()).copied();
    for mirror in &forward.mirrors {
        if !mirror.share.hit(worker.draw()) {
            continue;
        }
        let Some(cluster) = snapshot.cluster_for(&mirror.cluster, workload.source()) else {
            continue;
        };
        let Some(place) = Allowance::take(&UNDER_WAY, 1) else {
            worker.counters.mirrored_rq_dropped.increment();
            continue;
        };
        if let Some(upload) = message.upload() {
            upload.keep_whole();
        }
        let mut parts = message.parts.clone();
        headers::announce(&mut parts.headers, 1, told.expected(Duration::ZERO), grpc);
        headers::mark_copy(&mut parts.headers, own);
        let copy = Copy {
            downstream: Rc::clone(downstream),
            cluster: Arc::clone(cluster),
            parts,
            upload: message.upload().cloned(),
            patience: limits.request.unwrap_or(PATIENCE),
        };
        task::spawn(worker, &downstream.pod, async move {
            let _place = place;
            copy.send().await;
        });
    }
}

/// One copy.
struct Copy {
    downstream: Rc<Downstream>,
    cluster: Arc<Cluster>,
    parts: Box<request::Parts>,
    upload: Option<Rc<Upload>>,
    patience: Duration,
}

impl Copy {
    async fn send(self) {
        let worker = &self.downstream.worker;
        let (mut content, mut held) = (None, None);
        if let Some(upload) = self.upload {
            content = whole(upload).await;
            held = content
                .as_ref()
                .and_then(|one| Allowance::take(&HELD, one.len()));
            if held.is_none() {
                worker.counters.mirrored_rq_dropped.increment();
                return;
            }
        }
        worker.counters.mirrored_rq.increment();
        let pod = &self.downstream.pod;
        let upstream = Upstream {
            cluster: pod.cluster(worker, &self.cluster),
            original: (self.cluster.policy.balancer == Algorithm::Passthrough)
                .then_some(self.downstream.destination),
            wanted: Wanted::Like(self.downstream.destination),
            hash: None,
            http2: self.downstream.speaks_http2(&self.cluster, false),
        };
        let body = content.map_or(Outgoing::Nothing, Outgoing::Copy);
        let message = Message::new(self.parts, body, upstream.http2);
        let Ok(message) = message else {
            return;
        };
        let mut exchange = Exchange::silent(worker);
        let exchanged = async {
            let sent = upstream.once((worker, pod), &mut exchange, &message);
            match sent.await {
                Ok(response) => {
                    if drain(response.into_body()).await {
                        exchange.complete();
                    }
                }
                Err(error) => {
                    tracing::debug!(cluster = %self.cluster.name, %error, "a mirror failed");
                }
            }
        };
        let _ = tokio::time::timeout(self.patience, exchanged).await;
        drop(held);
    }
}

/// A request's body, once it is complete. `None`: it broke off or was too large.
async fn whole(upload: Rc<Upload>) -> Option<Content> {
    let weak = Rc::downgrade(&upload);
    drop(upload);
    std::future::poll_fn(|cx| {
        // Whoever serves the request holds it: gone before its end, it never comes.
        let Some(upload) = weak.upgrade() else {
            return Poll::Ready(None);
        };
        if upload.ended() {
            return Poll::Ready(upload.content());
        }
        upload.wake_at_end(cx.waker());
        Poll::Pending
    })
    .await
}

/// Reads a body to its end; whether there was one.
async fn drain(body: hyper::body::Incoming) -> bool {
    let mut body = std::pin::pin!(body);
    loop {
        if body.is_end_stream() {
            return true;
        }
        match std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            None => return true,
            Some(Ok(_)) => {}
            Some(Err(_)) => return false,
        }
    }
}
