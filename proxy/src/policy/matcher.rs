//! Whether a request meets the conditions of a VirtualService's match block.
//!
//! Compiled once; asked once per request and block, without allocating. Does not know where
//! requests come from, nor the static conditions (`port`, `gateways`): whoever compiles a table
//! leaves out the blocks that can't apply there. Conditions on the caller are asked like any other,
//! since all pods of a node share a table.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};

pub use super::pattern::{Case, Pattern, PatternError};

/// The parts of a request that conditions look at, normalised by whoever parsed it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `:method`.
    pub method: &'a Method,
    /// The path without the query.
    pub path: &'a str,
    /// The query without its `?`.
    pub query: Option<&'a str>,
    /// As the client sent it, with a port where it sent one.
    pub authority: &'a str,
    /// Header fields, names in lower case.
    pub headers: &'a HeaderMap,
    /// `:scheme`: of the connection, `http` or `https`.
    pub scheme: &'a str,
    /// Who calls.
    pub source: Source<'a>,
}

/// A caller, as far as conditions ask about it.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// Conditions on the caller: `sourceLabels` and `sourceNamespace`, or a DestinationRule's
/// `workloadSelector`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The namespace that it must be of.
    pub namespace: Option<Box<str>>,
    /// The labels that it must have.
    pub labels: BTreeMap<String, String>,
}

impl Caller {
    /// Whether it is `source`.
    pub fn is(&self, source: Source<'_>) -> bool {
        self.namespace
            .as_deref()
            .is_none_or(|namespace| namespace == source.namespace)
            && self
                .labels
                .iter()
                .all(|(label, value)| source.labels.get(label) == Some(value))
    }
}

/// One match block: every condition must hold, and without any it matches everything.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// `uri`: the path without the query.
    pub path: Option<Pattern>,
    /// `method`, case-sensitive.
    pub method: Option<Pattern>,
    /// `authority`, case-sensitive and with the port where the client sent one.
    pub authority: Option<Pattern>,
    /// `headers` and `withoutHeaders`.
    pub headers: Vec<HeaderCondition>,
    /// `queryParams`.
    pub query: Vec<QueryCondition>,
    /// `scheme`, case-sensitive.
    pub scheme: Option<Pattern>,
    /// `sourceLabels` and `sourceNamespace`.
    pub caller: Option<Arc<Caller>>,
}

/// A condition on one field of the request's head.
#[derive(Clone, Debug)]
pub struct HeaderCondition {
    /// Which field.
    pub field: Field,
    /// Whether the condition holds when the test holds, or when it does not.
    pub sense: Sense,
    /// `None`: the field is present.
    pub pattern: Option<Pattern>,
}

/// A field of the request's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A header field.
    Header(HeaderName),
    /// `:method`.
    Method,
    /// `:authority`.
    Authority,
    /// `:path`, with the query.
    Path,
}

/// Whether a condition wants its test to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sense {
    /// `headers`.
    With,
    /// `withoutHeaders`.
    Without,
}

/// A condition on one parameter of the query.
#[derive(Clone, Debug)]
pub struct QueryCondition {
    /// The parameter's name, compared as sent.
    pub name: Box<str>,
    /// `None`: the parameter is present.
    pub pattern: Option<Pattern>,
}

impl Match {
    /// Whether every condition holds.
    pub fn matches(&self, request: &Request<'_>) -> bool {
        holds(self.path.as_ref(), request.path)
            && holds(self.method.as_ref(), request.method.as_str())
            && holds(self.authority.as_ref(), request.authority)
            && self.headers.iter().all(|one| one.holds(request))
            && self.query.iter().all(|one| one.holds(request.query))
            && holds(self.scheme.as_ref(), request.scheme)
            && self
                .caller
                .as_ref()
                .is_none_or(|caller| caller.is(request.source))
    }

