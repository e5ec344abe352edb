//! One admitted connection: who it is, and what the pod's rules say of it.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use slab::Slab;

use super::request;
use crate::dataplane::resolve;
use crate::dataplane::worker::Worker;
use crate::mesh::{Guard, Snapshot, Verdict};
use crate::policy::authorization::{Caller, Denial, Shadow};
use crate::types::{Identity, Protocol};

/// What lines of the log are called that AUDIT policies ask for.
pub(super) const AUDIT: &str = "aquifer::audit";

/// Who connects to a local pod.
#[derive(Clone, Debug)]
pub(in crate::dataplane) struct Arrival {
    /// Proved by mutual TLS; `None` for plain text.
    pub(in crate::dataplane) peer: Option<Identity>,
    /// The caller's address.
    pub(in crate::dataplane) source: SocketAddr,
    /// The pod's own address and port that it asks for.
    pub(in crate::dataplane) destination: SocketAddr,
}

/// By what a connection is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// All that the policies ask. Its bytes are relayed unread.
    Unread,
    /// The same. They were looked at, and are no requests.
    Bytes,
    /// Who may call at all. Its requests, once it is known to have any, are judged each by itself.
    Caller,
}

/// A connection, and the watch over it.
pub(super) struct Entry {
    pub(super) arrival: Arrival,
    pub(super) by: Cell<By>,
    /// Which server its TLS asks for, once that was looked at; empty for none.
    server_name: OnceCell<Box<str>>,
    /// By which it was admitted last; `None` where the pod had none.
    pub(super) guard: RefCell<Option<Arc<Guard>>>,
    pub(super) denial: RefCell<Option<Denial>>,
    pub(super) waiting: Cell<Option<Waker>>,
    /// Requests that are under way.
    pub(super) requests: RefCell<Slab<Rc<request::Open>>>,
}

impl Arrival {
    /// As policies ask about it before any of its bytes was seen.
    pub(super) fn caller(&self) -> Caller<'_> {
        Caller {
            peer: self.peer.as_ref(),
            source: self.source,
            destination: self.destination,
            server_name: None,
        }
    }

    /// The caller's identity, for a line of the log.
    pub(super) fn shown(&self) -> String {
        let peer = self.peer.as_ref();
        peer.map_or_else(|| "-".to_owned(), ToString::to_string)
    }
}

impl Entry {
    pub(super) fn new(arrival: Arrival, guard: Option<Arc<Guard>>, by: By) -> Self {
        Self {
            arrival,
            by: Cell::new(by),
            server_name: OnceCell::new(),
            guard: RefCell::new(guard),
            denial: RefCell::default(),
            waiting: Cell::default(),
            requests: RefCell::default(),
        }
    }

    /// Its TLS asks for this server; empty: for none, or it has no TLS. The first word counts.
    pub(super) fn asks_for(&self, server_name: String) {
        let _ = self.server_name.set(server_name.into());
    }

    /// As policies ask about it.
    pub(super) fn caller(&self) -> Caller<'_> {
        Caller {
            server_name: self.server_name.get().map(|name| &**name),
            ..self.arrival.caller()
        }
    }

    /// Judges it as a whole, as it stands.
    pub(super) fn judge(&self, guard: &Guard, snapshot: &Snapshot) -> Verdict {
        let caller = self.caller();
        match self.by.get() {
            By::Caller => guard.admit_caller(&caller),
            By::Bytes => guard.admit(&caller),
            By::Unread => {
                guard.admit(&caller)?;
                // What policies ask of requests counts against one that is not read. A token is asked
                // for otherwise: its caller is to come again, and is read then.
                let declared = || resolve::declared(snapshot, self.arrival.destination);
                match guard.tokens.first() {
                    Some(rule) if may_carry_requests(declared()) => {
                        Err(Denial::Unread(rule.object.clone()))
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// Judges it before any of its bytes goes on, and tells whoever wants to know.
    pub(super) fn admit(&self, worker: &Worker) -> Verdict {
        let guard = self.guard.borrow();
        let Some(guard) = guard.as_deref() else {
            return Ok(());
        };
        let (arrival, counters) = (&self.arrival, &worker.counters);
        let caller = self.caller();
        if let Some((policy, rule)) = guard.audited(&caller, None) {
            counters.rbac_audited.increment();
            tracing::info!(
                target: AUDIT, policy = %policy.object, rule,
                source = %arrival.source, destination = %arrival.destination, peer = %arrival.shown(),
                "a connection matches"
            );
        }
        self.judge(guard, &worker.snapshot())
            .inspect_err(|_| counters.rbac_denied.increment())?;
        counters.rbac_allowed.increment();
        match guard.shadow(&caller) {
            None => {}
            Some(Shadow::Allowed) => counters.rbac_shadow_allowed.increment(),
            Some(Shadow::Denied(denial)) => {
                counters.rbac_shadow_denied.increment();
                tracing::debug!(
                    source = %arrival.source, destination = %arrival.destination, %denial,
                    "a policy on trial would have denied this connection"
                );
            }
        }
        Ok(())
    }
}

/// A port that is declared to carry something else carries no requests.
pub(super) fn may_carry_requests(declared: Protocol) -> bool {
    declared.is_http() || declared == Protocol::Auto
}
