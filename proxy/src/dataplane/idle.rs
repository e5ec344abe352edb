//! Clients' connections on which nothing is asked for too long: Envoy's idle timeout.
//!
//! They are looked at now and then, all of a worker at a time: a timer of its own for each would be
//! made, looked at with every event of the connection, and removed, and hardly ever go off.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use slab::Slab;

use super::relay::IDLE;

/// What is going on on one connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Requests so far.
    requests: Cell<u64>,
    /// Requests that have no answer yet.
    unanswered: Cell<u32>,
    /// Requests when it was last seen to do something, and when that was.
    seen: Cell<Option<(u64, Instant)>>,
    /// Whether it has done nothing for too long.
    over: Cell<bool>,
    /// Whoever waits for that.
    waiting: RefCell<Option<Waker>>,
}

impl Activity {
    /// A request, which has no answer as long as the result lives.
    pub(super) fn asked(&self) -> Asked<'_> {
        self.requests.set(self.requests.get() + 1);
        self.unanswered.set(self.unanswered.get() + 1);
        Asked(&self.unanswered)
    }

    /// Looks at it.
    fn look(&self, now: Instant) {
        let requests = self.requests.get();
        let since = match self.seen.get() {
            Some((before, at)) if before == requests && self.unanswered.get() == 0 => at,
            _ => now,
        };
        self.seen.set(Some((requests, since)));
        if now.duration_since(since) >= IDLE {
            self.over.set(true);
            if let Some(waker) = self.waiting.take() {
                waker.wake();
            }
        }
    }
}

/// One request that waits for its answer.
pub(super) struct Asked<'a>(&'a Cell<u32>);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The connections of one worker.
#[derive(Debug, Default)]
pub(super) struct Idlers(RefCell<Slab<Rc<Activity>>>);

impl Idlers {
    /// Resolves once nothing was asked on a connection for [`IDLE`], counted from the first look, and
    /// no answer is waited for. Late by up to the time between two looks.
    pub(super) fn watch(&self, activity: &Rc<Activity>) -> Idle<'_> {
        Idle {
            place: self.0.borrow_mut().insert(Rc::clone(activity)),
            activity: Rc::clone(activity),
            idlers: self,
        }
    }

    /// Looks at all of them.
    pub(super) fn look(&self, now: Instant) {
        for (_, activity) in self.0.borrow().iter() {
            activity.look(now);
        }
    }
}

/// See [`Idlers::watch`].
pub(super) struct Idle<'a> {
    idlers: &'a Idlers,
    place: usize,
    activity: Rc<Activity>,
}

impl Future for Idle<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.activity.over.get() {
            return Poll::Ready(());
        }
        let mut waiting = self.activity.waiting.borrow_mut();
        match &mut *waiting {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waiting = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.idlers.0.borrow_mut().try_remove(self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_connection_is_idle_once_it_asked_nothing_for_the_whole_time() {
        let (idlers, activity) = (Idlers::default(), Rc::<Activity>::default());
        let mut idle = idlers.watch(&activity);
        let mut is_over = || (&mut idle).now_or_never().is_some();
        let begin = crate::clock::now();
        let at = |share: f64| begin + IDLE.mul_f64(share);
        idlers.look(at(0.0));
        idlers.look(at(0.9));
        assert!(!is_over());
        drop(activity.asked());
        idlers.look(at(1.1));
        assert!(!is_over(), "it asked");
        let asked = activity.asked();
        idlers.look(at(1.2));
        idlers.look(at(9.0));
        assert!(!is_over(), "it waits for an answer");
        drop(asked);
        idlers.look(at(9.9));
        assert!(!is_over());
        idlers.look(at(10.0));
        assert!(is_over());
    }

    #[test]
    fn whoever_waits_is_woken_and_leaves_nothing() {
        let (idlers, activity) = (Idlers::default(), Rc::<Activity>::default());
        let mut idle = Box::pin(idlers.watch(&activity));
        let woken = std::sync::Arc::new(Woken::default());
        let waker = Waker::from(std::sync::Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        assert!(idle.as_mut().poll(&mut cx).is_pending());
        let begin = crate::clock::now();
        idlers.look(begin);
        idlers.look(begin + IDLE - Duration::from_secs(1));
        assert!(!woken.0.load(std::sync::atomic::Ordering::Relaxed));
        idlers.look(begin + IDLE);
        assert!(woken.0.load(std::sync::atomic::Ordering::Relaxed));
        assert!(idle.as_mut().poll(&mut cx).is_ready());
        drop(idle);
        assert!(idlers.0.borrow().is_empty());
    }

    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
}
