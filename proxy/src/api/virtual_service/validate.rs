//! What can be wrong with a VirtualService by itself (Istio's validation, as far as the fields are
//! read). Regular expressions are judged where they are compiled.

use http::HeaderName;

use super::{HttpMatch, HttpRoute, HttpRouteDestination, StringMatch, VirtualService};
use crate::api::NOT_YET;
use crate::api::host::{check_export_to, check_host, overlaps};
use crate::types::Finding;

/// Keys that Istio ignores in `headers`: there are fields for them.
const RESERVED: [&str; 4] = ["uri", "scheme", "method", "authority"];

impl VirtualService {
    pub(in crate::api) fn validate(&self, findings: &mut Vec<Finding>) {
        let spec = &self.spec;
        check_export_to(&spec.export_to, findings);
        self.validate_hosts(findings);
        for (field, value) in [("spec.tcp", &spec.tcp), ("spec.tls", &spec.tls)] {
            if value.is_some() {
                findings.push(Finding::warning(field, NOT_YET));
            }
        }
        if spec.http.is_empty() && spec.tcp.is_none() && spec.tls.is_none() {
            findings.push(Finding::error(
                "spec",
                "no routes: http, tcp or tls is required",
            ));
        }
        for (index, rule) in spec.http.iter().enumerate() {
            rule.validate(&format!("spec.http[{index}]"), &spec.gateways, findings);
        }
    }

    fn validate_hosts(&self, findings: &mut Vec<Finding>) {
        let spec = &self.spec;
        if spec.hosts.is_empty() {
            findings.push(Finding::error(
                "spec.hosts",
                "at least one host is required",
            ));
        }
        for (index, host) in spec.hosts.iter().enumerate() {
            let field = format!("spec.hosts[{index}]");
            if host == "*" && spec.is_for_mesh() {
                findings.push(Finding::error(
                    field,
                    "\"*\" can't be used for mesh traffic; name the hosts or a domain",
                ));
                continue;
            }
            check_host(host, &field, findings);
        }
        for (index, other) in overlaps(&spec.hosts) {
            let message = format!(
                "{:?} overlaps with {:?}",
                spec.hosts[index], spec.hosts[other]
            );
            findings.push(Finding::error(format!("spec.hosts[{index}]"), message));
        }
    }
}

impl HttpRoute {
    /// Why there is nothing to be done by this rule yet, where it asks for what is not implemented.
    pub fn unimplemented(&self) -> Option<&'static str> {
        if self.redirect.is_some() {
            Some("redirect")
        } else if self.direct_response.is_some() {
            Some("directResponse")
        } else if self.delegate.is_some() {
            Some("delegate")
        } else {
            None
        }
    }

    fn validate(&self, field: &str, gateways: &[String], findings: &mut Vec<Finding>) {
        match self.unimplemented() {
            Some(action) if !self.route.is_empty() => findings.push(Finding::error(
                format!("{field}.{action}"),
                format!("a rule can't have both {action} and route"),
            )),
            Some(action) => findings.push(Finding::warning(
                format!("{field}.{action}"),
                format!("{NOT_YET}; this rule is left out"),
            )),
            None if self.route.is_empty() => findings.push(Finding::error(
                format!("{field}.route"),
                "the rule has no destination",
            )),
            None => check_route(&self.route, field, findings),
        }
        for (index, block) in self.matches.iter().enumerate() {
            block.validate(&format!("{field}.match[{index}]"), gateways, findings);
        }
    }
}

