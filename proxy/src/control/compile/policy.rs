//! A DestinationRule's `trafficPolicy` as it reads for one port and subset: Istio's precedence of
//! rule, port and subset, its defaults, and what a Service's traffic distribution adds.

mod blocks;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use self::blocks::{Blocks, blocks, port_of};
use crate::api::destination_rule::{
    ConsistentHash, H2Upgrade, HttpPool, LoadBalancer, LocalityLb, OutlierDetection, Simple,
    TcpPool, Tls, TrafficPolicy,
};
use crate::mesh::cluster::{Http, Http2Keepalive, Keepalive, Policy, Tcp};
use crate::policy::balance::Algorithm;
use crate::policy::circuit::{Budget, Limits};
use crate::policy::matcher::Field;
use crate::policy::{hash, locality, outlier, slow_start};
use crate::types::Percent;

/// As good as for ever, and yet no deadline overflows.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What a Service's traffic distribution asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distribution {
    /// `PreferSameZone`, or `PreferClose`.
    SameZone,
    /// `PreferSameNode`.
    SameNode,
}

impl Distribution {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "PreferClose" | "PreferSameZone" => Some(Self::SameZone),
            "PreferSameNode" => Some(Self::SameNode),
            _ => None,
        }
    }
}

/// The `tls` for `port` of a rule's policy and of a subset's own, where it has one.
pub(super) fn tls<'a>(
    rule: Option<&'a TrafficPolicy>,
    subset: Option<&'a TrafficPolicy>,
    port: u16,
) -> Option<&'a Tls> {
    blocks(rule, subset, port).tls
}

/// The policy for `port` of a rule's `policy` and of a subset's own, where it has one; without its
/// [`tls`].
pub(super) fn compile(
    rule: Option<&TrafficPolicy>,
    subset: Option<&TrafficPolicy>,
    port: u16,
    distribution: Option<Distribution>,
) -> Policy {
    let rule_port = port_of(rule, port);
    let subset_port = port_of(subset, port);
    let blocks = blocks(rule, subset, port);
    let balancer = algorithm(blocks.load_balancer);
    let mut policy = Policy {
        balancer,
        warmup: warmup(blocks.load_balancer, balancer),
        locality: locality(blocks, distribution),
        outlier: blocks.outlier.map(outlier),
        limits: limits(blocks),
        proxy_protocol: blocks.proxy_protocol.map(super::origination::greeting),
        tunnel: blocks.tunnel.map(super::origination::tunnel),
        ..Policy::default()
    };
    if balancer.is_hash() {
        let key = |one: Option<&'_ LoadBalancer>| key(one?.consistent_hash.as_ref()?);
        let own = key(subset_port.and_then(|one| one.load_balancer.as_ref()))
            .or_else(|| key(subset.and_then(|one| one.load_balancer.as_ref())));
        let whole = || key(rule.and_then(|one| one.load_balancer.as_ref()));
        let of_port = || key(rule_port.and_then(|one| one.load_balancer.as_ref()));
        let any = own.clone().or_else(whole);
        policy.hash = own.or_else(of_port).or_else(whole);
        policy.hash_of_any_port = (any != policy.hash).then_some(any);
    }
    if let Some(outlier) = blocks.outlier {
        policy.panic_threshold =
            Percent::new(outlier.min_health_percent.into()).unwrap_or(Percent::ZERO);
    }
    let tcp = blocks.pool.and_then(|pool| pool.tcp.as_ref());
    let http = blocks.pool.and_then(|pool| pool.http.as_ref());
    if let Some(given) = tcp {
        policy.tcp = self::tcp(given);
        // It is HTTP's too, where that has none of its own.
        if let Some(idle) = given.idle_timeout {
            policy.http.idle_timeout = if idle.is_zero() { FOR_EVER } else { idle };
        }
    }
    if let Some(given) = http {
        policy.http = self::http(given, policy.http.idle_timeout);
    }
    policy
}

