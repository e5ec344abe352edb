//! Splitting by weight: one draw per request, proportional to the weights, as Envoy's weighted
//! clusters do it (a uniform integer modulo the total).

/// Weights of a rule's destinations, with their total.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Running totals: the last is the total.
    bounds: Box<[u64]>,
}

impl Weights {
    /// `None` where no weight is positive.
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut total = 0;
        let bounds: Box<[u64]> = weights
            .into_iter()
            .map(|weight| {
                total += u64::from(weight);
                total
            })
            .collect();
        (total > 0).then_some(Self { bounds })
    }

    /// Of one destination, which gets everything.
    pub fn all() -> Self {
        Self {
            bounds: Box::new([1]),
        }
    }

    /// The index that a uniformly random `draw` falls on.
    pub fn pick(&self, draw: u64) -> usize {
        let total = self.bounds.last().copied().unwrap_or(1);
        let point = draw % total;
        self.bounds.partition_point(|bound| *bound <= point)
    }

    /// Each destination's weight, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let before = std::iter::once(0).chain(self.bounds.iter().copied());
        self.bounds
            .iter()
            .zip(before)
            .map(|(bound, before)| bound - before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_cycle_is_exact() {
        let weights = Weights::new([90, 0, 10]).expect("positive");
        let mut counts = [0; 3];
        for draw in 0..1000 {
            counts[weights.pick(draw)] += 1;
        }
        assert_eq!(counts, [900, 0, 100]);
        assert_eq!(weights.iter().collect::<Vec<_>>(), [90, 0, 10]);
    }

    #[test]
    fn no_positive_weight_is_no_split() {
        assert_eq!(Weights::new([]), None);
        assert_eq!(Weights::new([0, 0]), None);
        let largest = Weights::new([u32::MAX; 4]).expect("positive");
        assert!(largest.pick(u64::MAX) < 4);
    }
}
