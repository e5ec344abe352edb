//! Tests of balancing: endpoints written as text, and counts of who was picked.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use proptest::prelude::*;

use super::maglev::is_prime;
use super::*;
use crate::policy::locality::Placement;
use crate::types::Percent;

fn address(number: usize) -> SocketAddr {
    let number = number as u16;
    ([10, 0, (number >> 8) as u8, number as u8], 8080).into()
}

fn candidate(number: usize, weight: u32) -> Candidate {
    Candidate {
        address: address(number),
        weight: NonZeroU32::new(weight).expect("positive"),
        healthy: true,
        warming: false,
        placement: Some(Placement {
            priority: 0,
            group: 0,
        }),
    }
}

/// `a` healthy at priority 0, `b` at 1 and so on; in capitals not healthy. `-`: gets nothing. A
/// number before one is its weight, a number after one its group: `a 3a b2`.
fn candidates(text: &str) -> Vec<Candidate> {
    let one = |(number, text): (usize, &str)| {
        let letter = text.find(|c: char| !c.is_ascii_digit()).expect("a letter");
        let (weight, rest) = text.split_at(letter);
        let (kind, group) = rest.split_at(1);
        let kind = kind.as_bytes()[0];
        let placement = (kind != b'-').then(|| Placement {
            priority: u32::from(kind.to_ascii_lowercase() - b'a'),
            group: group.parse().unwrap_or(0),
        });
        Candidate {
            healthy: kind.is_ascii_lowercase(),
            placement,
            ..candidate(number, weight.parse().unwrap_or(1))
        }
    };
    text.split_whitespace().enumerate().map(one).collect()
}

/// What is known of the endpoints: requests under way, and which to avoid.
#[derive(Default)]
struct State {
    active: Vec<u64>,
    avoid: Vec<usize>,
    warmth: Vec<f64>,
}

impl Hosts for State {
    fn active(&self, host: usize) -> u64 {
        self.active.get(host).copied().unwrap_or(0)
    }

    fn warmth(&self, host: usize) -> f64 {
        self.warmth.get(host).copied().unwrap_or(1.0)
    }

    fn avoid(&self, host: usize) -> bool {
        self.avoid.contains(&host)
    }
}

/// Pseudo-random numbers that are the same in every run (SplitMix64).
fn draws(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn plan(algorithm: Algorithm, text: &str, groups: Option<&[u32]>, panic: i64) -> Arc<Plan> {
    let threshold = Percent::new(panic).expect("a percentage");
    Arc::new(Plan::new(algorithm, &candidates(text), groups, threshold))
}

/// How often each endpoint is picked.
fn counts(picker: &mut Picker, state: &State, picks: usize, hosts: usize) -> Vec<usize> {
    let mut draw = draws(7);
    let mut counts = vec![0; hosts];
    for _ in 0..picks {
        let picked = picker.pick(Wish::default(), state, &mut draw);
        counts[picked.expect("one").host] += 1;
    }
    counts
}

const RING: Algorithm = Algorithm::RingHash {
    min_size: Algorithm::DEFAULT_RING,
};
const MAGLEV: Algorithm = Algorithm::Maglev {
    size: Algorithm::DEFAULT_TABLE,
};
const ALL: [Algorithm; 5] = [
    Algorithm::LeastRequest,
    Algorithm::RoundRobin,
    Algorithm::Random,
    RING,
    MAGLEV,
];

#[test]
fn the_less_busy_of_two_wins() {
    for (name, active, draws, expected) in [
        ("none", &[][..], [0, 0], None),
        ("one", &[7][..], [3, 9], Some(0)),
        ("first is less busy", &[1, 2][..], [0, 1], Some(0)),
        ("second is less busy", &[2, 1][..], [0, 1], Some(1)),
        (
            "a tie goes to the first drawn",
            &[1, 1][..],
            [1, 0],
            Some(1),
        ),
        ("draws wrap", &[5, 4, 3][..], [3, 5], Some(2)),
    ] {
        assert_eq!(
            least_request(active.len(), draws, |i| active[i]),
            expected,
            "{name}"
        );
    }
}

#[test]
fn only_usable_endpoints_are_picked() {
    for (name, text, groups, panic, usable) in [
        ("all", "a a a", None, 0, &[0, 1, 2][..]),
        ("the healthy", "a A a", None, 0, &[0, 2]),
        ("none healthy", "A A", None, 0, &[]),
        ("none at all", "", None, 0, &[]),
        ("panic: all", "A A a", None, 50, &[0, 1, 2]),
        ("panic: none healthy", "A A", None, 1, &[0, 1]),
        ("no panic at the threshold", "A a", None, 50, &[1]),
        ("the first priority", "b a b", None, 0, &[1]),
        (
            "the second where the first is gone",
            "b A b",
            None,
            0,
            &[0, 2],
        ),
        (
            "both where the first is half gone",
            "b A a",
            None,
            0,
            &[0, 2],
        ),
        ("left out", "a - a", None, 0, &[0, 2]),
        ("only left out", "- -", None, 0, &[]),
        ("groups", "a0 a1 a1", Some(&[1, 1][..]), 0, &[0, 1, 2]),
        ("a group without a share", "a0 a1", Some(&[1, 0]), 0, &[0]),
        ("a group without health", "a0 A1", Some(&[1, 1]), 0, &[0]),
        (
            "panic: groups too",
            "a0 A1 A1",
            Some(&[1, 1]),
            50,
            &[0, 1, 2],
        ),
    ] {
        for algorithm in ALL {
            let mut picker = Picker::new(plan(algorithm, text, groups, panic), 3);
            let mut draw = draws(1);
            let mut seen: Vec<usize> = (0..500)
                .filter_map(|_| picker.pick(Wish::default(), &State::default(), &mut draw))
                .map(|picked| picked.host)
                .collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, usable, "{name}, {algorithm:?}");
        }
    }
    let mut picker = Picker::new(plan(Algorithm::Passthrough, "a", None, 0), 0);
    assert_eq!(picker.pick(Wish::default(), &State::default(), || 0), None);
}

