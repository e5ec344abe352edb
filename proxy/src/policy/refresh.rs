//! When what was fetched is fetched again, and when it is too old.
//!
//! Pure: it is handed the monotonic clock and the random draws.

use std::time::{Duration, Instant};

/// The first wait after a failure while there is nothing; it doubles.
const FIRST: Duration = Duration::from_secs(1);
/// The first wait after a failure while there is something older (istiod).
const FIRST_HELD: Duration = Duration::from_secs(60);
/// The longest wait after a failure.
const LONGEST: Duration = Duration::from_secs(60);
/// What could not be fetched again for so long counts no more (istiod): who keeps it from being
/// fetched must not keep it in force.
const TOO_OLD: Duration = Duration::from_secs(7 * 24 * 3600);

/// One thing that is fetched.
#[derive(Clone, Debug, Default)]
pub struct Refresh {
    fetched: Option<Instant>,
    due: Option<Instant>,
    failures: u32,
}

impl Refresh {
    /// How long to wait before the next try; nothing before the first.
    pub fn wait(&self, now: Instant) -> Duration {
        let due = self.due.map(|due| due.saturating_duration_since(now));
        due.unwrap_or_default()
    }

    /// It was fetched, and is wanted again after about `interval`. `draw` is from 0 to 1.
    pub fn succeeded(&mut self, now: Instant, interval: Duration, draw: f64) {
        self.fetched = Some(now);
        self.failures = 0;
        self.due = Some(now + spread(interval, draw));
    }

    /// It could not be fetched: how long until the next try. Never longer than the `interval`.
    pub fn failed(&mut self, now: Instant, interval: Duration, draw: f64) -> Duration {
        let (first, longest) = match self.fetched {
            Some(_) => (FIRST_HELD, interval),
            None => (FIRST, LONGEST),
        };
        let doubled = first.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let wait = spread(doubled.min(longest).min(interval), draw);
        self.due = Some(now + wait);
        wait
    }

    /// Whether what there is has become too old. Told once.
    pub fn expire(&mut self, now: Instant) -> bool {
        let old = self.fetched.is_some_and(|at| now >= at + TOO_OLD);
        if old {
            self.fetched = None;
            self.failures = 0;
        }
        old
    }

    /// Failures since it was fetched last.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// A tenth more or less, so that not everybody asks at once.
fn spread(time: Duration, draw: f64) -> Duration {
    time.mul_f64(0.9 + 0.2 * draw.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWENTY: Duration = Duration::from_secs(1200);

    #[test]
    fn failures_wait_longer_and_longer() {
        let start = crate::clock::now();
        let mut one = Refresh::default();
        assert_eq!(one.wait(start), Duration::ZERO);
        let waits = |one: &mut Refresh| -> Vec<u64> {
            let all = (0..8).map(|_| one.failed(start, TWENTY, 0.5).as_secs());
            all.collect()
        };
        // While there is nothing, soon; otherwise as istiod.
        assert_eq!(waits(&mut one), [1, 2, 4, 8, 16, 32, 60, 60]);
        one.succeeded(start, TWENTY, 0.5);
        assert_eq!((one.wait(start), one.failures()), (TWENTY, 0));
        assert_eq!(waits(&mut one), [60, 120, 240, 480, 960, 1200, 1200, 1200]);
        assert_eq!(one.wait(start + Duration::from_secs(5000)), Duration::ZERO);
        // Not all at once, and never less often than asked for.
        one.succeeded(start, TWENTY, 0.0);
        assert_eq!(one.wait(start).as_secs(), 1080);
        let second = Duration::from_secs(1);
        assert_eq!(one.failed(start, second, 0.5), second);
        assert_eq!(Refresh::default().failed(start, second, 0.5), second);
    }

    #[test]
    fn what_is_too_old_counts_no_more() {
        let start = crate::clock::now();
        let mut one = Refresh::default();
        assert!(!one.expire(start + TOO_OLD));
        one.succeeded(start, TWENTY, 0.5);
        one.failed(start, TWENTY, 0.5);
        assert!(!one.expire(start + TOO_OLD - Duration::from_secs(1)));
        assert!(one.expire(start + TOO_OLD));
        assert!(!one.expire(start + TOO_OLD));
        assert_eq!(one.failed(start, TWENTY, 0.5).as_secs(), 1);
    }
}
