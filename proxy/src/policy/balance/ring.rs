//! Ring hash (ketama): every endpoint has points on a ring, and a request goes to the endpoint
//! of the first point at or after its hash. When an endpoint leaves, the requests of its points
//! go to the next ones, and hardly any others move (Envoy's `ring_hash_lb.cc`; the same
//! ring was seen in Envoy 1.40).

use std::io::Write;
use std::net::SocketAddr;

use super::Algorithm;
use crate::policy::hash::xxh64;

/// A ring is at most so many times larger than it was asked to be, or than it has endpoints, to
/// do justice to small weights beside large ones; Envoy's goes up to [`Algorithm::MAX_RING`].
const GROWTH: u64 = 64;

/// Points in order, and whose they are.
#[derive(Debug)]
pub(super) struct Ring {
    points: Box<[u64]>,
    owners: Box<[u32]>,
}

impl Ring {
    /// Endpoints with their number and their share; the shares make at most 1 together.
    pub(super) fn new(endpoints: &[(u32, SocketAddr, f64)], min_size: u64) -> Self {
        let least = endpoints
            .iter()
            .map(|(_, _, share)| *share)
            .fold(1.0, f64::min);
        let asked = min_size.clamp(1, Algorithm::MAX_RING);
        let most = asked
            .max(endpoints.len() as u64)
            .saturating_mul(GROWTH)
            .min(Algorithm::MAX_RING);
        // The endpoint with the least share gets a whole number of points.
        let scale = ((least * asked as f64).ceil() / least).min(most as f64);

        let mut ring: Vec<(u64, u32)> = Vec::with_capacity(scale.ceil() as usize);
        let mut key = Vec::with_capacity(64);
        // Running sums over all endpoints: fractions of points are not lost.
        let (mut made, mut target) = (0.0, 0.0);
        for (number, address, share) in endpoints {
            target += scale * share;
            let mut point = 0u64;
            while made < target {
                key.clear();
                // Writing to memory does not fail.
                let _ = write!(key, "{address}_{point}");
                ring.push((xxh64(&key, 0), *number));
                point += 1;
                made += 1.0;
            }
        }
        ring.sort_by_key(|(point, _)| *point);
        let (points, owners): (Vec<u64>, Vec<u32>) = ring.into_iter().unzip();
        Self {
            points: points.into(),
            owners: owners.into(),
        }
    }

    /// The endpoint's number. Each further attempt goes one point on, which may be the same
    /// endpoint's.
    pub(super) fn pick(&self, hash: u64, attempt: usize) -> Option<u32> {
        let point = self.points.partition_point(|point| *point < hash);
        let index = point.checked_add(attempt)?.checked_rem(self.owners.len())?;
        self.owners.get(index).copied()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.points.len()
    }
}
