//! When a certificate is fetched, fetched again, and given up.
//!
//! Pure: it is handed both clocks and the random draws. Waits between tries go by the monotonic
//! clock, so that a wall clock which jumps neither stops them nor makes them a storm; what a
//! certificate says of itself goes by the wall clock, as at its peers.

use std::time::{Duration, Instant, SystemTime};

/// The first wait after a failure; it doubles.
const FIRST: Duration = Duration::from_millis(250);
/// The least time between two certificates.
const LEAST: Duration = Duration::from_secs(1);
/// The longest wait while a certificate is in force.
const LONGEST: Duration = Duration::from_secs(60);
/// The longest while there is none: traffic waits for it.
const LONGEST_WITHOUT: Duration = Duration::from_secs(10);
/// The share of a certificate's life after which it is renewed at the earliest, and the width of the
/// window in which that happens: at half of it on average, as ztunnel does, and not all at once.
const EARLIEST: f64 = 0.45;
const WINDOW: f64 = 0.1;

/// What both clocks say.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For waits.
    pub instant: Instant,
    /// For what certificates say.
    pub wall: SystemTime,
}

/// From when until when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Not before.
    pub from: SystemTime,
    /// Not after.
    pub until: SystemTime,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, for so long at most.
    Wait(Duration),
    /// Ask for a certificate.
    Fetch,
    /// Show the one in force no more: it has expired. Told once.
    Expire,
}

/// One identity's certificate.
#[derive(Clone, Debug, Default)]
pub struct Renewal {
    held: Option<Held>,
    failures: u32,
    /// Not before this, after a failure.
    retry: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    lifetime: Lifetime,
    renew: SystemTime,
}

impl Renewal {
    /// What is to be done. Not asked while an answer is awaited, but for [`Self::expire`].
    pub fn step(&mut self, now: Now) -> Step {
        if self.expire(now) {
            return Step::Expire;
        }
        let due = self.held.map_or(Duration::ZERO, |held| {
            // A clock that went back: peers whose clock did too refuse it, so another is fetched.
            if now.wall < held.lifetime.from {
                return Duration::ZERO;
            }
            held.renew.duration_since(now.wall).unwrap_or_default()
        });
        let retry = self.retry.map_or(Duration::ZERO, |retry| {
            retry.saturating_duration_since(now.instant)
        });
        if due.max(retry).is_zero() {
            return Step::Fetch;
        }
        let end = self.held.map(|held| {
            let left = held.lifetime.until.duration_since(now.wall);
            left.unwrap_or_default()
        });
        Step::Wait(due.max(retry).min(end.unwrap_or(Duration::MAX)))
    }

    /// Whether the certificate in force has just expired. It is forgotten then.
    pub fn expire(&mut self, now: Now) -> bool {
        let expired = self
            .held
            .is_some_and(|held| held.lifetime.until <= now.wall);
        if expired {
            self.held = None;
        }
        expired
    }

    /// A certificate came and is in force. `draw` is from 0 up to 1.
    pub fn succeeded(&mut self, now: Now, lifetime: Lifetime, draw: f64) {
        // An authority dates back by minutes so that clocks need not agree; the rest of the life is
        // what there is to divide.
        let from = lifetime.from.max(now.wall);
        let left = lifetime.until.duration_since(from).unwrap_or_default();
        let share = EARLIEST + WINDOW * draw.clamp(0.0, 1.0);
        let renew = from.checked_add(left.mul_f64(share)).unwrap_or(from);
        *self = Self {
            held: Some(Held { lifetime, renew }),
            failures: 0,
            // An authority near its own end gives ever shorter lives: that is no reason to hurry.
            retry: now.instant.checked_add(LEAST),
        };
    }

