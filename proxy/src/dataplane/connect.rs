//! Opens connections from a pod's namespace: to upstreams with the pod's address, to the pod's own
//! application with the caller's.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use socket2::Socket;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::balance::Lease;
use super::cluster::Local;
use super::error::Error;
use super::pod::LocalPod;
use super::pool::Held;
use super::protocol::PATIENCE;
use super::upstream::Upstream;
use super::worker::Worker;
use crate::mesh::cluster::Tcp;
use crate::net::socket;
use crate::wire::sniff::{FRAME_HEAD, may_answer_http};

/// How long the application may take to accept: Istio's default `connectTimeout`.
const APPLICATION_TIMEOUT: Duration = Duration::from_secs(10);

/// How often another source port is tried for a dial to the application.
const SOURCE_PORT_ATTEMPTS: usize = 16;

/// A connection to an upstream, with its place in the balancer's count.
pub(super) struct Outbound {
    /// What leads there.
    pub stream: Upstream,
    /// `None` where nothing was balanced.
    pub lease: Option<Lease>,
    /// Its place in its cluster's count; `None` for the application.
    pub held: Option<(Rc<Local>, Held)>,
}

/// Connects to `to` with the pod's own address.
pub(super) async fn upstream(
    worker: &Worker,
    pod: &LocalPod,
    to: SocketAddr,
    policy: &Tcp,
) -> Result<TcpStream, Error> {
    worker.counters.upstream_cx.increment();
    let made = {
        let pod = pod.pod();
        socket::outbound(&pod, to)
    };
    let made = made.and_then(|socket| {
        if let Some(keepalive) = &policy.keepalive {
            socket::keep_alive(
                &socket,
                keepalive.probes,
                keepalive.time,
                keepalive.interval,
            )?;
        }
        worker.redirects.adopt(socket.as_fd())?;
        Ok(socket)
    });
    let connected = match made {
        Ok(socket) => connect(socket, to, policy.connect_timeout).await,
        Err(source) => Err(Error::Connect(source)),
    };
    if connected.is_err() {
        worker.counters.upstream_cx_connect_fail.increment();
    }
    connected
}

/// Connects to the pod's application at `to` as if the caller itself did: from its address, by a
/// port of our choosing.
pub(super) async fn application(
    worker: &Worker,
    pod: &LocalPod,
    caller: SocketAddr,
    to: SocketAddr,
) -> Result<TcpStream, Error> {
    dial_application(worker, pod, caller, to, |_| {}).await
}

/// The same for a caller whose first bytes are about to come: the handshake's last packet may wait for
/// them. Whoever relays sends it where they don't come ([`socket::acknowledge`]).
pub(super) async fn application_for_bytes(
    worker: &Worker,
    pod: &LocalPod,
    caller: SocketAddr,
    to: SocketAddr,
) -> Result<TcpStream, Error> {
    dial_application(worker, pod, caller, to, socket::acknowledge_with_bytes).await
}

/// Dials the application for the caller and puts the connection into `early`, and waits until it speaks
/// first, and no HTTP, or ends. Where nobody is there, whoever waits for the caller's bytes has a while
/// left.
pub(super) async fn spoken(
    worker: &Worker,
    pod: &LocalPod,
    (caller, to): (SocketAddr, SocketAddr),
    early: &mut Option<TcpStream>,
) {
    match application(worker, pod, caller, to).await {
        Ok(stream) => {
            let stream = early.insert(stream);
            // A look at a reset would take it away from whoever reads.
            let ready = stream.ready(Interest::READABLE | Interest::ERROR).await;
            if !matches!(ready, Ok(ready) if !ready.is_error()) {
                return;
            }
            let mut first = [0; FRAME_HEAD];
            let count = stream.peek(&mut first).await.unwrap_or(0);
            // A server of HTTP/2 may be the first to speak, and is still to be asked by requests alone.
            if count > 0 && may_answer_http(&first[..count]) {
                std::future::pending::<()>().await;
            }
        }
        Err(_) => tokio::time::sleep(PATIENCE).await,
    }
}

async fn dial_application(
    worker: &Worker,
    pod: &LocalPod,
    caller: SocketAddr,
    to: SocketAddr,
    prepare: impl Fn(&Socket),
) -> Result<TcpStream, Error> {
    worker.counters.upstream_cx.increment();
    let mut last = Error::Connect(io::ErrorKind::AddrNotAvailable.into());
    for _ in 0..SOURCE_PORT_ATTEMPTS {
        let made = {
            let pod = pod.pod();
            // A port by which this caller has, or is about to have, a connection to the same
            // address would meet that connection: the kernel knows them by the four values alone.
            socket::transparent_from(&pod, caller.ip(), to, |from, to| {
                worker.redirects.inbound_taken(pod.cookie, from, to)
            })
        };
        let attempt = match made.and_then(|(socket, _)| {
            worker.redirects.adopt(socket.as_fd())?;
            prepare(&socket);
            Ok(socket)
        }) {
            Ok(socket) => connect(socket, to, APPLICATION_TIMEOUT).await,
            Err(source) => Err(Error::Connect(source)),
        };
        match attempt {
            Err(Error::Connect(source)) if is_port_in_use(&source) => last = Error::Connect(source),
            Err(error) => {
                worker.counters.upstream_cx_connect_fail.increment();
                return Err(error);
            }
            connected => return connected,
        }
    }
    worker.counters.upstream_cx_connect_fail.increment();
    Err(last)
}

fn is_port_in_use(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable
    )
}

async fn connect(socket: Socket, to: SocketAddr, limit: Duration) -> Result<TcpStream, Error> {
    let connected = async {
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => {
                return Err(error);
            }
            _ => {}
        }
        let mut dialled = Dialled(Some(TcpStream::from_std(socket.into())?));
        if let Some(stream) = &dialled.0 {
            stream.writable().await?;
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
        }
        dialled
            .0
            .take()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    };
    match tokio::time::timeout(limit, connected).await {
        Ok(connected) => connected.map_err(Error::Connect),
        Err(_) => Err(Error::ConnectTimeout),
    }
}

/// A connection that is being made. Where that is given up it is reset: the other side may have it
/// already, and is to see no orderly end.
struct Dialled(Option<TcpStream>);

impl Drop for Dialled {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take() {
            socket::reset(stream);
        }
    }
}
