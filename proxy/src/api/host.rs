//! Host names and visibility lists, as Istio's resources write them.

use std::collections::{HashMap, HashSet};

use crate::types::Finding;

/// Whether `label` is a DNS-1123 label.
pub(super) fn is_label(label: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    label.len() <= 63
        && edge(label.as_bytes().first())
        && edge(label.as_bytes().last())
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// A name, `*`, `*.suffix`, or an IP address.
pub(super) fn check_host(host: &str, field: &str, findings: &mut Vec<Finding>) {
    if host.is_empty() {
        findings.push(Finding::error(field, "a host is required"));
        return;
    }
    let name = host.strip_prefix("*.").unwrap_or(host);
    let name = name.strip_suffix('.').unwrap_or(name);
    let valid = host == "*"
        || host.parse::<std::net::IpAddr>().is_ok()
        || (name.len() <= 253 && name.split('.').all(is_label));
    if !valid {
        findings.push(Finding::error(
            field,
            format!(
                "{host:?} is not a host name (a name, a name after \"*.\", \"*\" or an IP address)"
            ),
        ));
    }
}

/// Each name that another one given before or after it covers, with that other: by index. Time
/// grows with the number of names, not with its square.
pub(super) fn overlaps(hosts: &[String]) -> Vec<(usize, usize)> {
    let names: Vec<String> = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
    let mut first: HashMap<&str, usize> = HashMap::new();
    for (index, name) in names.iter().enumerate() {
        first.entry(name).or_insert(index);
    }
    let has_wildcards = names.iter().any(|name| name.starts_with('*'));
    let mut overlaps = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let same = first.get(name.as_str()).filter(|other| **other < index);
        // `*.b.c` is covered by `*.c`, and `a.b.c` by both, as by `*`.
        let rest = name.strip_prefix("*.").map_or(0, |_| 2);
        let mut wider = name
            .match_indices('.')
            .filter(|(at, _)| has_wildcards && *at >= rest)
            .filter_map(|(at, _)| first.get(format!("*{}", &name[at..]).as_str()))
            .chain(first.get("*").filter(|_| name != "*"));
        if let Some(other) = same.or_else(|| wider.next()) {
            overlaps.push((index, *other));
        }
    }
    overlaps
}

/// `exportTo`: `.`, `*`, `~` alone, or namespaces.
pub(super) fn check_export_to(export_to: &[String], findings: &mut Vec<Finding>) {
    let mut seen = HashSet::new();
    for (index, one) in export_to.iter().enumerate() {
        let field = format!("spec.exportTo[{index}]");
        match one.as_str() {
            "." | "*" => {}
            "~" if export_to.len() == 1 => {}
            "~" => findings.push(Finding::error(field, "\"~\" (nobody) must stand alone")),
            name if is_label(name) => {}
            name => findings.push(Finding::error(
                field,
                format!("{name:?} is not a namespace, \".\", \"*\" or \"~\""),
            )),
        }
        if !seen.insert(one) {
            findings.push(Finding::error(
                format!("spec.exportTo[{index}]"),
                format!("{one:?} is given twice"),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names() {
        for (host, valid) in [
            ("web", true),
            ("web.shop.svc.cluster.local", true),
            ("web.shop.svc.cluster.local.", true),
            ("*", true),
            ("*.example.com", true),
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("Web", true),
            ("", false),
            ("web:80", false),
            ("web..shop", false),
            ("-web", false),
            ("a*b", false),
            ("web shop", false),
            ("*.*.com", false),
        ] {
            let mut findings = Vec::new();
            check_host(host, "host", &mut findings);
            assert_eq!(findings.is_empty(), valid, "{host}: {findings:?}");
        }
    }

    #[test]
    fn names_overlap() {
        for (hosts, expected) in [
            ("a.com b.com", ""),
            ("a.com a.com", "1-0"),
            ("a.com A.com", "1-0"),
            ("* a.com", "1-0"),
            ("a.com *", "0-1"),
            ("*.com a.com b.org", "1-0"),
            ("a.com *.com", "0-1"),
            ("*.com *.a.com", "1-0"),
            ("*.a.com a.com", ""),
            ("*.a.com *.b.com", ""),
            ("*.com com", ""),
        ] {
            let hosts: Vec<String> = hosts.split(' ').map(str::to_owned).collect();
            let found: Vec<String> = overlaps(&hosts)
                .iter()
                .map(|(one, other)| format!("{one}-{other}"))
                .collect();
            assert_eq!(found.join(" "), expected, "{hosts:?}");
        }
    }
}
