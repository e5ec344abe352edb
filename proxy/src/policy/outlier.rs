//! Outlier detection: which endpoints of one cluster are sitting out because they kept failing.
//!
//! A pure state machine: it never sleeps, logs or reads a clock. The meaning is Envoy's, the
//! defaults are those that Istio gives to an `outlierDetection` block.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::types::Percent;

/// A DestinationRule's `outlierDetection`. `minHealthPercent` is the balancer's panic threshold
/// and is not here. Where the block is absent there is no detector at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `consecutive5xxErrors`; zero turns this detector off.
    pub consecutive_5xx: u32,
    /// `consecutiveGatewayErrors` (502, 503, 504); zero, the default, turns this detector off.
    pub consecutive_gateway: u32,
    /// `consecutiveLocalOriginFailures`; zero turns this detector off. Used only where local
    /// origin errors are counted apart.
    pub consecutive_local_origin: u32,
    /// `splitExternalLocalOriginErrors`: what happens before a response is counted apart from
    /// what the response says.
    pub split_local_origin: bool,
    /// `outlierDetectionHttpErrorCodes`: these statuses count in place of all 5xx.
    pub error_codes: Option<BTreeSet<u16>>,
    /// `interval` between two sweeps, at which ejections end.
    pub interval: Duration,
    /// `baseEjectionTime`: how long the first ejection lasts; the second twice that, and so on.
    pub base_ejection: Duration,
    /// `maxEjectionPercent`: more of the endpoints are never ejected at a time.
    pub max_ejected: Percent,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway: 0,
            consecutive_local_origin: 5,
            split_local_origin: false,
            error_codes: None,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejected: Percent::new(10).unwrap_or(Percent::ALL),
        }
    }
}
