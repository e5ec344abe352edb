//! What differs between two observations of one scenario, facet by facet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::{
    book::Seen,
    client::End,
    observe::{Observation, Observed, Reply, end, normal},
    scenario::{Scenario, Step},
};

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What differs: `status`, `flags`, `header NAME`, `request NAME`, `counter NAME`, …
    pub facet: String,
    /// What Envoy did.
    pub envoy: String,
    /// What aquifer did.
    pub aquifer: String,
}

/// One side: what was seen, and from where it was asked.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// What was seen.
    pub seen: &'a Observation,
    /// The client's address.
    pub client: Ipv4Addr,
}

/// Facets and their values; several values where there are several replies or attempts.
type Facets = BTreeMap<String, Vec<String>>;

/// The differences, one a facet: the first step that shows it.
pub fn differences(scenario: &Scenario, envoy: Sight<'_>, aquifer: Sight<'_>) -> Vec<Difference> {
    let mut found: Vec<Difference> = Vec::new();
    let mut add = |facet: &str, envoy: String, aquifer: String| {
        if envoy != aquifer && !found.iter().any(|one| one.facet == facet) {
            found.push(Difference {
                facet: facet.into(),
                envoy,
                aquifer,
            });
        }
    };
    let none = Observed::default();
    for (number, step) in scenario.steps.iter().enumerate() {
        let of =
            |side: Sight<'_>| -> Observed { side.seen.steps.get(number).unwrap_or(&none).clone() };
        let (ours, theirs) = (of(aquifer), of(envoy));
        if let Some(deviations) = scenario.compare.shares {
            shares(&theirs, &ours, deviations, &mut add);
            continue;
        }
        let theirs = facets(scenario, step, theirs, envoy.client);
        let ours = facets(scenario, step, ours, aquifer.client);
        let names: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
        for facet in names {
            let shown = |facets: &Facets| facets.get(facet).map_or("nothing".into(), |v| list(v));
            add(facet, shown(&theirs), shown(&ours));
        }
        if scenario.compare.time {
            let of = |side: Sight<'_>| -> Vec<f64> {
                let replies = side
                    .seen
                    .steps
                    .get(number)
                    .map_or(&[][..], |one| &one.replies);
                let took = replies
                    .iter()
                    .map(|one| one.outcome.took.as_secs_f64() * 1e3);
                // Of those that are under way at once, the last.
                if step.ask.at_once {
                    took.reduce(f64::max).into_iter().collect()
                } else {
                    took.collect()
                }
            };
            for (theirs, ours) in of(envoy).into_iter().zip(of(aquifer)) {
                // A machine that builds meanwhile is no reason to fail; a limit not kept is.
                if (theirs - ours).abs() > 120.0 + 0.25 * theirs.max(ours) {
                    add("time", format!("{theirs:.0} ms"), format!("{ours:.0} ms"));
                }
            }
        }
    }
    if scenario.compare.connections {
        let shown = |side: Sight<'_>| side.seen.connections.to_string();
        add("connections", shown(envoy), shown(aquifer));
    }
    for name in &scenario.counters {
        let value = |side: Sight<'_>| side.seen.counters.get(name).copied();
        let shown = |side| value(side).map_or("no such counter".into(), |value| value.to_string());
        add(&format!("counter {name}"), shown(envoy), shown(aquifer));
    }
    found
}

fn list(values: &[String]) -> String {
    let shown: Vec<_> = values
        .iter()
        .map(|one| if one.is_empty() { "-" } else { one })
        .collect();
    shown.join(" | ")
}

