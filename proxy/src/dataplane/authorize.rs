//! Whether a caller may connect to a local pod, when it comes and for as long as it stays; and of
//! each of its requests, where the pod's policies ask about requests.
//!
//! Every admitted connection is registered with its pod, and every request that is under way with
//! its connection. When a snapshot has other rules for the pod, each of them is judged again, and
//! one that is no longer allowed is told.

mod request;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

pub(super) use self::request::{Head, Judged, Revocable};
use super::pod::LocalPod;
use super::resolve;
use super::worker::Worker;
use crate::mesh::{Guard, Verdict, Workload};
use crate::policy::authorization::{Caller, Denial, Policy, Request, Shadow};
use crate::types::{Identity, Protocol};

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

/// What lines of the log are called that AUDIT policies ask for.
const AUDIT: &str = "aquifer::audit";

/// By what a connection is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// All that the policies ask.
    Everything,
    /// Who may call at all. Its requests, once it is known to have any, are judged each by itself.
    Caller,
}

struct Entry {
    arrival: Arrival,
    by: Cell<By>,
    /// By which it was admitted last; `None` where the pod had none.
    guard: RefCell<Option<Arc<Guard>>>,
    denial: RefCell<Option<Denial>>,
    waiting: Cell<Option<Waker>>,
    /// Requests that are under way.
    requests: RefCell<Slab<Rc<request::Open>>>,
}

/// An admitted connection. Dropping it ends the watch over it.
pub(super) struct Admitted {
    pod: Rc<LocalPod>,
    place: usize,
    entry: Rc<Entry>,
}

/// A connection whose caller may call, to a port where policies ask about requests, and which its
/// bytes alone would not be allowed: whether it has any requests is not known yet.
pub(super) struct Unseen {
    admitted: Admitted,
    declared: Protocol,
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
    if let Some(guard) = guard
        .as_ref()
        .filter(|guard| guard.is_about_requests(&arrival.caller()))
    {
        let declared = resolve::declared(&worker.snapshot(), arrival.destination);
        // A port that is declared to carry something else carries no requests.
        if declared.is_http() || declared == Protocol::Auto {
            guard.admit_caller(&arrival.caller()).inspect_err(|_| {
                worker.counters.rbac_denied.increment();
            })?;
            let guard = Some(Arc::clone(guard));
            return Ok(Met::Unseen(Unseen {
                admitted: register(pod, arrival, guard, By::Caller),
                declared,
            }));
        }
    }
    judge(worker, guard.as_deref(), &arrival)?;
    let admitted = register(pod, arrival, guard, By::Everything);
    Ok(Met::Admitted(admitted))
}

fn guard(worker: &Worker, pod: &LocalPod) -> Option<Arc<Guard>> {
    let pod = pod.pod();
    worker.snapshot().guard(&pod.workload).cloned()
}

/// Judges a connection whose bytes are not looked at.
fn judge(worker: &Worker, guard: Option<&Guard>, arrival: &Arrival) -> Verdict {
    let Some(guard) = guard else {
        return Ok(());
    };
    if let Some((policy, rule)) = guard.audited(&arrival.caller(), None) {
        worker.counters.rbac_audited.increment();
        tracing::info!(
            target: AUDIT, policy = %policy.object, rule,
            source = %arrival.source, destination = %arrival.destination, peer = %arrival.shown(),
            "a connection matches"
        );
    }
    arrival.judge(guard).inspect_err(|_| {
        worker.counters.rbac_denied.increment();
    })?;
    worker.counters.rbac_allowed.increment();
    tell_trial(worker, guard, arrival);
    Ok(())
}

fn register(pod: &Rc<LocalPod>, arrival: Arrival, guard: Option<Arc<Guard>>, by: By) -> Admitted {
    let entry = Rc::new(Entry {
        arrival,
        by: Cell::new(by),
        guard: RefCell::new(guard),
        denial: RefCell::default(),
        waiting: Cell::default(),
        requests: RefCell::default(),
    });
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
    /// What its port is declared to carry: HTTP, or nothing.
    pub(super) fn declared(&self) -> Protocol {
        self.declared
    }

    /// Resolves when the connection is no longer allowed.
    pub(super) fn revoked(&self) -> Revoked<'_> {
        self.admitted.revoked()
    }

    /// It carries requests: each is to be judged ([`Admitted::judge`]).
    pub(super) fn requests(self) -> Admitted {
        self.admitted
    }

    /// Its bytes will not be looked at: judged by all that the policies ask.
    ///
    /// # Errors
    /// Why it is denied.
    pub(super) fn bytes(self, worker: &Worker) -> Result<Admitted, Denial> {
        let admitted = self.admitted;
        let entry = &admitted.entry;
        entry.by.set(By::Everything);
        if let Some(guard) = guard(worker, &admitted.pod) {
            entry.guard.replace(Some(guard));
        }
        judge(worker, entry.guard.borrow().as_deref(), &entry.arrival)?;
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
        let known = entry.guard.borrow();
        if known
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, guard))
        {
            continue;
        }
        drop(known);
        entry.guard.replace(Some(Arc::clone(guard)));
        let verdict = match entry.by.get() {
            By::Everything => entry.arrival.judge(guard),
            By::Caller => guard.admit_caller(&entry.arrival.caller()),
        };
        if let Err(denial) = verdict {
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
            if let Err(denial) = open.judge(&entry.arrival, guard) {
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

    /// The caller's identity, for a line of the log.
    fn shown(&self) -> String {
        let peer = self.peer.as_ref();
        peer.map_or_else(|| "-".to_owned(), ToString::to_string)
    }

    fn judge(&self, guard: &Guard) -> Verdict {
        guard.admit(&self.caller())
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

    /// Whether external authorizers may have to be asked about requests on the connection.
    pub(super) fn has_custom(&self, worker: &Worker) -> bool {
        let pod = self.pod.pod();
        match worker.snapshot().guard(&pod.workload) {
            Some(guard) => guard.has_custom(),
            // Of a pod that is leaving its last guard counts.
            None => (self.entry.guard.borrow().as_ref()).is_some_and(|one| one.has_custom()),
        }
    }

    /// The policies, and the rules of them, by which one is asked about this request.
    pub(super) fn custom(
        &self,
        worker: &Worker,
        request: &Request<'_>,
    ) -> Vec<(Arc<Policy>, usize)> {
        let guard = guard(worker, &self.pod).or_else(|| self.entry.guard.borrow().clone());
        guard.map_or_else(Vec::new, |guard| {
            guard.custom(&self.entry.arrival.caller(), request)
        })
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
