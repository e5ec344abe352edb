//! Host names and visibility lists, as Istio's resources write them.

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

/// Whether one of the names covers the other.
pub(super) fn overlap(one: &str, other: &str) -> bool {
    let covers = |wide: &str, narrow: &str| {
        wide == "*"
            || wide
                .strip_prefix('*')
                .is_some_and(|suffix| narrow.trim_start_matches('*').ends_with(suffix))
    };
    one.eq_ignore_ascii_case(other) || covers(one, other) || covers(other, one)
}

/// `exportTo`: `.`, `*`, `~` alone, or namespaces.
pub(super) fn check_export_to(export_to: &[String], findings: &mut Vec<Finding>) {
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
        if export_to.iter().take(index).any(|before| before == one) {
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
        for (one, other, expected) in [
            ("a.com", "a.com", true),
            ("a.com", "A.com", true),
            ("a.com", "b.com", false),
            ("*", "a.com", true),
            ("*.com", "a.com", true),
            ("*.com", "*.a.com", true),
            ("*.a.com", "a.com", false),
            ("*.a.com", "*.b.com", false),
        ] {
            assert_eq!(overlap(one, other), expected, "{one} {other}");
            assert_eq!(overlap(other, one), expected, "{other} {one}");
        }
    }
}
