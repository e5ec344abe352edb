//! Drives outlier detection for one client pod and cluster: outcomes in, ejections out, and a sweep
//! when one is due. What is decided is `policy::outlier`'s.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::task::spawn_local;

use super::{Host, State};
use crate::clock;
use crate::mesh::Cluster;
use crate::policy::outlier::{Change, Detector, Kind, Monitor, Outcome};

/// Which endpoints sit out, where the cluster has outlier detection.
#[derive(Debug, Default)]
pub(super) struct Health {
    detector: Option<Detector<SocketAddr>>,
    /// Whether a task waits for the next sweep.
    watched: bool,
}

impl Health {
    /// Takes the cluster's endpoints and settings. Other settings begin anew, as another cluster
    /// would in Envoy.
    pub(super) fn update(&mut self, cluster: &Cluster, now: Instant) {
        let Some(settings) = &cluster.policy.outlier else {
            self.detector = None;
            return;
        };
        let same = |detector: &Detector<_>| **detector.settings() == *settings;
        if !self.detector.as_ref().is_some_and(same) {
            self.detector = Some(Detector::new(Arc::new(settings.clone()), now));
        }
        if let Some(detector) = &mut self.detector {
            detector.set_endpoints(cluster.endpoints.iter().map(|endpoint| endpoint.address));
        }
    }

    /// Where the outcomes of an endpoint are counted.
    pub(super) fn monitor(&self, address: SocketAddr) -> Option<Arc<Monitor>> {
        self.detector.as_ref()?.monitor(&address)
    }

    /// Whether the endpoint sits out.
    pub(super) fn is_ejected(&self, address: SocketAddr) -> bool {
        let detector = self.detector.as_ref();
        detector.is_some_and(|detector| detector.is_ejected(&address))
    }

    /// Envoy's `outlier_detection.…`.
    pub(super) fn statistics(&self) -> Vec<(String, u64)> {
        let Some(detector) = &self.detector else {
            return Vec::new();
        };
        let stats = detector.stats();
        let mut all = vec![
            ("ejections_active".to_owned(), detector.ejected() as u64),
            ("ejections_enforced_total".into(), stats.enforced_total()),
            ("ejections_overflow".into(), stats.overflow),
        ];
        for kind in Kind::ALL {
            let name = kind.name();
            all.push((format!("ejections_enforced_{name}"), stats.enforced(kind)));
            all.push((format!("ejections_detected_{name}"), stats.detected(kind)));
        }
        all.into_iter()
            .map(|(name, value)| (format!("outlier_detection.{name}"), value))
            .collect()
    }
}

impl State {
    /// Takes what became of a try at `host`, and acts on it.
    pub(in crate::dataplane) fn report(self: &Arc<Self>, host: &Host, outcome: Outcome) {
        let Some((monitor, settings)) = &host.monitor else {
            return;
        };
        if monitor.is_ejected() {
            return;
        }
        let found = monitor.record(settings, outcome);
        if found.is_empty() {
            return;
        }
        let mut health = self.health();
        let Some(detector) = &mut health.detector else {
            return;
        };
        let now = clock::now();
        let mut changed = false;
        for kind in found {
            match detector.detect(now, host.address, kind) {
                Some(change) => {
                    self.tell(change);
                    changed = true;
                }
                None => {
                    tracing::debug!(
                        cluster = %self.name, endpoint = %host.address, why = kind.name(),
                        "not ejected: maxEjectionPercent allows no more"
                    );
                }
            }
        }
        if !changed {
            return;
        }
        let cluster = Arc::clone(&self.members.load().cluster);
        self.renew(&health, &cluster);
        if !std::mem::replace(&mut health.watched, true) {
            spawn_local(watch(Arc::downgrade(self)));
        }
    }

    fn tell(&self, change: Change<SocketAddr>) {
        match change {
            Change::Eject(endpoint, kind) => tracing::warn!(
                client = %format_args!("{}/{}", self.client.namespace, self.client.name),
                cluster = %self.name, %endpoint, why = kind.name(), "endpoint ejected"
            ),
            Change::Restore(endpoint) => tracing::info!(
                client = %format_args!("{}/{}", self.client.namespace, self.client.name),
                cluster = %self.name, %endpoint, "endpoint back from its ejection"
            ),
        }
    }
}

/// Sweeps as long as there is something to wait for. Holds the state alive only while it sweeps.
async fn watch(state: Weak<State>) {
    loop {
        let deadline = {
            let Some(state) = state.upgrade() else {
                return;
            };
            let mut health = state.health();
            let Some(deadline) = health.detector.as_ref().and_then(Detector::next_deadline) else {
                health.watched = false;
                return;
            };
            deadline
        };
        tokio::time::sleep_until(deadline.into()).await;
        let Some(state) = state.upgrade() else {
            return;
        };
        let mut health = state.health();
        let Some(detector) = &mut health.detector else {
            continue;
        };
        let changes = detector.sweep(clock::now());
        if !changes.is_empty() {
            changes.into_iter().for_each(|change| state.tell(change));
            let cluster = Arc::clone(&state.members.load().cluster);
            state.renew(&health, &cluster);
        }
    }
}
