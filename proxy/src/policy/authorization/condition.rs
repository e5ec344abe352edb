//! One condition of a rule: an attribute, and what it must and must not be.

use std::net::IpAddr;

use http::header::COOKIE;
use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use super::issued::Issued;
use super::path::Template;
use super::text::{Case, Text};
use super::{Facts, Request};

/// What a condition asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attribute {
    /// The caller's identity, without `spiffe://`.
    Principal,
    /// Its namespace.
    Namespace,
    /// Its namespace and service account.
    ServiceAccount,
    /// Its trust domain.
    TrustDomain,
    /// Its address.
    SourceIp,
    /// The workload's address.
    DestinationIp,
    /// The workload's port.
    DestinationPort,
    /// The server name of the caller's TLS.
    ServerName,
    /// The client's address behind trusted proxies.
    RemoteIp,
    /// `ISSUER/SUBJECT` of its token.
    RequestPrincipal,
    /// A claim of its token.
    Claim(Vec<Box<str>>),
    /// A header field.
    Header(HeaderName),
    /// `:authority`.
    Host,
    /// `:method`.
    Method,
    /// The path without the query.
    Path,
    /// What nobody here can know.
    Unknowable,
}

/// What an attribute is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(Text),
    Network(IpNet),
    Port(u16),
    Account { namespace: Box<str>, name: Box<str> },
    Issued(Issued),
    Template(Template),
}

/// One of `values`, where there are any, and none of `not_values`.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) attribute: Attribute,
    pub(super) values: Vec<Value>,
    pub(super) not_values: Vec<Value>,
}

impl Condition {
    /// Whether it asks for something that only a request has.
    pub(super) fn is_of_request(&self) -> bool {
        match self.attribute {
            Attribute::RemoteIp
            | Attribute::RequestPrincipal
            | Attribute::Claim(_)
            | Attribute::Header(_)
            | Attribute::Host
            | Attribute::Method
            | Attribute::Path => true,
            Attribute::Principal
            | Attribute::Namespace
            | Attribute::ServiceAccount
            | Attribute::TrustDomain
            | Attribute::SourceIp
            | Attribute::DestinationIp
            | Attribute::DestinationPort
            | Attribute::ServerName
            | Attribute::Unknowable => false,
        }
    }

    /// Whether it asks for the server name of the caller's TLS.
    pub(super) fn is_of_name(&self) -> bool {
        self.attribute == Attribute::ServerName
    }

    /// Whether a connection to where `facts` say can fulfil it, whatever else is true of it.
    pub(super) fn may_hold_there(&self, facts: &Facts<'_>) -> bool {
        match self.attribute {
            Attribute::DestinationIp | Attribute::DestinationPort => self.holds(facts, true),
            _ => true,
        }
    }

    /// Whether what it asks for can be known here. An absent identity is known to be absent.
    pub(super) fn is_known(&self, facts: &Facts<'_>) -> bool {
        match self.attribute {
            Attribute::Unknowable => false,
            Attribute::ServerName => facts.caller.server_name.is_some(),
            _ => facts.request.is_some() || !self.is_of_request(),
        }
    }

    /// Whether it holds; what can't be known counts as if it did. `against`: it is a reason to deny,
    /// so that a caller must not evade it by writing the same in another way.
    pub(super) fn holds(&self, facts: &Facts<'_>, against: bool) -> bool {
        if !self.is_known(facts) {
            return true;
        }
        let is = |value: &Value, wide: bool| self.attribute.is(value, facts, wide);
        (self.values.is_empty() || self.values.iter().any(|one| is(one, against)))
            && !self.not_values.iter().any(|one| is(one, !against))
    }
}

