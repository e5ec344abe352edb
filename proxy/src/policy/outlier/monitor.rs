//! What one endpoint did lately: counters that every worker writes to without a lock.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::Settings;

/// What became of one try at an endpoint. What the proxy itself refused (a limit, a fault, no
/// route) says nothing about the endpoint and is not recorded, and neither is an answer of a
/// request that was only mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The response's status began to arrive: its code, or where its head names a gRPC status the
    /// HTTP code which that corresponds to.
    Response(u16),
    /// The request was given a connection, new or not; its answer comes as an outcome of its own.
    Connected,
    /// For opaque bytes: the connection was made, and nothing more will be known.
    Established,
    /// No connection, no TLS session, or the connection or stream ended before a response began.
    /// Envoy does not tell the endpoint's resets from others.
    Failed,
    /// The connection or the response took too long.
    TimedOut,
}

/// Why an endpoint is suspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 502, 503 or 504 in a row.
    ConsecutiveGatewayFailure,
    /// Any 5xx in a row.
    Consecutive5xx,
    /// Failures of one's own making in a row, counted apart.
    ConsecutiveLocalOriginFailure,
}

impl Kind {
    /// All of them, in the order in which one outcome is judged.
    pub const ALL: [Self; 3] = [
        Self::ConsecutiveGatewayFailure,
        Self::Consecutive5xx,
        Self::ConsecutiveLocalOriginFailure,
    ];

    /// How Envoy's counters are named: `ejections_enforced_…`, `ejections_detected_…`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
        }
    }
}

/// What one outcome brought to its threshold: usually nothing. Each is to be given to
/// [`Detector::detect`](super::Detector::detect), in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "the detector is to be told"]
pub struct Detections([bool; 3]);

impl Detections {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.0 == [false; 3]
    }
}

impl IntoIterator for Detections {
    type Item = Kind;
    type IntoIter = std::iter::FilterMap<
        std::iter::Zip<std::array::IntoIter<Kind, 3>, std::array::IntoIter<bool, 3>>,
        fn((Kind, bool)) -> Option<Kind>,
    >;

    fn into_iter(self) -> Self::IntoIter {
        let detected: fn((Kind, bool)) -> Option<Kind> = |(kind, yes)| yes.then_some(kind);
        Kind::ALL.into_iter().zip(self.0).filter_map(detected)
    }
}

/// One endpoint's counters.
#[derive(Debug, Default)]
pub struct Monitor {
    in_a_row: [AtomicU32; 3],
    ejected: AtomicBool,
}

impl Monitor {
    /// Counts one outcome. A counter is at its threshold when it *equals* it, so that one bout of
    /// failures is told once.
    pub fn record(&self, settings: &Settings, outcome: Outcome) -> Detections {
        let mut found = Detections::default();
        if settings.split_local_origin {
            match outcome {
                Outcome::Response(status) => self.response(settings, status, &mut found),
                Outcome::Connected | Outcome::Established => {
                    self.reset(Kind::ConsecutiveLocalOriginFailure);
                }
                Outcome::Failed | Outcome::TimedOut => {
                    let limit = settings.consecutive_local_origin;
                    self.count(Kind::ConsecutiveLocalOriginFailure, limit, &mut found);
                }
            }
        } else {
            // Everything becomes a status; the list of error codes is for real ones only.
            match outcome {
                Outcome::Response(status) => self.response(settings, status, &mut found),
                Outcome::Connected => {}
                Outcome::Established => self.status(settings, 200, &mut found),
                Outcome::Failed => self.status(settings, 503, &mut found),
                Outcome::TimedOut => self.status(settings, 504, &mut found),
            }
        }
        found
    }

    /// Whether the endpoint sits out.
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    /// Where a list of error codes is given it decides: what it does not hold is a success, and
    /// what it holds is an error, 500 where the status itself is none.
    fn response(&self, settings: &Settings, status: u16, found: &mut Detections) {
        let status = match &settings.error_codes {
            None => status,
            Some(codes) if !codes.contains(&status) => 200,
            Some(_) if status < 500 => 500,
            Some(_) => status,
        };
        self.status(settings, status, found);
    }

    /// A status that is no gateway error ends a row of them, split or not (seen on Envoy 1.40).
    fn status(&self, settings: &Settings, status: u16, found: &mut Detections) {
        if matches!(status, 502..=504) {
            let limit = settings.consecutive_gateway;
            self.count(Kind::ConsecutiveGatewayFailure, limit, found);
        } else {
            self.reset(Kind::ConsecutiveGatewayFailure);
        }
        if matches!(status, 500..=599) {
            self.count(Kind::Consecutive5xx, settings.consecutive_5xx, found);
        } else {
            self.reset(Kind::Consecutive5xx);
        }
    }

    fn count(&self, kind: Kind, limit: u32, found: &mut Detections) {
        if limit == 0 {
            return;
        }
        // It wraps after as many failures that nobody acted upon; that is one more detection.
        let before = self.in_a_row[kind as usize].fetch_add(1, Ordering::Relaxed);
        found.0[kind as usize] |= before.wrapping_add(1) == limit;
    }

    pub(super) fn reset(&self, kind: Kind) {
        let counter = &self.in_a_row[kind as usize];
        // Mostly it is zero already, and a load leaves the cache line to the other workers.
        if counter.load(Ordering::Relaxed) != 0 {
            counter.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn set_ejected(&self, ejected: bool) {
        self.ejected.store(ejected, Ordering::Relaxed);
        if !ejected {
            Kind::ALL.into_iter().for_each(|kind| self.reset(kind));
        }
    }
}
