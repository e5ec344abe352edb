//! What can be wrong with an AuthorizationPolicy by itself (Istio's validation).

use std::net::IpAddr;

use http::HeaderName;
use ipnet::IpNet;

use super::{Action, AuthorizationPolicy, Condition, Operation, Source, is_true};
use crate::api::attachment::Attachment;
use crate::types::Finding;

/// Istio's limit on `serviceAccounts` (`maxItems` of its CRD).
const MAX_ACCOUNTS: usize = 16;

/// Prefix of keys that name an Envoy filter's metadata.
const EXPERIMENTAL: &str = "experimental.envoy.filters.";

/// What `key` of a condition names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    /// `source.ip`.
    SourceIp,
    /// `remote.ip`.
    RemoteIp,
    /// `source.namespace`.
    Namespace,
    /// `source.principal`.
    Principal,
    /// `source.serviceAccount`.
    ServiceAccount,
    /// `source.trustDomain`.
    TrustDomain,
    /// `request.headers[NAME]`.
    Header(HeaderName),
    /// `request.auth.principal`.
    RequestPrincipal,
    /// `request.auth.audiences`.
    Audiences,
    /// `request.auth.presenter`.
    Presenter,
    /// `request.auth.claims[A][B]`.
    Claim(Vec<&'a str>),
    /// `destination.ip`.
    DestinationIp,
    /// `destination.port`.
    DestinationPort,
    /// `connection.sni`.
    ServerName,
    /// `experimental.envoy.filters.…`.
    Filter,
}

impl<'a> Key<'a> {
    /// Reads it; `None` where Istio knows no such attribute.
    pub(crate) fn parse(key: &'a str) -> Option<Self> {
        Some(match key {
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "source.namespace" => Self::Namespace,
            "source.principal" => Self::Principal,
            "source.serviceAccount" => Self::ServiceAccount,
            "source.trustDomain" => Self::TrustDomain,
            "request.auth.principal" => Self::RequestPrincipal,
            "request.auth.audiences" => Self::Audiences,
            "request.auth.presenter" => Self::Presenter,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "connection.sni" => Self::ServerName,
            _ if key.starts_with(EXPERIMENTAL) => Self::Filter,
            _ => {
                if let Some(rest) = key.strip_prefix("request.headers") {
                    let [name] = brackets(rest)?[..] else {
                        return None;
                    };
                    Self::Header(name.parse().ok()?)
                } else {
                    let claims = brackets(key.strip_prefix("request.auth.claims")?)?;
                    Self::Claim(claims)
                }
            }
        })
    }
}

/// The contents of `[A][B]`; `None` where it is nothing of the kind, or one of them is empty.
fn brackets(text: &str) -> Option<Vec<&str>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let parts: Vec<&str> = inner.split("][").collect();
    let valid = |part: &&str| !part.is_empty() && !part.contains(['[', ']']);
    parts.iter().all(valid).then_some(parts)
}

impl AuthorizationPolicy {
    pub(in crate::api) fn validate(&self, findings: &mut Vec<Finding>) {
        let spec = &self.spec;
        let attachment = Attachment {
            namespace: &self.metadata.namespace,
            selector: spec.selector.as_ref(),
            target: spec.target_ref.as_ref(),
            targets: &spec.target_refs,
        };
        attachment.validate(findings);
        self.validate_action(findings);
        for (index, rule) in spec.rules.iter().enumerate() {
            let field = format!("spec.rules[{index}]");
            for (at, from) in rule.from.iter().enumerate() {
                let field = format!("{field}.from[{at}].source");
                match &from.source {
                    Some(source) => source.validate(&field, findings),
                    None => findings.push(Finding::error(field, "a source is required")),
                }
            }
            for (at, to) in rule.to.iter().enumerate() {
                let field = format!("{field}.to[{at}].operation");
                match &to.operation {
                    Some(operation) => operation.validate(&field, findings),
                    None => findings.push(Finding::error(field, "an operation is required")),
                }
            }
            for (at, condition) in rule.when.iter().enumerate() {
                condition.validate(&format!("{field}.when[{at}]"), findings);
            }
        }
    }

    fn validate_action(&self, findings: &mut Vec<Finding>) {
        let spec = &self.spec;
        let provider = spec.provider.as_ref().map(|one| one.name.as_str());
        match (spec.action, provider) {
            (Action::Custom, None | Some("")) => findings.push(Finding::error(
                "spec.provider.name",
                "CUSTOM needs the name of a provider",
            )),
            (Action::Custom, Some(_)) | (_, None) => {}
            (_, Some(_)) => findings.push(Finding::error(
                "spec.provider",
                "only CUSTOM asks a provider: leave it out",
            )),
        }
        if spec.rules.is_empty() && spec.action != Action::Allow {
            findings.push(Finding::warning(
                "spec.rules",
                "without rules it never matches: write `rules: [{}]` for everything",
            ));
        }
        if let Some(value) = self.metadata.annotations.get(Self::DRY_RUN) {
            let field = format!("metadata.annotations.{}", Self::DRY_RUN);
            match (is_true(value), spec.action) {
                (None, _) => findings.push(Finding::warning(
                    field,
                    format!("{value:?} is neither true nor false: the policy is enforced"),
                )),
                (Some(true), Action::Audit | Action::Custom) => findings.push(Finding::warning(
                    field,
                    "a trial of AUDIT or CUSTOM has no effect",
                )),
                _ => {}
            }
        }
    }
}

