//! Whether a caller may connect to a local pod, when it comes and for as long as it stays; and of
//! each of its requests, where the pod's policies ask about requests.
//!
//! Every admitted connection is registered with its pod, and every request that is under way with
//! its connection. When a snapshot has other rules for the pod, each of them is judged again, and
//! one that is no longer allowed is told.

mod entry;
mod request;

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use slab::Slab;

pub(super) use self::entry::Arrival;
use self::entry::{AUDIT, By, Entry, may_carry_requests};
pub(super) use self::request::{Head, Judged, Revocable};
use super::pod::LocalPod;
use super::protocol::Wanted;
use super::resolve;
use super::worker::Worker;
use crate::mesh::{Guard, Workload};
use crate::policy::authorization::{Denial, Policy, Request};
use crate::types::Protocol;

/// The admitted connections of a pod in one worker.
#[derive(Default)]
pub(super) struct Admissions {
    open: RefCell<Slab<Rc<Entry>>>,
}

/// An admitted connection. Dropping it ends the watch over it.
pub(super) struct Admitted {
    pod: Rc<LocalPod>,
    place: usize,
    entry: Rc<Entry>,
}

/// A connection whose caller may call, to a port where policies ask about requests or server names,
/// and which its bytes alone would not be allowed: what it carries is not known yet.
pub(super) struct Unseen {
    admitted: Admitted,
    wanted: Wanted,
}

/// What is known of a connection before its first byte.
pub(super) enum Met {
    /// It is admitted, whatever it carries.
    Admitted(Admitted),
    /// That depends on what it carries.
    Unseen(Unseen),
}

/// Judges a connection before its first byte and, where it is allowed as far as can be told, watches
/// over it.
///
/// # Errors
/// Why it is denied.
pub(super) fn meet(worker: &Worker, pod: &Rc<LocalPod>, arrival: Arrival) -> Result<Met, Denial> {
    let guard = guard(worker, pod);
    let wanted = guard
        .as_ref()
        .map(|guard| wanted(worker, guard, &arrival))
        .filter(|wanted| wanted.name || wanted.requests.is_some());
    let Some(wanted) = wanted else {
        let entry = Entry::new(arrival, guard, By::Unread);
        entry.admit(worker)?;
        return Ok(Met::Admitted(register(pod, entry)));
    };
    if let Some(guard) = &guard {
        guard
            .admit_caller(&arrival.caller())
            .inspect_err(|_| worker.counters.rbac_denied.increment())?;
    }
    let entry = Entry::new(arrival, guard, By::Caller);
    Ok(Met::Unseen(Unseen {
        admitted: register(pod, entry),
        wanted,
    }))
}

/// What is to be looked for in a connection.
fn wanted(worker: &Worker, guard: &Guard, arrival: &Arrival) -> Wanted {
    let caller = arrival.caller();
    let declared = || resolve::declared(&worker.snapshot(), arrival.destination);
    let requests = guard.is_about_requests(&caller).then(declared);
    let requests = requests.filter(|declared| may_carry_requests(*declared));
    Wanted {
        requests,
        name: guard.is_about_names(&caller),
        early: requests == Some(Protocol::Auto) && guard.admit(&caller).is_ok(),
    }
}

fn guard(worker: &Worker, pod: &LocalPod) -> Option<Arc<Guard>> {
    let pod = pod.pod();
    worker.snapshot().guard(&pod.workload).cloned()
}

fn register(pod: &Rc<LocalPod>, entry: Entry) -> Admitted {
    let entry = Rc::new(entry);
    let place = {
        let mut open = pod.admissions().open.borrow_mut();
        open.insert(Rc::clone(&entry))
    };
    Admitted {
        pod: Rc::clone(pod),
        place,
        entry,
    }
}

impl Unseen {
    /// What is to be looked for.
    pub(super) fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// Who it is.
    pub(super) fn arrival(&self) -> &Arrival {
        self.admitted.arrival()
    }

