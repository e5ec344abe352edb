//! The proxies' access logs and counters, in the form that both have.

use std::collections::BTreeMap;

use serde_json::Value;

/// What a log says of one exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logged {
    /// Response flags, joined by commas; empty where there are none.
    pub flags: String,
    /// What answered.
    pub details: String,
    /// The cluster.
    pub cluster: String,
    /// The rule.
    pub route: String,
}

/// The entries of a log by request id, and by the client's address.
pub fn entries(lines: &[String]) -> BTreeMap<String, Logged> {
    let mut entries = BTreeMap::new();
    for line in lines {
        let Ok(value) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let text = |key: &str| match value[key].as_str() {
            None | Some("-") => String::new(),
            Some(text) => text.to_owned(),
        };
        let logged = Logged {
            flags: text("response_flags"),
            details: text("response_code_details"),
            cluster: text("upstream_cluster"),
            route: text("route_name"),
        };
        entries.insert(text("downstream_remote_address"), logged.clone());
        entries.insert(text("request_id"), logged);
    }
    entries
}

/// Counters and gauges out of `name: value` lines.
pub fn stats(text: &str) -> BTreeMap<String, u64> {
    let pairs = text.lines().filter_map(|line| line.rsplit_once(": "));
    pairs
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
        .collect()
}
