//! `loadBalancer`.

use std::collections::HashSet;

use http::HeaderName;

use crate::api::destination_rule::{ConsistentHash, Cookie, LoadBalancer, LocalityLb, Warmup};
use crate::api::duration;
use crate::types::Finding;

/// Maglev's largest table (Envoy); Istio refuses it, and what is larger.
const MAX_TABLE: u64 = 5_000_011;
/// The largest ring (Envoy).
const MAX_RING: u64 = 8 * 1024 * 1024;

impl LoadBalancer {
    pub(super) fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        let at = |name: &str| format!("{field}.{name}");
        if let Some(hash) = &self.consistent_hash {
            if self.simple.is_some() {
                findings.push(Finding::error(
                    at("consistentHash"),
                    "only one of simple and consistentHash may be given",
                ));
            }
            hash.validate(&at("consistentHash"), findings);
        }
        if let Some(locality) = &self.locality_lb_setting {
            locality.validate(&at("localityLbSetting"), findings);
        }
        if self.zone_aware_lb_setting.is_some() {
            let field = at("zoneAwareLbSetting");
            findings.push(if self.locality_lb_setting.is_some() {
                Finding::error(
                    field,
                    "only one of localityLbSetting and zoneAwareLbSetting may be given",
                )
            } else {
                Finding::warning(
                    field,
                    "is not supported (nor by Istio without sidecars) and has no effect; use localityLbSetting",
                )
            });
        }
        if self.warmup_duration_secs.is_some() {
            duration::check(
                self.warmup_duration_secs,
                &at("warmupDurationSecs"),
                findings,
            );
            findings.push(Finding::warning(
                at("warmupDurationSecs"),
                if self.warmup.is_some() {
                    "deprecated, and without effect beside warmup"
                } else {
                    "deprecated; use warmup: {duration: ...}"
                },
            ));
        }
        if let Some(warmup) = &self.warmup {
            warmup.validate(&at("warmup"), findings);
        }
    }
}

impl Warmup {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        if self.duration.is_none() {
            findings.push(Finding::error(
                format!("{field}.duration"),
                "a duration is required",
            ));
        }
        duration::check(self.duration, &format!("{field}.duration"), findings);
        if let Some(percent) = self.minimum_percent
            && !(0.0..=100.0).contains(&percent)
        {
            findings.push(Finding::error(
                format!("{field}.minimumPercent"),
                format!("{percent} is not a percentage from 0 to 100"),
            ));
        }
        if let Some(aggression) = self.aggression
            && !(aggression > 0.0 && aggression.is_finite())
        {
            findings.push(Finding::error(
                format!("{field}.aggression"),
                format!("{aggression} is not a number greater than 0"),
            ));
        }
    }
}

