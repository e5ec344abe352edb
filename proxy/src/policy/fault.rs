//! Injected faults: a request is delayed, then perhaps aborted.
//!
//! An abort is an answer of the rule: its response header operations apply (seen, Envoy 1.40).
//! Decided before CORS and before anything is sent upstream; an aborted request is never retried,
//! and the delay is no part of the route's timeout (Envoy). Draws are handed in.

use std::time::Duration;

use http::StatusCode;

use super::grpc;
use crate::types::Fraction;

/// `fault` of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// `delay`.
    pub delay: Option<Delay>,
    /// `abort`.
    pub abort: Option<Abort>,
}

/// A delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// Of how many requests. Without a percentage: of none.
    pub share: Fraction,
    /// How long.
    pub duration: Duration,
}

/// An abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Of how many requests. Without a percentage: of none.
    pub share: Fraction,
    /// With what.
    pub status: Status,
}

/// What an aborted request is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// This status and [`BODY`]; of a gRPC request the status that stands for it.
    Http(StatusCode),
    /// This status in `grpc-status`, and [`BODY`] as its message. A request that is not gRPC is
    /// answered 200 with [`BODY`] as plain text, and nothing tells the status (seen, Envoy 1.40).
    Grpc(grpc::Status),
}

/// The body of an abort (`grpc-message` for gRPC).
pub const BODY: &str = "fault filter abort";
/// Envoy's name of it.
pub const DETAILS: &str = "fault_filter_abort";

/// What is done to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// First it waits so long (flag `DI`).
    pub delay: Option<Duration>,
    /// Then it is answered with this (flag `FI`).
    pub abort: Option<Status>,
}

impl Policy {
    /// What is done to a request, by two uniformly random draws: delay and abort are independent.
    pub fn inject(&self, draws: [u64; 2]) -> Injected {
        let [for_delay, for_abort] = draws;
        Injected {
            delay: self
                .delay
                .filter(|delay| !delay.duration.is_zero() && delay.share.hit(for_delay))
                .map(|delay| delay.duration),
            abort: self
                .abort
                .filter(|abort| abort.share.hit(for_abort))
                .map(|abort| abort.status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn delay(percent: f64, duration: Duration) -> Option<Delay> {
        let share = Fraction::from_percent(percent).expect("in range");
        Some(Delay { share, duration })
    }

    fn abort(percent: f64) -> Option<Abort> {
        Some(Abort {
            share: Fraction::from_percent(percent).expect("in range"),
            status: Status::Grpc(grpc::Status::Unavailable),
        })
    }

    #[test]
    fn delay_and_abort_are_drawn_independently() {
        for (name, delay, abort, draws, expected) in [
            ("no fault", None, None, [0, 0], (false, false)),
            (
                "always both",
                delay(100.0, SECOND),
                abort(100.0),
                [u64::MAX; 2],
                (true, true),
            ),
            (
                "only the delay",
                delay(10.0, SECOND),
                abort(10.0),
                [99_999, 100_000],
                (true, false),
            ),
            (
                "only the abort",
                delay(10.0, SECOND),
                abort(10.0),
                [100_000, 99_999],
                (false, true),
            ),
            (
                "a millionth",
                delay(0.0001, SECOND),
                abort(0.0001),
                [0, 1],
                (true, false),
            ),
            (
                "finer is never",
                delay(0.000_09, SECOND),
                abort(0.0),
                [0, 0],
                (false, false),
            ),
            (
                "no time is no delay",
                delay(100.0, Duration::ZERO),
                None,
                [0, 0],
                (false, false),
            ),
        ] {
            let injected = Policy { delay, abort }.inject(draws);
            let found = (injected.delay.is_some(), injected.abort.is_some());
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn shares_are_exact_over_a_full_cycle() {
        let policy = Policy {
            delay: delay(12.5, SECOND),
            abort: None,
        };
        let delayed = (0..1_000_000).filter(|draw| policy.inject([*draw, 0]).delay.is_some());
        assert_eq!(delayed.count(), 125_000);
    }
}
