//! Who may do what with a workload: AuthorizationPolicy, compiled and evaluated.
//!
//! A connection is judged by what is known of it, a request by that and its own head. What a policy
//! asks of a request cannot be known of a connection whose bytes are not looked at; there, as in
//! Istio, an ALLOW rule that asks for it never matches, and a rule of any other action matches
//! without it: whatever can't be evaluated denies. Knows neither selectors nor where policies
//! apply: it is handed those that do.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderMap;

use crate::types::{Identity, ObjectRef};

mod compile;
mod condition;
mod issued;
mod path;
mod text;
mod token;

pub use compile::TrustDomains;
use condition::Condition;
pub use token::Token;

/// A connection, as policies ask about it.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The caller's identity, proved; `None` for plain text.
    pub peer: Option<&'a Identity>,
    /// The caller's address.
    pub source: SocketAddr,
    /// What it dialled: the workload's own address and port.
    pub destination: SocketAddr,
    /// The server that the caller's TLS asks for, in lower case; empty where it asks for none, or is no
    /// TLS. `None` where that is not known.
    pub server_name: Option<&'a str>,
}

/// A request, as policies ask about it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `:method`.
    pub method: &'a str,
    /// The path without the query, normalised as routing sees it.
    pub path: &'a str,
    /// `:authority` as the client sent it, with a port where it sent one.
    pub host: &'a str,
    /// Header fields.
    pub headers: &'a HeaderMap,
    /// The client's address behind trusted proxies.
    pub remote: IpAddr,
    /// The token that was verified.
    pub token: Option<&'a Token>,
}

/// What becomes of what a policy matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is allowed, and nothing else.
    Allow,
    /// It is denied.
    Deny,
    /// It is marked, for an auditor to see.
    Audit,
    /// An external service decides, of each request. A connection whose bytes are not looked at is
    /// denied.
    Custom,
}

/// A policy, compiled.
#[derive(Debug)]
pub struct Policy {
    /// Which object it is.
    pub object: ObjectRef,
    /// What becomes of what it matches.
    pub action: Action,
    /// Set where it is evaluated and told of, but not enforced.
    pub dry_run: bool,
    /// Who is asked, for [`Action::Custom`].
    pub provider: Option<Arc<str>>,
    rules: Vec<Rule>,
}

/// Conditions that all must hold. Of `from` and `to` one entry must, where there is any.
#[derive(Debug, Default)]
struct Rule {
    from: Vec<Vec<Condition>>,
    to: Vec<Vec<Condition>>,
    when: Vec<Condition>,
}

/// Why something was denied.
#[derive(Clone, Debug)]
pub enum Denial {
    /// A rule of a DENY policy, or of a CUSTOM one, matches.
    Matched {
        /// The policy.
        policy: Arc<Policy>,
        /// The rule's index in it.
        rule: usize,
    },
    /// ALLOW policies apply, and none matches.
    NotAllowed,
    /// Plain text, where this PeerAuthentication asks for mutual TLS.
    PlainText(ObjectRef),
    /// Bytes that were relayed before this RequestAuthentication asked for their tokens.
    Unread(ObjectRef),
}

impl PartialEq for Denial {
    fn eq(&self, other: &Self) -> bool {
        self.details() == other.details()
    }
}

impl Denial {
    /// What the access log is told: Envoy's details, and their like for plain text.
    pub fn details(&self) -> Cow<'static, str> {
        const DENIED: &str = "rbac_access_denied_matched_policy";
        match self {
            Self::Matched { policy, rule } => {
                let ObjectRef {
                    namespace, name, ..
                } = &policy.object;
                Cow::Owned(format!(
                    "{DENIED}[ns[{namespace}]-policy[{name}]-rule[{rule}]]"
                ))
            }
            Self::NotAllowed => Cow::Borrowed("rbac_access_denied_matched_policy[none]"),
            Self::PlainText(object) => Cow::Owned(format!(
                "{DENIED}[ns[{}]-peer_authentication[{}]-strict]",
                object.namespace, object.name
            )),
            Self::Unread(object) => Cow::Owned(format!(
                "{DENIED}[ns[{}]-request_authentication[{}]-unread]",
                object.namespace, object.name
            )),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matched { policy, rule } => write!(f, "rule {rule} of {} matches", policy.object),
            Self::NotAllowed => f.write_str("no ALLOW policy matches"),
            Self::Unread(object) => write!(f, "{object} asks for tokens, and it was not read"),
            Self::PlainText(object) => write!(f, "{object} asks for mutual TLS"),
        }
    }
}

