//! A VirtualService's rules, compiled as far as that can be done without knowing the services.
//!
//! What remains for later is what depends on the port at which they are asked, and on the ports
//! that their destinations have: `route`, `l4`; and what other VirtualServices add: `delegate`.

use std::sync::Arc;

use crate::api::VirtualService;
use crate::api::virtual_service::{Destination, HttpRoute, MESH};
use crate::mesh::DirectResponse;
use crate::policy::headers::Operations;
use crate::policy::matcher::Match;
use crate::policy::redirect::Redirect;
use crate::policy::rewrite::Rewrite;
use crate::policy::{cors, fault, retry};
use crate::types::{Finding, Fraction, Hostname, ObjectRef};

mod condition;
pub(super) mod delegate;
mod forward;
mod l4;
mod policies;

pub(super) use forward::default_retry;
pub use l4::{L4Block, L4Template};
pub(super) use policies::no_operations;

/// The rules of one VirtualService, with the object that they come from.
#[derive(Debug)]
pub struct Routes {
    /// As it was written.
    pub source: Arc<VirtualService>,
    /// Its name.
    pub reference: Arc<ObjectRef>,
    /// Its hosts, in full.
    pub hosts: Vec<Hostname>,
    /// In order, without those that can't apply to mesh traffic.
    pub rules: Vec<Template>,
    /// `tls` and `tcp`, likewise.
    pub l4: Vec<L4Template>,
}

/// A rule, before the port is known.
#[derive(Debug)]
pub struct Template {
    /// The delegate that it comes from; `None` for the VirtualService itself.
    pub delegate: Option<ObjectRef>,
    /// Which of `spec.http` it is.
    pub index: usize,
    /// Empty where it has none.
    pub name: String,
    /// `None`: it applies to every request. Otherwise one of the blocks must match.
    pub blocks: Option<Box<[Block]>>,
    /// The conditions of each block on the request.
    pub conditions: Arc<[Match]>,
    /// What it does.
    pub plan: Plan,
    /// `headers`, with those of the only destination.
    pub headers: Arc<Operations>,
    /// `corsPolicy`.
    pub cors: Option<Arc<cors::Policy>>,
    /// `fault`.
    pub fault: Option<Arc<fault::Policy>>,
}

/// What a rule does.
#[derive(Debug)]
pub enum Plan {
    /// Sends requests on.
    Forward(Box<Forwarding>),
    /// Sends clients elsewhere.
    Redirect(Arc<Redirect>),
    /// Answers by itself.
    Respond(Arc<DirectResponse>),
}

/// Where requests are sent, and how.
#[derive(Debug)]
pub struct Forwarding {
    /// Never empty; their weights never all zero.
    pub targets: Vec<Target>,
    /// `rewrite`.
    pub rewrite: Option<Arc<Rewrite>>,
    /// `timeout`.
    pub timeout: Option<std::time::Duration>,
    /// `retries`.
    pub retry: Arc<retry::Policy>,
    /// `mirror` or `mirrors`, without those that get nothing.
    pub mirrors: Vec<MirrorTarget>,
}

/// One match block.
#[derive(Debug)]
pub struct Block {
    /// Empty where it has none.
    pub name: String,
    /// The only port at which it counts.
    pub port: Option<u16>,
    /// `statPrefix`.
    pub stat_prefix: Option<Arc<String>>,
}

/// What a destination names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// In full.
    pub host: Hostname,
    /// A DestinationRule's subset.
    pub subset: Option<Arc<str>>,
    /// `None`: the host's only port, or the one that was asked.
    pub port: Option<u16>,
}

/// A weighted destination.
#[derive(Debug)]
pub struct Target {
    /// Which of `route` it is.
    pub index: usize,
    /// Where.
    pub place: Place,
    /// Never 0.
    pub weight: u32,
    /// Its own `headers`, where the rule has several destinations.
    pub headers: Option<Arc<Operations>>,
}

/// A destination of copies.
#[derive(Debug)]
pub struct MirrorTarget {
    /// Its field below the rule: `mirror`, `mirrors[0].destination`.
    pub field: String,
    /// Where.
    pub place: Place,
    /// How many.
    pub share: Fraction,
}

/// What the rules of one VirtualService are compiled by.
struct Origin<'a> {
    namespace: &'a str,
    cluster_domain: &'a str,
    for_mesh: bool,
    delegate: Option<&'a ObjectRef>,
}