#[test]
fn round_robin_goes_round() {
    let all = State::default();
    let mut picker = Picker::new(plan(Algorithm::RoundRobin, "a a a", None, 0), 4);
    let order = |picker: &mut Picker| {
        let picked = picker.pick(Wish::default(), &all, || 0);
        picked.expect("one").host
    };
    let picked: Vec<usize> = (0..4).map(|_| order(&mut picker)).collect();
    assert_eq!(picked, [1, 2, 0, 1]);
    // Where an endpoint goes the others' turn goes on.
    picker.set_plan(plan(Algorithm::RoundRobin, "a a A", None, 0));
    let picked: Vec<usize> = (0..4).map(|_| order(&mut picker)).collect();
    assert_eq!(picked, [0, 1, 0, 1]);
}

#[test]
fn weights_are_exact_over_a_cycle() {
    let mut picker = Picker::new(plan(Algorithm::RoundRobin, "a 2a 5a", None, 0), 11);
    assert_eq!(
        counts(&mut picker, &State::default(), 800, 3),
        [100, 200, 500]
    );
    let idle = State::default();
    let mut picker = Picker::new(plan(Algorithm::LeastRequest, "a 3a", None, 0), 11);
    assert_eq!(counts(&mut picker, &idle, 400, 2), [100, 300]);
    let mut picker = Picker::new(plan(Algorithm::Random, "a 3a", None, 0), 11);
    let random = counts(&mut picker, &idle, 40_000, 2);
    assert!(random[0].abs_diff(20_000) < 400, "no weights: {random:?}");
}

#[test]
fn busy_endpoints_get_less() {
    let busy = State {
        active: vec![1, 0],
        ..State::default()
    };
    // Of two equal ones the busy one is only taken when it is drawn twice.
    let mut picker = Picker::new(plan(Algorithm::LeastRequest, "a a", None, 0), 0);
    let picked = counts(&mut picker, &busy, 40_000, 2);
    assert!(picked[0].abs_diff(10_000) < 400, "{picked:?}");
    // Among weights, half of what it would get.
    let mut picker = Picker::new(plan(Algorithm::LeastRequest, "4a a", None, 0), 0);
    assert_eq!(counts(&mut picker, &busy, 300, 2), [200, 100]);
    let mut picker = Picker::new(plan(Algorithm::RoundRobin, "4a a", None, 0), 0);
    assert_eq!(counts(&mut picker, &busy, 300, 2), [240, 60]);
}

#[test]
fn cold_endpoints_get_less() {
    let cold = State {
        warmth: vec![0.25, 1.0],
        ..State::default()
    };
    let mut warming = candidates("a a");
    warming[0].warming = true;
    for (algorithm, expected) in [
        (Algorithm::RoundRobin, [100, 400]),
        (Algorithm::LeastRequest, [100, 400]),
    ] {
        let plan = Plan::new(algorithm, &warming, None, Percent::ZERO);
        let mut picker = Picker::new(Arc::new(plan), 0);
        let picked = counts(&mut picker, &cold, 500, 2);
        assert_eq!(picked, expected, "{algorithm:?}");
    }
    let plan = Plan::new(Algorithm::Random, &warming, None, Percent::ZERO);
    let picked = counts(&mut Picker::new(Arc::new(plan), 0), &cold, 40_000, 2);
    assert!(
        picked[0].abs_diff(20_000) < 400,
        "not at random: {picked:?}"
    );
}