impl ConsistentHash {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        let at = |name: &str| format!("{field}.{name}");
        let keys = [
            self.http_header_name.is_some(),
            self.http_cookie.is_some(),
            self.use_source_ip.is_some(),
            self.http_query_parameter_name.is_some(),
        ];
        match keys.iter().filter(|given| **given).count() {
            0 => findings.push(Finding::error(
                field,
                "one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName is required",
            )),
            1 => {}
            _ => findings.push(Finding::error(
                field,
                "only one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName may be given",
            )),
        }
        if let Some(name) = &self.http_header_name
            && HeaderName::from_bytes(name.as_bytes()).is_err()
        {
            findings.push(Finding::error(
                at("httpHeaderName"),
                format!("{name:?} is not the name of a header"),
            ));
        }
        if self.http_query_parameter_name.as_deref() == Some("") {
            findings.push(Finding::error(
                at("httpQueryParameterName"),
                "a parameter needs a name",
            ));
        }
        if let Some(cookie) = &self.http_cookie {
            cookie.validate(&at("httpCookie"), findings);
        }
        if self.use_source_ip == Some(false) {
            findings.push(Finding::warning(
                at("useSourceIp"),
                "false asks for no key at all: each request goes to a random endpoint",
            ));
        }
        self.validate_algorithm(field, findings);
    }

    fn validate_algorithm(&self, field: &str, findings: &mut Vec<Finding>) {
        let at = |name: &str| format!("{field}.{name}");
        if self.ring_hash.is_some() && self.maglev.is_some() {
            findings.push(Finding::error(
                at("maglev"),
                "only one of ringHash and maglev may be given",
            ));
        }
        if self.minimum_ring_size.is_some() {
            findings.push(if self.ring_hash.is_some() || self.maglev.is_some() {
                Finding::error(
                    at("minimumRingSize"),
                    "can't be given together with ringHash or maglev",
                )
            } else {
                Finding::warning(
                    at("minimumRingSize"),
                    "deprecated; use ringHash: {minimumRingSize: ...}",
                )
            });
        }
        let sizes = [
            ("minimumRingSize", self.minimum_ring_size),
            (
                "ringHash.minimumRingSize",
                self.ring_hash.and_then(|one| one.minimum_ring_size),
            ),
        ];
        for (name, size) in sizes {
            if size.is_some_and(|size| size > MAX_RING) {
                findings.push(Finding::warning(
                    at(name),
                    format!("is more than the largest ring, {MAX_RING}, which is used instead"),
                ));
            }
        }
        if let Some(maglev) = self.maglev {
            let size = maglev.table_size.unwrap_or(0);
            if size == 0 || size >= MAX_TABLE || !is_prime(size) {
                findings.push(Finding::error(
                    at("maglev.tableSize"),
                    format!("{size} is not a prime number below {MAX_TABLE}, such as 65537"),
                ));
            }
        }
    }
}

/// By trial division; for numbers below [`MAX_TABLE`].
fn is_prime(number: u64) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

impl Cookie {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        if !is_token(&self.name) {
            findings.push(Finding::error(
                format!("{field}.name"),
                format!("{:?} is not the name of a cookie", self.name),
            ));
        }
        check_text(&self.path, &format!("{field}.path"), findings);
        let mut names = HashSet::new();
        for (index, one) in self.attributes.iter().enumerate() {
            let field = format!("{field}.attributes[{index}]");
            if one.name.is_empty() {
                findings.push(Finding::error(
                    format!("{field}.name"),
                    "an attribute needs a name",
                ));
            } else if !names.insert(&one.name) {
                findings.push(Finding::error(
                    format!("{field}.name"),
                    format!("{:?} is given twice", one.name),
                ));
            }
            check_text(&one.name, &format!("{field}.name"), findings);
            check_text(&one.value, &format!("{field}.value"), findings);
        }
    }
}

/// RFC 9110's token, which a cookie's name is (RFC 6265, section 4.1.1).
fn is_token(text: &str) -> bool {
    HeaderName::from_bytes(text.as_bytes()).is_ok()
}

/// What would end the cookie's attribute, or the header, early.
fn check_text(text: &str, field: &str, findings: &mut Vec<Finding>) {
    if text
        .bytes()
        .any(|byte| byte == b';' || !(0x20..0x7f).contains(&byte))
    {
        findings.push(Finding::error(
            field,
            format!("{text:?} can't be a part of a cookie"),
        ));
    }
}

