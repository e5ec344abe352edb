//! Compiled HTTP routes of a service's port: VirtualService rules, or one plain rule.
//!
//! A table names clusters and does not hold them: endpoints come and go without touching it.

mod index;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use self::index::Index;
use crate::policy::headers::Operations;
use crate::policy::matcher::{Match, Request};
use crate::policy::redirect::Redirect;
use crate::policy::rewrite::{Matched, Rewrite};
use crate::policy::split::Weights;
use crate::policy::{cors, fault, retry};
use crate::types::{ClusterName, Fraction, ObjectRef};

/// The rules for one service's port, in order.
#[derive(Clone, Debug)]
pub struct RouteTable {
    /// The VirtualService; `None` for the plain route of a service that has none.
    pub source: Option<Arc<ObjectRef>>,
    rules: Box<[Arc<Rule>]>,
    /// Absent where there are few.
    index: Option<Box<Index>>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// The rule.
    pub rule: &'a Arc<Rule>,
    /// What its match block matched of the path, for rewrites and redirects.
    pub matched: Matched,
}

impl RouteTable {
    /// A table of rules that are tried from first to last.
    pub fn new(source: Option<Arc<ObjectRef>>, rules: Vec<Arc<Rule>>) -> Self {
        let index = Index::new(&rules).map(Box::new);
        Self {
            source,
            rules: rules.into(),
            index,
        }
    }

    /// In the order in which they are tried.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The first rule that matches. `None` is a 404 with flag `NR`: once a VirtualService owns the
    /// host there is no fall-through to the plain route (Istio).
    pub fn choose(&self, request: &Request<'_>) -> Option<Choice<'_>> {
        let Some(index) = &self.index else {
            return self.rules.iter().find_map(|rule| {
                let matched = rule.applies(request)?;
                Some(Choice { rule, matched })
            });
        };
        let (at, matched) = index.find(&self.rules, request)?;
        let rule = self.rules.get(at)?;
        Some(Choice { rule, matched })
    }
}

/// One rule: conditions, what is done, and under which policies.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The rule's name in the access log and in metrics; `default` where it has none.
    pub name: Arc<str>,
    /// Alternatives (OR); empty matches everything.
    pub matches: Arc<[Match]>,
    /// What becomes of the request.
    pub action: Action,
    /// `headers`; with those of the destination where there is only one.
    pub headers: Arc<Operations>,
    /// `corsPolicy`.
    pub cors: Option<Arc<cors::Policy>>,
    /// `fault`.
    pub fault: Option<Arc<fault::Policy>>,
    /// `statPrefix` of the match block; few have one.
    pub stat_prefix: Option<Arc<String>>,
}

impl Rule {
    /// What the first of the alternatives that matches matched of the path.
    pub fn applies(&self, request: &Request<'_>) -> Option<Matched> {
        if self.matches.is_empty() {
            return Some(Matched::by(None));
        }
        let block = self.matches.iter().find(|one| one.matches(request))?;
        Some(Matched::by(block.path.as_ref()))
    }
}

/// What a rule does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sends the request on.
    Forward(Arc<Forward>),
    /// Sends the client elsewhere.
    Redirect(Arc<Redirect>),
    /// Answers by itself.
    Respond(Arc<DirectResponse>),
}

/// Where requests are sent, and how.
#[derive(Clone, Debug)]
pub struct Forward {
    /// One of them gets the request, chosen by weight once per request (retries stay with the
    /// choice). Never empty.
    pub destinations: Box<[Destination]>,
    /// One weight a destination, in their order.
    pub weights: Weights,
    /// `rewrite`.
    pub rewrite: Option<Arc<Rewrite>>,
    /// `timeout`; `None` for none.
    pub timeout: Option<Duration>,
    /// `retries`, or Istio's default policy.
    pub retry: Arc<retry::Policy>,
    /// `mirror` or `mirrors`; each draws for itself.
    pub mirrors: Box<[Mirror]>,
}

impl Forward {
    /// To one cluster, under the default policies.
    pub fn to(cluster: ClusterName, retry: Arc<retry::Policy>) -> Self {
        Self {
            destinations: Box::new([Destination {
                cluster,
                headers: None,
                names_port: true,
            }]),
            weights: Weights::all(),
            rewrite: None,
            timeout: None,
            retry,
            mirrors: Box::default(),
        }
    }
}

/// Where a rule may send a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The cluster. Where the snapshot has none of this name (unknown host, port or subset) the
    /// request is answered 503 with flag `NC`.
    pub cluster: ClusterName,
    /// Its own header operations, applied before the rule's. `None` where there are none, and where
    /// it is the only destination: then the rule's hold them.
    pub headers: Option<Arc<Operations>>,
    /// Whether it names a port: only then a `consistentHash` of `portLevelSettings` has a key
    /// (Istio).
    pub names_port: bool,
}

/// A copy of requests goes there too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The cluster; without one of this name nothing is mirrored.
    pub cluster: ClusterName,
    /// How many requests.
    pub share: Fraction,
}

/// `directResponse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    /// `status`.
    pub status: StatusCode,
    /// `body`; `text/plain` where it is not empty.
    pub body: Bytes,
}
