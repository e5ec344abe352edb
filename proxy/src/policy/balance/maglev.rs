//! Maglev: a table as large as a prime, filled by the endpoints in turn, each by a permutation of
//! its own; a request goes to the endpoint in the slot of its hash. The shares are as even as can
//! be, and few requests move when an endpoint leaves (Envoy's `maglev_lb.cc`; Eisenbud et al.,
//! NSDI 2016, section 3.4).

use std::net::SocketAddr;

use super::Algorithm;
use crate::policy::hash::xxh64;

/// The endpoints' numbers, by slot.
#[derive(Debug)]
pub(super) enum Table {
    /// Up to 65,535 endpoints.
    Narrow(Box<[u16]>),
    /// More.
    Wide(Box<[u32]>),
}

struct Filler {
    number: u32,
    offset: u64,
    skip: u64,
    next: u64,
    share: f64,
    /// What its share times the round must reach for its next turn.
    due: f64,
}

const EMPTY: u32 = u32::MAX;

impl Table {
    /// Endpoints with their number and their share. A size that is not a prime up to
    /// [`Algorithm::MAX_TABLE`] is no size for a table: then it is the default.
    pub(super) fn new(endpoints: &[(u32, SocketAddr, f64)], size: u32) -> Self {
        if endpoints.is_empty() {
            return Self::Narrow(Box::default());
        }
        let size = if size <= Algorithm::MAX_TABLE && is_prime(size) {
            u64::from(size)
        } else {
            u64::from(Algorithm::DEFAULT_TABLE)
        };
        let mut keys: Vec<(String, u32, f64)> = endpoints
            .iter()
            .map(|(number, address, share)| (address.to_string(), *number, *share))
            .collect();
        // In the order of the text, which every proxy has alike.
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        let largest = keys.iter().map(|(_, _, share)| *share).fold(0.0, f64::max);
        let mut fillers: Vec<Filler> = keys
            .iter()
            .map(|(key, number, share)| Filler {
                number: *number,
                offset: xxh64(key.as_bytes(), 0) % size,
                skip: xxh64(key.as_bytes(), 1) % (size - 1).max(1) + 1,
                next: 0,
                share: *share,
                due: 0.0,
            })
            .collect();

        let mut table = vec![EMPTY; size as usize];
        let mut left = size;
        let mut round = 0u64;
        while left > 0 {
            round += 1;
            for filler in &mut fillers {
                if left == 0 {
                    break;
                }
                // An endpoint of a third of the largest share has every third turn.
                if (round as f64) * filler.share < filler.due {
                    continue;
                }
                filler.due += largest;
                let slot = loop {
                    let slot = (filler.offset + filler.skip * filler.next) % size;
                    filler.next += 1;
                    if table[slot as usize] == EMPTY {
                        break slot;
                    }
                };
                table[slot as usize] = filler.number;
                left -= 1;
            }
        }
        let narrow: Option<Box<[u16]>> = table.iter().map(|n| u16::try_from(*n).ok()).collect();
        narrow.map_or_else(|| Self::Wide(table.into()), Self::Narrow)
    }

    /// The endpoint's number. Each further attempt looks far away from the one before.
    pub(super) fn pick(&self, hash: u64, attempt: usize) -> Option<u32> {
        let hash = hash ^ (attempt as u64).wrapping_neg();
        match self {
            Self::Narrow(table) => {
                let slot = hash.checked_rem(table.len() as u64)?;
                table.get(slot as usize).map(|number| u32::from(*number))
            }
            Self::Wide(table) => {
                let slot = hash.checked_rem(table.len() as u64)?;
                table.get(slot as usize).copied()
            }
        }
    }
}

/// Whether a table may have this size: with any other, an endpoint's permutation would not reach
/// every slot.
pub fn is_prime(number: u32) -> bool {
    let divisors = (2..).take_while(|divisor: &u32| divisor.saturating_mul(*divisor) <= number);
    number >= 2
        && divisors
            .into_iter()
            .all(|divisor| !number.is_multiple_of(divisor))
}
