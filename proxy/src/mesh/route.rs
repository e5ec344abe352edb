//! Compiled HTTP routes of a service's port: VirtualService rules, or one plain rule.
//!
//! A table names clusters and does not hold them: endpoints come and go without touching it.

use std::sync::Arc;

use crate::policy::matcher::{Match, Request};
use crate::policy::split::Weights;
use crate::types::{ClusterName, ObjectRef};

/// The rules for one service's port, in order.
#[derive(Clone, Debug)]
pub struct RouteTable {
    /// The VirtualService; `None` for the plain route of a service that has none.
    pub source: Option<ObjectRef>,
    /// Tried from first to last.
    pub rules: Vec<Arc<Rule>>,
}

impl RouteTable {
    /// The first rule that matches. `None` is a 404 with flag `NR`: once a VirtualService owns the
    /// host there is no fall-through to the plain route (Istio).
    pub fn choose(&self, request: &Request<'_>) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| rule.applies(request))
    }
}

/// One rule: conditions and what is done.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The rule's name in the access log and in metrics; `default` where it has none.
    pub name: Arc<str>,
    /// Alternatives (OR); empty matches everything.
    pub matches: Vec<Match>,
    /// What becomes of the request.
    pub action: Action,
}

impl Rule {
    /// Whether one of the alternatives matches.
    pub fn applies(&self, request: &Request<'_>) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|one| one.matches(request))
    }
}

/// What a rule does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sends the request to one of the destinations, chosen by weight once per request (retries
    /// stay with the choice). The weights' order is the destinations' order.
    Forward {
        /// Never empty.
        destinations: Vec<Destination>,
        /// One weight a destination.
        weights: Weights,
    },
}

/// Where a rule may send a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The cluster. Where the snapshot has none of this name (unknown host, port or subset) the
    /// request is answered 503 with flag `NC`.
    pub cluster: ClusterName,
}
