//! Rules for connections whose bytes are not looked at: a service's port has a table where a
//! VirtualService gives it `tcp` rules, or `tls` rules for a port that declares TLS.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Destination;
use crate::policy::matcher::{Caller, Source};
use crate::policy::split::Weights;
use crate::types::ObjectRef;

/// The rules for one port.
#[derive(Clone, Debug, PartialEq)]
pub struct L4Table {
    /// What the rules ask about.
    pub kind: L4Kind,
    /// Without those that can never be reached.
    pub rules: Vec<Arc<L4Rule>>,
}

/// What rules ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4Kind {
    /// `tcp`: subnets.
    Tcp,
    /// `tls`: server names, and subnets.
    Tls,
}

/// One match block with its rule's destinations.
#[derive(Clone, Debug, PartialEq)]
pub struct L4Rule {
    /// The VirtualService.
    pub source: ObjectRef,
    /// Where the rule stands in it: `tcp[0]`, `tls[1]`.
    pub name: Arc<str>,
    /// `sniHosts`; of a TLS rule never empty, of a TCP rule always.
    pub server_names: Vec<ServerName>,
    /// `destinationSubnets`; empty for any address.
    pub subnets: Vec<IpNet>,
    /// `sourceLabels` and `sourceNamespace`.
    pub caller: Option<Arc<Caller>>,
    /// Never empty.
    pub destinations: Vec<Destination>,
    /// One weight a destination, in their order.
    pub weights: Weights,
}

/// One of `sniHosts`, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// A name.
    Exact(Box<str>),
    /// What follows the `*`, with its dot; empty for every name.
    Suffix(Box<str>),
}

