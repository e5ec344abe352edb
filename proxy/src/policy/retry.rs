//! Retries: which outcomes of an attempt are tried again, how often and after what wait (Envoy,
//! `retry_state_impl.cc`).
//!
//! Pure: outcomes and random draws are handed in, and whoever drives it waits and sends. Whether
//! the request can be sent again at all (its body was kept, nothing of an answer was forwarded, the
//! circuit breaker has room) is the driver's to know.

mod condition;

use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};

pub use self::condition::{ConditionError, Conditions, Token};
use super::grpc;

const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// Envoy's base of the back-off.
pub const BASE: Duration = Duration::from_millis(25);
/// How often the balancer is asked again where it picks an endpoint that was tried already. After
/// that its pick is taken (Istio's `hostSelectionRetryMaxAttempts`).
pub const RESELECTIONS: usize = 5;
/// With `retryRemoteLocalities`: the priorities that were tried are left out anew after so many
/// attempts (Istio's `update_frequency` of Envoy's `previous_priorities`).
pub const PRIORITY_UPDATE: u32 = 2;

/// `retries` of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Retries at most, the first attempt not counted.
    pub attempts: u32,
    /// How long one attempt may take, from a connection and the whole request to the response's
    /// head.
    pub per_try_timeout: Option<Duration>,
    /// `retryOn`.
    pub on: Conditions,
    /// `retryRemoteLocalities`.
    pub remote_localities: bool,
    /// `retryIgnorePreviousHosts`: endpoints that were tried are avoided. Where not given: yes, but
    /// for destinations with a consistent hash.
    pub ignore_previous_hosts: Option<bool>,
    /// `backoff`: the base of the wait between attempts.
    pub backoff: Duration,
}

impl Default for Policy {
    /// Istio's, where a rule has no `retries` and the mesh configures none: two, and only where the
    /// request was not processed.
    fn default() -> Self {
        Self {
            attempts: 2,
            per_try_timeout: None,
            on: Conditions::default(),
            remote_localities: false,
            ignore_previous_hosts: None,
            backoff: BASE,
        }
    }
}

impl Policy {
    /// No retries.
    pub fn never() -> Self {
        Self {
            attempts: 0,
            ..Self::default()
        }
    }

    /// Whether endpoints that were tried are avoided.
    pub fn avoids_previous_hosts(&self, consistent_hash: bool) -> bool {
        self.ignore_previous_hosts.unwrap_or(!consistent_hash)
    }

    /// Whether an attempt that ended like this would be tried again, retries left or not.
    pub fn covers(&self, outcome: &Outcome<'_>) -> bool {
        match outcome {
            Outcome::Response { status, headers } => self.covers_response(*status, headers),
            Outcome::Reset { reset, sent } => self.covers_reset(*reset, *sent),
        }
    }

    fn covers_response(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let on = &self.on;
        // It comes from an Envoy that limits rates: what else it looks like does not matter.
        if headers.contains_key(&RATE_LIMITED) {
            return on.has(Token::RateLimited);
        }
        let code = status.as_u16();
        (on.has(Token::ServerError) && (500..600).contains(&code))
            || (on.has(Token::GatewayError) && (502..=504).contains(&code))
            || (on.has(Token::Retriable4xx) && code == 409)
            || (on.has(Token::StatusCodes) && on.statuses().contains(&status))
            || self.covers_grpc(headers)
    }

    /// By gRPC's status in the response's head.
    fn covers_grpc(&self, headers: &HeaderMap) -> bool {
        let token = match grpc::Status::told(headers) {
            Some(grpc::Status::Canceled) => Token::Cancelled,
            Some(grpc::Status::DeadlineExceeded) => Token::DeadlineExceeded,
            Some(grpc::Status::Internal) => Token::Internal,
            Some(grpc::Status::ResourceExhausted) => Token::ResourceExhausted,
            Some(grpc::Status::Unavailable) => Token::Unavailable,
            _ => return false,
        };
        self.on.has(token)
    }

