//! Which endpoints of a cluster a client prefers by where it and they run.
//!
//! Pure, and resolved when endpoints or settings change, never for a request. Knows neither
//! health nor load balancing: it only says which priority an endpoint has, or which share. Does
//! what Istio's control plane does before it tells an Envoy (`loadbalancer.go`).

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::types::Locality;

/// What a DestinationRule's `localityLbSetting` (or, where it has none, the Service's traffic
/// distribution, or the mesh's default) amounts to, once it is known whether failover is active:
/// in Istio an `outlierDetection` block or a traffic distribution activates it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Settings {
    /// Localities are ignored: all endpoints have one priority.
    #[default]
    Ignore,
    /// `distribute`: fixed shares a locality. Takes precedence over failover.
    Distribute(Vec<Distribution>),
    /// Priorities.
    Failover {
        /// `failoverPriority`, from the most to the least important. Where there are any,
        /// localities count only if there are `regions` too.
        labels: Vec<Label>,
        /// `failover`: where a region's traffic goes first once the region has failed.
        regions: Vec<RegionFailover>,
    },
}

/// One entry of `distribute`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// The clients it is for.
    pub from: Pattern,
    /// Shares in percent, 1 to 100, in a fixed order; where two patterns match a locality, the
    /// first has it.
    pub to: Vec<(Pattern, u32)>,
}

/// One entry of `failover`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionFailover {
    /// The client's region.
    pub from: Arc<str>,
    /// The region that comes next.
    pub to: Arc<str>,
}

/// One entry of `failoverPriority`: a label that the client and an endpoint have alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The label's key.
    pub key: Arc<str>,
    /// The value asked for, where it is not the client's own (`key=value`).
    pub value: Option<Arc<str>>,
}

impl Label {
    /// From `key` or `key=value`. With more than one `=` the value is the client's own, as in
    /// Istio.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split('=');
        let key = parts.next().unwrap_or_default().into();
        let value = match (parts.next(), parts.next()) {
            (Some(value), None) => Some(value.into()),
            _ => None,
        };
        Self { key, value }
    }
}

/// A locality with wildcards: `*`, `region/*`, `region/zone/*`, or parts that must be equal. A
/// part that is missing is a wildcard, but for the region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// From the text as users write it. Whether it is a sensible one is validation's question.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a locality is meant.
    pub fn matches(&self, locality: &Locality) -> bool {
        let mut parts = self.0.split('/');
        let region = parts.next().unwrap_or_default();
        let mut finer = |own: &str| {
            let part = parts.next().unwrap_or_default();
            part.is_empty() || part == "*" || part == own
        };
        let (zone, subzone) = (finer(&locality.zone), finer(&locality.subzone));
        (region == "*" || region == &*locality.region) && zone && subzone
    }
}

/// A client or an endpoint, as far as its place matters.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Where it runs.
    pub locality: &'a Locality,
    /// Its own labels. The topology's labels need not be among them: they are told from the
    /// locality and the node.
    pub labels: &'a BTreeMap<String, String>,
    /// Its node's name.
    pub node: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// A label's value. The topology's labels tell the locality and the node, where these are
    /// known, whatever the own labels say.
    fn label(&self, key: &str) -> Option<&'a str> {
        let topology = match key {
            "topology.kubernetes.io/region" => &self.locality.region,
            "topology.kubernetes.io/zone" => &self.locality.zone,
            "topology.istio.io/subzone" => &self.locality.subzone,
            "kubernetes.io/hostname" => self.node.unwrap_or_default(),
            _ => "",
        };
        if topology.is_empty() {
            self.labels.get(key).map(String::as_str)
        } else {
            Some(topology)
        }
    }

    fn is_unknown(&self) -> bool {
        self.labels.is_empty() && self.locality.is_unknown() && self.node.is_none()
    }
}

/// Where an endpoint stands for one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// 0 is used first. Priorities have no gaps.
    pub priority: u32,
    /// Endpoints of one priority and locality have the same number, from 0.
    pub group: u32,
}

/// Where the endpoints of a cluster stand for one client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placements {
    /// In the order of the endpoints. `None`: gets nothing, and is as good as not there.
    pub endpoints: Vec<Option<Placement>>,
    /// The groups' shares within their priorities, by number. Without them endpoints of a priority
    /// are one group.
    pub group_weights: Option<Vec<u32>>,
}

impl Settings {
    /// Resolves the settings for a client, over all endpoints of a cluster with their weights.
    pub fn place<'e>(
        &self,
        client: Place<'_>,
        endpoints: impl IntoIterator<Item = (Place<'e>, NonZeroU32)>,
    ) -> Placements {
        let endpoints: Vec<(Place<'e>, NonZeroU32)> = endpoints.into_iter().collect();
        let mut priorities = vec![0; endpoints.len()];
        let mut weighted = true;
        match self {
            Self::Ignore => weighted = false,
            Self::Distribute(_) => {}
            Self::Failover { labels, regions } => {
                if !labels.is_empty() && !client.is_unknown() {
                    let wanted = wanted(labels, client);
                    for (priority, (place, _)) in priorities.iter_mut().zip(&endpoints) {
                        *priority = unmatched(&wanted, place);
                    }
                    close_gaps(&mut priorities);
                }
                if labels.is_empty() || !regions.is_empty() {
                    for (priority, (place, _)) in priorities.iter_mut().zip(&endpoints) {
                        // There are five levels of distance.
                        let above = priority.saturating_mul(5);
                        *priority = above + distance(client.locality, place.locality, regions);
                    }
                    close_gaps(&mut priorities);
                }
                // Envoy is told to weigh localities only where the user asks for a failover.
                weighted = !(labels.is_empty() && regions.is_empty());
            }
        }
        let mut groups = Groups::new(weighted, &endpoints, &priorities);
        if let Self::Distribute(entries) = self {
            let entry = entries.iter().find(|one| one.from.matches(client.locality));
            if let Some(entry) = entry {
                groups.distribute(&entry.to);
            }
        }
        groups.placements(&priorities)
    }
}

/// What the client asks of each label. A value given for a key counts wherever the key stands, and
/// of several the last.
fn wanted<'a>(labels: &'a [Label], client: Place<'a>) -> Vec<(&'a str, Option<&'a str>)> {
    let given = |key: &str| {
        let mut of_key = labels.iter().rev().filter(|label| &*label.key == key);
        of_key.find_map(|label| label.value.as_deref())
    };
    labels
        .iter()
        .map(|label| {
            let own = || client.label(&label.key);
            (&*label.key, given(&label.key).or_else(own))
        })
        .collect()
}

