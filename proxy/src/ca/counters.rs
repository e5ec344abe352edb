//! What the server has done, as metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::Keeper;
use crate::proto::grpc::Code;
use crate::tls::Facts;

/// Counts calls and connections.
#[derive(Debug, Default)]
pub struct Counters {
    /// By code and reason.
    calls: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    /// Connections taken, those beyond a bound, and those whose handshake failed.
    pub(super) connections: AtomicU64,
    pub(super) crowded: AtomicU64,
    pub(super) handshakes: AtomicU64,
}

impl Counters {
    /// A call has ended.
    pub(super) fn call(&self, code: Code, reason: &'static str) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let count = calls.entry((code.name(), reason)).or_default();
        *count = count.saturating_add(1);
    }

    /// For Prometheus.
    pub fn text(&self, keeper: &Keeper) -> String {
        let mut text = String::from(
            "# HELP aquifer_ca_requests_total Certificates asked for, by gRPC code and reason.\n\
             # TYPE aquifer_ca_requests_total counter\n",
        );
        for ((code, reason), count) in &*self.calls.lock().unwrap_or_else(PoisonError::into_inner) {
            text.push_str(&format!(
                "aquifer_ca_requests_total{{code=\"{code}\",reason=\"{reason}\"}} {count}\n"
            ));
        }
        let mut one = |name: &str, kind: &str, help: &str, value: u64| {
            text.push_str(&format!(
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
            ));
        };
        for (name, help, value) in [
            (
                "aquifer_ca_connections_total",
                "Connections taken.",
                &self.connections,
            ),
            (
                "aquifer_ca_connections_refused_total",
                "Connections closed at once: too many from one address.",
                &self.crowded,
            ),
            (
                "aquifer_ca_handshakes_failed_total",
                "Connections without a TLS handshake in time.",
                &self.handshakes,
            ),
        ] {
            one(name, "counter", help, value.load(Relaxed));
        }
        one(
            "aquifer_ca_intermediate_expiry_timestamp_seconds",
            "gauge",
            "When what signs expires, should nothing replace it.",
            seconds(keeper.until()),
        );
        let ends = keeper
            .roots()
            .into_iter()
            .filter_map(|root| Facts::of(&root));
        if let Some(end) = ends.map(|root| root.not_after).min() {
            one(
                "aquifer_ca_root_expiry_timestamp_seconds",
                "gauge",
                "When the first of the roots expires.",
                seconds(end),
            );
        }
        text
    }
}

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