fn algorithm(given: Option<&LoadBalancer>) -> Algorithm {
    let Some(given) = given else {
        return Algorithm::default();
    };
    if let Some(hash) = &given.consistent_hash {
        if let Some(maglev) = hash.maglev {
            let size = maglev.table_size.and_then(|size| u32::try_from(size).ok());
            return Algorithm::Maglev {
                size: size.unwrap_or(Algorithm::DEFAULT_TABLE),
            };
        }
        let ring = hash.ring_hash.and_then(|ring| ring.minimum_ring_size);
        let size = ring.or(hash.minimum_ring_size).filter(|size| *size > 0);
        return Algorithm::RingHash {
            min_size: size
                .unwrap_or(Algorithm::DEFAULT_RING)
                .min(Algorithm::MAX_RING),
        };
    }
    match given.simple.unwrap_or_default() {
        Simple::Unspecified | Simple::LeastConn | Simple::LeastRequest => Algorithm::LeastRequest,
        Simple::Random => Algorithm::Random,
        Simple::Passthrough => Algorithm::Passthrough,
        Simple::RoundRobin => Algorithm::RoundRobin,
    }
}

fn key(given: &ConsistentHash) -> Option<hash::Key> {
    if let Some(name) = &given.http_header_name {
        let field = Field::Header(HeaderName::from_bytes(name.as_bytes()).ok()?);
        return Some(hash::Key::Header(field));
    }
    if let Some(cookie) = &given.http_cookie {
        let attributes = cookie.attributes.iter();
        return Some(hash::Key::Cookie(hash::Cookie {
            name: cookie.name.as_str().into(),
            path: cookie.path.as_str().into(),
            ttl: cookie.ttl,
            attributes: attributes
                .map(|one| (one.name.as_str().into(), one.value.as_str().into()))
                .collect(),
        }));
    }
    if let Some(name) = &given.http_query_parameter_name {
        return Some(hash::Key::QueryParameter(name.as_str().into()));
    }
    given
        .use_source_ip
        .filter(|wanted| *wanted)
        .map(|_| hash::Key::SourceAddress)
}

fn warmup(given: Option<&LoadBalancer>, balancer: Algorithm) -> Option<slow_start::Settings> {
    let acts = matches!(balancer, Algorithm::LeastRequest | Algorithm::RoundRobin);
    let given = given.filter(|_| acts)?;
    let Some(warmup) = given.warmup else {
        return given.warmup_duration_secs.map(slow_start::Settings::over);
    };
    let default = slow_start::Settings::over(warmup.duration?);
    // In range, as validation has it: the cast cuts off a fraction of a percent.
    let minimum = warmup.minimum_percent.map(|percent| percent as i64);
    Some(slow_start::Settings {
        minimum: minimum.and_then(Percent::new).unwrap_or(default.minimum),
        aggression: warmup.aggression.unwrap_or(default.aggression),
        ..default
    })
}

/// The rule's own setting, or else the Service's traffic distribution, or else the mesh's default,
/// which is on. Failover acts where outliers are detected, or where it is the Service that asks.
fn locality(blocks: Blocks<'_>, distribution: Option<Distribution>) -> locality::Settings {
    let detects = blocks.outlier.is_some();
    let own = blocks
        .load_balancer
        .and_then(|one| one.locality_lb_setting.as_ref());
    if let Some(own) = own {
        return own_locality(own, detects);
    }
    let mut labels: Vec<&str> = Vec::new();
    if let Some(distribution) = distribution {
        labels.extend([
            "topology.kubernetes.io/region",
            "topology.kubernetes.io/zone",
            "topology.istio.io/subzone",
        ]);
        if distribution == Distribution::SameNode {
            labels.push("kubernetes.io/hostname");
        }
    } else if !detects {
        return locality::Settings::Ignore;
    }
    locality::Settings::Failover {
        labels: labels.into_iter().map(locality::Label::parse).collect(),
        regions: Vec::new(),
    }
}

fn own_locality(given: &LocalityLb, detects: bool) -> locality::Settings {
    if given.enabled == Some(false) {
        return locality::Settings::Ignore;
    }
    if !given.distribute.is_empty() {
        let entries = given.distribute.iter().map(|one| locality::Distribution {
            from: locality::Pattern::new(&one.from),
            to: one
                .to
                .iter()
                .map(|(to, percent)| (locality::Pattern::new(to), *percent))
                .collect(),
        });
        return locality::Settings::Distribute(entries.collect());
    }
    if !detects {
        return locality::Settings::Ignore;
    }
    let labels = given.failover_priority.iter();
    let regions = given.failover.iter().map(|one| locality::RegionFailover {
        from: one.from.as_str().into(),
        to: one.to.as_str().into(),
    });
    locality::Settings::Failover {
        labels: labels.map(|text| locality::Label::parse(text)).collect(),
        regions: regions.collect(),
    }
}