fn facets(scenario: &Scenario, step: &Step, seen: Observed, client: Ipv4Addr) -> Facets {
    let mut facets = Facets::new();
    let mut add = |facet: &str, value: &str| {
        facets
            .entry(facet.into())
            .or_default()
            .push(normal(value, client));
    };
    let mut replies = seen.replies;
    // Which endpoint an answer is from, and so what it says, may be left to chance.
    let sorted = step.ask.at_once || !scenario.compare.endpoint;
    if sorted {
        replies.sort_by(|a, b| rank(a).cmp(&rank(b)));
    }
    for reply in &replies {
        let outcome = &reply.outcome;
        add("status", &outcome.status.to_string());
        add("end", end(outcome.end));
        add("flags", reply.flags());
        // How much came of a long answer that broke off is left to chance.
        let long = outcome.body.len() > 400 && outcome.end != End::Whole;
        let body = if long {
            "a beginning".into()
        } else {
            shortened(&outcome.body)
        };
        let body = if scenario.compare.endpoint {
            body
        } else {
            anonymous(&body)
        };
        add("body", &body);
        if let Some(logged) = &reply.logged {
            add("details", &refusal(&logged.details));
            if !step.ask.at_once {
                add("cluster", &logged.cluster);
                add("route", &logged.route);
            }
        }
        if step.ask.at_once {
            continue;
        }
        for (name, values) in joined(&outcome.headers) {
            add(&format!("header {name}"), &masked(&name, &values));
        }
        for (name, values) in joined(&outcome.trailers) {
            add(&format!("trailer {name}"), &values);
        }
    }
    add("attempts", &seen.attempts.len().to_string());
    let hosts: BTreeSet<_> = seen.attempts.iter().map(|one| one.endpoint).collect();
    add("endpoints", &hosts.len().to_string());
    if step.ask.at_once {
        return facets;
    }
    let mut attempts = seen.attempts;
    if !scenario.compare.order {
        attempts.sort_by_key(|one| one.endpoint);
    }
    for attempt in &attempts {
        add(
            "request line",
            &format!("{} {} {}", attempt.method, attempt.path, attempt.version),
        );
        add("request body", &shortened(&attempt.body));
        add(
            "request complete",
            &format!("{}", attempt.complete && !attempt.given_up),
        );
        if scenario.compare.endpoint {
            add("endpoint", &attempt.endpoint.to_string());
        }
        for (name, values) in joined(&attempt.headers) {
            add(&format!("request {name}"), &masked(&name, &values));
        }
        for (name, values) in joined(&attempt.trailers) {
            add(&format!("request trailer {name}"), &values);
        }
    }
    facets
}

/// What an upstream of bytes says, without its number.
fn anonymous(body: &str) -> String {
    let number = body.strip_prefix("endpoint ");
    let rest = number.map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    rest.map_or_else(|| body.to_owned(), |rest| format!("endpoint{rest}"))
}

fn rank(reply: &Reply) -> (u16, &str, Vec<u8>) {
    (
        reply.outcome.status,
        reply.flags(),
        reply.outcome.body.clone(),
    )
}

/// Fields by name, all values of one joined in their order.
fn joined(fields: &[(String, String)]) -> BTreeMap<String, String> {
    let mut joined: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in fields {
        joined
            .entry(name.clone())
            .and_modify(|all| *all += &format!(" & {value}"))
            .or_insert_with(|| value.clone());
    }
    joined
}

/// A value without what no two answers have in common.
fn masked(name: &str, value: &str) -> String {
    match name {
        "date" => "<date>".into(),
        "x-envoy-upstream-service-time" => "<milliseconds>".into(),
        // What is left of a limit: to a tenth of a second.
        "x-envoy-expected-rq-timeout-ms" => {
            let tenths = value
                .parse::<u64>()
                .map(|millis| ((millis + 60) / 100).max(1));
            tenths.map_or(value.into(), |tenths| format!("{tenths}00"))
        }
        "cookie" | "set-cookie" => hashes(value),
        _ if name.starts_with("x-when") => value
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect(),
        _ => value.into(),
    }
}

