//! Who may connect to a local workload: what its PeerAuthentications, RequestAuthentications and
//! AuthorizationPolicies come to.
//!
//! Pure: it is asked about a connection or a request and answers. Whoever carries connections asks
//! again when the snapshot has another guard for the workload.

use std::sync::Arc;

use crate::policy::authorization::{self, Caller, Denial, Policy, Request, Shadow};
use crate::policy::jwt;
use crate::policy::peer_authentication::{Mode, Requirement};

/// A workload's rules about its callers. Without any, everybody may call.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// Which ports take plain text.
    pub peers: Requirement,
    /// Whose tokens requests may have; a request with another one is refused.
    pub tokens: Vec<Arc<jwt::Rule>>,
    /// The policies that apply, trials included.
    pub policies: Vec<Arc<Policy>>,
}

impl Guard {
    /// Judges a connection whose bytes are not looked at.
    ///
    /// # Errors
    /// Why it is denied.
    pub fn admit(&self, caller: &Caller<'_>) -> Verdict {
        self.plain_text(caller)?;
        authorization::judge(&self.policies, caller, None)
    }

    /// Judges a request on a connection.
    ///
    /// # Errors
    /// Why it is denied.
    pub fn admit_request(&self, caller: &Caller<'_>, request: &Request<'_>) -> Verdict {
        self.plain_text(caller)?;
        authorization::judge(&self.policies, caller, Some(request))
    }

    /// Judges a connection whose requests will be judged each by itself: by who may call at all.
    ///
    /// # Errors
    /// Why it is denied.
    pub fn admit_caller(&self, caller: &Caller<'_>) -> Verdict {
        self.plain_text(caller)
    }

    /// What the policies on trial would have done with a request; `None` where there is none.
    pub fn shadow_request(&self, caller: &Caller<'_>, request: &Request<'_>) -> Option<Shadow> {
        authorization::shadow(&self.policies, caller, Some(request))
    }

    /// The AUDIT policy that marks a connection or, where it is one, a request, and its rule.
    pub fn audited(
        &self,
        caller: &Caller<'_>,
        request: Option<&Request<'_>>,
    ) -> Option<(&Policy, usize)> {
        authorization::audited(&self.policies, caller, request)
    }

    /// What the policies on trial would have done with a connection; `None` where there is none.
    pub fn shadow(&self, caller: &Caller<'_>) -> Option<Shadow> {
        authorization::shadow(&self.policies, caller, None)
    }

    /// Whether there is a policy by which an external authorizer is asked.
    pub fn has_custom(&self) -> bool {
        self.policies.iter().any(|one| one.is_custom())
    }

    /// The policies, and the rules of them, by which one is asked about this request.
    pub fn custom(&self, caller: &Caller<'_>, request: &Request<'_>) -> Vec<(Arc<Policy>, usize)> {
        authorization::custom(&self.policies, caller, request)
    }

    /// Whether the requests of a connection are to be judged each by itself, and not the connection
    /// as a whole: where that may make a difference.
    pub fn is_about_requests(&self, caller: &Caller<'_>) -> bool {
        !self.tokens.is_empty() || authorization::is_about_requests(&self.policies, caller)
    }

    /// Whether the server name of a connection's TLS is to be looked at: where that may make a
    /// difference.
    pub fn is_about_names(&self, caller: &Caller<'_>) -> bool {
        authorization::is_about_names(&self.policies, caller)
    }

    /// Whether tokens of `issuer` are still taken.
    pub fn takes_tokens_of(&self, issuer: &str) -> bool {
        self.tokens.iter().any(|one| *one.issuer == *issuer)
    }

    /// Whether everybody may call, whatever the port, and with whatever token.
    pub fn is_open(&self) -> bool {
        let others = std::iter::once(self.peers.others());
        let mut settings = self.peers.ports().iter().map(|one| &one.1).chain(others);
        let nothing_is_asked = self.policies.is_empty() && self.tokens.is_empty();
        nothing_is_asked && settings.all(|one| one.mode != Mode::Strict)
    }

    /// Whether it says the same as `other`, out of the same policies.
    pub fn is_same(&self, other: &Self) -> bool {
        self.peers == other.peers
            && are_same(&self.policies, &other.policies)
            && are_same(&self.tokens, &other.tokens)
    }

    fn plain_text(&self, caller: &Caller<'_>) -> Verdict {
        let setting = self.peers.at(caller.destination.port());
        match (&setting.policy, setting.mode, caller.peer) {
            (Some(policy), Mode::Strict, None) => Err(Denial::PlainText(policy.clone())),
            _ => Ok(()),
        }
    }
}

fn are_same<T>(one: &[Arc<T>], other: &[Arc<T>]) -> bool {
    let mut pairs = one.iter().zip(other);
    one.len() == other.len() && pairs.all(|(one, other)| Arc::ptr_eq(one, other))
}

/// Admitted, or why not.
pub type Verdict = Result<(), Denial>;
