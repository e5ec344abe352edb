//! One request on a connection into a local pod: judged by its head, and again while it is under
//! way.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri};

use super::Entry;
use crate::dataplane::worker::Worker;
use crate::mesh::{Guard, Verdict};
use crate::policy::authorization::{Caller, Denial, Request, Shadow};
use crate::policy::jwt::Verified;

/// What a request is judged by, kept for as long as it is under way.
#[derive(Clone, Debug)]
pub(in crate::dataplane) struct Head {
    pub(in crate::dataplane) method: Method,
    /// In origin form, normalised.
    pub(in crate::dataplane) target: Uri,
    pub(in crate::dataplane) authority: HeaderValue,
    pub(in crate::dataplane) headers: HeaderMap,
    /// Who the caller asks for, where it says so, otherwise the caller.
    pub(in crate::dataplane) remote: IpAddr,
    /// What its token says.
    pub(in crate::dataplane) token: Option<Verified>,
}

impl Head {
    /// The head of a request that is the same.
    pub(in crate::dataplane) fn parts(&self) -> Parts {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = self.method.clone();
        parts.uri = self.target.clone();
        parts.headers = self.headers.clone();
        parts
    }

    /// As `guard` sees it: a token counts for as long as its issuer does.
    fn request(&self, guard: &Guard) -> Request<'_> {
        let token = self.token.as_ref();
        let token = token.filter(|token| guard.takes_tokens_of(&token.issuer));
        Request {
            method: self.method.as_str(),
            path: self.target.path(),
            host: self.authority.to_str().unwrap_or_default(),
            headers: &self.headers,
            remote: self.remote,
            token: token.map(|token| &*token.token),
        }
    }
}

/// What ends when a request is no longer allowed.
pub(in crate::dataplane) trait Revocable {
    /// Ends it at once, whether or not anybody reads.
    fn revoke(&self, denial: &Denial);
}

/// A request that is under way.
pub(super) struct Open {
    head: Head,
    denial: RefCell<Option<Denial>>,
    /// Whoever waits for the verdict to change.
    waiting: Cell<Option<Waker>>,
    /// What is to be ended with it.
    carries: RefCell<Option<Weak<dyn Revocable>>>,
}

impl Open {
    pub(super) fn judge(&self, caller: &Caller<'_>, guard: &Guard) -> Verdict {
        guard.admit_request(caller, &self.head.request(guard))
    }

    pub(super) fn revoke(&self, denial: Denial) {
        let carries = self.carries.take();
        if let Some(carries) = carries.and_then(|one| one.upgrade()) {
            carries.revoke(&denial);
        }
        self.denial.replace(Some(denial));
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }
}

/// A request that is allowed. Dropping it ends the watch over it.
pub(in crate::dataplane) struct Judged {
    entry: Rc<Entry>,
    place: usize,
    open: Rc<Open>,
}

/// Judges a request and, where it is allowed, watches over it.
pub(super) fn admit(
    worker: &Worker,
    entry: &Rc<Entry>,
    guard: &Guard,
    head: Head,
) -> Result<Judged, Denial> {
    let (arrival, counters) = (&entry.arrival, &worker.counters);
    let caller = entry.caller();
    let request = head.request(guard);
    if let Some((policy, rule)) = guard.audited(&caller, Some(&request)) {
        counters.rbac_rq_audited.increment();
        tracing::info!(
            target: super::AUDIT, policy = %policy.object, rule,
            source = %arrival.source, destination = %arrival.destination, peer = %arrival.shown(),
            method = request.method, host = request.host, path = request.path,
            principal = request.token.and_then(|token| token.principal()).unwrap_or("-"),
            "a request matches"
        );
    }
    guard
        .admit_request(&caller, &request)
        .inspect_err(|_| counters.rbac_rq_denied.increment())?;
    counters.rbac_rq_allowed.increment();
    match guard.shadow_request(&caller, &request) {
        None => {}
        Some(Shadow::Allowed) => counters.rbac_rq_shadow_allowed.increment(),
        Some(Shadow::Denied(denial)) => {
            counters.rbac_rq_shadow_denied.increment();
            tracing::debug!(
                source = %arrival.source, destination = %arrival.destination, %denial,
                "a policy on trial would have denied this request"
            );
        }
    }
    let open = Rc::new(Open {
        head,
        denial: RefCell::default(),
        waiting: Cell::default(),
        carries: RefCell::default(),
    });
    let place = entry.requests.borrow_mut().insert(Rc::clone(&open));
    Ok(Judged {
        entry: Rc::clone(entry),
        place,
        open,
    })
}

impl Judged {
    /// Resolves when the request is no longer allowed. For one waiter at a time.
    pub(in crate::dataplane) fn revoked(&self) -> Revoked<'_> {
        Revoked(&self.open)
    }

    /// What it was judged by.
    pub(in crate::dataplane) fn head(&self) -> &Head {
        &self.open.head
    }

    /// From now on `carries` is told instead.
    pub(in crate::dataplane) fn carried_by(&self, carries: Weak<dyn Revocable>) {
        self.open.carries.replace(Some(carries));
    }
}

impl Drop for Judged {
    fn drop(&mut self) {
        self.entry.requests.borrow_mut().try_remove(self.place);
    }
}

/// Resolves with the reason.
pub(in crate::dataplane) struct Revoked<'a>(&'a Open);

impl Future for Revoked<'_> {
    type Output = Denial;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Denial> {
        if let Some(denial) = self.0.denial.borrow().as_ref() {
            return Poll::Ready(denial.clone());
        }
        self.0.waiting.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}