/// Hides words of 16 hexadecimal digits: cookies that stand for a connection.
fn hashes(value: &str) -> String {
    let split = value.split_inclusive(|c: char| !c.is_ascii_hexdigit());
    let hidden = split.map(|part| {
        let word = part.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
        if word.len() == 16 {
            format!("<hash>{}", &part[16..])
        } else {
            part.to_owned()
        }
    });
    hidden.collect()
}

/// Hides the words that a library of TLS has for a failed handshake: whether a certificate was refused
/// counts, and whether for its names.
fn refusal(details: &str) -> String {
    let found = details.split_once("TLS_error:|");
    let parts = found.and_then(|(before, rest)| Some((before, rest.split_once(":TLS_error_end")?)));
    let Some((before, (reason, after))) = parts else {
        return details.to_owned();
    };
    let kind = match reason {
        _ if !reason.contains("CERTIFICATE_VERIFY_FAILED") => "handshake",
        _ if reason.contains("SAN") => "names",
        _ => "certificate",
    };
    format!("{before}TLS_error:<{kind}>{after}")
}

fn shortened(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    if text.len() > 400 {
        format!("{} bytes", text.len())
    } else {
        text.into_owned()
    }
}

/// Compares how often each thing happened on both sides.
fn shares(
    envoy: &Observed,
    aquifer: &Observed,
    deviations: f64,
    add: &mut impl FnMut(&str, String, String),
) {
    let answer = |one: &Reply| format!("{} {}", one.outcome.status, one.flags());
    let host = |one: &Seen| one.endpoint.to_string();
    for (facet, theirs, ours) in [
        (
            "share of answers",
            count(&envoy.replies, answer),
            count(&aquifer.replies, answer),
        ),
        (
            "share of endpoints",
            count(&envoy.attempts, host),
            count(&aquifer.attempts, host),
        ),
    ] {
        let keys: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
        let all = |map: &BTreeMap<String, usize>| map.values().sum::<usize>() as f64;
        let (n, m) = (all(&theirs), all(&ours));
        for key in keys {
            let of =
                |map: &BTreeMap<String, usize>| map.get(key).copied().unwrap_or_default() as f64;
            let (a, b) = (of(&theirs), of(&ours));
            // The deviation of a difference of two binomials with the same share.
            let share = (a + b) / (n + m);
            let deviation = (share * (1.0 - share) * (1.0 / n + 1.0 / m)).sqrt();
            if n == 0.0
                || m == 0.0
                || (a / n - b / m).abs() > deviations * deviation + 1.0 / n.min(m)
            {
                add(
                    facet,
                    format!("{key}: {a} of {n}"),
                    format!("{key}: {b} of {m}"),
                );
            }
        }
    }
}

fn count<T>(items: &[T], key: impl Fn(&T) -> String) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(key(item)).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_chance_decides_is_hidden() {
        assert_eq!(
            masked("set-cookie", "u=\"0123456789abcdef\"; Max-Age=5; abcdef"),
            "u=\"<hash>\"; Max-Age=5; abcdef"
        );
        assert_eq!(masked("x-envoy-expected-rq-timeout-ms", "499"), "500");
        assert_eq!(masked("x-when", "2026-01-02T"), "0000-00-00T");
        assert_eq!(masked("x-a", "1"), "1");
        for (details, expected) in [
            ("via_upstream", "via_upstream"),
            (
                "{a|TLS_error:|1:x:CERTIFICATE_VERIFY_FAILED:SAN_matcher:TLS_error_end}",
                "{a|TLS_error:<names>}",
            ),
            (
                "{a|TLS_error:|CERTIFICATE_VERIFY_FAILED:Expired:TLS_error_end}",
                "{a|TLS_error:<certificate>}",
            ),
            (
                "{a|TLS_error:|reset:TLS_error_end}",
                "{a|TLS_error:<handshake>}",
            ),
        ] {
            assert_eq!(refusal(details), expected);
        }
        assert_eq!(anonymous("endpoint 3\nhello 4\n"), "endpoint\nhello 4\n");
        assert_eq!(anonymous("ok"), "ok");
    }
}