/// What the policies of a trial would have done.
#[derive(Clone, Debug, PartialEq)]
pub enum Shadow {
    /// Let it pass.
    Allowed,
    /// Denied it.
    Denied(Denial),
}

/// The CUSTOM policies that match a request, and their rules that do: their providers are to be asked
/// before it is judged.
pub fn custom(
    policies: &[Arc<Policy>],
    caller: &Caller<'_>,
    request: &Request<'_>,
) -> Vec<(Arc<Policy>, usize)> {
    let facts = Facts::new(caller, Some(request));
    let asking = policies.iter().filter(|one| one.is_custom());
    let matching = asking.filter_map(|one| Some((Arc::clone(one), one.matched(&facts)?)));
    matching.collect()
}

/// Judges by the policies that apply, in Istio's order: CUSTOM, DENY, then ALLOW where there is any.
/// Of a request CUSTOM does not count here: who asks for it has asked ([`custom`]) before. `request` is `None` for a connection whose bytes are not looked at. One that is allowed then has
/// no request that would not be: what an ALLOW rule needs of requests it can't have there, and what
/// turns others against the caller counts there.
///
/// # Errors
/// Why it is denied.
pub fn judge(
    policies: &[Arc<Policy>],
    caller: &Caller<'_>,
    request: Option<&Request<'_>>,
) -> Result<(), Denial> {
    run(policies, &Facts::new(caller, request), false)
}

/// Whether it takes a look at the requests of a connection to judge it. It does not where its bytes
/// are allowed: then every request is. Nor where nothing at its destination asks for requests. A
/// policy on trial, or an AUDIT policy, that asks for them is to be told of each.
pub fn is_about_requests(policies: &[Arc<Policy>], caller: &Caller<'_>) -> bool {
    makes_a_difference(policies, caller, Policy::asks_for_requests_of)
}

/// The same for a look at the server name of the caller's TLS.
pub fn is_about_names(policies: &[Arc<Policy>], caller: &Caller<'_>) -> bool {
    makes_a_difference(policies, caller, Policy::asks_for_names_of)
}

fn makes_a_difference(
    policies: &[Arc<Policy>],
    caller: &Caller<'_>,
    asks_for_it: impl Fn(&Policy, &Caller<'_>) -> bool,
) -> bool {
    let mut asks = [false; 2];
    for policy in policies {
        let counts = !policy.dry_run || policy.is_tried();
        let told_of = policy.dry_run || policy.action == Action::Audit;
        asks[usize::from(told_of)] |= counts && asks_for_it(policy, caller);
    }
    let [enforced, told_of] = asks;
    told_of || (enforced && judge(policies, caller, None).is_err())
}

/// The same for the policies on trial; `None` where there is none.
pub fn shadow(
    policies: &[Arc<Policy>],
    caller: &Caller<'_>,
    request: Option<&Request<'_>>,
) -> Option<Shadow> {
    if !policies.iter().any(|one| one.is_tried()) {
        return None;
    }
    let facts = Facts::new(caller, request);
    Some(match run(policies, &facts, true) {
        Ok(()) => Shadow::Allowed,
        Err(denial) => Shadow::Denied(denial),
    })
}

/// The first AUDIT policy that matches, and its rule: what an auditor is to hear of, whether or not it
/// is allowed.
pub fn audited<'a>(
    policies: &'a [Arc<Policy>],
    caller: &Caller<'_>,
    request: Option<&Request<'_>>,
) -> Option<(&'a Policy, usize)> {
    let mut marking = policies
        .iter()
        .filter(|one| one.action == Action::Audit && !one.dry_run)
        .peekable();
    marking.peek()?;
    let facts = Facts::new(caller, request);
    marking.find_map(|one| Some((&**one, one.matched(&facts)?)))
}

