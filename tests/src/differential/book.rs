//! What the upstreams saw: one page for each scenario and proxy. The proxies are told apart by the
//! address that they dial from.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::clock::{self, Deadline};

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// This project's.
    Aquifer,
    /// The one it is compared with.
    Envoy,
}

/// One attempt, as its upstream saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which endpoint it was.
    pub endpoint: usize,
    /// When its head was there.
    pub at: Instant,
    /// `HTTP/1.1`, `HTTP/2`, `TCP`.
    pub version: &'static str,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// All fields in order; `:authority` for HTTP/2's.
    pub headers: Vec<(String, String)>,
    /// The body so far.
    pub body: Vec<u8>,
    /// Its trailers.
    pub trailers: Vec<(String, String)>,
    /// Whether all of it came.
    pub complete: bool,
    /// Whether the proxy gave it up before it was answered.
    pub given_up: bool,
}

/// All that one proxy did in one scenario.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The attempts, in order of their heads.
    pub attempts: Vec<Seen>,
    /// How many connections were accepted.
    pub connections: usize,
    /// Attempts by script.
    turns: BTreeMap<Option<usize>, usize>,
}

/// By the scenario's Service and the proxy.
type Pages = BTreeMap<(Arc<str>, Side), Page>;

/// The pages of all scenarios.
#[derive(Clone, Debug)]
pub struct Book {
    pages: Arc<Mutex<Pages>>,
    changed: Arc<watch::Sender<u64>>,
}

/// Where an upstream writes.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The scenario's Service.
    pub service: Arc<str>,
    /// Whose attempt it is.
    pub side: Side,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            pages: Arc::default(),
            changed: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, entry: &Entry, change: impl FnOnce(&mut Page) -> T) -> T {
        let key = (entry.service.clone(), entry.side);
        let changed = change(self.pages().entry(key).or_default());
        self.changed.send_modify(|count| *count += 1);
        changed
    }

    /// Notes a connection.
    pub fn connected(&self, entry: &Entry) {
        self.change(entry, |page| page.connections += 1);
    }

    /// Notes the head of an attempt. Gives its number on the page, and whose turn it is in the script:
    /// of the endpoint's own, or of the one that all share.
    pub fn arrived(&self, entry: &Entry, seen: Seen, script: Option<usize>) -> (usize, usize) {
        self.change(entry, |page| {
            page.attempts.push(seen);
            let turn = page.turns.entry(script).or_default();
            *turn += 1;
            (page.attempts.len() - 1, *turn - 1)
        })
    }

    /// Notes what came later of attempt `number`.
    pub fn note(&self, entry: &Entry, number: usize, note: impl FnOnce(&mut Seen)) {
        self.change(entry, |page| {
            if let Some(seen) = page.attempts.get_mut(number) {
                note(seen);
            }
        });
    }

    /// The page as it is now.
    pub fn page(&self, entry: &Entry) -> Page {
        let key = (entry.service.clone(), entry.side);
        self.pages().get(&key).cloned().unwrap_or_default()
    }

    /// Waits until the page has `count` complete attempts, or the patience ends.
    pub async fn wait_for(&self, entry: &Entry, count: usize, patience: Duration) {
        let deadline = Deadline::after(patience);
        let mut changed = self.changed.subscribe();
        loop {
            let page = self.page(entry);
            // Bodies of mirrored requests come after the answer to the primary.
            let settled = page
                .attempts
                .iter()
                .all(|seen| seen.complete || seen.given_up);
            if (page.attempts.len() >= count && settled) || deadline.passed() {
                return;
            }
            let _ = tokio::time::timeout(deadline.left(), changed.changed()).await;
        }
    }
}

impl Seen {
    /// The head of an attempt.
    pub fn new(endpoint: usize, version: &'static str) -> Self {
        Self {
            endpoint,
            at: clock::now(),
            version,
            method: String::new(),
            path: String::new(),
            headers: Vec::new(),
            body: Vec::new(),
            trailers: Vec::new(),
            complete: false,
            given_up: false,
        }
    }

    /// All values of a field.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(field, _)| field == name);
        named.map(|(_, value)| value.as_str()).collect()
    }
}
