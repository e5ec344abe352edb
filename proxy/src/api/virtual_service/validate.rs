//! What can be wrong with a VirtualService by itself (Istio's validation). Regular expressions,
//! header templates and retry conditions are judged where they are compiled.

use std::collections::BTreeMap;

use http::HeaderName;

use super::{Destination, HttpMatch, HttpRoute, HttpRouteDestination, StringMatch, VirtualService};
use crate::api::host::{check_export_to, check_host, is_label, overlaps};
use crate::types::Finding;

mod actions;
mod headers;
mod l4;
mod policies;

/// Keys that Istio ignores in `headers`: there are fields for them.
const RESERVED: [&str; 4] = ["uri", "scheme", "method", "authority"];

impl VirtualService {
    pub(in crate::api) fn validate(&self, findings: &mut Vec<Finding>) {
        let spec = &self.spec;
        check_export_to(&spec.export_to, findings);
        self.validate_hosts(findings);
        if spec.is_delegate() {
            self.validate_delegate(findings);
        }
        if spec.http.is_empty() && spec.tcp.is_empty() && spec.tls.is_empty() {
            findings.push(Finding::error(
                "spec",
                "no routes: http, tcp or tls is required",
            ));
        }
        for (index, rule) in spec.http.iter().enumerate() {
            let field = format!("spec.http[{index}]");
            rule.validate(&field, findings);
            for (at, block) in rule.matches.iter().enumerate() {
                let field = format!("{field}.match[{at}]");
                block.validate(&field, findings);
                self.check_gateways(&block.gateways, &field, findings);
            }
        }
        for (index, rule) in spec.tls.iter().enumerate() {
            let field = format!("spec.tls[{index}]");
            rule.validate(&field, &spec.hosts, findings);
            for (at, block) in rule.matches.iter().enumerate() {
                self.check_gateways(&block.gateways, &format!("{field}.match[{at}]"), findings);
            }
        }
        for (index, rule) in spec.tcp.iter().enumerate() {
            let field = format!("spec.tcp[{index}]");
            rule.validate(&field, findings);
            for (at, block) in rule.matches.iter().enumerate() {
                self.check_gateways(&block.gateways, &format!("{field}.match[{at}]"), findings);
            }
        }
    }

    fn validate_hosts(&self, findings: &mut Vec<Finding>) {
        let spec = &self.spec;
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

    /// Without hosts it only counts where another one delegates to it.
    fn validate_delegate(&self, findings: &mut Vec<Finding>) {
        let spec = &self.spec;
        for (field, given) in [
            ("gateways", !spec.gateways.is_empty()),
            ("tcp", !spec.tcp.is_empty()),
            ("tls", !spec.tls.is_empty()),
        ] {
            if given {
                findings.push(Finding::error(
                    "spec.hosts",
                    format!("at least one host is required: without any it is a delegate, which can't have {field}"),
                ));
            }
        }
        for (index, rule) in spec.http.iter().enumerate() {
            if rule.delegate.is_some() {
                findings.push(Finding::error(
                    format!("spec.http[{index}].delegate"),
                    "a VirtualService without hosts is a delegate, and can't delegate itself",
                ));
            }
        }
    }

    /// The gateways of a match block must be among the VirtualService's (those of a delegate are
    /// compared with its root's where they meet).
    fn check_gateways(&self, gateways: &[String], field: &str, findings: &mut Vec<Finding>) {
        let listed = &self.spec.gateways;
        for (index, gateway) in gateways.iter().enumerate() {
            let known = listed.contains(gateway)
                || (listed.is_empty() && gateway == super::MESH)
                || self.spec.is_delegate();
            if !known {
                findings.push(Finding::error(
                    format!("{field}.gateways[{index}]"),
                    format!("{gateway:?} is not in spec.gateways"),
                ));
            }
        }
    }
}

impl HttpRoute {
    /// What it has in the place of `route`, by its field.
    pub fn other_action(&self) -> Option<&'static str> {
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

    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        let others = [
            ("redirect", self.redirect.is_some()),
            ("directResponse", self.direct_response.is_some()),
            ("delegate", self.delegate.is_some()),
        ];
        let given: Vec<&str> = others
            .iter()
            .filter_map(|(name, given)| given.then_some(*name))
            .collect();
        match given.as_slice() {
            [] if self.route.is_empty() => findings.push(Finding::error(
                format!("{field}.route"),
                "the rule has no destination",
            )),
            [] => check_route(&self.route, field, findings),
            [action] if !self.route.is_empty() => findings.push(Finding::error(
                format!("{field}.{action}"),
                format!("a rule can't have both {action} and route"),
            )),
            [action] => self.validate_action(action, field, findings),
            [action, other, ..] => findings.push(Finding::error(
                format!("{field}.{other}"),
                format!("a rule can't have both {action} and {other}"),
            )),
        }
        self.validate_policies(field, findings);
    }
}

