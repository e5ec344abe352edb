//! Tokens of requests (JWT): where they stand, whose they are, and whether they are valid
//! (RequestAuthentication, after Envoy's filter `jwt_authn` as Istio sets it up).
//!
//! Pure: it is handed the time and the issuers' keys. Who may do what with a token is
//! [`super::authorization`]'s to say.

mod base64url;
mod json;
mod keys;
mod place;
mod rule;
mod token;

use std::sync::Arc;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{HeaderMap, Method, StatusCode, Uri};

pub use self::keys::{Keys, NotKeys};
use self::rule::Outcome;
pub use self::rule::{Location, Origin, Rule, Source};
pub use self::token::Refusal;
use super::authorization::Token;

/// The part of a request that is examined.
#[derive(Debug)]
pub struct Subject<'a> {
    /// `:method`.
    pub method: &'a Method,
    /// In origin form.
    pub target: &'a mut Uri,
    /// Header fields.
    pub headers: &'a mut HeaderMap,
}

/// What there is to know beside the request.
pub struct Known<'a> {
    /// Seconds since 1970.
    pub now: u64,
    /// The keys that were fetched; `None` while there are none.
    pub keys: &'a dyn Fn(&Origin) -> Option<Arc<Keys>>,
}

/// A token that is valid, and its issuer.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What it says.
    pub token: Arc<Token>,
    /// By whose rule.
    pub issuer: Arc<str>,
}

/// Examines a request: takes off it what only a verified token may say, verifies its tokens, and
/// puts what the valid one says where its rule wants it.
///
/// A request without a token passes and has none. With several rules it passes where all that stands
/// at one rule's places is valid for it; the first such rule counts (Istio).
///
/// # Errors
/// Where it has a token, and none that is valid.
pub fn examine(
    rules: &[impl AsRef<Rule>],
    subject: Subject<'_>,
    known: &Known<'_>,
) -> Result<Option<Verified>, Refusal> {
    let Subject {
        method,
        target,
        headers,
    } = subject;
    for rule in rules {
        rule.as_ref().clear(headers);
    }
    // Browsers send no credentials with it (Istio sets `bypass_cors_preflight`).
    let preflight = *method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if preflight {
        return Ok(None);
    }
    let mut refusal = None;
    for rule in rules {
        let rule = rule.as_ref();
        match rule.verify(target, headers, known.now, known.keys) {
            Outcome::Absent => {}
            Outcome::Valid(verified) => {
                rule.apply(&verified, target, headers);
                let token = Token::new(verified.claims, &rule.space_delimited);
                return Ok(Some(Verified {
                    token: Arc::new(token),
                    issuer: Arc::clone(&rule.issuer),
                }));
            }
            // That a token is another issuer's is the least that can be said of it.
            Outcome::Refused(other) => {
                refusal = refusal
                    .filter(|before| *before != Refusal::Issuer)
                    .or(Some(other));
            }
        }
    }
    refusal.map_or(Ok(None), Err)
}

/// The same target, with nothing to be read of what stands in its query in the place of a token: for
/// logs. `None` where nothing does.
pub fn concealed(rules: &[impl AsRef<Rule>], target: &Uri) -> Option<Uri> {
    target.query()?;
    let names = rules.iter().flat_map(|rule| rule.as_ref().parameters());
    place::concealed(target, &names.collect::<Vec<_>>())
}

impl Refusal {
    /// Envoy's status for it.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Audience => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// Envoy's details for the access log.
    pub fn details(&self) -> String {
        let text = self.to_string().replace(' ', "_");
        format!("jwt_authn_access_denied{{{text}}}")
    }
}

#[cfg(test)]
mod tests;
