//! Outlier detection: which endpoints of one cluster are sitting out because they kept failing.
//!
//! A pure state machine: it never sleeps, locks, logs or reads a clock. The meaning is Envoy's
//! (`outlier_detection_impl.cc`), the defaults are those that Istio gives to an `outlierDetection`
//! block. Workers count outcomes in each endpoint's [`Monitor`], without a lock; what reaches a
//! threshold goes to the [`Detector`], which whoever drives it keeps behind one, and whose
//! [`Change`]s it acts upon.
//!
//! Invariant: an ejection never makes the ejected more than `max_ejected` of the known endpoints.

mod monitor;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::types::Percent;

pub use monitor::{Detections, Kind, Monitor, Outcome};

/// However often an endpoint failed, it is not ejected for longer, unless the first ejection
/// already is (Envoy's `max_ejection_time`, which Istio leaves at its default).
const LONGEST: Duration = Duration::from_secs(300);

/// A DestinationRule's `outlierDetection`. `minHealthPercent` is the balancer's panic threshold
/// and is not here. Where the block is absent there is no detector at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `consecutive5xxErrors`; zero turns this detector off.
    pub consecutive_5xx: u32,
    /// `consecutiveGatewayErrors` (502, 503, 504); zero, the default, turns this detector off.
    pub consecutive_gateway: u32,
    /// `consecutiveLocalOriginFailures`; zero turns this detector off. Used only where local
    /// origin errors are counted apart.
    pub consecutive_local_origin: u32,
    /// `splitExternalLocalOriginErrors`: what happens before a response is counted apart from
    /// what the response says.
    pub split_local_origin: bool,
    /// `outlierDetectionHttpErrorCodes`: these statuses count in place of all 5xx.
    pub error_codes: Option<BTreeSet<u16>>,
    /// `interval` between two sweeps, at which ejections end.
    pub interval: Duration,
    /// `baseEjectionTime`: how long the first ejection lasts; the second twice that, and so on.
    pub base_ejection: Duration,
    /// `maxEjectionPercent`: more of the endpoints are never ejected at a time.
    pub max_ejected: Percent,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway: 0,
            consecutive_local_origin: 5,
            split_local_origin: false,
            error_codes: None,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejected: Percent::new(10).unwrap_or(Percent::ALL),
        }
    }
}

/// What the balancer must apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<E> {
    /// The endpoint gets no more requests. Those under way go on.
    Eject(E, Kind),
    /// The endpoint is as good as any.
    Restore(E),
}

/// What has happened so far, for Envoy's counters `outlier_detection.ejections_…`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    detected: [u64; 3],
    enforced: [u64; 3],
    /// `overflow`: ejections that would have been one too many.
    pub overflow: u64,
}

impl Stats {
    /// `detected_…`: how often a counter reached its threshold.
    pub fn detected(&self, kind: Kind) -> u64 {
        self.detected[kind as usize]
    }

    /// `enforced_…`: ejections.
    pub fn enforced(&self, kind: Kind) -> u64 {
        self.enforced[kind as usize]
    }

    /// `enforced_total`.
    pub fn enforced_total(&self) -> u64 {
        self.enforced.iter().sum()
    }
}

/// The endpoints of one cluster as one client pod knows them.
#[derive(Debug)]
pub struct Detector<E> {
    settings: Arc<Settings>,
    /// Sweeps happen at whole intervals from here.
    origin: Instant,
    /// The number of the last sweep.
    swept: u128,
    endpoints: BTreeMap<E, Record>,
    ejected: usize,
    stats: Stats,
}

#[derive(Debug, Default)]
struct Record {
    monitor: Arc<Monitor>,
    ejected_at: Option<Instant>,
    restored_at: Option<Instant>,
    /// How many times the base the next ejection lasts, less one.
    multiplier: u32,
}

