//! AuthorizationPolicies as they are written into policies as they are asked. The object was
//! validated: what is not valid in spite of that matches nothing.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::condition::{Attribute, Condition, Value};
use super::issued::Issued;
use super::path::Template;
use super::text::Text;
use super::{Action, Policy, Rule};
use crate::api;
use crate::api::authorization_policy::{self as written, Key};
use crate::types::ObjectRef;

/// The name by which policies mean the mesh's own trust domain, whatever it is called (Istio).
const LOCAL: &str = "cluster.local";

/// The trust domains that are the mesh's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomains {
    /// What its identities have now.
    pub own: Arc<str>,
    /// What they had before, or have elsewhere in the mesh.
    pub aliases: Vec<Arc<str>>,
}

impl Default for TrustDomains {
    fn default() -> Self {
        Self {
            own: LOCAL.into(),
            aliases: Vec::new(),
        }
    }
}

impl TrustDomains {
    fn all(&self) -> impl Iterator<Item = &Arc<str>> {
        std::iter::once(&self.own).chain(&self.aliases)
    }

    /// A trust domain that is one of them means all of them (Istio's aliases).
    fn all_of(&self, domain: &str) -> Vec<Text> {
        match self.all().any(|one| **one == *domain) {
            true => self.all().map(|one| Text::new(one)).collect(),
            false => vec![Text::new(domain)],
        }
    }

    /// A principal that names one of them means all of them (Istio's aliases).
    fn expand(&self, principal: &str) -> Vec<Text> {
        match principal.split_once('/') {
            Some((domain, rest)) if domain == LOCAL || self.all().any(|one| **one == *domain) => {
                let names = self.all().map(|one| Text::new(&format!("{one}/{rest}")));
                names.collect()
            }
            _ => vec![Text::new(principal)],
        }
    }
}

impl Policy {
    /// Compiles `source`, which is valid.
    pub fn compile(source: &api::AuthorizationPolicy, domains: &TrustDomains) -> Self {
        let metadata = &source.metadata;
        let build = Build {
            namespace: &metadata.namespace,
            domains,
        };
        Self {
            object: ObjectRef {
                kind: "AuthorizationPolicy".into(),
                namespace: Arc::clone(&metadata.namespace),
                name: Arc::clone(&metadata.name),
            },
            action: match source.spec.action {
                written::Action::Allow => Action::Allow,
                written::Action::Deny => Action::Deny,
                written::Action::Audit => Action::Audit,
                written::Action::Custom => Action::Custom,
            },
            dry_run: source.is_dry_run(),
            provider: source
                .spec
                .provider
                .as_ref()
                .map(|one| one.name.as_str().into()),
            rules: source
                .spec
                .rules
                .iter()
                .map(|one| build.rule(one))
                .collect(),
        }
    }
}

struct Build<'a> {
    namespace: &'a str,
    domains: &'a TrustDomains,
}

