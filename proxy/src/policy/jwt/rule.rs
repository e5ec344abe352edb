//! One rule of a RequestAuthentication: an issuer, where its tokens stand, and what is done with
//! what they say.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, HeaderValue, Uri};
use serde_json::{Number, Value};

use super::place::{Name, Place};
use super::token::{Refusal, Unverified, plain_audience};
use super::{Keys, NotKeys};
use crate::api::request_authentication::JwtRule;
use crate::types::ObjectRef;
use crate::types::field::is_fixed;

/// The parameter of a query that is looked at by default (RFC 6750, section 2.3).
const PARAMETER: &str = "access_token";
/// How long fetching keys may take by default (Istio).
const PATIENCE: Duration = Duration::from_secs(5);
/// Tokens that one request may have for one rule.
const MOST_TOKENS: usize = 8;

/// A rule, compiled.
#[derive(Debug)]
pub struct Rule {
    /// The RequestAuthentication that it is of.
    pub object: ObjectRef,
    /// The claim `iss`.
    pub issuer: Arc<str>,
    /// Where the issuer's keys come from.
    pub keys: Source,
    /// One of the claim `aud`; without any all are taken.
    audiences: Vec<String>,
    /// In the order in which a token counts before others.
    places: Vec<Place>,
    /// The field that a verified payload is put into.
    payload_to: Option<HeaderName>,
    /// Fields that claims are put into, by their paths.
    claims_to: Vec<(HeaderName, Vec<String>)>,
    /// Whether the token goes on to the application.
    forward: bool,
    /// Claims that are lists in one text.
    pub(super) space_delimited: Vec<String>,
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// They stand in the rule.
    Given(Arc<Keys>),
    /// They are to be fetched.
    Fetched(Arc<Origin>),
    /// Nowhere: what is in the rule is no key set. Its tokens are refused.
    Nowhere(NotKeys),
}

/// Where keys are fetched from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The URL of a key set, or an issuer.
    pub location: Location,
    /// How long fetching may take.
    pub timeout: Duration,
}

/// A URL, or who knows one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Location {
    /// The URL of a key set.
    Keys(Arc<str>),
    /// An issuer whose OpenID configuration says where its keys are.
    Issuer(Arc<str>),
}

impl Location {
    /// The suffix of an issuer at which its configuration is (OpenID Connect Discovery, section 4).
    const DISCOVERY: &str = "/.well-known/openid-configuration";
}

/// The URL that is asked first.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys(url) => f.write_str(url),
            Self::Issuer(issuer) => {
                write!(f, "{}{}", issuer.trim_end_matches('/'), Self::DISCOVERY)
            }
        }
    }
}

/// What a rule makes of the tokens at its places.
pub(super) enum Outcome {
    /// There are none.
    Absent,
    /// Each is valid. Of several the first counts.
    Valid(Verified),
    /// One is not.
    Refused(Refusal),
}

pub(super) struct Verified {
    pub(super) payload: String,
    pub(super) claims: Value,
    /// Where its tokens stand.
    places: Vec<Place>,
}

impl AsRef<Self> for Rule {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Rule {
    /// Compiles `rule`, which is valid as far as that can be said without reading its keys.
    pub fn compile(object: ObjectRef, rule: &JwtRule) -> Self {
        let headers = rule
            .from_headers
            .iter()
            .filter_map(|one| Some(Place::Header(Name(field(&one.name)?), one.prefix.clone())));
        let parameters = rule.from_params.iter().cloned().map(Place::Parameter);
        let cookies = rule.from_cookies.iter().cloned().map(Place::Cookie);
        let mut places: Vec<Place> = headers.chain(parameters).chain(cookies).collect();
        // As Envoy keeps them: by kind, then by name.
        places.sort();
        places.dedup();
        let none_given = rule.from_headers.is_empty()
            && rule.from_params.is_empty()
            && rule.from_cookies.is_empty();
        if none_given {
            places.push(Place::Header(Name(AUTHORIZATION), "Bearer ".to_owned()));
            places.push(Place::Parameter(PARAMETER.to_owned()));
        }
        let claims_to = rule.output_claim_to_headers.iter().filter_map(|one| {
            let path = one.claim.split('.').map(ToOwned::to_owned).collect();
            Some((field(&one.header)?, path))
        });
        let audiences = rule.audiences.iter();
        Self {
            object,
            issuer: rule.issuer.as_str().into(),
            keys: Source::of(rule),
            audiences: audiences
                .map(|one| plain_audience(one).to_owned())
                .collect(),
            places,
            payload_to: field(&rule.output_payload_to_header),
            claims_to: claims_to.collect(),
            forward: rule.forward_original_token,
            space_delimited: rule.space_delimited_claims.clone(),
        }
    }

    /// The parameters of a query that its tokens may be.
    pub(super) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.places.iter().filter_map(|place| match place {
            Place::Parameter(name) => Some(&**name),
            Place::Header(..) | Place::Cookie(_) => None,
        })
    }

