//! Counters of the data plane, one set a worker, added up when somebody asks.
//!
//! A worker is the only writer of its set, so a relaxed addition never contends.

use std::sync::atomic::{AtomicU64, Ordering};

/// Defines a set of counters, one field each, with its description as the documentation.
macro_rules! counters {
    (
        $(#[$attribute:meta])* $visibility:vis struct $Set:ident;
        $($(#[doc = $help:literal])+ $name:ident),+ $(,)?
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Default)]
        $visibility struct $Set {
            $($(#[doc = $help])+ $visibility $name: $crate::telemetry::counters::Counter,)+
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
    hbone_downstream_cx_refused,
    /// Open HBONE connections into local pods that were closed because their peer is no longer trusted.
    hbone_downstream_cx_untrusted,
    /// Connections asked for by HBONE into local pods.
    hbone_downstream_rq,
    /// Connections asked for by HBONE into local pods that were refused.
    hbone_downstream_rq_refused,
    /// Connections between local pods that went inside the process.
    downstream_cx_within,
    /// HBONE connections made to other workloads.
    hbone_upstream_cx,
    /// HBONE connections to other workloads that could not be made.
    hbone_upstream_cx_fail,
    /// Open HBONE connections to other workloads that were closed because their peer is no longer trusted.
    hbone_upstream_cx_untrusted,
    /// Connections asked for by HBONE of other workloads.
    hbone_upstream_rq,
    /// Connections asked for by HBONE of other workloads that came to nothing.
    hbone_upstream_rq_fail,
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

/// The sums over all workers in Prometheus' text format, names prefixed with `aquifer_`.
pub fn prometheus<'a>(workers: impl IntoIterator<Item = &'a Counters>) -> String {
    use std::fmt::Write as _;
    let mut sums: Vec<(&str, &str, u64)> = Counters::default().iter().collect();
    for worker in workers {
        for (sum, (_, _, value)) in sums.iter_mut().zip(worker.iter()) {
            sum.2 += value;
        }
    }
    let mut text = String::new();
    for (name, help, value) in sums {
        let _ = writeln!(
            text,
            "# HELP aquifer_{name}_total {help}\n# TYPE aquifer_{name}_total counter\naquifer_{name}_total {value}"
        );
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
}