impl Build<'_> {
    fn rule(&self, rule: &written::Rule) -> Rule {
        let from = rule.from.iter();
        let to = rule.to.iter();
        Rule {
            from: from.map(|one| self.source(one.source.as_ref())).collect(),
            to: to
                .map(|one| self.operation(one.operation.as_ref()))
                .collect(),
            when: rule.when.iter().map(|one| self.condition(one)).collect(),
        }
    }

    fn source(&self, source: Option<&written::Source>) -> Vec<Condition> {
        let Some(source) = source else {
            return vec![unknowable()];
        };
        self.all([
            (
                Attribute::Principal,
                &source.principals,
                &source.not_principals,
            ),
            (
                Attribute::RequestPrincipal,
                &source.request_principals,
                &source.not_request_principals,
            ),
            (
                Attribute::Namespace,
                &source.namespaces,
                &source.not_namespaces,
            ),
            (
                Attribute::ServiceAccount,
                &source.service_accounts,
                &source.not_service_accounts,
            ),
            (
                Attribute::TrustDomain,
                &source.trust_domains,
                &source.not_trust_domains,
            ),
            (
                Attribute::SourceIp,
                &source.ip_blocks,
                &source.not_ip_blocks,
            ),
            (
                Attribute::RemoteIp,
                &source.remote_ip_blocks,
                &source.not_remote_ip_blocks,
            ),
        ])
    }

    fn operation(&self, operation: Option<&written::Operation>) -> Vec<Condition> {
        let Some(operation) = operation else {
            return vec![unknowable()];
        };
        self.all([
            (Attribute::Host, &operation.hosts, &operation.not_hosts),
            (
                Attribute::DestinationPort,
                &operation.ports,
                &operation.not_ports,
            ),
            (
                Attribute::Method,
                &operation.methods,
                &operation.not_methods,
            ),
            (Attribute::Path, &operation.paths, &operation.not_paths),
        ])
    }

    fn all<const N: usize>(
        &self,
        lists: [(Attribute, &Vec<String>, &Vec<String>); N],
    ) -> Vec<Condition> {
        let given = lists
            .into_iter()
            .filter(|(_, values, not_values)| !values.is_empty() || !not_values.is_empty());
        given
            .map(|(attribute, values, not_values)| self.list(attribute, values, not_values))
            .collect()
    }

    fn condition(&self, condition: &written::Condition) -> Condition {
        let claim = |path: &[&str]| {
            let path = path.iter().map(|part| (*part).into());
            Attribute::Claim(path.collect())
        };
        let attribute = match Key::parse(&condition.key) {
            Some(Key::SourceIp) => Attribute::SourceIp,
            Some(Key::RemoteIp) => Attribute::RemoteIp,
            Some(Key::Namespace) => Attribute::Namespace,
            Some(Key::Principal) => Attribute::Principal,
            Some(Key::ServiceAccount) => Attribute::ServiceAccount,
            Some(Key::TrustDomain) => Attribute::TrustDomain,
            Some(Key::Header(name)) => Attribute::Header(name),
            Some(Key::RequestPrincipal) => Attribute::RequestPrincipal,
            Some(Key::Audiences) => claim(&["aud"]),
            Some(Key::Presenter) => claim(&["azp"]),
            Some(Key::Claim(path)) => claim(&path),
            Some(Key::DestinationIp) => Attribute::DestinationIp,
            Some(Key::DestinationPort) => Attribute::DestinationPort,
            Some(Key::ServerName) => Attribute::ServerName,
            Some(Key::Filter) | None => Attribute::Unknowable,
        };
        self.list(attribute, &condition.values, &condition.not_values)
    }

    fn list(&self, attribute: Attribute, values: &[String], not_values: &[String]) -> Condition {
        let read = |list: &[String]| -> Option<Vec<Value>> {
            let mut values = Vec::with_capacity(list.len());
            for text in list {
                self.read(&attribute, text, &mut values)?;
            }
            Some(values)
        };
        match (read(values), read(not_values)) {
            (Some(values), Some(not_values)) => Condition {
                values,
                not_values,
                attribute,
            },
            // Not valid: to leave the value out would turn the condition around.
            _ => unknowable(),
        }
    }

    /// `None`: `text` is no value of that attribute.
    fn read(&self, attribute: &Attribute, text: &str, values: &mut Vec<Value>) -> Option<()> {
        values.push(match attribute {
            Attribute::Principal => {
                let all = self.domains.expand(text);
                values.extend(all.into_iter().map(Value::Text));
                return Some(());
            }
            Attribute::TrustDomain => {
                let all = self.domains.all_of(text);
                values.extend(all.into_iter().map(Value::Text));
                return Some(());
            }
            Attribute::RequestPrincipal => Value::Issued(Issued::new(text)),
            Attribute::SourceIp | Attribute::DestinationIp | Attribute::RemoteIp => {
                Value::Network(network(text)?)
            }
            Attribute::DestinationPort => Value::Port(text.parse().ok()?),
            Attribute::ServiceAccount => {
                let (namespace, name) = text.split_once('/').unwrap_or((self.namespace, text));
                Value::Account {
                    namespace: namespace.into(),
                    name: name.into(),
                }
            }
            Attribute::Path => match Template::new(text) {
                Some(template) => Value::Template(template),
                None => Value::Text(Text::new(text)),
            },
            _ => Value::Text(Text::new(text)),
        });
        Some(())
    }
}

/// An entry without its only field, which is not valid.
fn unknowable() -> Condition {
    Condition {
        attribute: Attribute::Unknowable,
        values: Vec::new(),
        not_values: Vec::new(),
    }
}

/// A network, or an address alone; IPv4 in its own form, as addresses are compared.
fn network(text: &str) -> Option<IpNet> {
    let network: IpNet = match text.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().into(),
        Err(_) => text.parse().ok()?,
    };
    let mapped = network.prefix_len().checked_sub(96);
    let mapped = mapped.zip(match network {
        IpNet::V6(one) => one.addr().to_ipv4_mapped(),
        IpNet::V4(_) => None,
    });
    let network = match mapped {
        Some((length, address)) => IpNet::new(address.into(), length).ok()?,
        None => network,
    };
    Some(network.trunc())
}
