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

impl Settings {
    /// Whether an endpoint that joined so long ago gets less than its weight.
    pub fn is_warming(&self, age: Duration) -> bool {
        age < self.window
    }

    /// The share of its weight that an endpoint gets which joined so long ago: more than 0, and 1
    /// once it is warm. (Envoy's `applySlowStartFactor`, which counts from a millisecond on where
    /// its documents say a second.)
    pub fn warmth(&self, age: Duration) -> f64 {
        if !self.is_warming(age) {
            return 1.0;
        }
        let age = age.max(Duration::from_millis(1)).as_secs_f64();
        let time = (age / self.window.as_secs_f64()).min(1.0);
        let risen = if self.aggression > 0.0 {
            time.powf(self.aggression.recip())
        } else {
            time
        };
        let minimum = f64::from(self.minimum.get()) / 100.0;
        risen.max(minimum).max(f64::MIN_POSITIVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_warms_up() {
        let settings = |minimum, aggression| Settings {
            window: Duration::from_secs(60),
            minimum: Percent::new(minimum).expect("a percentage"),
            aggression,
        };
        for (name, settings, millis, expected) in [
            ("at once", settings(10, 1.0), 0, 0.1),
            ("the minimum holds", settings(10, 1.0), 5_999, 0.1),
            ("then it rises", settings(10, 1.0), 30_000, 0.5),
            ("nearly warm", settings(10, 1.0), 54_000, 0.9),
            ("warm", settings(10, 1.0), 60_000, 1.0),
            ("long warm", settings(10, 1.0), u64::MAX, 1.0),
            ("no minimum", settings(0, 1.0), 0, 1.0 / 60_000.0),
            ("steep at first", settings(0, 2.0), 15_000, 0.5),
            ("flat at first", settings(0, 0.5), 30_000, 0.25),
            ("no aggression is linear", settings(0, 0.0), 30_000, 0.5),
            (
                "nor is one that is none",
                settings(0, f64::NAN),
                30_000,
                0.5,
            ),
            ("all of it is the minimum", settings(100, 1.0), 0, 1.0),
        ] {
            let warmth = settings.warmth(Duration::from_millis(millis));
            assert!((warmth - expected).abs() < 1e-9, "{name}: {warmth}");
        }
    }

    #[test]
    fn warmth_is_always_a_share() {
        for aggression in [
            f64::MIN_POSITIVE,
            1e-9,
            1e9,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ] {
            for window in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
                for age in [
                    Duration::ZERO,
                    Duration::from_nanos(1),
                    Duration::from_secs(1),
                ] {
                    let settings = Settings {
                        window,
                        minimum: Percent::ZERO,
                        aggression,
                    };
                    let warmth = settings.warmth(age);
                    assert!(
                        warmth > 0.0 && warmth <= 1.0,
                        "{settings:?} {age:?}: {warmth}"
                    );
                }
            }
        }
    }
}