    fn covers_reset(&self, reset: Reset, sent: Sent) -> bool {
        let on = &self.on;
        if reset == Reset::Overflow {
            return false;
        }
        // A reset counts as the 502, 503 or 504 that it would become.
        on.has(Token::Reset)
            || on.has(Token::ServerError)
            || on.has(Token::GatewayError)
            || (on.has(Token::ResetBeforeRequest) && sent == Sent::Nothing)
            || (on.has(Token::ConnectFailure) && reset == Reset::Connect)
            || (on.has(Token::RefusedStream) && reset == Reset::Refused)
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// With a response's head from the upstream. What the proxy answers by itself is none: a status
    /// listed in `retryOn` does not count for it.
    Response {
        /// Its status.
        status: StatusCode,
        /// Its fields.
        headers: &'a HeaderMap,
    },
    /// Without.
    Reset {
        /// Why.
        reset: Reset,
        /// What had gone out by then.
        sent: Sent,
    },
}

/// Why an attempt ended without a response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// No connection: refused, unreachable, TLS failed, or the connect timeout.
    Connect,
    /// The circuit breaker of the cluster was full. Never tried again.
    Overflow,
    /// The upstream reset the stream with `REFUSED_STREAM`: it was not processed.
    Refused,
    /// The upstream reset the stream with another code.
    Stream,
    /// The upstream closed the connection.
    Closed,
    /// The upstream broke its protocol.
    Protocol,
    /// The per-try timeout, or another reset of ours.
    Local,
}

/// How much of a request was sent in an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Not a byte, the head included.
    Nothing,
    /// Something.
    Something,
}

/// The attempts of one request.
#[derive(Clone, Copy, Debug)]
pub struct Attempts<'a> {
    policy: &'a Policy,
    retries: u32,
}

/// What follows on an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Another one, after this wait. It is counted as made; where the circuit breaker has no room
    /// for it, the outcome at hand is the last (flag `UO`, `upstream_rq_retry_overflow`).
    Retry(Backoff),
    /// None: the outcome is passed on.
    No(Reason),
}

/// Why nothing is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The outcome is none of those to be retried.
    NotRetriable,
    /// It is, but every retry was used up (flag `URX`, `upstream_rq_retry_limit_exceeded`).
    Exhausted,
}

/// The range of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff(Duration);

impl Backoff {
    /// The wait, by a uniformly random `draw`: from nothing up to below the range's end.
    pub fn wait(self, draw: u64) -> Duration {
        let micros = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(draw % micros.max(1))
    }

    /// The range's end.
    pub fn end(self) -> Duration {
        self.0
    }
}

impl<'a> Attempts<'a> {
    /// Before the first.
    pub fn new(policy: &'a Policy) -> Self {
        Self { policy, retries: 0 }
    }

    /// The policy.
    pub fn policy(&self) -> &'a Policy {
        self.policy
    }

    /// Which attempt this is, from 1: the value of `x-envoy-attempt-count`.
    pub fn number(&self) -> u32 {
        self.retries.saturating_add(1)
    }

    /// Whether another may follow: nothing need be kept for it otherwise.
    pub fn may_retry(&self) -> bool {
        self.retries < self.policy.attempts
    }

    /// Takes how the attempt ended.
    pub fn verdict(&mut self, outcome: &Outcome<'_>) -> Verdict {
        // Without retries Istio configures no policy at all, so nothing is ever exhausted.
        if self.policy.attempts == 0 || !self.policy.covers(outcome) {
            return Verdict::No(Reason::NotRetriable);
        }
        if !self.may_retry() {
            return Verdict::No(Reason::Exhausted);
        }
        let backoff = self.backoff();
        self.retries += 1;
        Verdict::Retry(backoff)
    }

    /// Envoy doubles the range from the base to ten times the base (`backoff_strategy.cc`, and seen
    /// on 1.40). Its documents say (2^k − 1) times the base, which older versions had.
    fn backoff(&self) -> Backoff {
        let base = self.policy.backoff;
        let doubled = 1_u32.checked_shl(self.retries).unwrap_or(u32::MAX);
        Backoff(base.saturating_mul(doubled.min(10)))
    }
}

#[cfg(test)]
mod tests;
