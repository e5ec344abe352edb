//! Slow start: an endpoint that just joined gets less than its share until it is warm.
//!
//! Pure: it is handed how long ago an endpoint joined.

use std::time::Duration;

use crate::types::Percent;

/// A DestinationRule's `loadBalancer.warmup`. Acts on ROUND_ROBIN and LEAST_REQUEST only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// `duration`: warm after it. Never zero.
    pub window: Duration,
    /// `minimumPercent` of its weight that an endpoint gets at least; Istio's default is 10.
    pub minimum: Percent,
    /// `aggression`, greater than zero: 1 ramps up linearly; larger begins steeply.
    pub aggression: f64,
}

impl Settings {
    /// Istio's defaults with this window.
    pub fn over(window: Duration) -> Self {
        Self {
            window,
            minimum: Percent::new(10).unwrap_or(Percent::ZERO),
            aggression: 1.0,
        }
    }
}