/// How many of the labels are left from the first one that differs. A label that neither side has
/// is alike, and so is one that is empty.
fn unmatched(wanted: &[(&str, Option<&str>)], endpoint: &Place<'_>) -> u32 {
    let differs = |(key, value): &(&str, Option<&str>)| {
        value.unwrap_or_default() != endpoint.label(key).unwrap_or_default()
    };
    let matched = wanted.iter().position(differs).unwrap_or(wanted.len());
    u32::try_from(wanted.len() - matched).unwrap_or(u32::MAX)
}

/// From 0, the same place, to 3, another region; 4 for a region that is not the one to fail over
/// to.
fn distance(client: &Locality, endpoint: &Locality, regions: &[RegionFailover]) -> u32 {
    if client.region != endpoint.region {
        let failover = regions.iter().find(|one| one.from == client.region);
        return match failover {
            Some(failover) if failover.to != endpoint.region => 4,
            _ => 3,
        };
    }
    match (
        client.zone == endpoint.zone,
        client.subzone == endpoint.subzone,
    ) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    }
}

fn close_gaps(priorities: &mut [u32]) {
    let mut used = priorities.to_vec();
    used.sort_unstable();
    used.dedup();
    for priority in priorities {
        let rank = used.partition_point(|one| one < priority);
        *priority = u32::try_from(rank).unwrap_or(u32::MAX);
    }
}

/// Endpoints by priority and locality.
struct Groups<'e> {
    weighted: bool,
    /// Of each endpoint.
    of: Vec<u32>,
    /// By number: where, and its share; `None` where it gets nothing.
    groups: Vec<(&'e Locality, Option<u64>)>,
}

impl<'e> Groups<'e> {
    fn new(weighted: bool, endpoints: &[(Place<'e>, NonZeroU32)], priorities: &[u32]) -> Self {
        let mut groups: Vec<(&'e Locality, Option<u64>)> = Vec::new();
        let mut numbers: HashMap<(u32, &Locality), u32> = HashMap::new();
        let mut of = Vec::with_capacity(if weighted { endpoints.len() } else { 0 });
        for ((place, weight), priority) in endpoints.iter().zip(priorities) {
            if !weighted {
                break;
            }
            let number = *numbers
                .entry((*priority, place.locality))
                .or_insert_with(|| {
                    groups.push((place.locality, Some(0)));
                    (groups.len() - 1) as u32
                });
            if let Some((_, Some(sum))) = groups.get_mut(number as usize) {
                *sum = sum.saturating_add(u64::from(weight.get()));
            }
            of.push(number);
        }
        Self {
            weighted,
            of,
            groups,
        }
    }

    /// Gives each pattern its percentage, among the groups it matches by their weights, rounded up.
    /// A group that no pattern matches gets nothing.
    fn distribute(&mut self, to: &[(Pattern, u32)]) {
        let first = |locality: &Locality| to.iter().position(|(one, _)| one.matches(locality));
        let matched: Vec<Option<usize>> = self
            .groups
            .iter()
            .map(|(locality, _)| first(locality))
            .collect();
        let mut sums = vec![0u64; to.len()];
        for ((_, weight), pattern) in self.groups.iter().zip(&matched) {
            if let Some(pattern) = pattern {
                sums[*pattern] = sums[*pattern].saturating_add(weight.unwrap_or(0));
            }
        }
        for ((_, weight), pattern) in self.groups.iter_mut().zip(matched) {
            *weight = pattern.and_then(|pattern| {
                let share = u128::from(weight.unwrap_or(0)) * u128::from(to[pattern].1);
                u64::try_from(share.div_ceil(u128::from(sums[pattern].max(1)))).ok()
            });
        }
    }

    fn placements(self, priorities: &[u32]) -> Placements {
        if !self.weighted {
            let place = |priority: &u32| {
                Some(Placement {
                    priority: *priority,
                    group: 0,
                })
            };
            return Placements {
                endpoints: priorities.iter().map(place).collect(),
                group_weights: None,
            };
        }
        let place = |(priority, group): (&u32, &u32)| {
            self.groups[*group as usize].1.map(|_| Placement {
                priority: *priority,
                group: *group,
            })
        };
        let weight = |(_, weight): &(&Locality, Option<u64>)| {
            u32::try_from(weight.unwrap_or(0)).unwrap_or(u32::MAX)
        };
        Placements {
            endpoints: priorities.iter().zip(&self.of).map(place).collect(),
            group_weights: Some(self.groups.iter().map(weight).collect()),
        }
    }
}
