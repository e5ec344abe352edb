//! What the endpoints of a cluster, their health and their places amount to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use super::Algorithm;
use super::maglev::Table;
use super::priority::{self, Load, OVERPROVISIONING};
use super::ring::Ring;
use crate::policy::locality::Placement;
use crate::types::Percent;

/// An endpoint as the balancer sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Hashed where requests are hashed.
    pub address: SocketAddr,
    /// Its share beside others.
    pub weight: NonZeroU32,
    /// It says that it is ready, and it is not ejected.
    pub healthy: bool,
    /// It is within its slow start.
    pub warming: bool,
    /// Where it stands; `None` where its locality is to get nothing.
    pub placement: Option<Placement>,
}

/// Which endpoints get what, until one of them changes. An endpoint's number is its place in the
/// list of candidates.
#[derive(Debug)]
pub struct Plan {
    pub(super) algorithm: Algorithm,
    /// Somebody is within slow start: weights differ from one pick to the next.
    pub(super) warming: bool,
    pub(super) loads: Box<[Load]>,
    pub(super) levels: Box<[Level]>,
    weights: Box<[NonZeroU32]>,
}

/// The usable endpoints of one priority.
#[derive(Debug)]
pub(super) struct Level {
    /// One, or one a locality.
    pub(super) groups: Box<[Group]>,
    pub(super) table: Option<HashTable>,
}

/// Endpoints among which the algorithm chooses.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) hosts: Box<[u32]>,
    /// Its share beside the level's other groups.
    pub(super) share: f64,
    pub(super) equal: bool,
}

#[derive(Debug)]
pub(super) enum HashTable {
    Ring(Ring),
    Maglev(Table),
}

impl Plan {
    /// `group_weights` are the localities' shares, by the number of a placement's group; without
    /// them only priorities separate the endpoints. Below `panic_threshold` health is not asked.
    pub fn new(
        algorithm: Algorithm,
        candidates: &[Candidate],
        group_weights: Option<&[u32]>,
        panic_threshold: Percent,
    ) -> Self {
        let mut members: Vec<Vec<Member<'_>>> = vec![Vec::new()];
        for (number, candidate) in (0..).zip(candidates) {
            let Some(placement) = candidate.placement else {
                continue;
            };
            // Priorities have no gaps, so that there are never more than candidates.
            let level = (placement.priority as usize).min(candidates.len());
            if members.len() <= level {
                members.resize_with(level + 1, Vec::new);
            }
            members[level].push(Member {
                number,
                group: placement.group,
                candidate,
            });
        }
        let health: Vec<(usize, usize)> = members
            .iter()
            .map(|level| (level.iter().filter(Member::healthy).count(), level.len()))
            .collect();
        let loads = priority::loads(&health, panic_threshold);
        let levels = members
            .iter()
            .zip(&loads)
            .map(|(members, load)| Level::new(algorithm, members, group_weights, load.panic))
            .collect();
        let rises = matches!(algorithm, Algorithm::LeastRequest | Algorithm::RoundRobin);
        Self {
            algorithm,
            warming: rises && candidates.iter().any(|candidate| candidate.warming),
            loads: loads.into(),
            levels,
            weights: candidates.iter().map(|one| one.weight).collect(),
        }
    }

    /// How endpoints are chosen.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether a priority is in panic: its share of healthy endpoints is below the threshold.
    pub fn is_panicking(&self) -> bool {
        self.loads.iter().any(|load| load.panic && load.share > 0)
    }

    /// What each priority gets of the traffic, in percent.
    pub fn shares(&self) -> impl Iterator<Item = u32> + '_ {
        self.loads.iter().map(|load| load.share)
    }

    pub(super) fn weight(&self, host: u32) -> f64 {
        let weight = self.weights.get(host as usize);
        weight.map_or(1.0, |weight| f64::from(weight.get()))
    }
}

struct Member<'c> {
    number: u32,
    group: u32,
    candidate: &'c Candidate,
}

impl Member<'_> {
    fn healthy(member: &&Self) -> bool {
        member.candidate.healthy
    }
}

impl Level {
    fn new(
        algorithm: Algorithm,
        members: &[Member<'_>],
        group_weights: Option<&[u32]>,
        panic: bool,
    ) -> Self {
        let usable: Vec<&Member<'_>> = members
            .iter()
            .filter(|member| panic || member.candidate.healthy)
            .collect();
        if algorithm.is_hash() {
            return Self {
                groups: Box::default(),
                table: HashTable::new(algorithm, &shares(&usable, group_weights)),
            };
        }
        let mut groups = Vec::new();
        // Panic spreads over all endpoints alike.
        if let Some(weights) = group_weights.filter(|_| !panic) {
            let mut by_group: BTreeMap<u32, (usize, Vec<&Member<'_>>)> = BTreeMap::new();
            for member in members {
                let (total, own) = by_group.entry(member.group).or_default();
                *total += 1;
                if member.candidate.healthy {
                    own.push(member);
                }
            }
            for (number, (total, own)) in by_group {
                let weight = weights.get(number as usize).copied().unwrap_or(0);
                let available = (own.len() * OVERPROVISIONING) as f64 / 100.0 / total as f64;
                let share = f64::from(weight) * available.min(1.0);
                if share > 0.0 {
                    groups.push(Group::new(&own, share));
                }
            }
        }
        if groups.is_empty() && !usable.is_empty() {
            groups.push(Group::new(&usable, 1.0));
        }
        Self {
            groups: groups.into(),
            table: None,
        }
    }
}

impl Group {
    fn new(members: &[&Member<'_>], share: f64) -> Self {
        let mut weights = members.iter().map(|member| member.candidate.weight);
        let first = weights.next();
        Self {
            hosts: members.iter().map(|member| member.number).collect(),
            share,
            equal: weights.all(|weight| Some(weight) == first),
        }
    }
}

impl HashTable {
    fn new(algorithm: Algorithm, endpoints: &[(u32, SocketAddr, f64)]) -> Option<Self> {
        if endpoints.is_empty() {
            return None;
        }
        match algorithm {
            Algorithm::RingHash { min_size } => Some(Self::Ring(Ring::new(endpoints, min_size))),
            Algorithm::Maglev { size } => Some(Self::Maglev(Table::new(endpoints, size))),
            _ => None,
        }
    }

    pub(super) fn pick(&self, hash: u64, attempt: usize) -> Option<u32> {
        match self {
            Self::Ring(ring) => ring.pick(hash, attempt),
            Self::Maglev(table) => table.pick(hash, attempt),
        }
    }
}

/// Each endpoint's share of the traffic: of its locality's by weight, where localities have
/// shares. One without endpoints leaves its share unused, which scales the others alike.
fn shares(usable: &[&Member<'_>], group_weights: Option<&[u32]>) -> Vec<(u32, SocketAddr, f64)> {
    let one = [1];
    let parts = group_weights.unwrap_or(&one);
    let group = |member: &Member<'_>| match group_weights {
        Some(_) => member.group as usize,
        None => 0,
    };
    let weight = |member: &Member<'_>| f64::from(member.candidate.weight.get());
    let total: f64 = parts.iter().map(|part| f64::from(*part)).sum();
    let mut sums = vec![0.0; parts.len()];
    for member in usable {
        if let Some(sum) = sums.get_mut(group(member)) {
            *sum += weight(member);
        }
    }
    let share = |member: &&Member<'_>| {
        let part = f64::from(*parts.get(group(member))?) / total;
        let share = weight(member) * part / sums.get(group(member))?;
        (share > 0.0).then_some((member.number, member.candidate.address, share))
    };
    usable.iter().filter_map(share).collect()
}