fn check_route(route: &[HttpRouteDestination], field: &str, findings: &mut Vec<Finding>) {
    for (index, one) in route.iter().enumerate() {
        let field = format!("{field}.route[{index}]");
        if let Some(headers) = &one.headers {
            headers.validate(&format!("{field}.headers"), findings);
        }
    }
    let weighted = route.iter().map(|one| (&one.destination, one.weight));
    check_weighted(weighted, field, findings);
}

/// Weighted destinations, of HTTP, TCP or TLS.
fn check_weighted<'a>(
    route: impl ExactSizeIterator<Item = (&'a Option<Destination>, i32)>,
    field: &str,
    findings: &mut Vec<Finding>,
) {
    let count = route.len();
    let mut total = 0;
    for (index, (destination, weight)) in route.enumerate() {
        let field = format!("{field}.route[{index}]");
        if weight < 0 {
            findings.push(Finding::error(
                format!("{field}.weight"),
                format!("{weight} is negative; weights start at 0"),
            ));
        }
        total += i64::from(weight.max(0));
        match destination {
            None => findings.push(Finding::error(
                format!("{field}.destination"),
                "a destination is required",
            )),
            Some(destination) => destination.validate(&format!("{field}.destination"), findings),
        }
    }
    if count > 1 && total == 0 {
        findings.push(Finding::error(
            format!("{field}.route"),
            "the weights of several destinations must add up to more than 0",
        ));
    }
}

impl Destination {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        let at = format!("{field}.host");
        if self.host.starts_with('*') {
            findings.push(Finding::error(at, "a destination can't be a wildcard"));
        } else {
            check_host(&self.host, &at, findings);
        }
        if !self.subset.is_empty() && !is_label(&self.subset) {
            findings.push(Finding::error(
                format!("{field}.subset"),
                format!("{:?} is not the name of a subset", self.subset),
            ));
        }
        if self.port.as_ref().is_some_and(|port| port.number == 0) {
            findings.push(Finding::error(
                format!("{field}.port.number"),
                "a port is a number from 1 to 65535",
            ));
        }
    }
}

impl HttpMatch {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        for name in self.unimplemented() {
            findings.push(Finding::warning(
                format!("{field}.{name}"),
                "the claims of a token are known to gateways only: this match block never applies",
            ));
        }
        for (name, one) in [
            ("uri", &self.uri),
            ("scheme", &self.scheme),
            ("method", &self.method),
            ("authority", &self.authority),
        ] {
            if let Some(one) = one {
                one.validate(&format!("{field}.{name}"), Empty::Allowed, findings);
            }
        }
        for (key, one) in &self.headers {
            let field = format!("{field}.headers.{key}");
            check_header_match(key, &field, findings);
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
            check_header_match(key, &field, findings);
            if let Some(one) = one {
                one.validate(&field, Empty::Refused, findings);
            }
        }
        for (key, one) in &self.query_params {
            let field = format!("{field}.queryParams.{key}");
            if key.is_empty() {
                findings.push(Finding::error(field, "a parameter needs a name"));
            } else if let Some(one) = one {
                one.validate(&field, Empty::Allowed, findings);
            }
        }
        check_source(&self.source_labels, &self.source_namespace, field, findings);
    }
}

/// `sourceLabels` and `sourceNamespace`.
fn check_source(
    labels: &BTreeMap<String, String>,
    namespace: &str,
    field: &str,
    findings: &mut Vec<Finding>,
) {
    crate::api::labels::check(labels, &format!("{field}.sourceLabels"), findings);
    if !namespace.is_empty() && !is_label(namespace) {
        findings.push(Finding::error(
            format!("{field}.sourceNamespace"),
            format!("{namespace:?} is not a namespace"),
        ));
    }
}

fn check_header_match(key: &str, field: &str, findings: &mut Vec<Finding>) {
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
