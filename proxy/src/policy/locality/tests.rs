//! Tests of placement by locality: clients and endpoints written as text.

use proptest::prelude::*;

use super::*;

/// Where something runs, as text: `region/zone/subzone`, then labels `key=value`.
struct Spot {
    locality: Locality,
    labels: BTreeMap<String, String>,
    weight: NonZeroU32,
}

impl Spot {
    /// `r/z/s key=value … *weight`.
    fn parse(text: &str) -> Self {
        let mut spot = Self {
            locality: Locality::default(),
            labels: BTreeMap::new(),
            weight: NonZeroU32::MIN,
        };
        for (index, word) in text.split(' ').enumerate() {
            if let Some(weight) = word.strip_prefix('*') {
                spot.weight = weight.parse().expect("a weight");
            } else if index == 0 {
                spot.locality = Locality::parse(word);
            } else {
                let (key, value) = word.split_once('=').expect("key=value");
                spot.labels.insert(key.into(), value.into());
            }
        }
        spot
    }

    fn place(&self) -> Place<'_> {
        Place {
            locality: &self.locality,
            labels: &self.labels,
            node: None,
        }
    }
}

fn place(settings: &Settings, client: &str, endpoints: &[&str]) -> Placements {
    let client = Spot::parse(client);
    let endpoints: Vec<Spot> = endpoints.iter().map(|text| Spot::parse(text)).collect();
    let endpoints = endpoints.iter().map(|spot| (spot.place(), spot.weight));
    settings.place(client.place(), endpoints)
}

/// Priorities, in the order of the endpoints.
fn priorities(settings: &Settings, client: &str, endpoints: &[&str]) -> Vec<u32> {
    place(settings, client, endpoints)
        .endpoints
        .iter()
        .map(|placement| placement.expect("all get something").priority)
        .collect()
}

fn failover(labels: &[&str], regions: &[(&str, &str)]) -> Settings {
    Settings::Failover {
        labels: labels.iter().map(|text| Label::parse(text)).collect(),
        regions: regions
            .iter()
            .map(|(from, to)| RegionFailover {
                from: (*from).into(),
                to: (*to).into(),
            })
            .collect(),
    }
}

fn distribute(entries: &[(&str, &[(&str, u32)])]) -> Settings {
    let entry = |(from, to): &(&str, &[(&str, u32)])| Distribution {
        from: Pattern::new(from),
        to: to
            .iter()
            .map(|(pattern, percent)| (Pattern::new(pattern), *percent))
            .collect(),
    };
    Settings::Distribute(entries.iter().map(entry).collect())
}

#[test]
fn patterns_have_wildcards() {
    for (pattern, locality, expected) in [
        ("*", "r/z/s", true),
        ("*", "", true),
        ("r", "r/z/s", true),
        ("r", "q/z/s", false),
        ("r/*", "r/z/s", true),
        ("r/z", "r/z/s", true),
        ("r/z", "r/y/s", false),
        ("r/z/*", "r/z/s", true),
        ("r/z/s", "r/z/s", true),
        ("r/z/s", "r/z/t", false),
        ("r/*/s", "r/z/s", true),
        ("r/*/s", "r/z/t", false),
        ("r/z", "r", false),
        ("", "r", false),
        ("", "", true),
    ] {
        let matches = Pattern::new(pattern).matches(&Locality::parse(locality));
        assert_eq!(matches, expected, "{pattern} {locality}");
    }
}

