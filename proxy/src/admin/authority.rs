//! What `aquifer ca` tells: its metrics, and whether it is ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http::StatusCode;

use super::server::{self, Answer};
use crate::ca::{Counters, Keeper};

/// Answers `/metrics` and `/healthz/ready`.
#[derive(Debug)]
pub struct Answers {
    counters: Arc<Counters>,
    keeper: Arc<Keeper>,
    ready: AtomicBool,
}

impl Answers {
    /// Not ready yet.
    pub fn new(counters: Arc<Counters>, keeper: Arc<Keeper>) -> Self {
        Self {
            counters,
            keeper,
            ready: AtomicBool::new(false),
        }
    }

    /// Whether it is ready from now on.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Relaxed);
    }
}

impl server::Answers for Answers {
    fn answer(&self, path: &str, _: Option<&str>) -> Option<Answer> {
        Some(match path {
            "/metrics" => Answer::Metrics(self.counters.text(&self.keeper)),
            "/healthz/ready" if self.ready.load(Relaxed) => {
                Answer::Text(StatusCode::OK, "ready\n".to_owned())
            }
            "/healthz/ready" => {
                Answer::Text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned())
            }
            _ => return None,
        })
    }
}
