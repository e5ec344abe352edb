//! A connection between two pods of this node, inside the process: judged by the destination's
//! policies as one by HBONE, with the identity that the kernel's capture vouches for, and not
//! encrypted, because it leaves the process for the application alone.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::authorize::{self, Admitted, Arrival, Met};
use super::channel::{self, Channel};
use super::error::Error;
use super::hbone::Failure;
use super::http::inbound::certificate;
use super::outcome::Connection;
use super::pod::LocalPod;
use super::relay::{End, Meter};
use super::task;
use super::worker::Worker;
use super::{arriving, connect};
use crate::mesh::cluster::Tcp;
use crate::policy::authorization::Denial;
use crate::types::ClusterName;

/// What stays with such a connection as long as it is open.
pub(super) struct Within {
    admitted: Admitted,
    /// The destination's own line.
    pub(super) log: Connection,
    /// Ends when the destination's namespace goes: the socket is in it, and would keep it.
    gone: RefCell<oneshot::Receiver<Infallible>>,
    /// Its end tells the destination that this no longer runs.
    _kept: oneshot::Sender<Infallible>,
}

/// What leads to a pod of this node.
pub(super) enum Connected {
    /// The application's own socket.
    Bytes(TcpStream, Box<Within>),
    /// The proxy on the pod's side, which judges requests each by itself.
    Requests(Channel),
}

/// Connects the pod `from` to `to`, an address of the pod `at`. `port`: the client's, where the connection
/// is for one alone.
pub(super) async fn connect(
    worker: &Rc<Worker>,
    from: &LocalPod,
    at: &Rc<LocalPod>,
    to: SocketAddr,
    policy: &Tcp,
    port: Option<u16>,
) -> Result<Connected, Error> {
    worker.counters.downstream_cx_within.increment();
    let peer = from.identity(worker).map_err(Failure::from)?;
    let own = from.address_like(to.ip()).ok_or(Error::NoHealthyUpstream)?;
    // What several clients share has a port once the application is dialled: the one that it sees.
    let source = SocketAddr::new(own, port.unwrap_or(0));
    let cluster = ClusterName::inbound(to.port());
    let mut log = Connection::begin(worker, source, to, cluster);
    log.peer = Some(peer.clone());
    log.upstream_host = Some(to);
    let arrival = Arrival {
        peer: Some(peer.clone()),
        source,
        destination: to,
    };
    let met = authorize::meet(worker, at, arrival).map_err(|denial| {
        tracing::debug!(%source, destination = %to, %denial, "refused");
        log.deny(&denial);
        Failure::Denied
    })?;
    let admitted = match met {
        Met::Admitted(admitted) => admitted,
        Met::Unseen(unseen) => {
            let own = at.identity(worker).map_err(Failure::from)?;
            let met = arriving::Met {
                unseen,
                log,
                certificate: certificate::element(&own, &peer, None),
                encrypted: false,
            };
            return Ok(Connected::Requests(begin(worker, at, met)));
        }
    };
    let dialled = tokio::select! {
        dialled = tokio::time::timeout(
            policy.connect_timeout,
            connect::application(worker, at, source, to),
        ) => dialled.unwrap_or(Err(Error::ConnectTimeout)),
        denial = admitted.revoked() => {
            log.deny(&denial);
            return Err(Failure::Denied.into());
        }
    };
    let stream = dialled.inspect_err(|error| log.fail(error))?;
    log.seen_from(stream.local_addr().ok());
    let (gone, kept) = watch(worker, at);
    let within = Box::new(Within {
        admitted,
        log,
        gone: RefCell::new(gone),
        _kept: kept,
    });
    Ok(Connected::Bytes(stream, within))
}

/// Serves the other end of a channel on the destination's side.
fn begin(worker: &Rc<Worker>, at: &Rc<LocalPod>, met: arriving::Met) -> Channel {
    let (near, far) = channel::pair();
    let (serving, pod) = (Rc::clone(worker), Rc::clone(at));
    task::spawn(worker, at, async move {
        arriving::serve(&serving, &pod, far, met).await;
    });
    near
}

/// Something that runs for the pod until the second end is dropped; the first ends with the pod.
fn watch(
    worker: &Rc<Worker>,
    at: &Rc<LocalPod>,
) -> (oneshot::Receiver<Infallible>, oneshot::Sender<Infallible>) {
    let (alive, gone) = oneshot::channel();
    let (kept, ended) = oneshot::channel::<Infallible>();
    task::spawn(worker, at, async move {
        let _alive = alive;
        let _ = ended.await;
    });
    (gone, kept)
}

impl Within {
    /// Its relay is over.
    pub(super) fn ended(&mut self, end: End, meter: &Meter, denial: Option<Denial>) {
        self.log.meter().received.set(meter.received.get());
        self.log.meter().sent.set(meter.sent.get());
        self.log.ended(end, denial.as_ref());
    }

    /// Resolves when the destination's policies no longer allow it, or the destination goes (`None`).
    pub(super) async fn revoked(&self) -> Option<Denial> {
        poll_fn(|cx| self.poll_revoked(cx)).await
    }

    /// The same, for whoever polls.
    pub(super) fn poll_revoked(&self, cx: &mut Context<'_>) -> Poll<Option<Denial>> {
        if Pin::new(&mut *self.gone.borrow_mut()).poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.admitted.revoked()).poll(cx).map(Some)
    }
}