#[test]
fn localities_get_their_shares() {
    for (name, text, groups, expected) in [
        ("by share", "a0 a1 a1", &[80, 20][..], &[800, 100, 100][..]),
        // Half of group 0 is healthy: 0.7 of its share.
        ("less when sick", "a0 A0 a1", &[50, 50], &[412, 0, 588]),
        (
            "not before 5/7",
            "a0 a0 a0 A0 a1",
            &[40, 60],
            &[133, 133, 133, 0, 600],
        ),
    ] {
        let mut picker = Picker::new(plan(Algorithm::RoundRobin, text, Some(groups), 0), 0);
        let picked = counts(&mut picker, &State::default(), 1000, expected.len());
        for (picked, expected) in picked.iter().zip(expected) {
            assert!(
                picked.abs_diff(*expected) <= 1,
                "{name}: {picked} {expected}"
            );
        }
        for algorithm in [RING, MAGLEV] {
            let mut picker = Picker::new(plan(algorithm, text, Some(groups), 0), 0);
            let picked = counts(&mut picker, &State::default(), 10_000, expected.len());
            if name == "by share" {
                let first = picked[0].abs_diff(8000);
                assert!(first < 600, "{name}, {algorithm:?}: {picked:?}");
            }
        }
    }
}

#[test]
fn priorities_get_their_shares() {
    for algorithm in ALL {
        // Half of the first priority: 70 %.
        let mut picker = Picker::new(plan(algorithm, "a A b b", None, 0), 0);
        let picked = counts(&mut picker, &State::default(), 40_000, 4);
        assert!(
            picked[0].abs_diff(28_000) < 400,
            "{algorithm:?}: {picked:?}"
        );
        assert_eq!(picked[1], 0, "{algorithm:?}");
        // A retry that leaves the first priority out.
        let wish = Wish {
            tried_priorities: 1,
            ..Wish::default()
        };
        let mut draw = draws(3);
        for _ in 0..200 {
            let picked = picker.pick(wish, &State::default(), &mut draw);
            assert_eq!(picked.map(|picked| picked.priority), Some(1));
        }
    }
}

#[test]
fn an_endpoint_to_avoid_is_avoided_where_there_is_another() {
    let state = State {
        avoid: vec![0],
        ..State::default()
    };
    for algorithm in ALL {
        let mut picker = Picker::new(plan(algorithm, "a a a", None, 0), 0);
        let picked = counts(&mut picker, &state, 5000, 3);
        // Five more tries: by chance it is found six times in a row.
        assert!(picked[0] < 50, "{algorithm:?}: {picked:?}");
        let mut alone = Picker::new(plan(algorithm, "a", None, 0), 0);
        assert_eq!(counts(&mut alone, &state, 10, 1), [10], "{algorithm:?}");
    }
    let mut picker = Picker::new(plan(Algorithm::RoundRobin, "a a a", None, 0), 0);
    assert_eq!(counts(&mut picker, &state, 10, 3), [0, 5, 5]);
}

#[test]
fn panic_is_told() {
    let mut picker = Picker::new(plan(Algorithm::LeastRequest, "A A a", None, 50), 0);
    assert!(picker.plan().is_panicking());
    let picked = picker.pick(Wish::default(), &State::default(), || 0);
    assert!(picked.expect("one").panic);
    let mut picker = Picker::new(plan(Algorithm::LeastRequest, "A a a", None, 50), 0);
    assert!(!picker.plan().is_panicking());
    let picked = picker.pick(Wish::default(), &State::default(), || 0);
    assert!(!picked.expect("one").panic);
}

fn hashing(algorithm: Algorithm, candidates: &[Candidate]) -> impl FnMut(u64) -> usize + use<> {
    let plan = Plan::new(algorithm, candidates, None, Percent::ZERO);
    let mut picker = Picker::new(Arc::new(plan), 0);
    move |hash| {
        let wish = Wish {
            hash: Some(hash),
            ..Wish::default()
        };
        let picked = picker.pick(wish, &State::default(), || panic!("a hash needs no draw"));
        picked.expect("one").host
    }
}

