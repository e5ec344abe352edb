//! Maglev: a table as large as a prime, filled by the endpoints in turn, each by a permutation of
//! its own; a request goes to the endpoint in the slot of its hash. The shares are as even as can
//! be, and few requests move when an endpoint leaves (Envoy's `maglev_lb.cc`; Eisenbud et al.,
//! NSDI 2016, section 3.4). The same table was seen in Envoy 1.40.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
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
        let shares: Vec<f64> = keys.iter().map(|(_, _, share)| *share).collect();
        let mut fillers: Vec<Filler> = keys
            .iter()
            .map(|(key, number, _)| Filler {
                number: *number,
                offset: xxh64(key.as_bytes(), 0) % size,
                skip: xxh64(key.as_bytes(), 1) % (size - 1).max(1) + 1,
                next: 0,
            })
            .collect();

        let mut table = vec![EMPTY; size as usize];
        for turn in Turns::new(&shares).take(size as usize) {
            let filler = &mut fillers[turn];
            let slot = loop {
                let slot = (filler.offset + filler.skip * filler.next) % size;
                filler.next += 1;
                if table[slot as usize] == EMPTY {
                    break slot;
                }
            };
            table[slot as usize] = filler.number;
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

/// Whose turn it is to take a slot. In each round everyone is asked in order, and an endpoint of a
/// third of the largest share has every third turn; whoever has none is not asked, so that shares
/// that are far apart cost nothing.
pub(super) struct Turns<'s> {
    shares: &'s [f64],
    largest: f64,
    /// What a share times the round must reach for the next turn.
    due: Vec<f64>,
    /// Round and place of everyone's next turn.
    next: BinaryHeap<Reverse<(u64, usize)>>,
}

impl<'s> Turns<'s> {
    pub(super) fn new(shares: &'s [f64]) -> Self {
        Self {
            shares,
            largest: shares.iter().copied().fold(0.0, f64::max),
            due: vec![0.0; shares.len()],
            next: (0..shares.len()).map(|place| Reverse((1, place))).collect(),
        }
    }
}

impl Iterator for Turns<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let mut first = self.next.peek_mut()?;
        let Reverse((round, place)) = *first;
        let (share, due) = (self.shares[place], &mut self.due[place]);
        *due += self.largest;
        // The first round that reaches it: rounding may be one off on either side.
        let reached = |round: u64| round as f64 * share >= *due;
        let mut next = ((*due / share) as u64).saturating_sub(1).max(round + 1);
        while !reached(next) && next < u64::MAX {
            next += 1;
        }
        *first = Reverse((next, place));
        drop(first);
        Some(place)
    }
}

/// Whether a table may have this size: with any other, an endpoint's permutation would not reach
/// every slot.
pub(super) fn is_prime(number: u32) -> bool {
    let divisors = (2..).take_while(|divisor: &u32| divisor.saturating_mul(*divisor) <= number);
    number >= 2
        && divisors
            .into_iter()
            .all(|divisor| !number.is_multiple_of(divisor))
}