    /// Resolves when the connection is no longer allowed.
    pub(super) fn revoked(&self) -> Revoked<'_> {
        self.admitted.revoked()
    }

    /// It carries requests: each is to be judged ([`Admitted::judge`]).
    pub(super) fn requests(self) -> Admitted {
        // They are read, and so it is no TLS.
        self.admitted.entry.asks_for(String::new());
        self.admitted
    }

    /// Its bytes will not be looked at any more: judged by all that the policies ask. Their TLS asks for
    /// `server_name`: empty for none, `None` where that is not known.
    ///
    /// # Errors
    /// Why it is denied.
    pub(super) fn bytes(
        self,
        worker: &Worker,
        server_name: Option<String>,
    ) -> Result<Admitted, Denial> {
        let admitted = self.admitted;
        let entry = &admitted.entry;
        let is_tls = server_name.as_ref().is_some_and(|name| !name.is_empty());
        entry.by.set(match self.wanted.requests {
            None if !is_tls => By::Unread,
            _ => By::Bytes,
        });
        if let Some(server_name) = server_name {
            entry.asks_for(server_name);
        }
        if let Some(guard) = guard(worker, &admitted.pod) {
            entry.guard.replace(Some(guard));
        }
        entry.admit(worker)?;
        Ok(admitted)
    }
}

/// Judges the open connections of a pod again, and their requests, where its rules are others than
/// those by which they were admitted.
pub(super) fn review(worker: &Worker, pod: &LocalPod) {
    let snapshot = worker.snapshot();
    let workload = Arc::clone(&pod.pod().workload);
    // Gone with its pod: what is open may finish, as far as the pod's leaving lets it.
    let Some(guard) = snapshot.guard(&workload) else {
        return;
    };
    // Whoever is told gives up its place.
    let mut revoked = Vec::new();
    for (_, entry) in pod.admissions().open.borrow().iter() {
        let before = entry.guard.replace(Some(Arc::clone(guard)));
        let same = before.is_some_and(|before| Arc::ptr_eq(&before, guard));
        // What a port is declared to carry may have changed without its rules.
        if same && (entry.by.get() != By::Unread || guard.tokens.is_empty()) {
            continue;
        }
        if let Err(denial) = entry.judge(guard, &snapshot) {
            worker.counters.rbac_revoked.increment();
            tracing::debug!(
                pod = %Name(&workload), source = %entry.arrival.source, %denial,
                "an open connection is no longer allowed"
            );
            entry.denial.replace(Some(denial));
            if let Some(waiting) = entry.waiting.take() {
                waiting.wake();
            }
            continue;
        }
        for (_, open) in entry.requests.borrow().iter() {
            if let Err(denial) = open.judge(&entry.caller(), guard) {
                worker.counters.rbac_rq_revoked.increment();
                tracing::debug!(
                    pod = %Name(&workload), source = %entry.arrival.source, %denial,
                    "a request under way is no longer allowed"
                );
                revoked.push((Rc::clone(open), denial));
            }
        }
    }
    for (open, denial) in revoked {
        open.revoke(denial);
    }
}

/// `NAMESPACE/NAME`.
struct Name<'a>(&'a Workload);

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.0.namespace, self.0.name)
    }
}

impl Admitted {
    /// Who it is.
    pub(super) fn arrival(&self) -> &Arrival {
        &self.entry.arrival
    }

    /// Resolves when the connection is no longer allowed. For one waiter at a time.
    pub(super) fn revoked(&self) -> Revoked<'_> {
        Revoked(&self.entry)
    }

    /// The policies of `guard`, and the rules of them, by which an external authorizer is asked about
    /// this request.
    pub(super) fn custom(&self, guard: &Guard, request: &Request<'_>) -> Vec<(Arc<Policy>, usize)> {
        guard.custom(&self.entry.caller(), request)
    }

    /// Judges a request on the connection by the policies of the moment and, where it is allowed,
    /// watches over it.
    ///
    /// # Errors
    /// Why it is denied.
    pub(super) fn judge(&self, worker: &Worker, head: Head) -> Result<Judged, Denial> {
        request::admit(worker, &self.entry, &self.guard(worker), head)
    }

    /// The pod's rules of the moment. Of a pod that is leaving its last ones count.
    pub(super) fn guard(&self, worker: &Worker) -> Arc<Guard> {
        guard(worker, &self.pod)
            .or_else(|| self.entry.guard.borrow().clone())
            .unwrap_or_default()
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
