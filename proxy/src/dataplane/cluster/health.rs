//! Drives outlier detection for one client pod and cluster: outcomes in, ejections out, and a sweep
//! when one is due. What is decided is `policy::outlier`'s.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::sync::Notify;
use tokio::task::spawn_local;

use super::{Host, State};
use crate::clock;
use crate::mesh::Cluster;
use crate::policy::outlier::{Change, Detector, Kind, Monitor, Outcome};

/// Which endpoints sit out, where the cluster has outlier detection.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// For IPv4 and IPv6, which are balanced apart: a pod with two addresses counts once.
    detectors: [Option<Detector<SocketAddr>>; 2],
    /// Whether a task waits for the next sweep.
    watched: bool,
    /// Tells that task that a sweep may be due sooner than it was.
    sooner: Arc<Notify>,
}

impl Health {
    /// Takes the cluster's endpoints and settings. Other settings begin anew, as another cluster
    /// would in Envoy.
    pub(super) fn update(&mut self, cluster: &Cluster, now: Instant) {
        let Some(settings) = &cluster.policy.outlier else {
            self.detectors = [None, None];
            return;
        };
        let same = |detector: &Detector<_>| **detector.settings() == *settings;
        for (six, detector) in [false, true].into_iter().zip(&mut self.detectors) {
            if !detector.as_ref().is_some_and(same) {
                *detector = Some(Detector::new(Arc::new(settings.clone()), now));
            }
            if let Some(detector) = detector {
                let addresses = cluster.endpoints.iter().map(|endpoint| endpoint.address);
                detector.set_endpoints(addresses.filter(|address| address.is_ipv6() == six));
            }
        }
        self.sooner.notify_one();
    }

    fn detector(&self, address: SocketAddr) -> Option<&Detector<SocketAddr>> {
        self.detectors[usize::from(address.is_ipv6())].as_ref()
    }

    /// Where the outcomes of an endpoint are counted.
    pub(super) fn monitor(&self, address: SocketAddr) -> Option<Arc<Monitor>> {
        self.detector(address)?.monitor(&address)
    }

    /// Whether the endpoint sits out.
    pub(super) fn is_ejected(&self, address: SocketAddr) -> bool {
        let detector = self.detector(address);
        detector.is_some_and(|detector| detector.is_ejected(&address))
    }

    /// When an ejection may end.
    fn next_deadline(&self) -> Option<Instant> {
        let detectors = self.detectors.iter().flatten();
        detectors.filter_map(Detector::next_deadline).min()
    }

    /// Envoy's `outlier_detection.…`.
    pub(super) fn statistics(&self) -> Vec<(String, u64)> {
        if self.detectors.iter().all(Option::is_none) {
            return Vec::new();
        }
        let sum = |count: &dyn Fn(&Detector<SocketAddr>) -> u64| {
            self.detectors.iter().flatten().map(count).sum()
        };
        let mut all: Vec<(String, u64)> = vec![
            ("ejections_active".into(), sum(&|one| one.ejected() as u64)),
            (
                "ejections_enforced_total".into(),
                sum(&|one| one.stats().enforced_total()),
            ),
            (
                "ejections_overflow".into(),
                sum(&|one| one.stats().overflow),
            ),
        ];
        for kind in Kind::ALL {
            let name = kind.name();
            let (enforced, detected) = (
                sum(&|one| one.stats().enforced(kind)),
                sum(&|one| one.stats().detected(kind)),
            );
            all.push((format!("ejections_enforced_{name}"), enforced));
            all.push((format!("ejections_detected_{name}"), detected));
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
        let detector = &mut health.detectors[usize::from(host.address.is_ipv6())];
        let Some(detector) = detector else {
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
        if std::mem::replace(&mut health.watched, true) {
            // A first ejection is shorter than another's third.
            health.sooner.notify_one();
        } else {
            let sooner = Arc::clone(&health.sooner);
            spawn_local(watch(Arc::downgrade(self), sooner));
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
async fn watch(state: Weak<State>, sooner: Arc<Notify>) {
    loop {
        let deadline = {
            let Some(state) = state.upgrade() else {
                return;
            };
            let mut health = state.health();
            let Some(deadline) = health.next_deadline() else {
                health.watched = false;
                return;
            };
            deadline
        };
        tokio::select! {
            () = tokio::time::sleep_until(deadline.into()) => {}
            () = sooner.notified() => continue,
        }
        let Some(state) = state.upgrade() else {
            return;
        };
        let mut health = state.health();
        let now = clock::now();
        let mut changes = Vec::new();
        for detector in health.detectors.iter_mut().flatten() {
            changes.extend(detector.sweep(now));
        }
        if !changes.is_empty() {
            changes.into_iter().for_each(|change| state.tell(change));
            let cluster = Arc::clone(&state.members.load().cluster);
            state.renew(&health, &cluster);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mesh::cluster::Policy;
    use crate::mesh::{Endpoint, Workload};
    use crate::policy::outlier::Settings;
    use crate::types::Percent;

    fn cluster(base_ejection: Duration) -> Arc<Cluster> {
        let endpoints = (1..=2).map(|host| Endpoint::new(([10, 0, 0, host], 80).into()));
        Arc::new(Cluster {
            endpoints: endpoints.collect(),
            policy: Arc::new(Policy {
                outlier: Some(Settings {
                    consecutive_5xx: 1,
                    interval: Duration::from_millis(10),
                    base_ejection,
                    max_ejected: Percent::ALL,
                    ..Settings::default()
                }),
                ..Policy::default()
            }),
            ..Cluster::passthrough()
        })
    }

    fn client() -> Arc<Workload> {
        Arc::new(Workload {
            name: "client".into(),
            namespace: "default".into(),
            labels: Default::default(),
            service_account: "default".into(),
            addresses: Vec::new(),
            node: None,
            locality: Arc::default(),
            ended: false,
            host_network: false,
            enrolled: true,
            local: None,
        })
    }

    fn fail(state: &Arc<State>, index: usize) {
        let host = Arc::clone(&state.members.load().hosts[index]);
        state.report(&host, Outcome::Response(500));
    }

    async fn until_healthy(state: &State, count: usize) {
        let healthy = async {
            while state.members.load().membership().1 != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let healthy = tokio::time::timeout(Duration::from_secs(10), healthy).await;
        healthy.expect("an ejection that should have ended goes on");
    }

    #[tokio::test]
    async fn an_ejection_ends_in_time_whatever_else_is_waited_for() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let long = cluster(Duration::from_secs(3600));
                let state = State::new(&client(), &long);
                fail(&state, 0);
                assert_eq!(state.members.load().membership().1, 1);
                // The sweep that is waited for now comes in an hour.
                tokio::task::yield_now().await;
                state.update(&cluster(Duration::from_millis(20)));
                until_healthy(&state, 2).await;
                fail(&state, 1);
                assert_eq!(state.members.load().membership().1, 1);
                until_healthy(&state, 2).await;
            })
            .await;
    }
}
