//! Istio's RequestAuthentication: which tokens (JWT) a workload takes, and from whom.
//!
//! The fields are those of `security/v1beta1/request_authentication.proto`.

use std::time::Duration;

use serde::Deserialize;

use super::attachment::{Selector, TargetRef, target_field};
use super::{Metadata, or_default};

mod validate;

/// `security.istio.io` RequestAuthentication.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RequestAuthentication {
    /// `metadata`.
    pub metadata: Metadata,
    /// `spec`.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: RequestAuthenticationSpec,
}

impl RequestAuthentication {
    /// The field by which it is attached to objects by name, and not to workloads.
    pub fn target_field(&self) -> Option<&'static str> {
        target_field(self.spec.target_ref.as_ref(), &self.spec.target_refs)
    }
}

/// `spec` of a [`RequestAuthentication`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestAuthenticationSpec {
    /// `selector`.
    #[serde(default)]
    pub selector: Option<Selector>,
    /// `targetRef`.
    #[serde(default, alias = "target_ref")]
    pub target_ref: Option<TargetRef>,
    /// `targetRefs`.
    #[serde(default, alias = "target_refs", deserialize_with = "or_default")]
    pub target_refs: Vec<TargetRef>,
    /// `jwtRules`: a token must be valid for one of them.
    #[serde(default, alias = "jwt_rules", deserialize_with = "or_default")]
    pub jwt_rules: Vec<JwtRule>,
}

/// One of `jwtRules`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtRule {
    /// `issuer`: the claim `iss`.
    #[serde(default, deserialize_with = "or_default")]
    pub issuer: String,
    /// `audiences`: one of the claim `aud`; without any all are taken.
    #[serde(default, deserialize_with = "or_default")]
    pub audiences: Vec<String>,
    /// `jwksUri`: where the issuer's keys are.
    #[serde(default, alias = "jwks_uri", deserialize_with = "or_default")]
    pub jwks_uri: String,
    /// `jwks`: the issuer's keys.
    #[serde(default, deserialize_with = "or_default")]
    pub jwks: String,
    /// `fromHeaders`: where a token may stand; by default `Authorization`.
    #[serde(default, alias = "from_headers", deserialize_with = "or_default")]
    pub from_headers: Vec<FromHeader>,
    /// `fromParams`: parameters of the query.
    #[serde(default, alias = "from_params", deserialize_with = "or_default")]
    pub from_params: Vec<String>,
    /// `fromCookies`.
    #[serde(default, alias = "from_cookies", deserialize_with = "or_default")]
    pub from_cookies: Vec<String>,
    /// `outputPayloadToHeader`.
    #[serde(
        default,
        alias = "output_payload_to_header",
        deserialize_with = "or_default"
    )]
    pub output_payload_to_header: String,
    /// `forwardOriginalToken`.
    #[serde(
        default,
        alias = "forward_original_token",
        deserialize_with = "or_default"
    )]
    pub forward_original_token: bool,
    /// `outputClaimToHeaders`.
    #[serde(
        default,
        alias = "output_claim_to_headers",
        deserialize_with = "or_default"
    )]
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// `timeout` of fetching keys.
    #[serde(default, deserialize_with = "super::duration::optional")]
    pub timeout: Option<Duration>,
    /// `spaceDelimitedClaims`: claims beside `scope` and `permission` that are lists in one text.
    #[serde(
        default,
        alias = "space_delimited_claims",
        deserialize_with = "or_default"
    )]
    pub space_delimited_claims: Vec<String>,
}

/// One of `fromHeaders`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct FromHeader {
    /// `name`.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// `prefix`, with the space that follows it.
    #[serde(default, deserialize_with = "or_default")]
    pub prefix: String,
}

/// One of `outputClaimToHeaders`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ClaimToHeader {
    /// `header`.
    #[serde(default, deserialize_with = "or_default")]
    pub header: String,
    /// `claim`: a name, or a path of names joined by dots.
    #[serde(default, deserialize_with = "or_default")]
    pub claim: String,
}
