//! Weighted round robin, earliest deadline first: whoever has waited longest for its share is
//! next (Envoy's `edf_scheduler.h`). A pick costs O(log n) and allocates nothing.
//!
//! Where weights stay, deadlines are multiples of their reciprocals, not sums: two that should be
//! equal are, and every cycle gives each entry exactly its weight.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A weight less than this counts as this: a deadline must stay a number.
const LEAST: f64 = 1e-9;
/// More picks are not made in advance (Envoy's bound).
const MOST_IN_ADVANCE: u64 = 429_496_729;

/// Who is next among entries that are numbered from 0.
#[derive(Clone, Debug)]
pub(super) struct Edf {
    queue: BinaryHeap<Entry>,
    /// The deadline of the last pick.
    time: f64,
    /// How many entries were put back: the first of two with one deadline goes first.
    order: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    deadline: f64,
    order: u64,
    index: u32,
    /// It has had, or waits for, so many turns of this weight since then.
    weight: f64,
    turns: f64,
    since: f64,
}

impl Edf {
    /// Starts as if a number of picks that `seed` chooses had been made, so that not all workers
    /// and proxies begin at the same entry.
    pub(super) fn new(len: u32, weight: impl Fn(u32) -> f64, seed: u64) -> Self {
        let weights: Vec<f64> = (0..len).map(|index| weight(index).max(LEAST)).collect();
        let total: f64 = weights.iter().sum();
        let in_advance = (seed % MOST_IN_ADVANCE) as f64;
        let mut left = in_advance;
        let mut time: f64 = 0.0;
        let entries = weights.iter().zip(0..).map(|(weight, index)| {
            let mut picks = (weight * in_advance / total).floor();
            if picks > 0.0 && picks / weight >= in_advance / total {
                // Rounded past its time: it is picked in the loop below, if it is its turn.
                picks -= 1.0;
            }
            left -= picks;
            time = time.max(picks / weight);
            Entry {
                deadline: (picks + 1.0) / weight,
                order: 0,
                index,
                weight: *weight,
                turns: picks + 1.0,
                since: 0.0,
            }
        });
        let mut queue: Vec<Entry> = entries.collect();
        // Of two with one deadline the one that has waited longer is first.
        let queued_at = |entry: &Entry| (entry.turns - 1.0) / entry.weight;
        queue.sort_by(|a, b| queued_at(a).total_cmp(&queued_at(b)));
        for (order, entry) in (0..).zip(&mut queue) {
            entry.order = order;
        }
        let mut edf = Self {
            queue: queue.into(),
            time,
            order: u64::from(len),
        };
        // Fewer than there are entries, but for rounding.
        for _ in 0..(left as u64).min(2 * u64::from(len)) {
            edf.pick(|index| weights[index as usize]);
        }
        edf
    }

    /// The next entry, which is queued again by the weight that it has now.
    pub(super) fn pick(&mut self, weight: impl FnOnce(u32) -> f64) -> Option<u32> {
        let mut first = self.queue.peek_mut()?;
        let index = first.index;
        let weight = weight(index).max(LEAST);
        self.time = first.deadline;
        if weight == first.weight {
            first.turns += 1.0;
        } else {
            first.weight = weight;
            first.turns = 1.0;
            first.since = self.time;
        }
        first.deadline = first.since + first.turns / weight;
        first.order = self.order;
        // Dropping it sifts the changed entry to its place.
        drop(first);
        self.order += 1;
        Some(index)
    }
}

/// The heap gives the greatest: that is the earliest deadline.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        let deadlines = other.deadline.total_cmp(&self.deadline);
        deadlines.then_with(|| other.order.cmp(&self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn picks(weights: &[u32], seed: u64, count: usize) -> Vec<u32> {
        let weight = |index: u32| f64::from(weights[index as usize]);
        let mut edf = Edf::new(weights.len() as u32, weight, seed);
        (0..count).filter_map(|_| edf.pick(weight)).collect()
    }

    #[test]
    fn shares_are_interleaved() {
        for (weights, seed, expected) in [
            (&[1, 1, 1][..], 0, &[0, 1, 2, 0, 1, 2][..]),
            (&[1, 1, 1], 1, &[1, 2, 0, 1, 2, 0]),
            (&[2, 1], 0, &[0, 1, 0, 0, 1, 0]),
            (&[3, 1], 0, &[0, 0, 1, 0, 0, 0, 1, 0]),
            (&[], 0, &[]),
            (&[7], 5, &[0, 0]),
        ] {
            assert_eq!(
                picks(weights, seed, expected.len()),
                expected,
                "{weights:?} from {seed}"
            );
        }
    }

    #[test]
    fn a_weight_that_changes_counts_from_the_next_pick_on() {
        let mut edf = Edf::new(2, |_| 1.0, 0);
        let weights = [1.0, 4.0];
        let picked: Vec<_> = (0..12)
            .filter_map(|_| edf.pick(|index| weights[index as usize]))
            .collect();
        assert_eq!(picked.iter().filter(|index| **index == 1).count(), 9);
    }

    #[test]
    fn weights_that_are_none_do_no_harm() {
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE] {
            let mut edf = Edf::new(3, |_| weight, 1_000_003);
            let picked: Vec<_> = (0..9).filter_map(|_| edf.pick(|_| weight)).collect();
            assert_eq!(picked.len(), 9, "{weight}");
        }
    }

    proptest! {
        /// Wherever it starts.
        #[test]
        fn a_full_cycle_gives_each_its_weight(
            weights in prop::collection::vec(1..60u32, 1..12),
            seed in any::<u64>(),
            skipped in 0..100usize,
        ) {
            let cycle: u32 = weights.iter().sum();
            let mut counts = vec![0; weights.len()];
            for index in picks(&weights, seed, skipped + cycle as usize).split_off(skipped) {
                counts[index as usize] += 1;
            }
            prop_assert_eq!(counts, weights);
        }
    }
}
