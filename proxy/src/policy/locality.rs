//! Which endpoints of a cluster a client prefers by where it and they run.
//!
//! Pure, and resolved when endpoints or settings change, never for a request. Knows neither
//! health nor load balancing: it only says which priority an endpoint has, or which share.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::types::Locality;

/// What a DestinationRule's `localityLbSetting` (or, where it has none, the Service's traffic
/// distribution, or the mesh's default) amounts to, once it is known whether failover is active:
/// in Istio an `outlierDetection` block or a traffic distribution activates it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Settings {
    /// Localities are ignored: all endpoints have one priority.
    #[default]
    Ignore,
    /// `distribute`: fixed shares a locality. Takes precedence over failover.
    Distribute(Vec<Distribution>),
    /// Priorities.
    Failover {
        /// `failoverPriority`, from the most to the least important. Where there are any,
        /// localities count only if there are `regions` too.
        labels: Vec<Label>,
        /// `failover`: where a region's traffic goes first once the region has failed.
        regions: Vec<RegionFailover>,
    },
}

/// One entry of `distribute`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// The clients it is for.
    pub from: Pattern,
    /// Shares in percent, 1 to 100, in a fixed order; where two patterns match a locality, the
    /// first has it.
    pub to: Vec<(Pattern, u32)>,
}

/// One entry of `failover`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionFailover {
    /// The client's region.
    pub from: Arc<str>,
    /// The region that comes next.
    pub to: Arc<str>,
}

/// One entry of `failoverPriority`: a label that the client and an endpoint have alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The label's key.
    pub key: Arc<str>,
    /// The value asked for, where it is not the client's own (`key=value`).
    pub value: Option<Arc<str>>,
}

impl Label {
    /// From `key` or `key=value`. With more than one `=` the value is the client's own, as in
    /// Istio.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split('=');
        let key = parts.next().unwrap_or_default().into();
        let value = match (parts.next(), parts.next()) {
            (Some(value), None) => Some(value.into()),
            _ => None,
        };
        Self { key, value }
    }
}

/// A locality with wildcards: `*`, `region/*`, `region/zone/*`, or parts that must be equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// From the text as users write it. Whether it is a sensible one is validation's question.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A client or an endpoint, as far as its place matters.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Where it runs.
    pub locality: &'a Locality,
    /// Its own labels. The topology's labels need not be among them: they are told from the
    /// locality and the node.
    pub labels: &'a BTreeMap<String, String>,
    /// Its node's name.
    pub node: Option<&'a str>,
}

/// Where an endpoint stands for one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// 0 is used first. Priorities have no gaps.
    pub priority: u32,
    /// Endpoints of one priority and locality have the same number, from 0.
    pub group: u32,
}
