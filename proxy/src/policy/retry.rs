//! Retries: which outcomes of an attempt are tried again, how often and after what wait.
//!
//! Pure: outcomes and random draws are handed in, and whoever drives it waits and sends. Whether
//! the request can be sent again at all (its body was kept, nothing was forwarded yet, the circuit
//! breaker has room) is the driver's to know.

mod condition;

use std::time::Duration;

pub use self::condition::{ConditionError, Conditions, Token};

/// Envoy's base of the back-off.
const BASE: Duration = Duration::from_millis(25);

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
    /// `retryRemoteLocalities`: after every second attempt another priority is tried.
    pub remote_localities: bool,
    /// `retryIgnorePreviousHosts`: endpoints that were tried are avoided. Where not given: yes, but
    /// for destinations with a consistent hash.
    pub ignore_previous_hosts: Option<bool>,
    /// `backoff`, never zero: the base of the wait between attempts.
    pub backoff: Duration,
}

impl Default for Policy {
    /// Istio's, where a rule has no `retries` and the mesh configures none: two, and only where
    /// the request was not processed.
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
    /// Never.
    pub fn never() -> Self {
        Self {
            attempts: 0,
            ..Self::default()
        }
    }
}
