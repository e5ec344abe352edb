//! Which endpoint of a cluster takes the next request.
//!
//! Pure: it is handed random draws, hashes, and what is known of each endpoint at the time. A
//! [`Plan`] says what the endpoints, their health and their places amount to; it is immutable, and
//! made anew when one of these changes. A [`Picker`] is a worker's place in the turns of a plan.
//! Follows Envoy's balancers, whose files are named in the modules.

mod edf;
mod maglev;
mod picker;
mod plan;
mod priority;
mod ring;
#[cfg(test)]
mod tests;

pub use picker::{Hosts, Picked, Picker, Wish};
pub use plan::{Candidate, Plan};

/// A DestinationRule's `loadBalancer`, with Istio's defaults filled in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// `LEAST_REQUEST`, the deprecated `LEAST_CONN`, or none given.
    #[default]
    LeastRequest,
    /// `ROUND_ROBIN`.
    RoundRobin,
    /// `RANDOM`.
    Random,
    /// `PASSTHROUGH`: no choice; the address that the client dialled.
    Passthrough,
    /// `consistentHash` by a ring.
    RingHash {
        /// `ringHash.minimumRingSize`: the ring has at least so many points. At most
        /// [`Algorithm::MAX_RING`] are made.
        min_size: u64,
    },
    /// `consistentHash` by Maglev's table.
    Maglev {
        /// `maglev.tableSize`: a prime, at most [`Algorithm::MAX_TABLE`].
        size: u32,
    },
}

impl Algorithm {
    /// Istio's `minimumRingSize` where none is given.
    pub const DEFAULT_RING: u64 = 1024;
    /// Envoy's largest ring.
    pub const MAX_RING: u64 = 8 * 1024 * 1024;
    /// Istio's `tableSize` where none is given.
    pub const DEFAULT_TABLE: u32 = 65_537;
    /// Envoy's largest table.
    pub const MAX_TABLE: u32 = 5_000_011;

    /// Whether requests are hashed.
    pub fn is_hash(self) -> bool {
        matches!(self, Self::RingHash { .. } | Self::Maglev { .. })
    }
}

/// Least request by power of two choices (Envoy's LEAST_REQUEST with `choice_count` 2 and equal
/// weights): of two endpoints drawn at random the one with fewer requests in flight wins, the
/// first on a tie. `None` where there is no endpoint.
pub fn least_request(len: usize, draws: [u64; 2], active: impl Fn(usize) -> u64) -> Option<usize> {
    let len = u64::try_from(len).ok().filter(|len| *len > 0)?;
    let [first, second] = draws.map(|draw| (draw % len) as usize);
    Some(if active(second) < active(first) {
        second
    } else {
        first
    })
}