fn run(policies: &[Arc<Policy>], facts: &Facts<'_>, dry_run: bool) -> Result<(), Denial> {
    for action in [Action::Custom, Action::Deny] {
        for policy in policies {
            if policy.action == action
                && policy.dry_run == dry_run
                // Istio tries ALLOW and DENY alone.
                && !(action == Action::Custom && (dry_run || facts.request.is_some()))
                && let Some(rule) = policy.matched(facts)
            {
                return Err(Denial::Matched {
                    policy: Arc::clone(policy),
                    rule,
                });
            }
        }
    }
    let mut allows = policies
        .iter()
        .filter(|one| one.action == Action::Allow && one.dry_run == dry_run)
        .peekable();
    if allows.peek().is_some() && !allows.any(|one| one.matched(facts).is_some()) {
        return Err(Denial::NotAllowed);
    }
    Ok(())
}

impl Policy {
    /// Whether it is on trial: Istio tries ALLOW and DENY alone.
    fn is_tried(&self) -> bool {
        self.dry_run && matches!(self.action, Action::Allow | Action::Deny)
    }

    /// Whether its provider is asked about what it matches.
    pub fn is_custom(&self) -> bool {
        self.action == Action::Custom && !self.dry_run
    }

    /// Whether a rule asks for something that only a request has, or somebody is asked about each.
    pub fn asks_for_requests(&self) -> bool {
        (self.is_custom() && !self.rules.is_empty())
            || self.rules.iter().any(|rule| {
                let mut conditions = rule.conditions();
                conditions.any(Condition::is_of_request)
            })
    }

    /// Whether a rule that may match what comes to the caller's destination asks for something that
    /// only a request has.
    pub fn asks_for_requests_of(&self, caller: &Caller<'_>) -> bool {
        self.asks(caller, |rule| {
            self.is_custom() || rule.conditions().any(Condition::is_of_request)
        })
    }

    /// The same for the server name of the caller's TLS.
    fn asks_for_names_of(&self, caller: &Caller<'_>) -> bool {
        self.asks(caller, |rule| rule.conditions().any(Condition::is_of_name))
    }

    fn asks(&self, caller: &Caller<'_>, of: impl Fn(&Rule) -> bool) -> bool {
        let facts = Facts::new(caller, None);
        let may = |all: &Vec<Condition>| all.iter().all(|one| one.may_hold_there(&facts));
        self.rules.iter().any(|rule| {
            of(rule) && (rule.to.is_empty() || rule.to.iter().any(may)) && may(&rule.when)
        })
    }

    /// How many rules it has.
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    /// The first rule that matches.
    fn matched(&self, facts: &Facts<'_>) -> Option<usize> {
        let allows = self.action == Action::Allow;
        // An auditor is told what is known, and a caller is not to be guessed at.
        let asks_for_all = allows || self.action == Action::Audit;
        self.rules.iter().position(|rule| {
            // The whole rule, and not the one entry of `from` or `to`: so does Istio.
            if asks_for_all && rule.conditions().any(|one| !one.is_known(facts)) {
                return false;
            }
            // What the action turns against the caller is compared more widely.
            let holds = |all: &Vec<Condition>| all.iter().all(|one| one.holds(facts, !allows));
            let one_of = |any: &[Vec<Condition>]| any.is_empty() || any.iter().any(holds);
            one_of(&rule.from) && one_of(&rule.to) && holds(&rule.when)
        })
    }
}

impl Rule {
    fn conditions(&self) -> impl Iterator<Item = &Condition> {
        let entries = self.from.iter().chain(&self.to);
        entries.flatten().chain(&self.when)
    }
}

/// What is known of a connection or request, with what takes work to know.
struct Facts<'a> {
    caller: &'a Caller<'a>,
    request: Option<&'a Request<'a>>,
    principal: OnceCell<String>,
}

impl<'a> Facts<'a> {
    fn new(caller: &'a Caller<'a>, request: Option<&'a Request<'a>>) -> Self {
        Self {
            caller,
            request,
            principal: OnceCell::new(),
        }
    }

    /// The caller's identity as policies write it.
    fn principal(&self) -> Option<&str> {
        let peer = self.caller.peer?;
        let text = self.principal.get_or_init(|| {
            let mut text = String::new();
            // Writing to a String does not fail.
            let _ = write!(text, "{}", peer.principal());
            text
        });
        Some(text)
    }
}

#[cfg(test)]
mod tests;
