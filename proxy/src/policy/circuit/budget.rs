//! How many retries a `retryBudget` allows: a share of the requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many retries may be under way, as a share of the requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// `percent` of the requests, from 0 to 100.
    pub percent: f64,
    /// `minRetryConcurrency`: so many are allowed however few requests there are.
    pub min_concurrency: u32,
    /// `budgetInterval`. Zero: the requests that are under way or wait for a connection count.
    /// Otherwise those that began within the interval count, whether they have ended or not.
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

impl Budget {
    /// How many retries may be under way at a time beside so many requests (Envoy's
    /// `RetryBudgetImpl::max`).
    pub(super) fn allowed(&self, requests: u64) -> u64 {
        // Cut off, as Envoy's conversion does. A percentage that is no number allows nothing more.
        let share = (self.percent / 100.0 * requests as f64) as u64;
        share.max(u64::from(self.min_concurrency))
    }
}

/// Requests begun within the interval, counted in tenths of it: what leaves the window leaves a
/// tenth at a time, so that a request counts for the interval and up to a tenth longer (Envoy's
/// granularity).
#[derive(Debug)]
pub(super) struct Window {
    origin: Instant,
    slot_nanos: u128,
    /// The tenth's number in the upper half, the requests begun in it in the lower.
    slots: [AtomicU64; SLOTS],
}

const TENTHS: u32 = 10;
/// The tenths that are past and the one that is now.
const SLOTS: usize = TENTHS as usize + 1;

impl Window {
    pub(super) fn new(interval: Duration, origin: Instant) -> Self {
        Self {
            origin,
            slot_nanos: (interval.as_nanos() / u128::from(TENTHS)).max(1),
            slots: Default::default(),
        }
    }

    pub(super) fn record(&self, now: Instant) {
        let tenth = self.tenth(now);
        let slot = &self.slots[tenth as usize % SLOTS];
        let mut packed = slot.load(Ordering::Relaxed);
        loop {
            let (of, count) = unpack(packed);
            let next = if of == tenth {
                pack(tenth, count.saturating_add(1))
            } else if count > 0 && tenth.wrapping_sub(of) > u32::MAX / 2 {
                // Another worker is already a round further: this request came too late to count.
                return;
            } else {
                pack(tenth, 1)
            };
            match slot.compare_exchange_weak(packed, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(current) => packed = current,
            }
        }
    }

    pub(super) fn count(&self, now: Instant) -> u64 {
        let tenth = self.tenth(now);
        self.slots
            .iter()
            .map(|slot| unpack(slot.load(Ordering::Relaxed)))
            .filter(|(of, _)| tenth.wrapping_sub(*of) <= TENTHS)
            .map(|(_, count)| u64::from(count))
            .sum()
    }

    /// The number of the tenth that `now` lies in. It wraps after four thousand million tenths.
    fn tenth(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.origin);
        (since.as_nanos() / self.slot_nanos) as u32
    }
}

fn pack(tenth: u32, count: u32) -> u64 {
    u64::from(tenth) << 32 | u64::from(count)
}

fn unpack(packed: u64) -> (u32, u32) {
    ((packed >> 32) as u32, packed as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_share_and_never_less_than_its_minimum() {
        for (percent, min, requests, expected) in [
            (20.0, 3, 0, 3),
            (20.0, 3, 15, 3),
            (20.0, 3, 19, 3),
            (20.0, 3, 20, 4),
            (20.0, 3, 25, 5),
            (0.0, 0, 1000, 0),
            (100.0, 0, 7, 7),
            (0.1, 0, 999, 0),
            (0.1, 0, 1000, 1),
            (f64::NAN, 2, 1000, 2),
            (-5.0, 0, 1000, 0),
            (100.0, 0, u64::MAX, u64::MAX),
        ] {
            let budget = Budget {
                percent,
                min_concurrency: min,
                interval: Duration::ZERO,
            };
            assert_eq!(
                budget.allowed(requests),
                expected,
                "{percent} % of {requests}, at least {min}"
            );
        }
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "some instant to count from")]
    fn requests_leave_the_window_by_tenths() {
        let origin = Instant::now();
        let window = Window::new(Duration::from_secs(10), origin);
        let at = |millis| origin + Duration::from_millis(millis);
        for (record, millis, expected) in [
            (0, 0, 0),
            (5, 0, 5),
            (0, 9_999, 5),
            (3, 9_999, 8),
            // The tenth that began at 0 s has left once the one at 11 s begins.
            (0, 10_999, 8),
            (0, 11_000, 3),
            (2, 11_000, 5),
            (0, 20_000, 2),
            (0, 19_999, 5),
            (0, 600_000, 0),
            (1, 600_000, 1),
        ] {
            for _ in 0..record {
                window.record(at(millis));
            }
            assert_eq!(window.count(at(millis)), expected, "at {millis} ms");
        }
    }
}