    /// No certificate came. `draw` is from 0 up to 1; gives how long nothing is tried.
    pub fn failed(&mut self, now: Now, draw: f64) -> Duration {
        let longest = if self.held.is_some() {
            LONGEST
        } else {
            LONGEST_WITHOUT
        };
        let doubled = FIRST.saturating_mul(1 << self.failures.min(16));
        // From half of it on: nodes that failed together don't come back together.
        let wait = doubled
            .min(longest)
            .mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0);
        self.failures = self.failures.saturating_add(1);
        self.retry = now.instant.checked_add(wait);
        wait
    }

    /// Whatever is in force is of no use to peers any more, or an authority may have something else to
    /// say: another certificate is due now. What is held is kept until there is one.
    pub fn hurry(&mut self) {
        if let Some(held) = &mut self.held {
            held.renew = held.lifetime.from;
        }
        self.retry = None;
    }

    /// How often in a row it has failed.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When the certificate in force is renewed; `None` where there is none.
    pub fn renew(&self) -> Option<SystemTime> {
        Some(self.held?.renew)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    const SECOND: Duration = Duration::from_secs(1);

    /// A clock that starts now, `instant` and `wall` so many seconds on.
    fn at(start: Now, instant: u64, wall: i64) -> Now {
        let distance = Duration::from_secs(wall.unsigned_abs());
        Now {
            instant: start.instant + Duration::from_secs(instant),
            wall: match wall {
                0.. => start.wall + distance,
                _ => start.wall - distance,
            },
        }
    }

    fn start() -> Now {
        Now {
            instant: clock::now(),
            wall: clock::wall(),
        }
    }

    fn held(start: Now) -> Renewal {
        let mut renewal = Renewal::default();
        let lifetime = Lifetime {
            from: start.wall - 60 * SECOND,
            until: start.wall + 1000 * SECOND,
        };
        renewal.succeeded(start, lifetime, 0.5);
        renewal
    }

    #[test]
    fn what_is_in_a_hurry_is_fetched_at_once_and_kept_meanwhile() {
        let start = start();
        let mut renewal = held(start);
        renewal.failed(at(start, 1, 1), 1.0);
        renewal.hurry();
        assert_eq!(renewal.step(at(start, 1, 1)), Step::Fetch);
        assert!(renewal.renew().is_some(), "what is held stays");
        // A failure is waited for as ever, and its end comes as ever.
        let wait = renewal.failed(at(start, 1, 1), 1.0);
        assert_eq!(renewal.step(at(start, 1, 1)), Step::Wait(wait));
        assert_eq!(renewal.step(at(start, 1000, 1000)), Step::Expire);
        // Without one there is nothing to be late with.
        let mut none = Renewal::default();
        none.failed(start, 1.0);
        none.hurry();
        assert_eq!(none.step(start), Step::Fetch);
    }

    #[test]
    fn a_certificate_is_renewed_at_half_of_its_life_and_kept_until_its_end() {
        let start = start();
        // Seconds by either clock, and what is to be done then.
        for (name, instant, wall, expected) in [
            ("new", 0, 0, Step::Wait(500 * SECOND)),
            ("nearly", 499, 499, Step::Wait(SECOND)),
            ("half of it", 500, 500, Step::Fetch),
            ("much later", 999, 999, Step::Fetch),
            ("its end", 1000, 1000, Step::Expire),
            ("the clock jumps by an hour", 1, 3601, Step::Expire),
            ("it jumps by ten minutes", 1, 601, Step::Fetch),
            ("back by half a minute", 1, -30, Step::Wait(530 * SECOND)),
            ("back by an hour", 1, -3600, Step::Fetch),
        ] {
            assert_eq!(
                held(start).step(at(start, instant, wall)),
                expected,
                "{name}"
            );
        }
        assert_eq!(Renewal::default().step(start), Step::Fetch, "none yet");
        let mut renewal = held(start);
        assert_eq!(renewal.step(at(start, 1000, 1000)), Step::Expire);
        assert_eq!(
            renewal.step(at(start, 1000, 1000)),
            Step::Fetch,
            "told once"
        );
    }

    #[test]
    fn failures_are_waited_for_by_the_monotonic_clock() {
        let start = start();
        let mut renewal = held(start);
        let late = at(start, 600, 600);
        assert_eq!(renewal.failed(late, 1.0), Duration::from_millis(250));
        assert_eq!(renewal.failed(late, 0.0), Duration::from_millis(250));
        assert_eq!(renewal.failed(late, 1.0), SECOND);
        assert_eq!(renewal.step(late), Step::Wait(SECOND));
        assert_eq!(renewal.step(at(start, 600, 0)), Step::Wait(500 * SECOND));
        assert_eq!(renewal.step(at(start, 601, 601)), Step::Fetch);
        // A wait does not hide the end.
        let last = at(start, 999, 999);
        for _ in 0..20 {
            renewal.failed(last, 1.0);
        }
        assert_eq!(renewal.step(last), Step::Wait(SECOND));
        assert_eq!(renewal.step(at(start, 1000, 1000)), Step::Expire);
        assert_eq!(renewal.step(at(start, 1000, 1000)), Step::Wait(59 * SECOND));
    }

    proptest! {
        #[test]
        fn it_is_renewed_between_45_and_55_percent(life in 1_u64..1_000_000, draw in 0.0..1.0) {
            let start = start();
            let life = Duration::from_secs(life);
            let lifetime = Lifetime { from: start.wall, until: start.wall + life };
            let mut renewal = Renewal::default();
            renewal.succeeded(start, lifetime, draw);
            let share = renewal.renew().unwrap().duration_since(start.wall).unwrap().div_duration_f64(life);
            prop_assert!((0.449..=0.551).contains(&share), "{share}");
        }

        #[test]
        fn waits_have_bounds(failures in 0_u32..100, draw in 0.0..1.0) {
            let start = start();
            let mut renewal = Renewal::default();
            let mut wait = Duration::ZERO;
            for _ in 0..=failures {
                wait = renewal.failed(start, draw);
            }
            prop_assert!(wait >= FIRST / 2 && wait <= LONGEST_WITHOUT);
        }
    }
}
