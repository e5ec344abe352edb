//! Whether a caller may connect to a local pod, when it comes and for as long as it stays.
//!
//! Every admitted connection is registered with its pod. When a snapshot has other rules for the
//! pod, each of its connections is judged again, and one that is no longer allowed is told.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::pod::LocalPod;
use super::worker::Worker;
use crate::mesh::{Guard, Verdict, Workload};
use crate::policy::authorization::{Caller, Denial, Shadow};
use crate::types::Identity;

/// Who connects to a local pod.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    /// Proved by mutual TLS; `None` for plain text.
    pub(super) peer: Option<Identity>,
    /// The caller's address.
    pub(super) source: SocketAddr,
    /// The pod's own address and port that it asks for.
    pub(super) destination: SocketAddr,
}

/// The admitted connections of a pod in one worker.
#[derive(Default)]
pub(super) struct Admissions {
    open: RefCell<Slab<Rc<Entry>>>,
}

struct Entry {
    arrival: Arrival,
    /// By which it was admitted last; `None` where the pod had none.
    guard: RefCell<Option<Arc<Guard>>>,
    denial: RefCell<Option<Denial>>,
    waiting: Cell<Option<Waker>>,
}

/// An admitted connection. Dropping it ends the watch over it.
pub(super) struct Admitted {
    pod: Rc<LocalPod>,
    place: usize,
    entry: Rc<Entry>,
}

/// Judges a connection and, where it is allowed, watches over it.
///
/// # Errors
/// Why it is denied.
pub(super) fn admit(
    worker: &Worker,
    pod: &Rc<LocalPod>,
    arrival: Arrival,
) -> Result<Admitted, Denial> {
    let guard = {
        let pod = pod.pod();
        worker.snapshot().guard(&pod.workload).cloned()
    };
    if let Some(guard) = &guard {
        arrival.judge(guard).inspect_err(|_| {
            worker.counters.rbac_denied.increment();
        })?;
        worker.counters.rbac_allowed.increment();
        tell_trial(worker, guard, &arrival);
    }
    let entry = Rc::new(Entry {
        arrival,
        guard: RefCell::new(guard),
        denial: RefCell::default(),
        waiting: Cell::default(),
    });
    let mut open = pod.admissions().open.borrow_mut();
    let place = open.insert(Rc::clone(&entry));
    drop(open);
    Ok(Admitted {
        pod: Rc::clone(pod),
        place,
        entry,
    })
}

/// Judges the open connections of a pod again, where its rules are others than those by which they
/// were admitted.
pub(super) fn review(worker: &Worker, pod: &LocalPod) {
    let snapshot = worker.snapshot();
    let workload = Arc::clone(&pod.pod().workload);
    // Gone with its pod: what is open may finish, as far as the pod's leaving lets it.
    let Some(guard) = snapshot.guard(&workload) else {
        return;
    };
    for (_, entry) in pod.admissions().open.borrow().iter() {
        let known = entry.guard.borrow();
        if known
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, guard))
        {
            continue;
        }
        drop(known);
        entry.guard.replace(Some(Arc::clone(guard)));
        if let Err(denial) = entry.arrival.judge(guard) {
            worker.counters.rbac_revoked.increment();
            tracing::debug!(
                pod = %Name(&workload), source = %entry.arrival.source, %denial,
                "an open connection is no longer allowed"
            );
            entry.denial.replace(Some(denial));
            if let Some(waiting) = entry.waiting.take() {
                waiting.wake();
            }
        }
    }
}

fn tell_trial(worker: &Worker, guard: &Guard, arrival: &Arrival) {
    match guard.shadow(&arrival.caller()) {
        None => {}
        Some(Shadow::Allowed) => worker.counters.rbac_shadow_allowed.increment(),
        Some(Shadow::Denied(denial)) => {
            worker.counters.rbac_shadow_denied.increment();
            tracing::debug!(
                source = %arrival.source, destination = %arrival.destination, %denial,
                "a policy on trial would have denied this connection"
            );
        }
    }
}

/// `NAMESPACE/NAME`.
struct Name<'a>(&'a Workload);

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.0.namespace, self.0.name)
    }
}

impl Arrival {
    fn caller(&self) -> Caller<'_> {
        Caller {
            peer: self.peer.as_ref(),
            source: self.source,
            destination: self.destination,
            server_name: None,
        }
    }

    fn judge(&self, guard: &Guard) -> Verdict {
        guard.admit(&self.caller())
    }
}

impl Admitted {
    /// Resolves when the connection is no longer allowed. For one waiter at a time.
    pub(super) fn revoked(&self) -> Revoked<'_> {
        Revoked(&self.entry)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.pod
            .admissions()
            .open
            .borrow_mut()
            .try_remove(self.place);
    }
}

/// Resolves with the reason. Polled with every event of a connection, so that a poll is cheap.
pub(super) struct Revoked<'a>(&'a Entry);

impl Future for Revoked<'_> {
    type Output = Denial;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Denial> {
        if let Some(denial) = self.0.denial.borrow().as_ref() {
            return Poll::Ready(denial.clone());
        }
        let waiting = self.0.waiting.take();
        let waiting = waiting.filter(|one| one.will_wake(cx.waker()));
        self.0
            .waiting
            .set(Some(waiting.unwrap_or_else(|| cx.waker().clone())));
        Poll::Pending
    }
}
