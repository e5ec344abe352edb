//! `tls` and `tcp` rules.

use ipnet::IpNet;

use super::{check_source, check_weighted};
use crate::api::host::check_host;
use crate::api::virtual_service::{RouteDestination, TcpRoute, TlsRoute};
use crate::types::Finding;

impl TlsRoute {
    pub(super) fn validate(&self, field: &str, hosts: &[String], findings: &mut Vec<Finding>) {
        if self.matches.is_empty() {
            findings.push(Finding::error(
                format!("{field}.match"),
                "a TLS rule must say for which sniHosts it is",
            ));
        }
        for (index, block) in self.matches.iter().enumerate() {
            let field = format!("{field}.match[{index}]");
            if block.sni_hosts.is_empty() {
                findings.push(Finding::error(
                    format!("{field}.sniHosts"),
                    "at least one name is required",
                ));
            }
            for (at, sni) in block.sni_hosts.iter().enumerate() {
                let field = format!("{field}.sniHosts[{at}]");
                let before = findings.len();
                check_host(sni, &field, findings);
                if findings.len() == before && !hosts.iter().any(|host| covers(host, sni)) {
                    findings.push(Finding::error(
                        field,
                        format!("{sni:?} is not covered by spec.hosts"),
                    ));
                }
            }
            check_subnets(&block.destination_subnets, &field, findings);
            check_source(
                &block.source_labels,
                &block.source_namespace,
                &field,
                findings,
            );
        }
        check_route(&self.route, field, findings);
    }
}

impl TcpRoute {
    pub(super) fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        for (index, block) in self.matches.iter().enumerate() {
            let field = format!("{field}.match[{index}]");
            check_subnets(&block.destination_subnets, &field, findings);
            check_source(
                &block.source_labels,
                &block.source_namespace,
                &field,
                findings,
            );
            if !block.source_subnet.is_empty() {
                findings.push(Finding::warning(
                    format!("{field}.sourceSubnet"),
                    "has no effect (nor in Istio); use sourceLabels or sourceNamespace",
                ));
            }
        }
        check_route(&self.route, field, findings);
    }
}

fn check_route(route: &[RouteDestination], field: &str, findings: &mut Vec<Finding>) {
    if route.is_empty() {
        findings.push(Finding::error(
            format!("{field}.route"),
            "the rule has no destination",
        ));
    }
    let weighted = route.iter().map(|one| (&one.destination, one.weight));
    check_weighted(weighted, field, findings);
}

fn check_subnets(subnets: &[String], field: &str, findings: &mut Vec<Finding>) {
    for (index, text) in subnets.iter().enumerate() {
        let network = text.parse::<IpNet>().is_ok();
        if !network && text.parse::<std::net::IpAddr>().is_err() {
            findings.push(Finding::error(
                format!("{field}.destinationSubnets[{index}]"),
                format!("{text:?} is not a network such as 10.0.0.0/8"),
            ));
        }
    }
}

/// Whether every name that `sni` stands for is one of `host`'s (Istio's `SubsetOf`).
fn covers(host: &str, sni: &str) -> bool {
    let (host, sni) = (host.to_ascii_lowercase(), sni.to_ascii_lowercase());
    match host.strip_prefix('*') {
        Some(suffix) => sni.strip_prefix('*').unwrap_or(&sni).ends_with(suffix),
        None => host == sni,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_covered_by_hosts() {
        for (host, sni, expected) in [
            ("a.com", "a.com", true),
            ("a.com", "A.com", true),
            ("*.com", "a.com", true),
            ("*.com", "*.a.com", true),
            ("*.a.com", "*.com", false),
            ("*", "a.com", true),
            ("a.com", "*.com", false),
            ("a.com", "b.com", false),
        ] {
            assert_eq!(covers(host, sni), expected, "{host} {sni}");
        }
    }
}