impl Source {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        if *self == Self::default() {
            let message = "has no field: it needs one, or the whole `from` is left out";
            findings.push(Finding::error(field, message));
        }
        for (name, list) in self.lists() {
            check_empty(list, &format!("{field}.{name}"), findings);
        }
        for (name, list) in [
            ("ipBlocks", &self.ip_blocks),
            ("notIpBlocks", &self.not_ip_blocks),
            ("remoteIpBlocks", &self.remote_ip_blocks),
            ("notRemoteIpBlocks", &self.not_remote_ip_blocks),
        ] {
            check_networks(list, &format!("{field}.{name}"), findings);
        }
        let accounts = [
            ("serviceAccounts", &self.service_accounts),
            ("notServiceAccounts", &self.not_service_accounts),
        ];
        for (name, list) in accounts {
            check_accounts(list, &format!("{field}.{name}"), findings);
        }
        let others = [
            &self.principals,
            &self.not_principals,
            &self.namespaces,
            &self.not_namespaces,
        ];
        if accounts.iter().any(|(_, list)| !list.is_empty())
            && others.iter().any(|list| !list.is_empty())
        {
            findings.push(Finding::error(
                format!("{field}.serviceAccounts"),
                "can't be given beside principals or namespaces",
            ));
        }
    }
}

impl Operation {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        if *self == Self::default() {
            let message = "has no field: it needs one, or the whole `to` is left out";
            findings.push(Finding::error(field, message));
        }
        for (name, list) in self.lists() {
            check_empty(list, &format!("{field}.{name}"), findings);
        }
        for (name, list) in [("ports", &self.ports), ("notPorts", &self.not_ports)] {
            check_ports(list, &format!("{field}.{name}"), findings);
        }
        for (name, list) in [("paths", &self.paths), ("notPaths", &self.not_paths)] {
            for (index, path) in list.iter().enumerate() {
                if let Err(message) = check_path(path) {
                    findings.push(Finding::error(format!("{field}.{name}[{index}]"), message));
                }
            }
        }
    }
}

impl Condition {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        if self.values.is_empty() && self.not_values.is_empty() {
            findings.push(Finding::error(field, "values or notValues is required"));
        }
        let lists = [("values", &self.values), ("notValues", &self.not_values)];
        for (name, list) in lists {
            check_empty(list, &format!("{field}.{name}"), findings);
        }
        let Some(key) = Key::parse(&self.key) else {
            let message = if self.key.is_empty() {
                "a key is required".to_owned()
            } else {
                format!("{:?} is not an attribute that conditions know", self.key)
            };
            findings.push(Finding::error(format!("{field}.key"), message));
            return;
        };
        for (name, list) in lists {
            let field = format!("{field}.{name}");
            match key {
                Key::SourceIp | Key::RemoteIp | Key::DestinationIp => {
                    check_networks(list, &field, findings);
                }
                Key::DestinationPort => check_ports(list, &field, findings),
                Key::ServiceAccount => check_accounts(list, &field, findings),
                _ => {}
            }
        }
        if key == Key::Filter {
            findings.push(Finding::warning(
                format!("{field}.key"),
                "the metadata of Envoy's filters is not known here: an ALLOW rule with it never matches, any other matches without it",
            ));
        }
    }
}

fn check_empty(list: &[String], field: &str, findings: &mut Vec<Finding>) {
    for (index, _) in list.iter().enumerate().filter(|one| one.1.is_empty()) {
        findings.push(Finding::error(
            format!("{field}[{index}]"),
            "an empty value matches nothing: leave it out",
        ));
    }
}

fn check_networks(list: &[String], field: &str, findings: &mut Vec<Finding>) {
    for (index, text) in list.iter().enumerate().filter(|one| !one.1.is_empty()) {
        if text.parse::<IpAddr>().is_err() && text.parse::<IpNet>().is_err() {
            findings.push(Finding::error(
                format!("{field}[{index}]"),
                format!("{text:?} is neither an IP address nor a network such as 10.0.0.0/8"),
            ));
        }
    }
}

fn check_ports(list: &[String], field: &str, findings: &mut Vec<Finding>) {
    for (index, text) in list.iter().enumerate().filter(|one| !one.1.is_empty()) {
        if !text.parse::<u16>().is_ok_and(|port| port != 0) {
            findings.push(Finding::error(
                format!("{field}[{index}]"),
                format!("{text:?} is not a port from 1 to 65535"),
            ));
        }
    }
}

fn check_accounts(list: &[String], field: &str, findings: &mut Vec<Finding>) {
    if list.len() > MAX_ACCOUNTS {
        let message = format!("at most {MAX_ACCOUNTS} are allowed");
        findings.push(Finding::error(field, message));
    }
    for (index, text) in list.iter().enumerate().filter(|one| !one.1.is_empty()) {
        let parts: Vec<&str> = text.split('/').collect();
        let valid = parts.len() <= 2 && parts.iter().all(|part| !part.is_empty());
        if !valid || text.contains('*') {
            findings.push(Finding::error(
                format!("{field}[{index}]"),
                format!("{text:?} must be NAME or NAMESPACE/NAME, without `*`"),
            ));
        }
    }
}

/// A path with templates: whole segments `{*}` and, once and after all others, `{**}`.
fn check_path(path: &str) -> Result<(), &'static str> {
    if !path.contains(['{', '}']) {
        return Ok(());
    }
    let mut rest = false;
    for segment in path.split('/') {
        match segment {
            "{*}" | "{**}" if rest => return Err("no template may follow {**}"),
            "{**}" => rest = true,
            "{*}" => {}
            segment if segment.contains(['{', '}', '*']) => {
                return Err(
                    "a template is a whole segment, {*} or {**}, and no `*` stands beside it",
                );
            }
            _ => {}
        }
    }
    if path.starts_with('/') {
        Ok(())
    } else {
        Err("a path with templates begins with a slash")
    }
}
