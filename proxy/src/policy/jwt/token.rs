//! One token (RFC 7519, in RFC 7515's compact form): read, and verified by an issuer's keys.

use serde_json::Value;

use super::base64url::unescape;
use super::json;
use super::keys::{Algorithm, Keys, Signature};

/// Seconds by which clocks may differ (Envoy's `clock_skew_seconds`).
const SKEW: u64 = 60;
/// Bytes of a token at most: no header field is longer.
const LONGEST: usize = 60 * 1024;

/// Why a token is refused. The texts are Envoy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum Refusal {
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    Form,
    #[error("Jwt header is an invalid Base64url encoded")]
    HeaderBase64,
    #[error("Jwt header is an invalid JSON")]
    HeaderJson,
    #[error("Jwt header [alg] field is required and must be a string")]
    NoAlgorithm,
    #[error("Jwt header [alg] is not supported")]
    Algorithm,
    #[error("Jwt header [kid] field is not a string")]
    KeyId,
    #[error("Jwt payload is an invalid Base64url encoded")]
    PayloadBase64,
    #[error("Jwt payload is an invalid JSON")]
    PayloadJson,
    #[error("Jwt payload [{0}] field is not a string")]
    NotText(&'static str),
    #[error("Jwt payload [{0}] field is not an integer")]
    NotInteger(&'static str),
    #[error("Jwt payload [{0}] field is not a positive 64 bit integer")]
    OutOfRange(&'static str),
    #[error("Jwt payload [aud] field is not a string or string list")]
    AudienceForm,
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureBase64,
    #[error("Jwt issuer is not configured")]
    Issuer,
    #[error("Jwt not yet valid")]
    TooEarly,
    #[error("Jwt is expired")]
    Expired,
    #[error("Audiences in Jwt are not allowed")]
    Audience,
    #[error("Jwks remote fetch is failed")]
    NoKeys,
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoKey,
    #[error("Jwt verification fails")]
    Signature,
}

/// A token that was read, and of which nothing is verified.
#[derive(Debug)]
pub(super) struct Unverified<'a> {
    /// What is signed.
    signed: &'a str,
    /// As it stands in the token.
    pub(super) payload: &'a str,
    algorithm: Algorithm,
    key_id: Option<String>,
    signature: Vec<u8>,
    not_before: Option<u64>,
    expires: Option<u64>,
    audiences: Vec<String>,
    pub(super) claims: Value,
}

impl<'a> Unverified<'a> {
    /// In the order in which Envoy finds fault.
    pub(super) fn read(token: &'a str) -> Result<Self, Refusal> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::Form);
        };
        let empty = header.is_empty() || payload.is_empty() || signature.is_empty();
        if empty || token.len() > LONGEST {
            return Err(Refusal::Form);
        }
        let head = unescape(header).ok_or(Refusal::HeaderBase64)?;
        let head = json::object(&head).ok_or(Refusal::HeaderJson)?;
        let algorithm = head.get("alg").and_then(Value::as_str);
        let algorithm = Algorithm::named(algorithm.ok_or(Refusal::NoAlgorithm)?);
        let algorithm = algorithm.ok_or(Refusal::Algorithm)?;
        // RFC 7515, section 4.1.11: what must be understood and is not makes it invalid.
        if head.get("crit").is_some() {
            return Err(Refusal::Algorithm);
        }
        let key_id = match head.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()).filter(|id| !id.is_empty()),
            Some(_) => return Err(Refusal::KeyId),
        };
        let claims = unescape(payload).ok_or(Refusal::PayloadBase64)?;
        let claims = json::object(&claims).ok_or(Refusal::PayloadJson)?;
        text(&claims, "iss")?;
        text(&claims, "sub")?;
        seconds(&claims, "iat")?;
        let not_before = seconds(&claims, "nbf")?;
        let expires = seconds(&claims, "exp")?;
        text(&claims, "jti")?;
        let audiences = audiences(&claims)?;
        let signature = unescape(signature).ok_or(Refusal::SignatureBase64)?;
        Ok(Self {
            signed: &token[..header.len() + 1 + payload.len()],
            payload,
            algorithm,
            key_id,
            signature,
            not_before,
            expires,
            audiences,
            claims,
        })
    }

    /// The claim `iss`; empty where it has none.
    pub(super) fn issuer(&self) -> &str {
        self.claims
            .get("iss")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Whether it may be used at `now`, seconds since 1970.
    pub(super) fn check_times(&self, now: u64) -> Result<(), Refusal> {
        if self
            .not_before
            .is_some_and(|at| now.saturating_add(SKEW) < at)
        {
            return Err(Refusal::TooEarly);
        }
        if self.expires.is_some_and(|at| now > at.saturating_add(SKEW)) {
            return Err(Refusal::Expired);
        }
        Ok(())
    }

    /// Whether it is for one of `allowed`, each a [`plain_audience`], where there are any.
    pub(super) fn check_audience(&self, allowed: &[String]) -> Result<(), Refusal> {
        let is_one = |name: &String| allowed.iter().any(|one| *one == plain_audience(name));
        if allowed.is_empty() || self.audiences.iter().any(is_one) {
            Ok(())
        } else {
            Err(Refusal::Audience)
        }
    }

    pub(super) fn check_signature(&self, keys: &Keys) -> Result<(), Refusal> {
        let id = self.key_id.as_deref();
        match keys.check(self.algorithm, id, self.signed.as_bytes(), &self.signature) {
            Signature::Good => Ok(()),
            Signature::Bad => Err(Refusal::Signature),
            Signature::NoKey => Err(Refusal::NoKey),
        }
    }
}

/// An audience as they are compared: without the scheme, and a slash at the end (Envoy).
pub(super) fn plain_audience(name: &str) -> &str {
    let name = name
        .strip_prefix("https://")
        .or_else(|| name.strip_prefix("http://"))
        .unwrap_or(name);
    name.strip_suffix('/').unwrap_or(name)
}

fn text(claims: &Value, name: &'static str) -> Result<(), Refusal> {
    match claims.get(name) {
        None | Some(Value::String(_)) => Ok(()),
        Some(_) => Err(Refusal::NotText(name)),
    }
}

/// Parts of a second count for nothing (Envoy).
fn seconds(claims: &Value, name: &'static str) -> Result<Option<u64>, Refusal> {
    let number = match claims.get(name) {
        None => return Ok(None),
        Some(Value::Number(number)) => number,
        Some(_) => return Err(Refusal::NotInteger(name)),
    };
    let float = number.as_f64().unwrap_or(f64::NAN);
    // 2^64 is the first that is too large, and so is all that is rounded to it.
    let fits = (0.0..18_446_744_073_709_551_616.0).contains(&float);
    if !fits {
        return Err(Refusal::OutOfRange(name));
    }
    Ok(Some(number.as_u64().unwrap_or(float as u64)))
}

fn audiences(claims: &Value) -> Result<Vec<String>, Refusal> {
    match claims.get("aud") {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(list)) => {
            let texts = list.iter().map(|one| one.as_str().map(ToOwned::to_owned));
            texts.collect::<Option<_>>().ok_or(Refusal::AudienceForm)
        }
        Some(_) => Err(Refusal::AudienceForm),
    }
}
