//! The first hop in user space: takes connections off a pod's listener.
//!
//! Knows nothing about what a connection is for. A connection that the process has no descriptors
//! left for is reset at once: its client learns it now, and the queue never stands still.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::errno::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::unconstrained;

use super::worker::Worker;
use crate::net::descriptors::Permit;
use crate::net::socket;

/// A connection just accepted.
#[derive(Debug)]
pub(super) struct Accepted {
    /// The socket.
    pub stream: TcpStream,
    /// Who connected.
    pub peer: SocketAddr,
    /// Held as long as the connection and its upstream live.
    pub permit: Permit,
}

/// Descriptors of one connection: its own and its upstream's.
const PER_CONNECTION: usize = 2;

/// Connections taken at once before others of the worker's tasks run. tokio's own bound, a quarter of
/// it, lets the kernel's queue overflow in a flood, and the clients wait a second for their next SYN.
const BURST: u32 = 512;

/// Takes connections until the future is dropped; `serve` gets each of them.
pub(super) async fn accept(worker: Rc<Worker>, listener: TcpListener, serve: impl Fn(Accepted)) {
    let mut spare = spare_descriptor().ok();
    let mut burst = 0;
    loop {
        burst += 1;
        if burst % BURST == 0 {
            tokio::task::yield_now().await;
        }
        match unconstrained(listener.accept()).await {
            Ok((stream, peer)) => match worker.descriptors.take(PER_CONNECTION) {
                Some(permit) => serve(Accepted {
                    stream,
                    peer,
                    permit,
                }),
                None => {
                    worker.counters.downstream_cx_overflow.increment();
                    socket::reset(stream);
                }
            },
            Err(error) if out_of_descriptors(&error) => {
                worker.counters.downstream_cx_overflow.increment();
                // With the spare one closed, one connection can be taken to be reset.
                drop(spare.take());
                if let Ok((stream, _)) = listener.accept().await {
                    socket::reset(stream);
                }
                spare = spare_descriptor().ok();
                tokio::task::yield_now().await;
            }
            // The client went away before it was accepted, or a fault of its network that Linux
            // reports here (accept(2), "Error handling").
            Err(error) => {
                tracing::debug!(%error, "a connection was gone before it was accepted");
                tokio::task::yield_now().await;
            }
        }
    }
}

fn spare_descriptor() -> io::Result<OwnedFd> {
    File::open("/dev/null").map(OwnedFd::from)
}

fn out_of_descriptors(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
    )
}
