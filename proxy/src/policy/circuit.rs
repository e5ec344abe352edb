//! Circuit breakers: how much one client pod may have under way at one cluster.
//!
//! Pure bookkeeping: it knows neither connections nor requests, waits for nothing and reads no
//! clock. Counts are exact and shared by all workers: a limit of 1 is 1, whoever asks. (Envoy's
//! may be overrun by as many as it has workers.)
//!
//! Invariant: what a [`Permit`] stands for is counted from its making to its drop, once.

mod budget;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

pub use budget::Budget;
use budget::Window;

/// A DestinationRule's `connectionPool` limits and `retryBudget`, for one client pod and cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// `tcp.maxConnections`: connections open at all endpoints together.
    pub max_connections: u32,
    /// `http.http1MaxPendingRequests`: requests that wait for a connection, whatever the protocol.
    pub max_pending: u32,
    /// `http.http2MaxRequests`: requests under way, whatever the protocol.
    pub max_requests: u32,
    /// `http.maxRetries`: retries under way. Unused where there is a budget.
    pub max_retries: u32,
    /// `retryBudget`: limits retries to a share of the requests instead.
    pub retry_budget: Option<Budget>,
}

impl Limits {
    /// What an absent or zero limit means in Istio: the largest number there is. It is not
    /// enforced.
    pub const UNLIMITED: u32 = u32::MAX;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: Self::UNLIMITED,
            max_pending: Self::UNLIMITED,
            max_requests: Self::UNLIMITED,
            max_retries: Self::UNLIMITED,
            retry_budget: None,
        }
    }
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Open connections.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests on a connection.
    Requests,
    /// Retries, from the decision to retry to the outcome of the attempt: those that wait out
    /// their back-off count.
    Retries,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Connections,
        Self::Pending,
        Self::Requests,
        Self::Retries,
    ];
}

/// A limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limit of {0:?} is reached")]
pub struct Overflow(pub Resource);

/// The limits of one cluster for one client pod, and how much of them is in use.
#[derive(Debug)]
pub struct Breaker {
    limits: Limits,
    counts: Arc<Counts>,
    window: Option<Window>,
}

#[derive(Debug, Default)]
struct Counts {
    in_use: [AtomicU64; 4],
    overflows: [AtomicU64; 4],
}

