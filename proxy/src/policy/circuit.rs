//! Circuit breakers: how much one client pod may have under way at one cluster.
//!
//! Pure bookkeeping: it knows neither connections nor requests, waits for nothing and reads no
//! clock. The defaults are Istio's, which are as good as no limit.

use std::time::Duration;

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
    /// What an absent or zero limit means in Istio: the largest number there is.
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

/// How many retries may be under way, as a share of the requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// `percent`, from 0 to 100, of the requests under way and waiting.
    pub percent: f64,
    /// `minRetryConcurrency`: so many are allowed however few requests there are.
    pub min_concurrency: u32,
    /// `budgetInterval`: requests begun this long ago count as well. Zero: only what is under way.
    pub interval: Duration,
}

impl Default for Budget {
    /// Envoy's: 20 %, at least 3, of what is under way.
    fn default() -> Self {
        Self {
            percent: 20.0,
            min_concurrency: 3,
            interval: Duration::ZERO,
        }
    }
}
