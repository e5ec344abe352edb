//! How traffic spreads over the priorities of a cluster as endpoints fail, and when health is not
//! asked any more (Envoy's `load_balancer_impl.cc`).

use crate::types::Percent;

/// A priority gives traffic away only when less than 1/1.4 of it is healthy.
pub(super) const OVERPROVISIONING: usize = 140;

/// What one priority gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// Of all traffic, in percent. Together they make 100.
    pub(super) share: u32,
    /// Traffic goes to all of its endpoints, healthy or not.
    pub(super) panic: bool,
    /// Percentage of what it could take at most.
    health: u32,
}

/// The loads of priorities, from (healthy, all) endpoints of each. The first stands for the
/// highest.
pub(super) fn loads(levels: &[(usize, usize)], panic_threshold: Percent) -> Vec<Load> {
    let mut loads: Vec<Load> = levels
        .iter()
        .map(|(healthy, total)| Load {
            health: health(*healthy, *total),
            ..Load::default()
        })
        .collect();
    let available = loads.iter().map(|load| load.health).sum::<u32>().min(100);
    if available > 0 {
        let shares: Vec<u32> = shares(&loads, available, |_| true).collect();
        for (load, share) in loads.iter_mut().zip(shares) {
            load.share = share;
        }
    }
    if available < 100 {
        for (load, (healthy, total)) in loads.iter_mut().zip(levels) {
            load.panic = below(*healthy, *total, panic_threshold);
        }
    }
    if !loads.is_empty() && loads.iter().all(|load| load.panic) {
        by_size(&mut loads, levels);
    } else if available == 0 {
        // Nobody will be found there, and nowhere else.
        if let Some(first) = loads.first_mut() {
            first.share = 100;
        }
    }
    loads
}

/// The priority that a random number falls on. Priorities in `tried` (a bit each, the lowest bit
/// is the first) are left out, as long as there is any healthy one besides: a retry goes
/// elsewhere (Envoy's `previous_priorities`).
pub(super) fn choose(loads: &[Load], draw: u64, tried: u64) -> usize {
    let point = (draw % 100) as u32;
    if tried != 0 {
        let kept = |level: usize| level >= 64 || tried & (1 << level) == 0;
        let beyond = loads.iter().enumerate();
        let beyond: u32 = beyond
            .filter(|(level, _)| kept(*level))
            .map(|(_, load)| load.health)
            .sum();
        if beyond > 0 {
            // As without a retry: the next one takes all that it can, and not a share of a sum.
            return find(shares(loads, beyond.min(100), kept), point);
        }
    }
    find(loads.iter().map(|load| load.share), point)
}

fn find(shares: impl Iterator<Item = u32>, point: u32) -> usize {
    let mut below = 0;
    for (level, share) in shares.enumerate() {
        below += share;
        if point < below {
            return level;
        }
    }
    0
}

/// Each level as much as it can take, from the first on; what rounding leaves goes to the first
/// that takes any.
fn shares(
    loads: &[Load],
    available: u32,
    kept: impl Fn(usize) -> bool + Clone,
) -> impl Iterator<Item = u32> {
    let health = move |(level, load): (usize, &Load)| if kept(level) { load.health } else { 0 };
    let health = loads.iter().enumerate().map(health);
    let of = move |health: u32, left: u32| (health * 100 / available).min(left);
    let left = health
        .clone()
        .fold(100, |left, health| left - of(health, left));
    let first = health.clone().position(|health| health > 0);
    health.enumerate().scan(100, move |rest, (level, health)| {
        let share = of(health, *rest);
        *rest -= share;
        Some(if Some(level) == first {
            share + left
        } else {
            share
        })
    })
}

fn health(healthy: usize, total: usize) -> u32 {
    if total == 0 {
        return 0;
    }
    let percent = healthy.saturating_mul(OVERPROVISIONING) / total;
    percent.min(100) as u32
}

/// Whether less than `threshold` of the endpoints is healthy. No endpoints are 0 % healthy.
fn below(healthy: usize, total: usize, threshold: Percent) -> bool {
    let healthy = healthy as u128 * 100;
    let needed = total as u128 * u128::from(threshold.get());
    threshold > Percent::ZERO && (total == 0 || healthy < needed)
}