fn outlier(given: &OutlierDetection) -> outlier::Settings {
    let default = outlier::Settings::default();
    let codes = &given.outlier_detection_http_error_codes;
    let codes = codes.iter().filter_map(|code| u16::try_from(*code).ok());
    let share = Percent::new(given.max_ejection_percent.into());
    outlier::Settings {
        consecutive_5xx: given
            .consecutive_5xx_errors
            .unwrap_or(default.consecutive_5xx),
        consecutive_gateway: given.consecutive_gateway_errors.unwrap_or(0),
        consecutive_local_origin: given
            .consecutive_local_origin_failures
            .unwrap_or(default.consecutive_local_origin),
        split_local_origin: given.split_external_local_origin_errors,
        error_codes: Some(codes.collect())
            .filter(|codes: &std::collections::BTreeSet<u16>| !codes.is_empty()),
        interval: given.interval.unwrap_or(default.interval),
        base_ejection: given.base_ejection_time.unwrap_or(default.base_ejection),
        max_ejected: share
            .filter(|share| *share > Percent::ZERO)
            .unwrap_or(default.max_ejected),
    }
}

/// Zero is no limit; so is what is absent.
fn limit(given: i32) -> u32 {
    u32::try_from(given)
        .ok()
        .filter(|limit| *limit > 0)
        .unwrap_or(Limits::UNLIMITED)
}

fn limits(blocks: Blocks<'_>) -> Limits {
    let mut limits = Limits::default();
    if let Some(tcp) = blocks.pool.and_then(|pool| pool.tcp.as_ref()) {
        limits.max_connections = limit(tcp.max_connections);
    }
    if let Some(http) = blocks.pool.and_then(|pool| pool.http.as_ref()) {
        limits.max_pending = limit(http.http1_max_pending_requests);
        limits.max_requests = limit(http.http2_max_requests);
        limits.max_retries = limit(http.max_retries);
    }
    limits.retry_budget = blocks.budget.map(|budget| {
        let default = Budget::default();
        Budget {
            percent: budget.percent.unwrap_or(default.percent),
            min_concurrency: budget
                .min_retry_concurrency
                .filter(|least| *least > 0)
                .unwrap_or(default.min_concurrency),
            interval: budget.budget_interval.unwrap_or(default.interval),
        }
    });
    limits
}

fn tcp(given: &TcpPool) -> Tcp {
    let default = Tcp::default();
    Tcp {
        connect_timeout: given.connect_timeout.unwrap_or(default.connect_timeout),
        keepalive: given.tcp_keepalive.map(|given| Keepalive {
            probes: Some(given.probes).filter(|probes| *probes > 0),
            time: given.time,
            interval: given.interval,
        }),
        max_connection_duration: given.max_connection_duration,
        idle_timeout: match given.idle_timeout {
            None => default.idle_timeout,
            Some(idle) => Some(idle).filter(|idle| !idle.is_zero()),
        },
    }
}

fn http(given: &HttpPool, idle: Duration) -> Http {
    let number = |given: i32| u32::try_from(given).ok().and_then(NonZeroU32::new);
    let keepalive = given.http2_keep_alive.and_then(|one| {
        Some(Http2Keepalive {
            interval: one.interval?,
            timeout: one.timeout?,
        })
    });
    Http {
        idle_timeout: given.idle_timeout.unwrap_or(idle),
        max_requests_per_connection: number(given.max_requests_per_connection),
        max_concurrent_streams: number(given.max_concurrent_streams),
        upgrade: given.h2_upgrade_policy == H2Upgrade::Upgrade && !given.use_client_protocol,
        use_client_protocol: given.use_client_protocol,
        http2_keepalive: keepalive,
    }
}

/// The policy, or the one before where it says the same.
pub(super) fn keep(
    new: Policy,
    before: Option<&Arc<Policy>>,
    default: &Arc<Policy>,
) -> Arc<Policy> {
    if new == **default {
        return Arc::clone(default);
    }
    match before {
        Some(before) if **before == new => Arc::clone(before),
        _ => Arc::new(new),
    }
}

#[cfg(test)]
mod tests;