/// A connection, as far as rules ask about it.
#[derive(Clone, Copy, Debug)]
pub struct L4Request<'a> {
    /// Who calls.
    pub source: Source<'a>,
    /// The address that was dialled.
    pub destination: IpAddr,
    /// The name that a TLS client asks for.
    pub server_name: Option<&'a str>,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum L4Choice<'a> {
    /// The rule's destinations share it.
    Rule(&'a Arc<L4Rule>),
    /// No rule is for it: the service's own cluster.
    Plain,
    /// It is closed: of the TLS rules for this caller none has its name (Envoy has no filter chain
    /// for it, flag `NR`).
    Refused,
}

impl L4Table {
    /// Chooses as Envoy chooses a filter chain: of the rules for this caller those whose subnet is
    /// the narrowest, of these the one with the most specific server name, of equals the first.
    pub fn choose(&self, request: &L4Request<'_>) -> L4Choice<'_> {
        let mut best: Option<(usize, &Arc<L4Rule>)> = None;
        let (mut width, mut any) = (0, false);
        // Subnets come first, whether or not a name fits there: there is no way back.
        for rule in self.rules_for(request.source) {
            any = true;
            width = width.max(rule.width(request.destination).unwrap_or(0));
        }
        for rule in self.rules_for(request.source) {
            if rule.width(request.destination) != Some(width) {
                continue;
            }
            let Some(length) = rule.name_length(request.server_name) else {
                continue;
            };
            if best.is_none_or(|(longest, _)| length > longest) {
                best = Some((length, rule));
            }
        }
        match (best, self.kind) {
            (Some((_, rule)), _) => L4Choice::Rule(rule),
            (None, L4Kind::Tls) if any => L4Choice::Refused,
            (None, _) => L4Choice::Plain,
        }
    }
}

impl L4Table {
    /// The rules for a caller: of TCP rules up to the first that takes every address (Istio makes
    /// nothing of those behind it).
    fn rules_for<'a, 's>(
        &'a self,
        source: Source<'s>,
    ) -> impl Iterator<Item = &'a Arc<L4Rule>> + use<'a, 's> {
        let mut ended = false;
        let is_for = move |rule: &&Arc<L4Rule>| {
            let caller = rule.caller.as_ref();
            caller.is_none_or(|caller| caller.is(source))
        };
        self.rules.iter().filter(is_for).take_while(move |rule| {
            let before = ended;
            ended |= self.kind == L4Kind::Tcp && rule.subnets.is_empty();
            !before
        })
    }
}

impl L4Rule {
    /// One more than the bits of the narrowest subnet around `address`; 0 where every address is
    /// taken, `None` where this one is not.
    fn width(&self, address: IpAddr) -> Option<u8> {
        if self.subnets.is_empty() {
            return Some(0);
        }
        let around = self.subnets.iter().filter(|net| net.contains(&address));
        around.map(|net| net.prefix_len() + 1).max()
    }

    /// How much of `name` is asked for: an exact name counts more than every suffix.
    fn name_length(&self, name: Option<&str>) -> Option<usize> {
        if self.server_names.is_empty() {
            return Some(0);
        }
        let name = name?;
        let lengths = self.server_names.iter().filter_map(|one| one.length(name));
        lengths.max()
    }
}

impl L4Rule {
    /// What it asks for, as operators read it; as alternatives there is one at most.
    pub fn conditions(&self) -> Vec<String> {
        let mut parts = Vec::new();
        if !self.server_names.is_empty() {
            let names: Vec<String> = self.server_names.iter().map(ToString::to_string).collect();
            parts.push(format!("server name {}", names.join(" or ")));
        }
        if !self.subnets.is_empty() {
            let subnets: Vec<String> = self.subnets.iter().map(ToString::to_string).collect();
            parts.push(format!("address in {}", subnets.join(" or ")));
        }
        parts.extend(self.caller.as_ref().map(ToString::to_string));
        let all = parts.join(" and ");
        Some(all)
            .filter(|all| !all.is_empty())
            .into_iter()
            .collect()
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl ServerName {
    /// From a name, or one that begins with `*`.
    pub fn new(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        match text.strip_prefix('*') {
            Some(suffix) => Self::Suffix(suffix.into()),
            None => Self::Exact(text.into()),
        }
    }

    fn length(&self, name: &str) -> Option<usize> {
        match self {
            Self::Exact(text) => name.eq_ignore_ascii_case(text).then_some(usize::MAX),
            Self::Suffix(suffix) => {
                let at = name.len().checked_sub(suffix.len())?;
                let end = name.as_bytes().get(at..)?;
                end.eq_ignore_ascii_case(suffix.as_bytes())
                    .then_some(suffix.len() + 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::types::ClusterName;

    /// `NAMES SUBNETS NAMESPACE`, one rule a word of `rules`; the result is the rule's index.
    fn choose(kind: L4Kind, rules: &[&str], name: Option<&str>, address: &str) -> String {
        let rules = rules.iter().enumerate().map(|(index, text)| {
            let mut parts = text.split(';').map(|part| part.split_whitespace());
            let mut next = || parts.next().into_iter().flatten();
            let server_names = next().map(ServerName::new).collect();
            let subnets = next().map(|net| net.parse().expect("a net")).collect();
            let namespace = next().next();
            Arc::new(L4Rule {
                source: ObjectRef {
                    kind: "VirtualService".into(),
                    namespace: "n".into(),
                    name: "v".into(),
                },
                name: index.to_string().into(),
                server_names,
                subnets,
                caller: namespace.map(|namespace| {
                    Arc::new(Caller {
                        namespace: Some(namespace.into()),
                        labels: BTreeMap::new(),
                    })
                }),
                destinations: vec![Destination {
                    cluster: ClusterName::passthrough(),
                    headers: None,
                    names_port: false,
                }],
                weights: Weights::all(),
            })
        });
        let table = L4Table {
            kind,
            rules: rules.collect(),
        };
        let labels = BTreeMap::new();
        let request = L4Request {
            source: Source {
                namespace: "shop",
                labels: &labels,
            },
            destination: address.parse().expect("an address"),
            server_name: name,
        };
        match table.choose(&request) {
            L4Choice::Rule(rule) => rule.name.to_string(),
            L4Choice::Plain => "plain".to_owned(),
            L4Choice::Refused => "refused".to_owned(),
        }
    }

    #[test]
    fn the_most_specific_rule_is_chosen() {
        use L4Kind::{Tcp, Tls};
        for (title, kind, rules, name, address, expected) in [
            ("no rules", Tcp, &[][..], None, "10.0.0.1", "plain"),
            ("everything", Tcp, &[";;"], None, "10.0.0.1", "0"),
            ("the first", Tcp, &[";;", ";;"], None, "10.0.0.1", "0"),
            (
                "a subnet",
                Tcp,
                &[";10.0.0.0/8;", ";;"],
                None,
                "10.0.0.1",
                "0",
            ),
            (
                "not its subnet",
                Tcp,
                &[";10.0.0.0/8;"],
                None,
                "11.0.0.1",
                "plain",
            ),
            (
                "the narrowest",
                Tcp,
                &[";10.0.0.0/8;", ";10.0.0.1/32;"],
                None,
                "10.0.0.1",
                "1",
            ),
            (
                "a subnet of IPv6",
                Tcp,
                &[";fd00::/8;"],
                None,
                "fd00::1",
                "0",
            ),
            (
                "another caller's",
                Tcp,
                &[";;other", ";;"],
                None,
                "10.0.0.1",
                "1",
            ),
            (
                "a name",
                Tls,
                &["a.com", "b.com"],
                Some("b.com"),
                "10.0.0.1",
                "1",
            ),
            (
                "in any case",
                Tls,
                &["a.com"],
                Some("A.Com"),
                "10.0.0.1",
                "0",
            ),
            (
                "exact before suffix",
                Tls,
                &["*.a.com", "x.a.com"],
                Some("x.a.com"),
                "10.0.0.1",
                "1",
            ),
            (
                "the longest suffix",
                Tls,
                &["*.com", "*.a.com"],
                Some("x.a.com"),
                "10.0.0.1",
                "1",
            ),
            (
                "a suffix is not the name",
                Tls,
                &["*.a.com"],
                Some("a.com"),
                "10.0.0.1",
                "refused",
            ),
            ("every name", Tls, &["*"], Some("a.com"), "10.0.0.1", "0"),
            ("no name", Tls, &["*"], None, "10.0.0.1", "refused"),
            (
                "another name",
                Tls,
                &["a.com"],
                Some("b.com"),
                "10.0.0.1",
                "refused",
            ),
            (
                "all for others",
                Tls,
                &["a.com;;other"],
                Some("a.com"),
                "10.0.0.1",
                "plain",
            ),
            (
                "subnets first",
                Tls,
                &["a.com", "b.com;10.0.0.0/8"],
                Some("a.com"),
                "10.0.0.1",
                "refused",
            ),
        ] {
            assert_eq!(choose(kind, rules, name, address), expected, "{title}");
        }
    }
}