impl LocalityLb {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        let fails_over = !self.failover.is_empty() || !self.failover_priority.is_empty();
        if !self.distribute.is_empty() && fails_over {
            findings.push(Finding::error(
                format!("{field}.distribute"),
                "can't be given together with failover or failoverPriority",
            ));
        }
        self.validate_distribute(field, findings);
        for (index, one) in self.failover.iter().enumerate() {
            let field = format!("{field}.failover[{index}]");
            for (name, region) in [("from", &one.from), ("to", &one.to)] {
                if region.is_empty() || region.contains(['/', '*']) {
                    findings.push(Finding::error(
                        format!("{field}.{name}"),
                        format!("{region:?} is not a region, without zones and wildcards"),
                    ));
                }
            }
            if one.from == one.to {
                findings.push(Finding::error(
                    format!("{field}.to"),
                    format!("{:?} can't fail over to itself", one.to),
                ));
            }
        }
        let mut labels = HashSet::new();
        for (index, text) in self.failover_priority.iter().enumerate() {
            let field = format!("{field}.failoverPriority[{index}]");
            let key = text.split('=').next().unwrap_or_default();
            if key.is_empty() {
                findings.push(Finding::error(field, "a label is required"));
                continue;
            }
            if !labels.insert(key) {
                findings.push(Finding::error(
                    field,
                    format!("the label {key} is given twice"),
                ));
            } else if !self.failover.is_empty() && TOPOLOGY.contains(&key) {
                findings.push(Finding::error(
                    field,
                    format!("{key} can't be given together with failover"),
                ));
            }
        }
    }

    fn validate_distribute(&self, field: &str, findings: &mut Vec<Finding>) {
        for (index, one) in self.distribute.iter().enumerate() {
            let field = format!("{field}.distribute[{index}]");
            check_locality(&one.from, &format!("{field}.from"), findings);
            let earlier = &self.distribute[..index];
            if let Some(other) = earlier.iter().find(|other| overlap(&other.from, &one.from)) {
                findings.push(Finding::error(
                    format!("{field}.from"),
                    format!("{:?} overlaps with {:?}", one.from, other.from),
                ));
            }
            let mut total: u64 = 0;
            for (locality, percent) in &one.to {
                let at = format!("{field}.to.{locality}");
                check_locality(locality, &at, findings);
                if *percent == 0 || *percent > 100 {
                    findings.push(Finding::error(
                        at,
                        format!("{percent} is not a share from 1 to 100"),
                    ));
                }
                total += u64::from(*percent);
            }
            if total != 100 {
                findings.push(Finding::error(
                    format!("{field}.to"),
                    format!("the shares add up to {total}, not to 100"),
                ));
            }
            let to: Vec<&String> = one.to.keys().collect();
            for (at, locality) in to.iter().enumerate() {
                if let Some(other) = to[..at].iter().find(|other| overlap(other, locality)) {
                    findings.push(Finding::error(
                        format!("{field}.to.{locality}"),
                        format!("{locality:?} overlaps with {other:?}"),
                    ));
                }
            }
        }
    }
}

/// Labels that name a place.
const TOPOLOGY: [&str; 3] = [
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
];

/// `region/zone/subzone` or fewer; a `*` only at the end.
fn check_locality(text: &str, field: &str, findings: &mut Vec<Finding>) {
    let parts: Vec<&str> = text.split('/').collect();
    let wildcard = parts.iter().position(|part| part.contains('*'));
    let valid = parts.len() <= 3
        && parts.iter().all(|part| !part.is_empty())
        && wildcard.is_none_or(|at| at + 1 == parts.len() && parts[at] == "*");
    if !valid {
        findings.push(Finding::error(
            field,
            format!(
                "{text:?} is not a locality such as region/zone/subzone, region/zone or region/*"
            ),
        ));
    }
}

/// Whether a locality may be of both (Istio's `validateLocalities`).
fn overlap(one: &str, other: &str) -> bool {
    let (one, other) = (
        one.split('/').collect::<Vec<_>>(),
        other.split('/').collect::<Vec<_>>(),
    );
    for (one, other) in one.iter().zip(&other) {
        if *one == "*" || *other == "*" {
            return true;
        }
        if one != other {
            return false;
        }
    }
    // One of them is the other, or holds it.
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localities_overlap_where_one_holds_the_other() {
        for (one, other, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a/b", "a/*", true),
            ("a/b/c", "a/*", true),
            ("a", "a/b", true),
            ("a/b", "a/c", false),
            ("*", "a/b", true),
            ("a/b/c", "a/b/d", false),
        ] {
            assert_eq!(overlap(one, other), expected, "{one} {other}");
            assert_eq!(overlap(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn primes_are_known() {
        for (number, expected) in [
            (0, false),
            (1, false),
            (2, true),
            (9, false),
            (65_537, true),
            (65_536, false),
            (4_999_999, true),
        ] {
            assert_eq!(is_prime(number), expected, "{number}");
        }
    }
}
