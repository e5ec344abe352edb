//! A worker's place in the turns of a plan.

use std::sync::Arc;

use super::edf::Edf;
use super::plan::{Group, Plan};
use super::{Algorithm, least_request, priority};

/// How often another endpoint is looked for when the one picked is to be avoided (Istio's
/// `host_selection_retry_max_attempts`).
const RESELECTIONS: usize = 5;

/// What is known of an endpoint when it is picked, by its number in the list of candidates.
pub trait Hosts {
    /// Requests under way there, of this client.
    fn active(&self, host: usize) -> u64;

    /// How warm it is, above 0 and up to 1; asked only while some endpoint is in slow start.
    fn warmth(&self, _host: usize) -> f64 {
        1.0
    }

    /// Whether to rather take another: a retry goes elsewhere.
    fn avoid(&self, _host: usize) -> bool {
        false
    }
}

/// What a request asks of the choice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// For ring hash and Maglev; without it any endpoint will do.
    pub hash: Option<u64>,
    /// Priorities that were tried before and are to be left out, a bit each, the lowest bit for
    /// priority 0 (`retryRemoteLocalities`; Envoy's `previous_priorities`).
    pub tried_priorities: u64,
}

/// An endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// Its number in the list of candidates.
    pub host: usize,
    /// Its priority.
    pub priority: u32,
    /// Its health was not asked: Envoy's counter `lb_healthy_panic`.
    pub panic: bool,
}

/// Picks by a plan, in turn where the algorithm takes turns.
#[derive(Debug)]
pub struct Picker {
    plan: Arc<Plan>,
    seed: u64,
    /// Of each priority.
    turns: Vec<Turns>,
}

#[derive(Debug, Default)]
struct Turns {
    /// Between groups.
    groups: Option<Edf>,
    /// Within each.
    hosts: Vec<Turn>,
}

#[derive(Debug)]
enum Turn {
    /// The next one's place, where all have the same weight.
    Next(u64),
    /// Made when it is first needed.
    Weighted(Option<Edf>),
}

impl Picker {
    /// Starts somewhere: a random `seed` keeps workers and proxies from starting at the same
    /// endpoint.
    pub fn new(plan: Arc<Plan>, seed: u64) -> Self {
        let mut picker = Self {
            plan: Arc::clone(&plan),
            seed,
            turns: Vec::new(),
        };
        picker.set_plan(plan);
        picker
    }

    /// The plan in force.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Goes on by another plan. Unweighted turns go on where they were (as Envoy's do).
    pub fn set_plan(&mut self, plan: Arc<Plan>) {
        let takes_turns = matches!(
            plan.algorithm,
            Algorithm::LeastRequest | Algorithm::RoundRobin
        );
        let mut before = std::mem::take(&mut self.turns).into_iter();
        self.turns = plan
            .levels
            .iter()
            .map(|level| {
                let mut before = before.next().unwrap_or_default().hosts.into_iter();
                let turn = |group: &Group| {
                    let before = before.next();
                    let weighted = !group.equal || plan.warming;
                    match before {
                        _ if !takes_turns => Turn::Next(0),
                        _ if weighted && group.hosts.len() > 1 => Turn::Weighted(None),
                        Some(Turn::Next(next)) => Turn::Next(next),
                        _ => Turn::Next(self.seed),
                    }
                };
                Turns {
                    hosts: level.groups.iter().map(turn).collect(),
                    groups: (level.groups.len() > 1).then(|| {
                        let share = |group: u32| level.groups[group as usize].share;
                        Edf::new(level.groups.len() as u32, share, self.seed)
                    }),
                }
            })
            .collect();
        self.plan = plan;
    }

    /// The endpoint for the next request. `None` where none is usable, and for `PASSTHROUGH`,
    /// which has nothing to choose. `draw` gives uniformly random numbers.
    pub fn pick(
        &mut self,
        wish: Wish,
        hosts: &impl Hosts,
        mut draw: impl FnMut() -> u64,
    ) -> Option<Picked> {
        let hash = if self.plan.algorithm.is_hash() {
            Some(wish.hash.unwrap_or_else(&mut draw))
        } else {
            None
        };
        let mut picked = None;
        for attempt in 0..=RESELECTIONS {
            let another = self.pick_once(hash, attempt, wish, hosts, &mut draw)?;
            picked = Some(another);
            if !hosts.avoid(another.host) {
                break;
            }
        }
        picked
    }

    fn pick_once(
        &mut self,
        hash: Option<u64>,
        attempt: usize,
        wish: Wish,
        hosts: &impl Hosts,
        draw: &mut impl FnMut() -> u64,
    ) -> Option<Picked> {
        let plan = &*self.plan;
        let number = match (&*plan.loads, hash) {
            ([_], _) => 0,
            (loads, Some(hash)) => priority::choose(loads, hash, wish.tried_priorities),
            (loads, None) => priority::choose(loads, draw(), wish.tried_priorities),
        };
        let level = plan.levels.get(number)?;
        let host = match (hash, &level.table) {
            (Some(hash), Some(table)) => table.pick(hash, attempt)?,
            (Some(_), None) => return None,
            (None, _) => {
                let turns = self.turns.get_mut(number)?;
                let group = match &mut turns.groups {
                    Some(groups) => {
                        groups.pick(|group| level.groups[group as usize].share)? as usize
                    }
                    None => 0,
                };
                let turn = turns.hosts.get_mut(group)?;
                let group = level.groups.get(group)?;
                *group
                    .hosts
                    .get(turn.of(plan, group, self.seed, hosts, draw)?)?
            }
        };
        Some(Picked {
            host: host as usize,
            priority: number as u32,
            panic: plan.loads[number].panic,
        })
    }
}

impl Turn {
    /// The place in the group.
    fn of(
        &mut self,
        plan: &Plan,
        group: &Group,
        seed: u64,
        hosts: &impl Hosts,
        draw: &mut impl FnMut() -> u64,
    ) -> Option<usize> {
        let len = group.hosts.len();
        let active = |place: usize| hosts.active(group.hosts[place] as usize);
        match (self, plan.algorithm) {
            (Self::Next(_), Algorithm::LeastRequest) => {
                least_request(len, [draw(), draw()], active)
            }
            (Self::Next(next), Algorithm::RoundRobin) => {
                let place = next.checked_rem(len as u64)?;
                *next = next.wrapping_add(1);
                Some(place as usize)
            }
            (Self::Weighted(edf), algorithm) => {
                let weight = |place: u32| {
                    let host = group.hosts[place as usize];
                    let mut weight = plan.weight(host);
                    if algorithm == Algorithm::LeastRequest {
                        weight /= hosts.active(host as usize).saturating_add(1) as f64;
                    }
                    if plan.warming {
                        weight *= hosts.warmth(host as usize);
                    }
                    weight
                };
                let edf = edf.get_or_insert_with(|| Edf::new(len as u32, weight, seed));
                edf.pick(weight).map(|place| place as usize)
            }
            (Self::Next(_), Algorithm::Random) => {
                draw().checked_rem(len as u64).map(|place| place as usize)
            }
            (Self::Next(_), _) => None,
        }
    }
}