impl Breaker {
    /// Nothing in use. `now` is where a retry budget's interval is counted from.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self::over(limits, Arc::default(), now)
    }

    /// Other limits for what this one counts: permits that are out go on counting.
    pub fn with_limits(&self, limits: Limits, now: Instant) -> Self {
        Self::over(limits, Arc::clone(&self.counts), now)
    }

    fn over(limits: Limits, counts: Arc<Counts>, now: Instant) -> Self {
        let window = limits
            .retry_budget
            .filter(|budget| !budget.interval.is_zero())
            .map(|budget| Window::new(budget.interval, now));
        Self {
            limits,
            counts,
            window,
        }
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Room for one more connection.
    pub fn try_connection(&self) -> Result<Permit, Overflow> {
        self.take(Resource::Connections)
    }

    /// A connection beyond the limit. Only for an endpoint that has none at all, neither ready,
    /// busy nor being opened: Envoy gives it one, so that a request never waits for a connection
    /// that nobody will open. The first refusal by [`Breaker::try_connection`] still counts as an
    /// overflow, as in Envoy.
    pub fn first_connection(&self) -> Permit {
        self.counts.add(Resource::Connections);
        self.permit(Resource::Connections)
    }

    /// A place among the requests that wait for a connection.
    pub fn try_pending(&self) -> Result<Pending, Overflow> {
        self.take(Resource::Pending).map(Pending)
    }

    /// A place among the requests under way, for one that found a connection ready.
    pub fn try_request(&self, now: Instant) -> Result<Permit, Overflow> {
        let permit = self.take(Resource::Requests)?;
        if let Some(window) = &self.window {
            window.record(now);
        }
        Ok(permit)
    }

    /// A place among the retries.
    pub fn try_retry(&self, now: Instant) -> Result<Permit, Overflow> {
        let Some(budget) = &self.limits.retry_budget else {
            return self.take(Resource::Retries);
        };
        let requests = match &self.window {
            Some(window) => window.count(now),
            None => self.in_use(Resource::Requests) + self.in_use(Resource::Pending),
        };
        self.take_below(Resource::Retries, budget.allowed(requests))
    }

    /// How many are in use.
    pub fn in_use(&self, resource: Resource) -> u64 {
        self.counts.in_use[resource as usize].load(Ordering::Relaxed)
    }

    /// How many were refused so far.
    pub fn overflows(&self, resource: Resource) -> u64 {
        self.counts.overflows[resource as usize].load(Ordering::Relaxed)
    }

    /// Whether the next one is refused: Envoy's gauges `cx_open`, `rq_pending_open`, `rq_open`
    /// and `rq_retry_open`. The last tells of `maxRetries` only, also where a budget is in force.
    pub fn is_open(&self, resource: Resource) -> bool {
        self.remaining_below_limit(resource) == 0
    }

    /// How many more there may be: Envoy's `remaining_*`. Zero for retries under a budget, where
    /// the number depends on the requests.
    pub fn remaining(&self, resource: Resource) -> u64 {
        if resource == Resource::Retries && self.limits.retry_budget.is_some() {
            return 0;
        }
        self.remaining_below_limit(resource)
    }

    fn remaining_below_limit(&self, resource: Resource) -> u64 {
        u64::from(self.limit(resource)).saturating_sub(self.in_use(resource))
    }

    fn limit(&self, resource: Resource) -> u32 {
        match resource {
            Resource::Connections => self.limits.max_connections,
            Resource::Pending => self.limits.max_pending,
            Resource::Requests => self.limits.max_requests,
            Resource::Retries => self.limits.max_retries,
        }
    }

    fn take(&self, resource: Resource) -> Result<Permit, Overflow> {
        let limit = self.limit(resource);
        if limit == Limits::UNLIMITED {
            self.counts.add(resource);
            return Ok(self.permit(resource));
        }
        self.take_below(resource, u64::from(limit))
    }

    fn take_below(&self, resource: Resource, limit: u64) -> Result<Permit, Overflow> {
        let more = |in_use| (in_use < limit).then(|| in_use + 1);
        let count = &self.counts.in_use[resource as usize];
        match count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more) {
            Ok(_) => Ok(self.permit(resource)),
            Err(_) => {
                self.counts.overflows[resource as usize].fetch_add(1, Ordering::Relaxed);
                Err(Overflow(resource))
            }
        }
    }

    /// For what has just been counted.
    fn permit(&self, resource: Resource) -> Permit {
        Permit {
            counts: Arc::clone(&self.counts),
            resource,
        }
    }
}

impl Counts {
    fn add(&self, resource: Resource) {
        self.in_use[resource as usize].fetch_add(1, Ordering::AcqRel);
    }
}

/// One place of a limit, given back when dropped.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub struct Permit {
    counts: Arc<Counts>,
    resource: Resource,
}

impl Permit {
    /// What it is a place of.
    pub fn resource(&self) -> Resource {
        self.resource
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.counts.in_use[self.resource as usize].fetch_sub(1, Ordering::AcqRel);
    }
}

/// A request's place in the queue for a connection, given back when dropped.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub struct Pending(Permit);

impl Pending {
    /// Hands over to a place among the requests under way, once there is a connection. The place
    /// in the queue is given back in either case, after the other is taken: the request is never
    /// uncounted in between.
    pub fn into_request(self, breaker: &Breaker, now: Instant) -> Result<Permit, Overflow> {
        let request = breaker.try_request(now);
        drop(self.0);
        request
    }
}
