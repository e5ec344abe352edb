//! HBONE connections of one local pod, in one worker: kept by whom they lead to, shared by up to 100
//! streams each, or less where its peer says so.
//!
//! Two pods share none, also where they are of one account: address, NetworkPolicy and life are the
//! pod's own. A connection that its peer is leaving, that a certificate or trust of the past was
//! used for, or that has ended gets no more streams.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::FutureExt as _;
use h2::client::SendRequest;
use rustls::ClientConfig;
use tokio::sync::Notify;

use crate::clock;
use crate::dataplane::error::Error;
use crate::types::Identity;

/// Streams of one connection (ztunnel's), where its peer does not allow less.
pub(super) const STREAMS: usize = 100;
/// What a peer allows that has not said it yet: no peer can say as much.
pub(super) const UNTOLD: usize = usize::MAX - 1;
/// How long a connection without streams is kept.
const IDLE: Duration = Duration::from_secs(300);

/// Whom a connection leads to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) address: IpAddr,
    /// One of whom must answer there.
    pub(super) expected: Arc<[Identity]>,
}

/// A pod's connections.
#[derive(Default)]
pub(in crate::dataplane) struct Pool {
    connections: RefCell<HashMap<Key, Vec<Rc<Shared>>, RandomState>>,
    /// Each connection is for one stream from now on, and ends with it.
    closed: Cell<bool>,
}

/// One connection, from when it is begun.
pub(super) struct Shared {
    /// Once it is known what came of opening it.
    opened: OnceCell<Result<Opened, Error>>,
    /// What its peer is taken to allow until it says so itself.
    assumed: usize,
    /// Whether it was seen to have said so.
    settled: Cell<bool>,
    /// Of the one and of the other.
    told: Notify,
    /// Since when nobody knows whether its peer is still there.
    doubted: Cell<Option<Instant>>,
    in_doubt: Rc<Notify>,
    /// What it was opened with: another one is in force when a certificate or the trust has changed.
    config: Arc<ClientConfig>,
    /// It gets no more streams.
    retired: Cell<bool>,
    /// Places.
    streams: Cell<usize>,
    /// Those whose streams may be begun.
    admitted: Cell<usize>,
    /// When the last stream ended, or the connection was begun.
    since: Cell<Instant>,
}

/// One that is open.
pub(super) struct Opened {
    pub(super) send: SendRequest<Bytes>,
    pub(super) local: Option<SocketAddr>,
}

impl Opened {
    /// False where the peer has sent GOAWAY, or the connection has ended.
    pub(super) fn takes_streams(&self) -> bool {
        matches!(self.send.clone().ready().now_or_never(), Some(Ok(_)))
    }

    /// Streams that the peer allows at once, when it has said so. One that allows none is asked for one.
    fn allowed(&self) -> Option<usize> {
        let told = self.send.current_max_send_streams();
        (told != UNTOLD).then_some(told.clamp(1, STREAMS))
    }
}

/// One stream's place on a connection.
pub(in crate::dataplane) struct Place {
    shared: Rc<Shared>,
    admitted: Cell<bool>,
    /// Whether others used the connection before.
    pub(super) reused: bool,
}

impl Pool {
    /// A place on a connection that there is, or is being opened.
    pub(super) fn place(&self, key: &Key, config: &Arc<ClientConfig>) -> Option<Place> {
        let mut connections = self.connections.borrow_mut();
        let known = connections.get_mut(key)?;
        known.retain(|one| {
            if !Arc::ptr_eq(&one.config, config) {
                one.retired.set(true);
            }
            one.is_usable()
        });
        let shared = known.iter().find(|one| one.has_room())?;
        Some(Place::on(shared, true))
    }

    /// A place on a connection that is to be opened.
    pub(super) fn begin(&self, key: &Key, config: Arc<ClientConfig>) -> (Place, Opening) {
        let mut connections = self.connections.borrow_mut();
        let known = connections.entry(key.clone()).or_default();
        let assumed = known.iter().find_map(|one| one.opened()?.allowed());
        let shared = Rc::new(Shared {
            opened: OnceCell::new(),
            assumed: assumed.unwrap_or(STREAMS),
            settled: Cell::new(false),
            told: Notify::new(),
            doubted: Cell::new(None),
            in_doubt: Rc::default(),
            config,
            retired: Cell::new(false),
            streams: Cell::new(0),
            admitted: Cell::new(0),
            since: Cell::new(clock::now()),
        });
        if !self.closed.get() {
            known.push(Rc::clone(&shared));
        }
        let place = Place::on(&shared, false);
        let opening = Opening {
            shared: Rc::downgrade(&shared),
            in_doubt: Rc::clone(&shared.in_doubt),
        };
        (place, opening)
    }