impl Attribute {
    fn is(&self, value: &Value, facts: &Facts<'_>, wide: bool) -> bool {
        let caller = facts.caller;
        match value {
            Value::Text(text) => self.is_text(text, facts, wide),
            Value::Network(network) => {
                let address = match self {
                    Self::SourceIp => Some(caller.source.ip()),
                    Self::DestinationIp => Some(caller.destination.ip()),
                    Self::RemoteIp => facts.request.map(|request| request.remote),
                    _ => None,
                };
                address.is_some_and(|address| contains(network, address))
            }
            Value::Port(port) => caller.destination.port() == *port,
            Value::Account { namespace, name } => caller.peer.is_some_and(|peer| {
                *peer.namespace == **namespace && *peer.service_account == **name
            }),
            Value::Issued(issued) => facts
                .request
                .and_then(|request| request.token)
                .is_some_and(|token| issued.is(token, wide)),
            Value::Template(template) => facts
                .request
                .is_some_and(|request| template.is(request.path)),
        }
    }

    fn is_text(&self, text: &Text, facts: &Facts<'_>, wide: bool) -> bool {
        let exact = |value: &str| text.is(value.as_bytes(), Case::Sensitive);
        let peer = facts.caller.peer;
        let of = |read: for<'a> fn(&'a Request<'_>) -> &'a str| {
            let request = facts.request;
            request.is_some_and(|request| exact(read(request)))
        };
        let token = facts.request.and_then(|request| request.token);
        match self {
            Self::Principal => facts.principal().is_some_and(exact),
            Self::Namespace => peer.is_some_and(|peer| exact(&peer.namespace)),
            Self::TrustDomain => peer.is_some_and(|peer| exact(&peer.trust_domain)),
            Self::ServerName => facts.caller.server_name.is_some_and(|name| {
                let is = |name: &str| text.is(name.as_bytes(), Case::Ignored);
                is(name) || (wide && is(name.strip_suffix('.').unwrap_or(name)))
            }),
            Self::Claim(path) => token.is_some_and(|one| one.any(path, exact)),
            Self::Method => of(|request| request.method),
            Self::Path => of(|request| request.path),
            Self::Host => facts.request.is_some_and(|request| {
                let is = |host: &str| text.is(host.as_bytes(), Case::Ignored);
                // `evil.com:8080` and `evil.com.` are the same host as `evil.com`.
                is(request.host) || (wide && is(bare(request.host)))
            }),
            Self::Header(name) => facts
                .request
                .is_some_and(|request| header(request, name, text, wide)),
            Self::ServiceAccount
            | Self::SourceIp
            | Self::DestinationIp
            | Self::DestinationPort
            | Self::RemoteIp
            | Self::RequestPrincipal
            | Self::Unknowable => false,
        }
    }
}

/// A header field may have several lines, and nobody knows which of them the application looks at: to
/// allow, each must be like that; to deny, one is enough (Envoy since 1.37), or all of them as one text.
/// An empty one is present.
fn header(request: &Request<'_>, name: &HeaderName, text: &Text, wide: bool) -> bool {
    let lines = || request.headers.get_all(name).iter();
    let Some(first) = lines().next() else {
        return false;
    };
    if *text == Text::Present {
        return true;
    }
    let is = |line: &HeaderValue| text.is(line.as_bytes(), Case::Sensitive);
    if lines().nth(1).is_none() {
        return is(first);
    }
    let together = |by: &[u8]| {
        let lines: Vec<&[u8]> = lines().map(HeaderValue::as_bytes).collect();
        text.is(&lines.join(by), Case::Sensitive)
    };
    // RFC 9113, section 8.2.3: cookies are one field, however many lines it was cut into.
    match (*name == COOKIE, wide) {
        (true, false) => together(b"; "),
        (true, true) => lines().any(is) || together(b"; "),
        (false, false) => lines().all(is),
        (false, true) => lines().any(is) || together(b","),
    }
}

/// A host without its port and trailing dot.
fn bare(host: &str) -> &str {
    let host = crate::types::name::without_port(host);
    host.strip_suffix('.').unwrap_or(host)
}

/// An IPv4 address is the same whether it is mapped into IPv6 or not.
fn contains(network: &IpNet, address: IpAddr) -> bool {
    network.contains(&address.to_canonical())
}