#[test]
fn failover_goes_by_distance() {
    const ALL: [&str; 5] = ["r/z/s", "r/z/t", "r/y/s", "q/z/s", "p/z/s"];
    for (name, settings, client, endpoints, expected) in [
        (
            "near before far",
            failover(&[], &[]),
            "r/z/s",
            &ALL[..],
            &[0, 1, 2, 3, 3][..],
        ),
        (
            "gaps close",
            failover(&[], &[]),
            "r/z/s",
            &["q/z/s", "r/y"],
            &[1, 0],
        ),
        (
            "a region to fail over to",
            failover(&[], &[("r", "p")]),
            "r/z/s",
            &ALL,
            &[0, 1, 2, 4, 3],
        ),
        (
            "of another region's clients",
            failover(&[], &[("q", "p")]),
            "r/z/s",
            &ALL,
            &[0, 1, 2, 3, 3],
        ),
        (
            "the first entry counts",
            failover(&[], &[("r", "q"), ("r", "p")]),
            "r/z/s",
            &ALL,
            &[0, 1, 2, 3, 4],
        ),
        (
            "nothing known of the client",
            failover(&[], &[]),
            "",
            &["r/z/s", ""],
            &[1, 0],
        ),
        ("ignored", Settings::Ignore, "r/z/s", &ALL, &[0; 5]),
    ] {
        assert_eq!(priorities(&settings, client, endpoints), expected, "{name}");
    }
}

#[test]
fn failover_goes_by_labels() {
    const REGION: &str = "topology.kubernetes.io/region";
    const ZONE: &str = "topology.kubernetes.io/zone";
    for (name, settings, client, endpoints, expected) in [
        (
            "the more alike the sooner",
            failover(&["a", "b"], &[]),
            "r a=1 b=1",
            &["r a=1 b=1", "r a=1 b=2", "r a=2 b=1", "r"][..],
            &[0, 1, 2, 2][..],
        ),
        (
            "a value of its own",
            failover(&["v=2", "a"], &[]),
            "r v=1 a=1",
            &["r v=1 a=1", "r v=2", "r v=2 a=1"],
            &[2, 1, 0],
        ),
        (
            "neither side has it",
            failover(&["a"], &[]),
            "r b=1",
            &["r", "r a="],
            &[0, 0],
        ),
        (
            "topology counts as labels",
            failover(&[REGION, ZONE], &[]),
            "r/z",
            &["q/z", "r/y", "r/z"],
            &[2, 1, 0],
        ),
        (
            "and wins over labels",
            failover(&[REGION], &[]),
            "r topology.kubernetes.io/region=x",
            &["r", "x"],
            &[0, 1],
        ),
        (
            "localities do not count beside labels",
            failover(&["a"], &[]),
            "r/z a=1",
            &["q/y a=1", "r/z"],
            &[0, 1],
        ),
        (
            "but within them where regions are given",
            failover(&["a"], &[("r", "p")]),
            "r/z a=1",
            &["r/z", "q a=1", "p a=1", "r/z a=1"],
            &[3, 2, 1, 0],
        ),
        (
            "a client that nothing is known of",
            failover(&["a"], &[]),
            "",
            &["r a=1", "r"],
            &[0, 0],
        ),
        (
            "of a key's values the last",
            failover(&["a=1", "a=2"], &[]),
            "r",
            &["r a=1", "r a=2"],
            &[1, 0],
        ),
    ] {
        assert_eq!(priorities(&settings, client, endpoints), expected, "{name}");
    }
}

#[test]
fn a_node_is_a_label() {
    let settings = failover(&["kubernetes.io/hostname"], &[]);
    let (locality, labels) = (Locality::default(), BTreeMap::new());
    let on = |node| Place {
        locality: &locality,
        labels: &labels,
        node: Some(node),
    };
    let endpoints = ["n2", "n1"].map(|node| (on(node), NonZeroU32::MIN));
    let placements = settings.place(on("n1"), endpoints);
    let priorities: Vec<u32> = placements
        .endpoints
        .iter()
        .flatten()
        .map(|p| p.priority)
        .collect();
    assert_eq!(priorities, [1, 0]);
}

#[test]
fn labels_have_values_of_their_own() {
    for (text, key, value) in [
        ("a", "a", None),
        ("a=b", "a", Some("b")),
        ("a=", "a", Some("")),
        ("a=b=c", "a", None),
    ] {
        let label = Label::parse(text);
        assert_eq!(
            (&*label.key, label.value.as_deref()),
            (key, value),
            "{text}"
        );
    }
}

