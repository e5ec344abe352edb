//! Endpoints by locality: the priorities of failover, the weights of distribution
//! (`loadbalancer.go`).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Endpoint, items, members, text};
use crate::differential::CLIENT_LOCALITY;

/// Whether a cluster weighs its localities.
pub(super) fn weighs(balancer: &Value, detects: bool) -> bool {
    let setting = &balancer["localityLbSetting"];
    let fails_over = !setting["failover"].is_null() || !setting["failoverPriority"].is_null();
    (detects && fails_over) || !setting["distribute"].is_null()
}

/// The endpoints of a load assignment.
pub(super) fn groups(endpoints: &[&Endpoint], balancer: &Value, detects: bool) -> Value {
    let setting = &balancer["localityLbSetting"];
    let mut localities: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for endpoint in endpoints {
        let address = endpoint.address;
        let health = if endpoint.ready {
            "HEALTHY"
        } else {
            "UNHEALTHY"
        };
        localities
            .entry(endpoint.locality.unwrap_or_default())
            .or_default()
            .push(json!({
                "endpoint": {"address": {"socket_address": {
                    "address": address.ip(), "port_value": address.port(),
                }}},
                "health_status": health,
            }));
    }
    let shares =
        items(&setting["distribute"]).find(|one| covers(text(&one["from"]), CLIENT_LOCALITY));
    let enabled = setting["enabled"] != false;
    let mut groups: Vec<Value> = Vec::new();
    for (locality, list) in localities {
        let (region, zone) = locality.split_once('/').unwrap_or((locality, ""));
        let mut group = json!({
            "locality": {"region": region, "zone": zone},
            "load_balancing_weight": list.len(),
            "priority": 0,
            "lb_endpoints": list,
        });
        if let Some(shares) = shares.filter(|_| enabled) {
            let share = members(&shares["to"]).find(|(to, _)| covers(to, locality));
            let Some((_, percent)) = share else { continue };
            group["load_balancing_weight"] = percent.clone();
        } else if detects && enabled {
            group["priority"] = priority(locality, setting).into();
        }
        groups.push(group);
    }
    compact(&mut groups);
    groups.into()
}

/// How many of the labels of `failoverPriority`, from the first one on, differ from the client's.
fn by_labels(locality: &str, labels: &[&Value]) -> u64 {
    let of = |locality: &str, label: &Value| {
        let (region, zone) = locality.split_once('/')?;
        match text(label) {
            "topology.kubernetes.io/region" => Some(region.to_owned()),
            "topology.kubernetes.io/zone" => Some(zone.to_owned()),
            _ => None,
        }
    };
    let same = |label: &&&Value| of(locality, label) == of(CLIENT_LOCALITY, label);
    (labels.len() - labels.iter().take_while(same).count()) as u64
}

/// How far `locality` is from the client: 0 for its own.
fn priority(locality: &str, setting: &Value) -> u64 {
    let labels: Vec<_> = items(&setting["failoverPriority"]).collect();
    if !labels.is_empty() {
        return by_labels(locality, &labels);
    }
    let (client, other) = (CLIENT_LOCALITY.split_once('/'), locality.split_once('/'));
    let (Some(client), Some(other)) = (client, other) else {
        return 3;
    };
    if client == other {
        return 0;
    }
    if client.0 == other.0 {
        return 2;
    }
    let failover = items(&setting["failover"]).find(|one| one["from"] == client.0);
    match failover {
        Some(failover) if failover["to"] != other.0 => 4,
        _ => 3,
    }
}

/// Priorities without gaps, from 0.
fn compact(groups: &mut [Value]) {
    let mut used: Vec<_> = groups
        .iter()
        .filter_map(|one| one["priority"].as_u64())
        .collect();
    used.sort_unstable();
    used.dedup();
    for group in groups {
        let place = used.iter().position(|one| group["priority"] == *one);
        group["priority"] = json!(place);
    }
}

/// Whether a pattern such as `r1/*` covers a locality.
fn covers(pattern: &str, locality: &str) -> bool {
    let mut parts = locality.split('/');
    pattern
        .split('/')
        .all(|part| part == "*" || parts.next() == Some(part))
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn patterns_cover_localities() {
        for (pattern, covered) in [
            ("*", true),
            ("r1/*", true),
            ("r1/z1/*", true),
            ("r1/z2", false),
        ] {
            assert_eq!(covers(pattern, "r1/z1"), covered, "{pattern}");
        }
    }
}