    /// Takes off what only a verified token may say.
    pub(super) fn clear(&self, headers: &mut HeaderMap) {
        let names = self.claims_to.iter().map(|(name, _)| name);
        for name in names.chain(&self.payload_to) {
            headers.remove(name);
        }
    }

    /// Verifies whatever stands at this rule's places at `now`, seconds since 1970: all of it must be
    /// valid, since nobody knows which of them the application will look at (Envoy).
    pub(super) fn verify(
        &self,
        target: &Uri,
        headers: &HeaderMap,
        now: u64,
        keys: &dyn Fn(&Origin) -> Option<Arc<Keys>>,
    ) -> Outcome {
        let all = self.places.iter().map(|place| {
            let tokens = place.tokens(target, headers);
            (place, tokens)
        });
        let found: Vec<(&Place, Vec<String>)> =
            all.filter(|(_, tokens)| !tokens.is_empty()).collect();
        let count: usize = found.iter().map(|(_, tokens)| tokens.len()).sum();
        if count > MOST_TOKENS {
            return Outcome::Refused(Refusal::Form);
        }
        let keys = match &self.keys {
            Source::Given(keys) => Ok(Arc::clone(keys)),
            Source::Fetched(origin) => keys(origin).ok_or(Refusal::NoKeys),
            Source::Nowhere(_) => Err(Refusal::NoKeys),
        };
        let mut first = None;
        // Which one is told of is Envoy's choice: the last that is found.
        for token in found.iter().flat_map(|(_, tokens)| tokens).rev() {
            match self.verify_one(token, now, &keys) {
                Ok(verified) => first = Some(verified),
                Err(refusal) => return Outcome::Refused(refusal),
            }
        }
        match first {
            None => Outcome::Absent,
            Some((payload, claims)) => Outcome::Valid(Verified {
                payload,
                claims,
                places: found.iter().map(|(place, _)| (*place).clone()).collect(),
            }),
        }
    }

    /// In Envoy's order, which the texts of refusals show.
    fn verify_one(
        &self,
        token: &str,
        now: u64,
        keys: &Result<Arc<Keys>, Refusal>,
    ) -> Result<(String, Value), Refusal> {
        let token = Unverified::read(token)?;
        if token.issuer() != &*self.issuer {
            return Err(Refusal::Issuer);
        }
        token.check_times(now)?;
        token.check_audience(&self.audiences)?;
        token.check_signature(keys.as_ref().map_err(|refusal| *refusal)?)?;
        Ok((token.payload.to_owned(), token.claims))
    }

    /// Takes the tokens off, where they are not to go on, and puts what they say where the rule wants
    /// it.
    pub(super) fn apply(&self, verified: &Verified, target: &mut Uri, headers: &mut HeaderMap) {
        if !self.forward {
            for place in &verified.places {
                place.clear(target, headers);
            }
        }
        if let (Some(name), Ok(value)) =
            (&self.payload_to, HeaderValue::from_str(&verified.payload))
        {
            headers.insert(name, value);
        }
        for (name, path) in &self.claims_to {
            let mut parts = path.iter();
            let claim = parts.try_fold(&verified.claims, |value, part| value.get(part));
            let text = claim.and_then(shown).filter(|text| !text.is_empty());
            // What can't stand in a field is left out: it must not become two.
            if let Some(Ok(value)) = text.map(HeaderValue::try_from) {
                headers.insert(name, value);
            }
        }
    }
}

impl Source {
    fn of(rule: &JwtRule) -> Self {
        if !rule.jwks.is_empty() {
            return match Keys::read(rule.jwks.as_bytes()) {
                Ok(keys) => Self::Given(Arc::new(keys)),
                Err(problem) => Self::Nowhere(problem),
            };
        }
        let location = match rule.jwks_uri.as_str() {
            "" => Location::Issuer(rule.issuer.as_str().into()),
            uri => Location::Keys(uri.into()),
        };
        Self::Fetched(Arc::new(Origin {
            location,
            timeout: rule.timeout.unwrap_or(PATIENCE),
        }))
    }
}

/// A field of a rule's; `None` where it is none, or not a rule's to take: what stands in for a rule that
/// is not valid is compiled too.
fn field(name: &str) -> Option<HeaderName> {
    let name = name.parse().ok()?;
    (!is_fixed(&name)).then_some(name)
}

/// A claim as a header field has it (Envoy).
fn shown(claim: &Value) -> Option<String> {
    match claim {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number_shown(number)),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Array(_) | Value::Object(_) => Some(STANDARD.encode(claim.to_string())),
        Value::Null => None,
    }
}

fn number_shown(number: &Number) -> String {
    let float = number.as_f64().unwrap_or_default();
    match number.as_u64() {
        Some(whole) => whole.to_string(),
        None if float >= 0.0 && float < u64::MAX as f64 && float.fract() == 0.0 => {
            (float as u64).to_string()
        }
        None => format!("{float:.6}"),
    }
}