    /// Closes what had no stream for too long, and lets go of what has ended.
    pub(in crate::dataplane) fn sweep(&self, now: Instant) {
        self.connections.borrow_mut().retain(|_, known| {
            known.retain(|one| one.is_usable() && !one.is_idle(now));
            !known.is_empty()
        });
    }

    /// Closes every connection without streams, and the others with their last; none is kept any more.
    pub(in crate::dataplane) fn close(&self) {
        self.closed.set(true);
        self.connections.borrow_mut().clear();
    }
}

impl Shared {
    fn opened(&self) -> Option<&Opened> {
        self.opened.get()?.as_ref().ok()
    }

    /// Whether it may get streams at all, now or once others have ended.
    fn is_usable(&self) -> bool {
        !self.retired.get()
            && match self.opened.get() {
                None => true,
                Some(Ok(opened)) => opened.takes_streams(),
                Some(Err(_)) => false,
            }
    }

    fn has_room(&self) -> bool {
        let told = self.opened().and_then(Opened::allowed);
        self.doubted.get().is_none() && self.streams.get() < told.unwrap_or(self.assumed)
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.streams.get() == 0 && self.since.get() + IDLE <= now
    }
}

impl Place {
    fn on(shared: &Rc<Shared>, reused: bool) -> Self {
        shared.streams.set(shared.streams.get() + 1);
        Self {
            shared: Rc::clone(shared),
            admitted: Cell::new(false),
            reused,
        }
    }

    /// The connection, once it is open, or what else came of it.
    pub(super) async fn opened(&self) -> Result<&Opened, Error> {
        loop {
            match self.shared.opened.get() {
                Some(Ok(opened)) => return Ok(opened),
                Some(Err(error)) => return Err(error.of_connecting()),
                None => self.shared.told.notified().await,
            }
        }
    }

    /// Waits until its stream may be begun; false where the peer turns out to allow fewer. Before it has
    /// said how many, one goes ahead: h2 would keep the others without a word.
    pub(super) async fn admitted(&self) -> Result<bool, Error> {
        loop {
            let opened = self.opened().await?;
            let told = opened.allowed();
            let (shared, before) = (&self.shared, self.shared.admitted.get());
            // Whoever asks on one that has ended is told so.
            if before < told.unwrap_or(1) || !opened.takes_streams() {
                if !self.admitted.replace(true) {
                    shared.admitted.set(before + 1);
                }
                return Ok(true);
            }
            if told.is_some() {
                return Ok(false);
            }
            shared.told.notified().await;
        }
    }

    /// Nothing was answered for a while. Until it is known that the peer is there, its connection gets
    /// no more streams.
    pub(super) fn doubt(&self) {
        if self.shared.doubted.get().is_none() {
            self.shared.doubted.set(Some(clock::now()));
        }
        self.shared.in_doubt.notify_one();
    }

    /// For how long the peer has not answered that it is there.
    pub(super) fn doubted(&self) -> Option<Duration> {
        Some(clock::now() - self.shared.doubted.get()?)
    }

    /// It has failed a stream: no more of them.
    pub(super) fn retire(&self) {
        self.shared.retired.set(true);
    }

    /// The proxy's own end.
    pub(in crate::dataplane) fn local(&self) -> Option<SocketAddr> {
        self.shared.opened()?.local
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.streams.set(self.shared.streams.get() - 1);
        if self.admitted.get() {
            self.shared.admitted.set(self.shared.admitted.get() - 1);
        }
        self.shared.since.set(clock::now());
    }
}

/// A connection that is being opened, and then runs. Where the opening is given up, so is it. It belongs to
/// those who have a place and to the pool, and ends with them: whoever runs it keeps no hold of it.
pub(super) struct Opening {
    shared: Weak<Shared>,
    in_doubt: Rc<Notify>,
}

impl Opening {
    /// Tells everybody who has a place what came of it. Only the first word counts.
    pub(super) fn done(&self, opened: Result<Opened, Error>) {
        if let Some(shared) = self.shared.upgrade() {
            let _ = shared.opened.set(opened);
            shared.told.notify_waiters();
        }
    }

    /// Something may have come on it.
    pub(super) fn look(&self) {
        let shared = self.shared.upgrade();
        if let Some(shared) = shared.filter(|shared| !shared.settled.get())
            && shared.opened().is_some_and(|one| one.allowed().is_some())
        {
            shared.settled.set(true);
            shared.told.notify_waiters();
        }
    }

    /// Resolves when somebody doubts that the peer is there.
    pub(super) async fn doubted(&self) {
        self.in_doubt.notified().await;
    }

    /// The peer is there.
    pub(super) fn heard(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.doubted.set(None);
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.done(Err(Error::Closed));
    }
}

#[cfg(test)]
pub(super) mod tests;