impl<E: Copy + Ord> Detector<E> {
    /// No endpoint is known yet. Sweeps are counted from `now`.
    pub fn new(settings: Arc<Settings>, now: Instant) -> Self {
        Self {
            settings,
            origin: now,
            swept: 0,
            endpoints: BTreeMap::new(),
            ejected: 0,
            stats: Stats::default(),
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Takes the endpoints that discovery gives now. Those that stay keep their state; what is
    /// known of the others is forgotten, so that an address that comes back starts afresh.
    pub fn set_endpoints(&mut self, endpoints: impl IntoIterator<Item = E>) {
        let mut before = std::mem::take(&mut self.endpoints);
        self.endpoints = endpoints
            .into_iter()
            .map(|endpoint| (endpoint, before.remove(&endpoint).unwrap_or_default()))
            .collect();
        let ejected = |record: &&Record| record.ejected_at.is_some();
        self.ejected = self.endpoints.values().filter(ejected).count();
    }

    /// The endpoint's counters, to be kept where its outcomes are recorded.
    pub fn monitor(&self, endpoint: &E) -> Option<Arc<Monitor>> {
        let record = self.endpoints.get(endpoint)?;
        Some(Arc::clone(&record.monitor))
    }

    /// Whether the endpoint sits out.
    pub fn is_ejected(&self, endpoint: &E) -> bool {
        let record = self.endpoints.get(endpoint);
        record.is_some_and(|record| record.ejected_at.is_some())
    }

    /// How many sit out: `ejections_active`.
    pub fn ejected(&self) -> usize {
        self.ejected
    }

    /// What has happened so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Takes what [`Monitor::record`] found. The counter begins anew, whether the endpoint may be
    /// ejected or not. An endpoint that is ejected already or is gone changes nothing.
    pub fn detect(&mut self, now: Instant, endpoint: E, kind: Kind) -> Option<Change<E>> {
        let total = self.endpoints.len();
        let record = self.endpoints.get_mut(&endpoint)?;
        if record.ejected_at.is_some() {
            return None;
        }
        self.stats.detected[kind as usize] += 1;
        record.monitor.reset(kind);
        if !self.settings.max_ejected.allows(self.ejected + 1, total) {
            self.stats.overflow += 1;
            return None;
        }
        self.stats.enforced[kind as usize] += 1;
        self.ejected += 1;
        record.ejected_at = Some(now);
        record.monitor.set_ejected(true);
        let base = self.settings.base_ejection;
        if base.saturating_mul(record.multiplier) < longest(base).saturating_add(base) {
            record.multiplier = record.multiplier.saturating_add(1);
        }
        Some(Change::Eject(endpoint, kind))
    }

    /// Ends the ejections that have lasted long enough, and lets the memory of earlier ones fade.
    /// Does nothing between two sweeps: an ejection ends at the first sweep after its time.
    pub fn sweep(&mut self, now: Instant) -> Vec<Change<E>> {
        let number = self.sweeps_until(now);
        if number == self.swept {
            return Vec::new();
        }
        self.swept = number;
        let mut changes = Vec::new();
        for (endpoint, record) in &mut self.endpoints {
            match record.ejected_at {
                Some(at) => {
                    let lasted = now.saturating_duration_since(at);
                    if lasted >= duration(&self.settings, record.multiplier) {
                        record.ejected_at = None;
                        record.restored_at = Some(now);
                        record.monitor.set_ejected(false);
                        self.ejected -= 1;
                        changes.push(Change::Restore(*endpoint));
                    }
                }
                None => {
                    let well = record
                        .restored_at
                        .map(|at| now.saturating_duration_since(at));
                    if well.is_some_and(|well| well >= self.settings.interval) {
                        record.multiplier = record.multiplier.saturating_sub(1);
                    }
                }
            }
        }
        changes
    }

    /// When [`Detector::sweep`] next has something to do; `None` while no endpoint has anything to
    /// wait for.
    pub fn next_deadline(&self) -> Option<Instant> {
        let due = self.endpoints.values().filter_map(|record| {
            match (record.ejected_at, record.restored_at) {
                (Some(at), _) => at.checked_add(duration(&self.settings, record.multiplier)),
                (None, Some(at)) if record.multiplier > 0 => at.checked_add(self.settings.interval),
                (None, _) => None,
            }
        });
        let due = due.min()?;
        // Rounded up to a sweep that has not happened yet.
        let since = due.saturating_duration_since(self.origin).as_nanos();
        let number = since.div_ceil(self.interval()).max(self.swept + 1);
        let nanos = u64::try_from(number.checked_mul(self.interval())?).ok()?;
        self.origin.checked_add(Duration::from_nanos(nanos))
    }

    fn sweeps_until(&self, now: Instant) -> u128 {
        now.saturating_duration_since(self.origin).as_nanos() / self.interval()
    }

    /// In nanoseconds, never zero.
    fn interval(&self) -> u128 {
        self.settings.interval.as_nanos().max(1)
    }
}

/// How long an ejection lasts: longer from one to the next, by the same amount each.
fn duration(settings: &Settings, multiplier: u32) -> Duration {
    let base = settings.base_ejection;
    base.saturating_mul(multiplier).min(longest(base))
}

fn longest(base: Duration) -> Duration {
    LONGEST.max(base)
}