#[test]
fn localities_are_weighed_where_a_failover_is_asked_for() {
    let endpoints = ["r/z *3", "r/y", "r/z *2"];
    for (settings, expected) in [
        (Settings::Ignore, None),
        (failover(&[], &[]), None),
        (failover(&["a"], &[]), Some(vec![5, 1])),
        (failover(&[], &[("r", "q")]), Some(vec![5, 1])),
        // No entry is for this client.
        (distribute(&[("q", &[("r", 100)])]), Some(vec![5, 1])),
    ] {
        let placements = place(&settings, "r/z", &endpoints);
        assert_eq!(placements.group_weights, expected, "{settings:?}");
    }
}

#[test]
fn shares_are_distributed() {
    for (name, entries, endpoints, weights) in [
        (
            "as given",
            &[("r/z", &[("r/z", 80), ("r/y", 20)][..])][..],
            &["r/z", "r/y"][..],
            &[Some(80), Some(20)][..],
        ),
        (
            "nothing for the others",
            &[("r/z", &[("r/z", 100)])],
            &["r/z", "r/y", ""],
            &[Some(100), None, None],
        ),
        (
            "the first entry for the client",
            &[
                ("q", &[("r/y", 100)]),
                ("r/*", &[("r/z", 100)]),
                ("*", &[("r/y", 100)]),
            ],
            &["r/z", "r/y"],
            &[Some(100), None],
        ),
        (
            "several localities by weight, rounded up",
            &[("*", &[("r/*", 50), ("q", 50)])],
            &["r/z *2", "r/y", "q"],
            &[Some(34), Some(17), Some(50)],
        ),
        (
            "the first pattern has a locality",
            &[("*", &[("r/z", 10), ("r/*", 90)])],
            &["r/z", "r/y"],
            &[Some(10), Some(90)],
        ),
        (
            "enormous weights",
            &[("*", &[("r", 100)])],
            &["r/z *4294967295", "r/y *4294967295"],
            &[Some(50), Some(50)],
        ),
    ] {
        let placements = place(&distribute(entries), "r/z", endpoints);
        let groups = placements.group_weights.expect("weighed");
        let share = |placement: &Option<Placement>| placement.map(|p| groups[p.group as usize]);
        let shares: Vec<Option<u32>> = placements.endpoints.iter().map(share).collect();
        assert_eq!(shares, weights, "{name}");
        let first = placements
            .endpoints
            .iter()
            .flatten()
            .all(|p| p.priority == 0);
        assert!(first, "{name}: one priority");
    }
}

proptest! {
    #[test]
    fn priorities_have_no_gaps(
        endpoints in prop::collection::vec("[rq]/[zy]/[st]( a=[12])?( b=[12])?( [*][1-9])?", 0..20),
        client in "[rq]/[zy]/[st]( a=[12])?( b=[12])?",
        labels in prop::collection::vec("[ab](=[12])?", 0..4),
        regions in prop::collection::vec(("[rq]", "[rq]"), 0..3),
    ) {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let regions: Vec<(&str, &str)> =
            regions.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
        let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        let placements = place(&failover(&labels, &regions), &client, &endpoints);
        prop_assert_eq!(placements.endpoints.len(), endpoints.len());
        let mut used: Vec<u32> =
            placements.endpoints.iter().flatten().map(|placement| placement.priority).collect();
        used.sort_unstable();
        used.dedup();
        prop_assert_eq!(&used, &(0..used.len() as u32).collect::<Vec<u32>>());
        // A group is of one priority and one locality, and its weight is its endpoints'.
        if let Some(weights) = placements.group_weights {
            for (group, weight) in (0..).zip(weights) {
                let own: Vec<(usize, u32)> = placements
                    .endpoints
                    .iter()
                    .enumerate()
                    .filter_map(|(index, placement)| Some((index, (*placement)?)))
                    .filter(|(_, placement)| placement.group == group)
                    .map(|(index, placement)| (index, placement.priority))
                    .collect();
                let spots: Vec<Spot> =
                    own.iter().map(|(index, _)| Spot::parse(endpoints[*index])).collect();
                prop_assert!(own.iter().all(|(_, priority)| *priority == own[0].1));
                prop_assert!(spots.iter().all(|spot| spot.locality == spots[0].locality));
                prop_assert_eq!(weight, spots.iter().map(|spot| spot.weight.get()).sum::<u32>());
            }
        }
    }
}
