//! Waiting for room: for a place among a cluster's connections, whichever worker gives it back.
//!
//! Whoever waits is woken one at a time: a place is one request's, and a thousand that looked at it
//! in vain would be a thousand times a thousand by the time all are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use tokio::sync::Notify;

use super::{Host, State};
use crate::policy::circuit::Resource;

/// Where requests wait.
#[derive(Debug, Default)]
pub(in crate::dataplane) struct Room {
    /// Told when one of them may find what it waits for. One that is told and goes away passes it on.
    pub(in crate::dataplane) told: Notify,
    waiting: AtomicUsize,
}

/// A request that waits, at its cluster and at its endpoint, until it is dropped.
pub(in crate::dataplane) struct Waits {
    state: Arc<State>,
    /// The endpoint's.
    pub(in crate::dataplane) room: Arc<Room>,
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.state.room.waiting.fetch_sub(1, Ordering::Relaxed);
        self.room.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl State {
    /// One more request waits for a connection to `host`. To be taken before it is looked for room in
    /// vain.
    pub(in crate::dataplane) fn waits(self: &Arc<Self>, host: Option<&Arc<Host>>) -> Waits {
        let room = host.map_or_else(Arc::default, |host| Arc::clone(host.room()));
        self.room.waiting.fetch_add(1, Ordering::Relaxed);
        room.waiting.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Waits {
            state: Arc::clone(self),
            room,
        }
    }

    /// A connection to `host` was closed.
    pub(in crate::dataplane) fn released(&self, host: Option<&Host>) {
        // Pairs with the fence in `waits`: either the waiting request sees the place that was given
        // back before this, or it is seen here.
        fence(Ordering::SeqCst);
        if self.room.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let members = self.members.load();
        let free = members.breaker.remaining(Resource::Connections) > 0;
        match host.filter(|host| !free && host.connections() == 0) {
            // The one connection that every endpoint gets.
            Some(host) => host.room().told.notify_one(),
            // Also where there is still no place, since the limit was lowered: whoever is told asks
            // those who have one once more, and they close one at a time.
            None => self.room.told.notify_one(),
        }
    }

    /// Whether more than `own` requests wait for room.
    pub(in crate::dataplane) fn is_crowded(&self, own: usize) -> bool {
        // Whoever is missed here asks for the connection once it is idle.
        self.room.waiting.load(Ordering::Relaxed) > own
    }

    /// Whether closing a connection to `host` would help somebody, beside `own` requests that wait
    /// for one to it on the asking worker.
    pub(in crate::dataplane) fn is_wanted(&self, host: Option<&Host>, own: usize) -> bool {
        if !self.is_crowded(own) {
            return false;
        }
        let here = |host: &Host| host.room().waiting.load(Ordering::Relaxed) > own;
        let members = self.members.load();
        let limit = u64::from(members.breaker.limits().max_connections);
        host.is_some_and(here) || members.breaker.in_use(Resource::Connections) <= limit
    }

    /// Everybody is to look again: the limits or the endpoints are others.
    pub(super) fn tell_all(&self, members: &super::Members) {
        if self.room.waiting.load(Ordering::Relaxed) > 0 {
            self.room.told.notify_waiters();
            for host in &members.hosts {
                host.room().told.notify_waiters();
            }
        }
    }
}