/// Computed by Envoy's definitions in another language, with another implementation of xxHash64:
/// a mapping that changes would part from the proxies that already run.
#[test]
fn the_mapping_is_the_one_that_others_have() {
    for (algorithm, expected) in KNOWN {
        let mut pick = hashing(*algorithm, &candidates("a a a 2a"));
        let picked: Vec<usize> = (0..16)
            .map(|n: u64| pick(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
            .collect();
        assert_eq!(picked, *expected, "{algorithm:?}");
    }
}

const KNOWN: &[(Algorithm, [usize; 16])] = &[
    (RING, [2, 0, 0, 2, 1, 0, 1, 3, 3, 0, 0, 3, 1, 2, 3, 2]),
    (MAGLEV, [0, 1, 1, 3, 0, 3, 0, 0, 3, 0, 3, 0, 1, 2, 3, 0]),
];

/// How many of `keys` go elsewhere when one endpoint leaves, besides those that went to it.
fn disturbed(algorithm: Algorithm, hosts: usize, leaves: usize, weights: &[u32]) -> (usize, usize) {
    let weight = |number: usize| weights.get(number).copied().unwrap_or(1);
    let all: Vec<Candidate> = (0..hosts).map(|n| candidate(n, weight(n))).collect();
    let mut fewer = all.clone();
    fewer[leaves].healthy = false;
    let (mut before, mut after) = (hashing(algorithm, &all), hashing(algorithm, &fewer));
    let mut draw = draws(hosts as u64);
    let (mut stayed, mut moved) = (0, 0);
    for _ in 0..5000 {
        let hash = draw();
        match (before(hash), after(hash)) {
            (was, is) if was == leaves => assert_ne!(is, leaves),
            (was, is) if was == is => stayed += 1,
            _ => moved += 1,
        }
    }
    (stayed, moved)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// With as many points an endpoint as before, only the requests of the one that left move.
    #[test]
    fn a_ring_moves_nobody_else(hosts in 2..40usize, leaves in any::<prop::sample::Index>()) {
        // One point each would do: the size asked for is never more than the endpoints.
        let ring = Algorithm::RingHash { min_size: 1 };
        let (_, moved) = disturbed(ring, hosts, leaves.index(hosts), &[]);
        prop_assert_eq!(moved, 0);
    }

    /// A ring that is kept at a size gives those that stay more points; they take from each other
    /// by as much as they grow, and that is at most a third (from three to two endpoints).
    #[test]
    fn a_ring_of_a_size_moves_few(hosts in 2..40usize, leaves in any::<prop::sample::Index>()) {
        let (stayed, moved) = disturbed(RING, hosts, leaves.index(hosts), &[]);
        let points = |hosts: usize| 1024usize.div_ceil(hosts) as f64;
        let grown = 1.0 - points(hosts) / points(hosts - 1);
        let limit = (stayed + moved) as f64 * (grown + 0.02);
        prop_assert!((moved as f64) <= limit, "{moved} of {stayed} moved, {limit}");
    }

    #[test]
    fn maglev_moves_few(
        hosts in 2..40usize,
        leaves in any::<prop::sample::Index>(),
        weights in prop::collection::vec(1..4u32, 0..40),
    ) {
        let (stayed, moved) = disturbed(MAGLEV, hosts, leaves.index(hosts), &weights);
        prop_assert!(moved * 10 <= stayed + moved, "{moved} beside {stayed}");
    }

    /// The mapping depends on the endpoints, not on the order in which they are listed.
    #[test]
    fn order_does_not_matter(hosts in 1..20usize, turn in 0..20usize, hash in any::<u64>()) {
        for algorithm in [RING, MAGLEV] {
            let all: Vec<Candidate> = (0..hosts).map(|number| candidate(number, 1)).collect();
            let mut turned = all.clone();
            turned.rotate_left(turn % hosts);
            let one = all[hashing(algorithm, &all)(hash)].address;
            let other = turned[hashing(algorithm, &turned)(hash)].address;
            prop_assert_eq!(one, other);
        }
    }

    /// Each endpoint gets its weight of the hashes.
    #[test]
    fn shares_of_hashes_follow_weights(weights in prop::collection::vec(1..5u32, 1..8)) {
        let all: Vec<Candidate> =
            weights.iter().enumerate().map(|(number, weight)| candidate(number, *weight)).collect();
        let total: u32 = weights.iter().sum();
        for (algorithm, tolerance) in [
            (Algorithm::RingHash { min_size: 8192 }, 0.25),
            (MAGLEV, 0.12),
        ] {
            let mut pick = hashing(algorithm, &all);
            let mut counts = vec![0; weights.len()];
            let mut draw = draws(1);
            for _ in 0..10_000 {
                counts[pick(draw())] += 1;
            }
            for (count, weight) in counts.iter().zip(&weights) {
                let share = 10_000.0 * f64::from(*weight) / f64::from(total);
                let off = (f64::from(*count) - share).abs();
                prop_assert!(off <= share * tolerance + 60.0, "{algorithm:?} {counts:?} {weights:?}");
            }
        }
    }

    /// Whatever the endpoints, a pick is usable, and there is one where there should be.
    #[test]
    fn a_pick_is_usable(
        endpoints in prop::collection::vec((0..4u32, 0..3u32, 1..6u32, any::<bool>(), any::<bool>()), 0..12),
        weighted in any::<bool>(),
        threshold in 0..=100i64,
        which in 0..5usize,
        hash in prop::option::of(any::<u64>()),
        tried in 0..16u64,
        seed in any::<u64>(),
    ) {
        let all: Vec<Candidate> = endpoints
            .iter()
            .enumerate()
            .map(|(number, (priority, group, weight, healthy, placed))| Candidate {
                healthy: *healthy,
                placement: placed.then_some(Placement { priority: *priority, group: *group }),
                ..candidate(number, *weight)
            })
            .collect();
        let threshold = Percent::new(threshold).expect("a percentage");
        let groups = weighted.then_some(&[3u32, 1, 2][..]);
        let plan = Plan::new(ALL[which], &all, groups, threshold);
        prop_assert_eq!(plan.shares().sum::<u32>(), 100);
        let mut picker = Picker::new(Arc::new(plan), seed);
        let mut draw = draws(seed);
        let wish = Wish { hash, tried_priorities: tried };
        let placed: Vec<&Candidate> = all.iter().filter(|one| one.placement.is_some()).collect();
        for _ in 0..20 {
            match picker.pick(wish, &State::default(), &mut draw) {
                Some(picked) => {
                    let candidate = &all[picked.host];
                    prop_assert!(candidate.placement.is_some());
                    prop_assert!(candidate.healthy || picked.panic);
                }
                None => {
                    let none_healthy = placed.iter().all(|candidate| !candidate.healthy);
                    prop_assert!(none_healthy);
                }
            }
        }
    }
}

#[test]
fn tables_are_bounded() {
    for (weights, min_size, most) in [
        (&[1, 1][..], 1024, 1024),
        (&[1, 1, 1], 1024, 1026),
        (&[1, u32::MAX], 1024, 64 * 1024 + 1),
        (&[1; 100], 0, 100),
        (&[5], 1024, 1024),
    ] {
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let endpoints: Vec<(u32, SocketAddr, f64)> = (0..)
            .zip(weights)
            .map(|(n, weight)| (n, address(n as usize), f64::from(*weight) / total))
            .collect();
        let ring = super::ring::Ring::new(&endpoints, min_size);
        assert!(ring.len() <= most, "{weights:?}: {}", ring.len());
    }
    // What is no prime would never be filled.
    for size in [0, 1, 4, 65_536, u32::MAX] {
        let mut pick = hashing(Algorithm::Maglev { size }, &candidates("a a"));
        assert!(pick(1) < 2);
    }
}

#[test]
fn primes_are_told_apart() {
    let primes: Vec<u32> = (0..30).filter(|number| is_prime(*number)).collect();
    assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
    assert!(is_prime(65_537) && is_prime(5_000_011));
    assert!(!is_prime(65_537 * 3) && !is_prime(u32::MAX));
}

/// Weights far apart cost no more than equal ones: nobody is asked before its turn.
#[test]
fn turns_fall_where_the_weights_put_them() {
    for weights in [
        &[1, 1, 1][..],
        &[1, 2, 3],
        &[7, 100, 1],
        &[1, 65_537, 3],
        &[5],
    ] {
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let shares = weights.iter().map(|weight| f64::from(*weight) / total);
        let shares: Vec<f64> = shares.collect();
        let largest = shares.iter().copied().fold(0.0, f64::max);
        let mut due = vec![0.0; shares.len()];
        let mut expected = Vec::new();
        for round in 1..1000 {
            for (index, share) in shares.iter().enumerate() {
                if f64::from(round) * share >= due[index] {
                    due[index] += largest;
                    expected.push(index);
                }
            }
        }
        let turns = super::maglev::Turns::new(&shares).take(expected.len());
        assert_eq!(turns.collect::<Vec<_>>(), expected, "{weights:?}");
    }
}
