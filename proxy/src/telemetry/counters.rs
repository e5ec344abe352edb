//! Counters of the data plane, one set a worker, added up when somebody asks.
//!
//! A worker is the only writer of its set, so a relaxed addition never contends.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::Reason;

/// Defines a set of counters, one field each, with its description as the documentation.
macro_rules! counters {
    (@kind) => { $crate::telemetry::counters::Counter };
    (@kind $Kind:ty) => { $Kind };
    (
        $(#[$attribute:meta])* $visibility:vis struct $Set:ident;
        $($(#[doc = $help:literal])+ $name:ident $(: $Kind:ty)?),+ $(,)?
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Default)]
        $visibility struct $Set {
            $(
                $(#[doc = $help])+
                $visibility $name: $crate::telemetry::counters::counters!(@kind $($Kind)?),
            )+
        }

        impl $Set {
            /// Every counter: its name, what it counts, its value.
            $visibility fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), concat!($($help),+).trim_ascii(), self.$name.value()),)+]
                    .into_iter()
            }
        }
    };
}

pub(crate) use counters;

counters! {
    /// One worker's counters.
    pub struct Counters;

    /// Connections taken over from local pods.
    downstream_cx_outbound,
    /// Connections taken over on their way into local pods.
    downstream_cx_inbound,
    /// Connections reset at once because the proxy had no descriptor left for them.
    downstream_cx_overflow,
    /// Connections reset because their original destination was not known.
    downstream_cx_no_origin,
    /// Connections that ended by a defect of the proxy (a panic); each is logged.
    downstream_cx_panicked,
    /// Connections into local pods that their policies allowed.
    rbac_allowed,
    /// Connections into local pods that their policies refused.
    rbac_denied,
    /// Open connections into local pods that were closed because their policies no longer allow them.
    rbac_revoked,
    /// Connections into local pods that AUDIT policies match.
    rbac_audited,
    /// Requests to local pods that AUDIT policies match.
    rbac_rq_audited,
    /// Requests to local pods that their policies allowed.
    rbac_rq_allowed,
    /// Requests to local pods that their policies refused.
    rbac_rq_denied,
    /// Requests to local pods that were broken off because their policies no longer allow them.
    rbac_rq_revoked,
    /// Requests to local pods that policies on trial would have allowed.
    rbac_rq_shadow_allowed,
    /// Requests to local pods that policies on trial would have refused.
    rbac_rq_shadow_denied,
    /// Requests to local pods that external authorizers allowed.
    ext_authz_ok,
    /// Requests to local pods that external authorizers denied.
    ext_authz_denied,
    /// Requests to local pods about which an external authorizer could not be asked.
    ext_authz_error,
    /// Those of them that were allowed for all that, as the provider's `failOpen` says.
    ext_authz_failure_mode_allowed,
    /// Connections into local pods that policies on trial would have allowed.
    rbac_shadow_allowed,
    /// Connections into local pods that policies on trial would have refused.
    rbac_shadow_denied,
    /// Requests to local pods whose tokens are valid.
    jwt_allowed,
    /// Requests to local pods that were refused for their tokens.
    jwt_denied,
    /// HBONE connections into local pods.
    hbone_downstream_cx,
    /// HBONE connections into local pods that came to nothing: no certificate, or a failed handshake.
    hbone_downstream_cx_refused: Reasons,
    /// Open HBONE connections into local pods that were closed because their peer is no longer trusted.
    hbone_downstream_cx_untrusted,
    /// Connections asked for by HBONE into local pods.
    hbone_downstream_rq,
    /// Connections asked for by HBONE into local pods that were refused.
    hbone_downstream_rq_refused: Reasons,
    /// Connections between local pods that went inside the process.
    downstream_cx_within,
    /// HBONE connections made to other workloads.
    hbone_upstream_cx,
    /// HBONE connections to other workloads that could not be made.
    hbone_upstream_cx_fail: Reasons,
    /// Open HBONE connections to other workloads that were closed because their peer is no longer trusted.
    hbone_upstream_cx_untrusted,
    /// Connections asked for by HBONE of other workloads.
    hbone_upstream_rq,
    /// Connections asked for by HBONE of other workloads that came to nothing.
    hbone_upstream_rq_fail: Reasons,
    /// Connections asked for by HBONE once more, because a shared connection turned out to be lost.
    hbone_upstream_rq_retry,
    /// Connections asked for by HBONE of other workloads that were not answered in time.
    hbone_upstream_rq_timeout,
    /// Requests that reached the HTTP engine on their way out of local pods.
    downstream_rq,
    /// Requests that reached the HTTP engine on their way into local pods.
    inbound_rq,
    /// Requests that could not be read as HTTP.
    downstream_rq_malformed,
    /// Connections made to upstreams.
    upstream_cx,
    /// Connections to upstreams that failed.
    upstream_cx_connect_fail,
    /// TLS begun with upstreams, as DestinationRules ask for it.
    upstream_cx_tls,
    /// TLS with upstreams that came to nothing.
    upstream_cx_tls_fail,
    /// Open connections by TLS to upstreams that were closed because nobody who is trusted vouches for
    /// the server any more.
    upstream_cx_tls_untrusted,
    /// Requests sent again because a reused connection turned out to be closed.
    upstream_rq_stale_retry,
    /// Requests delayed by a fault.
    fault_delays_injected,
    /// Requests aborted by a fault.
    fault_aborts_injected,
    /// Requests from an origin that a rule's CORS policy allows.
    cors_origin_valid,
    /// Requests from an origin that a rule's CORS policy does not allow.
    cors_origin_invalid,
    /// Copies of requests sent to mirrors.
    mirrored_rq,
    /// Copies of requests not sent, because too many were under way or the body was too large.
    mirrored_rq_dropped,
    /// Responses that the proxy made itself.
    local_replies,
    /// Access log lines dropped because nobody read them fast enough.
    access_log_dropped,
}