/// Health says nothing any more: traffic goes by the number of endpoints.
fn by_size(loads: &mut [Load], levels: &[(usize, usize)]) {
    let total: usize = levels.iter().map(|(_, total)| total).sum();
    let mut left = 100;
    for (load, (_, size)) in loads.iter_mut().zip(levels) {
        load.share = size.saturating_mul(100).checked_div(total).unwrap_or(0) as u32;
        left -= load.share;
    }
    let first = levels.iter().position(|(_, size)| *size > 0).unwrap_or(0);
    loads[first].share += left;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(number: i64) -> Percent {
        Percent::new(number).expect("a percentage")
    }

    fn shares_of(levels: &[(usize, usize)], threshold: i64) -> Vec<u32> {
        let loads = loads(levels, percent(threshold));
        loads.iter().map(|load| load.share).collect()
    }

    #[test]
    fn traffic_spills_over_once_less_than_five_sevenths_are_healthy() {
        for (healthy, expected) in [
            (100, [100, 0]),
            (72, [100, 0]),
            (71, [99, 1]),
            (50, [70, 30]),
            (25, [35, 65]),
            (0, [0, 100]),
        ] {
            let levels = [(healthy, 100), (100, 100)];
            assert_eq!(shares_of(&levels, 0), expected, "{healthy} % healthy");
        }
    }

    #[test]
    fn a_retry_goes_to_the_next_that_was_not_tried() {
        for (name, levels, tried, expected) in [
            (
                "nothing tried",
                &[(1, 1), (1, 1), (2, 2)][..],
                0,
                [100, 0, 0],
            ),
            ("the first", &[(1, 1), (1, 1), (2, 2)], 0b1, [0, 100, 0]),
            ("two", &[(1, 1), (1, 1), (2, 2)], 0b11, [0, 0, 100]),
            (
                "all: as if none",
                &[(1, 1), (1, 1), (2, 2)],
                0b111,
                [100, 0, 0],
            ),
            ("the last", &[(1, 1), (1, 1), (2, 2)], 0b100, [100, 0, 0]),
            (
                "the next is down",
                &[(1, 1), (0, 1), (2, 2)],
                0b1,
                [0, 0, 100],
            ),
            (
                "the next is half well",
                &[(1, 1), (1, 2), (2, 2)],
                0b1,
                [0, 70, 30],
            ),
            (
                "little is left",
                &[(1, 1), (1, 10), (1, 5)],
                0b1,
                [0, 34, 66],
            ),
        ] {
            let loads = loads(levels, percent(0));
            let mut found = [0; 3];
            for draw in 0..100 {
                found[choose(&loads, draw, tried)] += 1;
            }
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn what_is_left_is_shared_as_it_is_available() {
        for (name, levels, threshold, expected) in [
            ("one", &[(1, 1)][..], 0, &[100][..]),
            ("one, none healthy", &[(0, 3)], 0, &[100]),
            ("none healthy anywhere", &[(0, 3), (0, 2)], 0, &[100, 0]),
            ("an empty first", &[(0, 0), (2, 2)], 0, &[0, 100]),
            ("no endpoints", &[(0, 0)], 0, &[100]),
            // Envoy's documentation: 10 % and 20 % healthy of a sum of 42 %.
            ("scaled up", &[(10, 100), (20, 100)], 0, &[34, 66]),
            (
                "the third gets the rest",
                &[(30, 100), (30, 100), (100, 100)],
                0,
                &[42, 42, 16],
            ),
            (
                "panic everywhere goes by size",
                &[(0, 3), (0, 1)],
                50,
                &[75, 25],
            ),
            ("rounding goes first", &[(0, 2), (0, 4)], 50, &[34, 66]),
            (
                "panic of one does not",
                &[(10, 100), (60, 100)],
                50,
                &[15, 85],
            ),
        ] {
            assert_eq!(shares_of(levels, threshold), expected, "{name}");
        }
    }

    #[test]
    fn panic_needs_a_threshold_and_too_little_health_altogether() {
        for (name, levels, threshold, expected) in [
            ("never at zero", &[(0, 10)][..], 0, &[false][..]),
            ("below", &[(3, 10)], 40, &[true]),
            ("not at it", &[(4, 10)], 40, &[false]),
            (
                "not while others have room",
                &[(1, 10), (10, 10)],
                40,
                &[false, false],
            ),
            ("each for itself", &[(1, 10), (5, 10)], 40, &[true, false]),
            ("empty", &[(0, 0)], 1, &[true]),
        ] {
            let loads = loads(levels, percent(threshold));
            let panics: Vec<bool> = loads.iter().map(|load| load.panic).collect();
            assert_eq!(panics, expected, "{name}");
        }
    }

    #[test]
    fn shares_always_make_a_hundred() {
        use proptest::prelude::*;
        proptest!(|(
            levels in prop::collection::vec((0..40usize, 0..40usize), 1..6),
            threshold in 0..=100i64,
            tried in any::<u64>(),
            draw in any::<u64>(),
        )| {
            let levels: Vec<(usize, usize)> =
                levels.iter().map(|(a, b)| (*a.min(b), *a.max(b))).collect();
            let loads = loads(&levels, percent(threshold));
            prop_assert_eq!(loads.iter().map(|load| load.share).sum::<u32>(), 100);
            let level = choose(&loads, draw, tried);
            prop_assert!(level < levels.len());
            let untried_health = (0..levels.len())
                .any(|level| tried & (1 << level) == 0 && loads[level].health > 0);
            if untried_health && tried != 0 {
                prop_assert!(tried & (1 << level) == 0);
                prop_assert!(loads[level].health > 0);
            }
        });
    }

    #[test]
    fn a_random_number_falls_on_a_priority_by_its_share() {
        let loads = loads(&[(50, 100), (100, 100)], Percent::ZERO);
        let mut counts = [0; 2];
        for draw in 0..1000 {
            counts[choose(&loads, draw, 0)] += 1;
        }
        assert_eq!(counts, [700, 300]);
        assert!((0..100).all(|draw| choose(&loads, draw, 0b01) == 1));
        assert!((0..100).all(|draw| choose(&loads, draw, 0b10) == 0));
        let all_tried = (0..100).filter(|draw| choose(&loads, *draw, 0b11) == 0);
        assert_eq!(all_tried.count(), 70);
    }
}
