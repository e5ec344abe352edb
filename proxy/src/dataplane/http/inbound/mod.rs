//! Requests into a local pod whose policies ask about requests: each is made canonical, judged, and
//! what was judged goes to the application.
//!
//! Does not know where the bytes come from, nor who the caller is but by what it is handed. Nothing
//! is routed, retried or timed here: the caller's proxy did that.

mod answer;
mod application;
pub(in crate::dataplane) mod certificate;
mod external;
pub(super) mod tokens;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};

use self::application::Application;
use super::{reply, speak};
use crate::dataplane::authorize::Admitted;
use crate::dataplane::idle::Activity;
use crate::dataplane::pod::LocalPod;
use crate::dataplane::protocol::Version;
use crate::dataplane::worker::Worker;
use crate::net::gather::Gather;
use crate::net::linger::HalfClose;
use crate::net::socket;
use crate::net::through::write_through;
use crate::policy::authorization::Denial;

/// A connection that is known to carry requests.
pub(in crate::dataplane) struct Arriving {
    /// Who it comes from, and the watch over it.
    pub(in crate::dataplane) admitted: Admitted,
    /// What it speaks.
    pub(in crate::dataplane) version: Version,
    /// What the application is told about the caller's certificate ([`certificate`]); `None` where
    /// it has shown none.
    pub(in crate::dataplane) certificate: Option<HeaderValue>,
    /// Whether it came encrypted: what `x-forwarded-proto` says where nobody has said it before.
    pub(in crate::dataplane) encrypted: bool,
    /// A connection to the application, where there is one already.
    pub(in crate::dataplane) application: Option<TcpStream>,
}

/// A stream that can be ended at once, so that nobody takes it for a regular end.
pub(in crate::dataplane) trait Abort {
    /// The stream is dropped next.
    fn abort(&mut self);
}

impl Abort for TcpStream {
    fn abort(&mut self) {
        socket::reset_on_close(self);
    }
}

impl<S: Abort> Abort for Gather<S> {
    fn abort(&mut self) {
        self.0.abort();
    }
}

/// What every request of one connection shares.
struct Inbound {
    worker: Rc<Worker>,
    pod: Rc<LocalPod>,
    admitted: Admitted,
    version: Version,
    certificate: Option<HeaderValue>,
    encrypted: bool,
    /// Who calls, as the access log has it.
    principal: Option<Rc<str>>,
    application: Application,
    aborting: Rc<Aborting>,
    /// Why it is ended.
    denial: RefCell<Option<Denial>>,
    /// Over HTTP/1.1: resolves when what it was upgraded to is over.
    upgraded: RefCell<Option<oneshot::Receiver<()>>>,
    /// Over HTTP/2: whether the connection has ended, and not only one of its streams.
    hung_up: Option<Rc<Cell<bool>>>,
    half_close: HalfClose,
    activity: Rc<Activity>,
}

/// Serves the requests of a connection until it ends, or its caller may not call any more.
pub(in crate::dataplane) async fn serve<I>(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    io: I,
    arriving: Arriving,
) where
    I: AsyncRead + AsyncWrite + Abort + Unpin + Send + 'static,
{
    let Arriving {
        admitted,
        version,
        certificate,
        encrypted,
        application,
    } = arriving;
    let peer = admitted.arrival().peer.as_ref();
    let principal = peer.filter(|_| worker.logs());
    let principal = principal.map(|peer| peer.principal().to_string().into());
    let aborting = Rc::<Aborting>::default();
    let io = Abortable {
        io,
        aborted: Arc::clone(&aborting.aborted),
    };
    let inbound = Rc::new(Inbound {
        worker: Rc::clone(worker),
        pod: Rc::clone(pod),
        admitted,
        version,
        certificate,
        encrypted,
        principal,
        application: Application::new(version, application),
        aborting: Rc::clone(&aborting),
        denial: RefCell::default(),
        upgraded: RefCell::default(),
        hung_up: (version == Version::Http2).then(Rc::default),
        half_close: HalfClose::default(),
        activity: Rc::default(),
    });
    let service = {
        let inbound = Rc::clone(&inbound);
        service_fn(move |request: Request<Incoming>| {
            let inbound = Rc::clone(&inbound);
            let (parts, body) = request.into_parts();
            let parts = Box::new(parts);
            Box::pin(async move {
                let _asked = inbound.activity.asked();
                Ok::<_, Infallible>(answer::answer(&inbound, parts, body).await)
            })
        })
    };
    let end = async {
        tokio::select! {
            () = pod.draining() => {}
            () = worker.idlers.watch(&inbound.activity) => {}
        }
    };
    let arrival = inbound.admitted.arrival();
    let ended = tokio::select! {
        biased;
        () = inbound.revoked() => Ok(()),
        () = aborting.told.notified() => Ok(()),
        ended = speak(io, &inbound.half_close, version, service, end) => ended,
    };
    if let Some(relayed) = inbound.upgraded.take() {
        // It goes on, no longer as HTTP.
        tokio::select! {
            _ = relayed => {}
            () = inbound.revoked() => {}
        }
    }
    if let Some(hung_up) = &inbound.hung_up {
        hung_up.set(true);
    }
    if let Err(error) = ended {
        if error.is_parse() {
            // hyper has answered 400, 414 or 431 by itself.
            worker.counters.downstream_rq_malformed.increment();
            let ends = (arrival.source, arrival.destination);
            reply::log_malformed(worker, ends, version, &error);
        }
        tracing::debug!(
            source = %arrival.source, destination = %arrival.destination, %error,
            "an HTTP connection into a pod ended"
        );
    }
}

/// How a connection is ended at once.
#[derive(Default)]
pub(super) struct Aborting {
    /// Not in order: shared with its stream, which is wherever HTTP has it.
    aborted: Arc<AtomicBool>,
    told: Notify,
}

impl Aborting {
    /// Ends it.
    pub(super) fn abort(&self) {
        self.aborted.store(true, Ordering::Relaxed);
        self.told.notify_one();
    }
}

impl Inbound {
    /// Resolves when its caller may not call any more. It is aborted then, before whoever waits for
    /// this lets go of it.
    async fn revoked(&self) {
        let denial = self.admitted.revoked().await;
        let source = self.admitted.arrival().source;
        tracing::debug!(%source, %denial, "an HTTP connection is reset");
        self.denial.replace(Some(denial));
        self.aborting.abort();
    }

    /// Resolves when it is ended, for what it was upgraded to.
    async fn ended(&self) -> Denial {
        self.aborting.told.notified().await;
        self.denial.take().unwrap_or(Denial::NotAllowed)
    }

    /// What is ended with a request that is no longer allowed, where it is its whole connection.
    fn aborting(&self) -> Option<Rc<Aborting>> {
        (self.version == Version::Http1).then(|| Rc::clone(&self.aborting))
    }
}

/// A stream whose end is abrupt where somebody has said so.
struct Abortable<I: Abort> {
    io: I,
    aborted: Arc<AtomicBool>,
}

impl<I: Abort> Drop for Abortable<I> {
    fn drop(&mut self) {
        if self.aborted.load(Ordering::Relaxed) {
            self.io.abort();
        }
    }
}

impl<I: AsyncRead + Abort + Unpin> AsyncRead for Abortable<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Abort + Unpin> AsyncWrite for Abortable<I> {
    write_through!(io);

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.aborted.load(Ordering::Relaxed) {
            // A FIN would look like a regular end.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