    /// Whether it holds for every request.
    pub fn is_catch_all(&self) -> bool {
        self.method.is_none()
            && self.authority.is_none()
            && self.headers.is_empty()
            && self.query.is_empty()
            && self.scheme.is_none()
            && self.caller.is_none()
            && self.path.as_ref().is_none_or(Pattern::is_any_path)
    }
}

fn holds(pattern: Option<&Pattern>, value: &str) -> bool {
    pattern.is_none_or(|pattern| pattern.matches(value.as_bytes()))
}

impl HeaderCondition {
    fn holds(&self, request: &Request<'_>) -> bool {
        match self.sense {
            Sense::With => self.test(request),
            Sense::Without => !self.test(request),
        }
    }

    /// Repeated lines are compared one by one, and it is enough that one matches. (Envoy 1.40 was
    /// seen to do so; in `withoutHeaders` one matching line therefore fails the condition.)
    fn test(&self, request: &Request<'_>) -> bool {
        let Some(pattern) = &self.pattern else {
            return match &self.field {
                Field::Header(name) => request.headers.contains_key(name),
                Field::Method | Field::Authority | Field::Path => true,
            };
        };
        match &self.field {
            Field::Header(name) => {
                let mut lines = request.headers.get_all(name).iter().peekable();
                if lines.peek().is_none() {
                    // Istio sets `treat_missing_header_as_empty` for `withoutHeaders` alone.
                    return self.sense == Sense::Without && pattern.matches(b"");
                }
                lines.any(|line| pattern.matches(line.as_bytes()))
            }
            Field::Method => pattern.matches(request.method.as_str().as_bytes()),
            Field::Authority => pattern.matches(request.authority.as_bytes()),
            Field::Path => match request.query {
                None => pattern.matches(request.path.as_bytes()),
                // Rare enough (a header condition on `:path` and a query) to pay for one string.
                Some(query) => pattern.matches(format!("{}?{query}", request.path).as_bytes()),
            },
        }
    }
}

impl QueryCondition {
    /// Only the first value of a repeated parameter counts, nothing is decoded, and `;` separates
    /// nothing (Envoy).
    fn holds(&self, query: Option<&str>) -> bool {
        let value = query.unwrap_or_default().split('&').find_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name == &*self.name && !(name.is_empty() && value.is_empty())).then_some(value)
        });
        match (&self.pattern, value) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(pattern), Some(value)) => pattern.matches(value.as_bytes()),
        }
    }
}

/// As operators read it: `uri prefix /api and header x exact a and not header y`.
impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = [
            ("uri", &self.path),
            ("method", &self.method),
            ("authority", &self.authority),
            ("scheme", &self.scheme),
        ];
        let mut parts: Vec<String> = Vec::new();
        for (name, pattern) in fields {
            parts.extend(pattern.as_ref().map(|pattern| format!("{name} {pattern}")));
        }
        for one in &self.headers {
            let not = match one.sense {
                Sense::With => "",
                Sense::Without => "not ",
            };
            parts.push(format!(
                "{not}header {}{}",
                one.field,
                Condition(&one.pattern)
            ));
        }
        for one in &self.query {
            parts.push(format!("query {}{}", one.name, Condition(&one.pattern)));
        }
        parts.extend(self.caller.as_ref().map(ToString::to_string));
        if parts.is_empty() {
            return f.write_str("everything");
        }
        f.write_str(&parts.join(" and "))
    }
}

/// `caller in shop with app=web`.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("caller")?;
        if let Some(namespace) = &self.namespace {
            write!(f, " in {namespace}")?;
        }
        let mut separator = " with ";
        for (label, value) in &self.labels {
            write!(f, "{separator}{label}={value}")?;
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header(name) => name.as_str(),
            Self::Method => ":method",
            Self::Authority => ":authority",
            Self::Path => ":path",
        })
    }
}

/// Nothing where presence is asked for.
struct Condition<'a>(&'a Option<Pattern>);

impl fmt::Display for Condition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pattern) => write!(f, " {pattern}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