impl Routes {
    /// Compiles a valid VirtualService. Rules that delegate are left out until [`delegate`] knows
    /// to whom.
    ///
    /// # Errors
    /// Each regular expression, header template and retry condition that is refused.
    pub fn compile(
        source: Arc<VirtualService>,
        cluster_domain: &str,
    ) -> Result<Self, Vec<Finding>> {
        let namespace = Arc::clone(&source.metadata.namespace);
        let spec = &source.spec;
        let mut errors = Vec::new();
        let origin = Origin {
            namespace: &namespace,
            cluster_domain,
            for_mesh: spec.is_for_mesh(),
            delegate: None,
        };
        let hosts = spec.hosts.iter().map(|host| origin.full(host)).collect();
        let mut rules = Vec::with_capacity(spec.http.len());
        for (index, rule) in spec.http.iter().enumerate() {
            rules.extend(template(rule, index, &origin, &mut errors));
        }
        let l4 = l4::templates(spec, &origin);
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            reference: Arc::new(ObjectRef {
                kind: "VirtualService".into(),
                namespace: Arc::clone(&namespace),
                name: Arc::clone(&source.metadata.name),
            }),
            hosts,
            rules,
            l4,
            source,
        })
    }

    /// Whether a rule of it delegates.
    pub fn delegates(&self) -> bool {
        self.source
            .spec
            .http
            .iter()
            .any(|rule| rule.delegate.is_some())
    }
}

impl Template {
    /// Every place that the rule may send to: the targets, then the mirrors.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        let forwarding = match &self.plan {
            Plan::Forward(forwarding) => Some(forwarding),
            Plan::Redirect(_) | Plan::Respond(_) => None,
        };
        forwarding.into_iter().flat_map(|one| {
            let targets = one.targets.iter().map(|target| &target.place);
            targets.chain(one.mirrors.iter().map(|mirror| &mirror.place))
        })
    }
}

impl Origin<'_> {
    fn full(&self, host: &str) -> Hostname {
        Hostname::resolve(host, self.namespace, self.cluster_domain)
    }

    fn place(&self, destination: &Destination) -> Place {
        Place {
            host: self.full(&destination.host),
            subset: (!destination.subset.is_empty()).then(|| destination.subset.as_str().into()),
            port: destination.port.as_ref().map(|port| port.number),
        }
    }
}

/// `None` where the rule is not for mesh traffic, or delegates.
fn template(
    rule: &HttpRoute,
    index: usize,
    origin: &Origin<'_>,
    errors: &mut Vec<Finding>,
) -> Option<Template> {
    let field = format!("spec.http[{index}]");
    let (blocks, conditions) = blocks(rule, &field, origin.for_mesh, errors).unzip();
    let mut headers = policies::operations(rule.headers.as_ref(), &field, errors);
    let cors = rule.cors_policy.as_ref();
    let cors = cors.and_then(|cors| policies::cors(cors, &format!("{field}.corsPolicy"), errors));
    let fault = rule.fault.as_ref().map(policies::fault).map(Arc::new);
    let plan = if let Some(redirect) = &rule.redirect {
        Plan::Redirect(Arc::new(policies::redirect(redirect)))
    } else if let Some(response) = &rule.direct_response {
        let field = format!("{field}.directResponse");
        Plan::Respond(Arc::new(policies::respond(response, &field, errors)?))
    } else if rule.delegate.is_some() {
        return None;
    } else {
        let (forwarding, only) = forward::compile(rule, &field, origin, errors);
        if let Some(only) = only {
            headers = policies::joined(&headers, &only);
        }
        Plan::Forward(Box::new(forwarding))
    };
    // All of its blocks are for others: without them it would be for everyone.
    let applies = match &blocks {
        None => origin.for_mesh,
        Some(blocks) => !blocks.is_empty(),
    };
    applies.then(|| Template {
        delegate: origin.delegate.cloned(),
        index,
        name: rule.name.clone(),
        blocks,
        conditions: conditions.unwrap_or_default(),
        plan,
        headers,
        cors,
        fault,
    })
}

/// The blocks of a rule, and the conditions of each.
type Blocks = (Box<[Block]>, Arc<[Match]>);

/// The blocks of a rule that can apply to mesh traffic.
fn blocks(
    rule: &HttpRoute,
    field: &str,
    for_mesh: bool,
    errors: &mut Vec<Finding>,
) -> Option<Blocks> {
    if rule.matches.is_empty() {
        return None;
    }
    let mut blocks = Vec::with_capacity(rule.matches.len());
    let mut conditions = Vec::with_capacity(rule.matches.len());
    for (at, block) in rule.matches.iter().enumerate() {
        let condition = condition::compile(block, &format!("{field}.match[{at}]"), errors);
        if is_for_mesh(&block.gateways, for_mesh) && block.unimplemented().next().is_none() {
            blocks.push(Block {
                name: block.name.clone(),
                port: block.port.filter(|port| *port != 0),
                stat_prefix: (!block.stat_prefix.is_empty())
                    .then(|| Arc::new(block.stat_prefix.clone())),
            });
            conditions.push(condition);
        }
    }
    Some((blocks.into(), conditions.into()))
}

/// A block's own gateways stand in the place of the VirtualService's.
fn is_for_mesh(gateways: &[String], otherwise: bool) -> bool {
    if gateways.is_empty() {
        otherwise
    } else {
        gateways.iter().any(|one| one == MESH)
    }
}

/// A single destination gets everything whatever its weight says; of several, those without a
/// weight get nothing (Istio).
fn weight(given: i32, count: usize) -> Option<u32> {
    if count == 1 {
        return Some(1);
    }
    u32::try_from(given).ok().filter(|weight| *weight > 0)
}
