//! `connectionPool`, `outlierDetection` and `retryBudget`.

use crate::api::destination_rule::{
    ConnectionPool, H2Upgrade, HttpPool, OutlierDetection, RetryBudget, TcpKeepalive, TcpPool,
};
use crate::api::duration;
use crate::types::Finding;

/// Envoy's largest `max_requests_per_connection`.
const MAX_REQUESTS: i32 = 1 << 29;

impl ConnectionPool {
    pub(super) fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        if self.tcp.is_none() && self.http.is_none() {
            findings.push(Finding::error(field, "tcp or http is required"));
        }
        if let Some(tcp) = &self.tcp {
            tcp.validate(&format!("{field}.tcp"), findings);
        }
        if let Some(http) = &self.http {
            http.validate(&format!("{field}.http"), findings);
        }
    }
}

/// Linux takes no more probes, and no longer waits in seconds.
const MOST_PROBES: u32 = 127;
const MOST_SECONDS: u64 = 32_767;

fn check_keepalive(given: &TcpKeepalive, field: &str, findings: &mut Vec<Finding>) {
    if given.probes > MOST_PROBES {
        findings.push(Finding::warning(
            format!("{field}.probes"),
            format!("is more than the kernel's largest, {MOST_PROBES}, which is used instead"),
        ));
    }
    for (name, value) in [("time", given.time), ("interval", given.interval)] {
        if value.is_some_and(|value| value.as_secs() > MOST_SECONDS) {
            findings.push(Finding::warning(
                format!("{field}.{name}"),
                format!(
                    "is more than the kernel's longest, {MOST_SECONDS}s, which is used instead"
                ),
            ));
        }
    }
}

fn check_limit(value: i32, field: &str, findings: &mut Vec<Finding>) {
    if value < 0 {
        findings.push(Finding::error(
            field,
            format!("{value} is negative; leave the field out for no limit"),
        ));
    }
}

impl TcpPool {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        let at = |name: &str| format!("{field}.{name}");
        check_limit(self.max_connections, &at("maxConnections"), findings);
        duration::check(self.connect_timeout, &at("connectTimeout"), findings);
        duration::check(
            self.max_connection_duration,
            &at("maxConnectionDuration"),
            findings,
        );
        duration::check_or_zero(self.idle_timeout, &at("idleTimeout"), findings);
        if let Some(keepalive) = &self.tcp_keepalive {
            duration::check(keepalive.time, &at("tcpKeepalive.time"), findings);
            duration::check(keepalive.interval, &at("tcpKeepalive.interval"), findings);
            check_keepalive(keepalive, &at("tcpKeepalive"), findings);
        }
    }
}

impl HttpPool {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        let at = |name: &str| format!("{field}.{name}");
        for (name, value) in [
            ("http1MaxPendingRequests", self.http1_max_pending_requests),
            ("http2MaxRequests", self.http2_max_requests),
            ("maxRequestsPerConnection", self.max_requests_per_connection),
            ("maxRetries", self.max_retries),
            ("maxConcurrentStreams", self.max_concurrent_streams),
        ] {
            check_limit(value, &at(name), findings);
        }
        if self.max_requests_per_connection > MAX_REQUESTS {
            findings.push(Finding::error(
                at("maxRequestsPerConnection"),
                format!(
                    "{} is more than {MAX_REQUESTS}; leave the field out for no limit",
                    self.max_requests_per_connection
                ),
            ));
        }
        duration::check(self.idle_timeout, &at("idleTimeout"), findings);
        if self.use_client_protocol && self.h2_upgrade_policy == H2Upgrade::Upgrade {
            findings.push(Finding::error(
                at("h2UpgradePolicy"),
                "UPGRADE can't be given together with useClientProtocol",
            ));
        }
        if let Some(keepalive) = &self.http2_keep_alive {
            for (name, value) in [
                ("interval", keepalive.interval),
                ("timeout", keepalive.timeout),
            ] {
                let field = at(&format!("http2KeepAlive.{name}"));
                if value.is_none() {
                    findings.push(Finding::error(&*field, "a duration is required"));
                }
                duration::check(value, &field, findings);
            }
        }
    }
}

impl OutlierDetection {
    pub(super) fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        let at = |name: &str| format!("{field}.{name}");
        if self.consecutive_errors.is_some() {
            findings.push(Finding::warning(
                at("consecutiveErrors"),
                "deprecated, and has no effect (nor in Istio): consecutive5xxErrors counts, 5 where it is absent",
            ));
        }
        duration::check(self.interval, &at("interval"), findings);
        duration::check(self.base_ejection_time, &at("baseEjectionTime"), findings);
        for (name, value) in [
            ("maxEjectionPercent", self.max_ejection_percent),
            ("minHealthPercent", self.min_health_percent),
        ] {
            if !(0..=100).contains(&value) {
                findings.push(Finding::error(
                    at(name),
                    format!("{value} is not a percentage from 0 to 100"),
                ));
            }
        }
        let apart = self.split_external_local_origin_errors;
        if !apart
            && self
                .consecutive_local_origin_failures
                .is_some_and(|count| count > 0)
        {
            findings.push(Finding::error(
                at("consecutiveLocalOriginFailures"),
                "needs splitExternalLocalOriginErrors: true",
            ));
        }
        for (index, code) in self.outlier_detection_http_error_codes.iter().enumerate() {
            if !(100..=599).contains(code) {
                findings.push(Finding::error(
                    at(&format!("outlierDetectionHttpErrorCodes[{index}]")),
                    format!("{code} is not a status from 100 to 599"),
                ));
            }
        }
    }
}

impl RetryBudget {
    pub(super) fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        if let Some(percent) = self.percent
            && !(0.0..=100.0).contains(&percent)
        {
            findings.push(Finding::error(
                format!("{field}.percent"),
                format!("{percent} is not a percentage from 0 to 100"),
            ));
        }
        duration::check_or_zero(
            self.budget_interval,
            &format!("{field}.budgetInterval"),
            findings,
        );
    }
}
