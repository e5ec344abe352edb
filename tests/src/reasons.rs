//! Counters that have the label `reason`: how much was added, and why.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::Proxy;

/// A counter's values by reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reasons(BTreeMap<String, u64>);

impl Proxy {
    /// One of the node's own counters, by reason.
    pub async fn reasons(&self, name: &str) -> Result<Reasons> {
        let text = self.metrics().await?;
        let start = format!("aquifer_{name}_total{{reason=\"");
        let lines = text.lines().filter_map(|line| line.strip_prefix(&start));
        let pairs = lines.filter_map(|line| line.split_once("\"} "));
        let all: BTreeMap<_, _> = pairs
            .filter_map(|(reason, value)| Some((reason.to_owned(), value.parse().ok()?)))
            .collect();
        ensure!(!all.is_empty(), "no counter {name} with reasons");
        Ok(Reasons(all))
    }
}

impl Reasons {
    /// What was added since `before`, as `expired=2 late=1`.
    pub fn since(&self, before: &Self) -> String {
        let added = self.0.iter().filter_map(|(reason, value)| {
            let before = before.0.get(reason).copied().unwrap_or_default();
            let added = value.checked_sub(before).filter(|added| *added > 0)?;
            Some(format!("{reason}={added}"))
        });
        added.collect::<Vec<_>>().join(" ")
    }
}