fn check_route(route: &[HttpRouteDestination], field: &str, findings: &mut Vec<Finding>) {
    let mut total = 0;
    for (index, one) in route.iter().enumerate() {
        let field = format!("{field}.route[{index}]");
        if one.weight < 0 {
            findings.push(Finding::error(
                format!("{field}.weight"),
                format!("{} is negative; weights start at 0", one.weight),
            ));
        }
        total += i64::from(one.weight.max(0));
        match &one.destination {
            None => findings.push(Finding::error(
                format!("{field}.destination"),
                "a destination is required",
            )),
            Some(destination) => {
                let at = format!("{field}.destination.host");
                if destination.host.starts_with('*') {
                    findings.push(Finding::error(at, "a destination can't be a wildcard"));
                } else {
                    check_host(&destination.host, &at, findings);
                }
                if destination
                    .port
                    .as_ref()
                    .is_some_and(|port| port.number == 0)
                {
                    findings.push(Finding::error(
                        format!("{field}.destination.port.number"),
                        "a port is a number from 1 to 65535",
                    ));
                }
            }
        }
    }
    if route.len() > 1 && total == 0 {
        findings.push(Finding::error(
            format!("{field}.route"),
            "the weights of several destinations must add up to more than 0",
        ));
    }
}

impl HttpMatch {
    fn validate(&self, field: &str, gateways: &[String], findings: &mut Vec<Finding>) {
        for name in self.unimplemented() {
            findings.push(Finding::warning(
                format!("{field}.{name}"),
                "not implemented yet: this match block never applies",
            ));
        }
        for (name, one) in [
            ("uri", &self.uri),
            ("method", &self.method),
            ("authority", &self.authority),
        ] {
            if let Some(one) = one {
                one.validate(&format!("{field}.{name}"), Empty::Allowed, findings);
            }
        }
        for (key, one) in &self.headers {
            let field = format!("{field}.headers.{key}");
            check_header_name(key, &field, findings);
            match one {
                Some(one) => one.validate(&field, Empty::Refused, findings),
                None => findings.push(Finding::error(
                    field,
                    "a condition is required; {} asks for presence",
                )),
            }
        }
        for (key, one) in &self.without_headers {
            let field = format!("{field}.withoutHeaders.{key}");
            check_header_name(key, &field, findings);
            if let Some(one) = one {
                one.validate(&field, Empty::Refused, findings);
            }
        }
        for (key, one) in &self.query_params {
            if let Some(one) = one {
                one.validate(
                    &format!("{field}.queryParams.{key}"),
                    Empty::Allowed,
                    findings,
                );
            }
        }
        for (index, gateway) in self.gateways.iter().enumerate() {
            let listed =
                gateways.contains(gateway) || (gateways.is_empty() && gateway == super::MESH);
            if !listed {
                findings.push(Finding::error(
                    format!("{field}.gateways[{index}]"),
                    format!("{gateway:?} is not in spec.gateways"),
                ));
            }
        }
    }
}

fn check_header_name(key: &str, field: &str, findings: &mut Vec<Finding>) {
    if RESERVED.contains(&key) {
        findings.push(Finding::warning(
            field,
            format!("{key} is not read as a header and has no effect here; use the field {key}"),
        ));
        return;
    }
    let pseudo = matches!(key, ":method" | ":authority" | ":path");
    let claim = key.starts_with("@request.auth.claims");
    if !pseudo && !claim && HeaderName::from_bytes(key.as_bytes()).is_err() {
        findings.push(Finding::error(
            field,
            format!("{key:?} is not the name of a header"),
        ));
    }
}

/// Whether the empty text makes sense as a prefix or an expression.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Empty {
    Allowed,
    Refused,
}

impl StringMatch {
    fn validate(&self, field: &str, empty: Empty, findings: &mut Vec<Finding>) {
        let given = [&self.exact, &self.prefix, &self.regex];
        if given.iter().filter(|one| one.is_some()).count() > 1 {
            findings.push(Finding::error(
                field,
                "only one of exact, prefix and regex may be given",
            ));
        }
        for (name, one) in [("prefix", &self.prefix), ("regex", &self.regex)] {
            if empty == Empty::Refused && one.as_deref() == Some("") {
                findings.push(Finding::error(
                    format!("{field}.{name}"),
                    "must not be empty",
                ));
            }
        }
    }
}
