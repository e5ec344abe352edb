//! What was seen of a scenario on one side, with that side's own addresses taken out.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::{
    book::Seen,
    client::{End, Outcome},
    log::Logged,
};

/// One step.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// What the client got.
    pub replies: Vec<Reply>,
    /// What reached the upstreams meanwhile.
    pub attempts: Vec<Seen>,
}

/// One answer, with what the log says of it.
#[derive(Clone, Debug)]
pub struct Reply {
    /// What the client got.
    pub outcome: Outcome,
    /// The log's entry, where there is one.
    pub logged: Option<Logged>,
}

/// A whole scenario.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Its steps.
    pub steps: Vec<Observed>,
    /// How many connections the upstreams accepted.
    pub connections: usize,
    /// The counters of its clusters, by name; the sum of all of them.
    pub counters: BTreeMap<&'static str, u64>,
}

impl Reply {
    /// An answer whose log entry is not known yet.
    pub fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            logged: None,
        }
    }

    /// The log's flags.
    pub fn flags(&self) -> &str {
        self.logged
            .as_ref()
            .map_or("no log entry", |one| &one.flags)
    }

    /// The values of a field of the answer, or of one of the other things that it has.
    pub fn field(&self, name: &str) -> Vec<String> {
        let logged = self.logged.clone().unwrap_or_default();
        match name {
            "body" => vec![String::from_utf8_lossy(&self.outcome.body).into_owned()],
            "end" => vec![end(self.outcome.end).into()],
            "details" => vec![logged.details],
            "route" => vec![logged.route],
            _ => match name.strip_prefix("t.") {
                Some(name) => values(&self.outcome.trailers, name),
                None => values(&self.outcome.headers, name),
            },
        }
    }
}

impl Seen {
    /// The values of a field, or of one of the other things that an attempt has.
    pub fn field(&self, name: &str) -> Vec<String> {
        match name {
            ":path" => vec![self.path.clone()],
            ":method" => vec![self.method.clone()],
            "version" => vec![self.version.into()],
            "body" => vec![String::from_utf8_lossy(&self.body).into_owned()],
            "host" => [
                values(&self.headers, "host"),
                values(&self.headers, ":authority"),
            ]
            .concat(),
            _ => match name.strip_prefix("t.") {
                Some(name) => values(&self.trailers, name),
                None => values(&self.headers, name),
            },
        }
    }
}

/// How an exchange ended, as expectations name it.
pub fn end(end: End) -> &'static str {
    match end {
        End::Whole => "whole",
        End::Broken => "broken",
        End::NoAnswer => "none",
        End::GaveUp => "gaveup",
    }
}

fn values(fields: &[(String, String)], name: &str) -> Vec<String> {
    let named = fields.iter().filter(|(field, _)| field == name);
    named.map(|(_, value)| value.clone()).collect()
}

/// Replaces what differs between two clients that do the same: their addresses and ports.
pub fn normal(text: &str, client: Ipv4Addr) -> String {
    let address = client.to_string();
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(&address) {
        out += &rest[..at];
        out += "<client>";
        rest = &rest[at + address.len()..];
        if let Some(port) = rest.strip_prefix(':') {
            let digits = port
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(port.len());
            if digits > 0 {
                out += ":<port>";
                rest = &port[digits..];
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_alike() {
        let client = Ipv4Addr::new(10, 0, 0, 1);
        for (text, expected) in [
            ("10.0.0.1", "<client>"),
            (
                "for 10.0.0.1:4711, 10.0.0.1:x",
                "for <client>:<port>, <client>:x",
            ),
            ("10.0.0.2:80", "10.0.0.2:80"),
        ] {
            assert_eq!(normal(text, client), expected);
        }
    }
}