/// One number that only goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Its value now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One number for each reason, that only goes up.
#[derive(Debug)]
pub struct Reasons([Counter; Reason::ALL.len()]);

impl Default for Reasons {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Reasons {
    /// Adds one.
    pub fn increment(&self, reason: Reason) {
        self.of(reason).increment();
    }

    /// All of them together.
    pub fn value(&self) -> u64 {
        self.0.iter().map(Counter::value).sum()
    }

    fn of(&self, reason: Reason) -> &Counter {
        &self.0[reason as usize]
    }
}

/// A counter that has reasons, and whether one of them can be its.
type ByReason = (&'static str, fn(Reason) -> bool, fn(&Counters) -> &Reasons);

/// The counters that have reasons.
const BY_REASON: [ByReason; 4] = [
    (
        "hbone_downstream_cx_refused",
        Reason::is_of_connections,
        |of| &of.hbone_downstream_cx_refused,
    ),
    (
        "hbone_downstream_rq_refused",
        Reason::is_of_answering,
        |of| &of.hbone_downstream_rq_refused,
    ),
    ("hbone_upstream_cx_fail", Reason::is_of_connections, |of| {
        &of.hbone_upstream_cx_fail
    }),
    ("hbone_upstream_rq_fail", Reason::is_of_asking, |of| {
        &of.hbone_upstream_rq_fail
    }),
];

/// The sums over all workers in Prometheus' text format, names prefixed with `aquifer_`.
pub fn prometheus<'a>(workers: impl IntoIterator<Item = &'a Counters>) -> String {
    use std::fmt::Write as _;
    let workers: Vec<&Counters> = workers.into_iter().collect();
    let mut sums: Vec<(&str, &str, u64)> = Counters::default().iter().collect();
    for worker in &workers {
        for (sum, (_, _, value)) in sums.iter_mut().zip(worker.iter()) {
            sum.2 += value;
        }
    }
    let mut text = String::new();
    for (name, help, value) in sums {
        let _ = writeln!(
            text,
            "# HELP aquifer_{name}_total {help}\n# TYPE aquifer_{name}_total counter"
        );
        let Some((_, can_be, of)) = BY_REASON.iter().find(|one| one.0 == name) else {
            let _ = writeln!(text, "aquifer_{name}_total {value}");
            continue;
        };
        for reason in Reason::ALL {
            let value: u64 = workers.iter().map(|one| of(one).of(reason).value()).sum();
            if value > 0 || can_be(reason) {
                let word = reason.word();
                let _ = writeln!(text, "aquifer_{name}_total{{reason=\"{word}\"}} {value}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_add_up() {
        let (one, two) = (Counters::default(), Counters::default());
        one.downstream_rq.add(3);
        two.downstream_rq.increment();
        let text = prometheus([&one, &two]);
        assert!(text.contains("\naquifer_downstream_rq_total 4\n"), "{text}");
        assert!(
            text.contains("# HELP aquifer_downstream_rq_total Requests that reached"),
            "{text}"
        );
    }

    #[test]
    fn reasons_are_told_apart_those_too_that_were_none_yet() {
        let (one, two) = (Counters::default(), Counters::default());
        one.hbone_upstream_cx_fail.increment(Reason::Expired);
        two.hbone_upstream_cx_fail.increment(Reason::Expired);
        two.hbone_upstream_cx_fail.increment(Reason::Late);
        // It can't be: and would be told all the same.
        two.hbone_upstream_cx_fail.increment(Reason::OwnPort);
        let text = prometheus([&one, &two]);
        let name = "aquifer_hbone_upstream_cx_fail_total";
        for (reason, value) in [
            ("expired", Some(2)),
            ("late", Some(1)),
            ("lost", Some(0)),
            ("own_port", Some(1)),
            ("name", None),
        ] {
            let line = format!("\n{name}{{reason=\"{reason}\"}} ");
            let found = text.split_once(&line).map(|(_, rest)| rest);
            let found = found.and_then(|rest| rest.lines().next()?.parse().ok());
            assert_eq!(found, value, "{reason}: {text}");
        }
        assert!(!text.contains(&format!("\n{name} ")), "{text}");
        let sum = one.hbone_upstream_cx_fail.value() + two.hbone_upstream_cx_fail.value();
        assert_eq!(sum, 4);
        let told = |name| Counters::default().iter().any(|one| one.0 == name);
        assert!(BY_REASON.iter().all(|one| told(one.0)));
    }
}
