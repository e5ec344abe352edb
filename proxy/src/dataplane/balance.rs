//! Picks an endpoint of a cluster for one request or connection, by `policy::balance`, and counts
//! it there until it is done.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::cluster::{Host, Local, State};
use super::error::Error;
use super::worker::Worker;
use crate::policy::balance::Wish;
use crate::policy::outlier::Outcome;

/// An endpoint chosen, and its place in the count of what is in flight; given back when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    host: Arc<Host>,
    /// Of the endpoint's locality.
    pub(super) priority: u32,
    state: Arc<State>,
}

impl Lease {
    /// Where to connect to.
    pub(super) fn address(&self) -> SocketAddr {
        self.host.address
    }

    /// Whether anybody wants to know what becomes of it.
    pub(super) fn is_watched(&self) -> bool {
        self.host.is_watched()
    }

    /// Tells what became of it.
    pub(super) fn report(&self, outcome: Outcome) {
        self.state.report(&self.host, outcome);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.host.end();
    }
}

/// Which endpoints a client asked for, by the address it dialled.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// Any of the cluster: of the address's family where there are such, so that a pod with two
    /// addresses counts once.
    Like(SocketAddr),
    /// This one, where it is of the cluster: a headless service's address is a pod's own.
    Exactly(SocketAddr),
}

/// What a choice may depend on beside the endpoints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<'a> {
    pub(super) wanted: Wanted,
    /// For consistent hashing.
    pub(super) hash: Option<u64>,
    /// Endpoints that were tried before.
    pub(super) avoid: &'a [SocketAddr],
    /// Priorities to leave out, a bit each.
    pub(super) tried_priorities: u64,
}

impl Choice<'_> {
    /// For a connection of opaque bytes, or a request without a hash.
    pub(super) fn of(wanted: Wanted) -> Self {
        Self {
            wanted,
            hash: None,
            avoid: &[],
            tried_priorities: 0,
        }
    }
}

/// Picks an endpoint of the cluster.
pub(super) fn pick(
    worker: &Worker,
    cluster: &Rc<Local>,
    choice: Choice<'_>,
) -> Result<Lease, Error> {
    let (Wanted::Like(dialled) | Wanted::Exactly(dialled)) = choice.wanted;
    let exact = match choice.wanted {
        Wanted::Exactly(address) => cluster.members().host(address).cloned(),
        Wanted::Like(_) => None,
    };
    let (host, priority) = match exact {
        Some(host) => (host, 0),
        None => {
            let wish = Wish {
                hash: choice.hash,
                tried_priorities: choice.tried_priorities,
            };
            let picked = cluster.pick(dialled, wish, choice.avoid, || worker.draw());
            let (host, picked) = picked.ok_or(Error::NoHealthyUpstream)?;
            if picked.panic {
                cluster.state.counters.lb_healthy_panic.increment();
            }
            (host, picked.priority)
        }
    };
    host.begin();
    Ok(Lease {
        host,
        priority,
        state: Arc::clone(&cluster.state),
    })
}
