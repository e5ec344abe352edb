//! What can be wrong with a RequestAuthentication by itself (Istio's validation).

use http::{HeaderName, Uri};

use super::{JwtRule, RequestAuthentication};
use crate::api::attachment::Attachment;
use crate::types::Finding;
use crate::types::field::is_fixed;

impl RequestAuthentication {
    pub(in crate::api) fn validate(&self, findings: &mut Vec<Finding>) {
        let spec = &self.spec;
        let attachment = Attachment {
            namespace: &self.metadata.namespace,
            selector: spec.selector.as_ref(),
            target: spec.target_ref.as_ref(),
            targets: &spec.target_refs,
        };
        attachment.validate(findings);
        for (index, rule) in spec.jwt_rules.iter().enumerate() {
            rule.validate(&format!("spec.jwtRules[{index}]"), findings);
        }
    }
}

impl JwtRule {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        let mut error = |name: &str, message: String| {
            findings.push(Finding::error(format!("{field}.{name}"), message));
        };
        if self.issuer.is_empty() {
            error("issuer", "an issuer is required".into());
        }
        for (index, one) in self.audiences.iter().enumerate() {
            if one.is_empty() {
                let name = format!("audiences[{index}]");
                error(&name, "an empty audience matches nothing".into());
            }
        }
        if !self.jwks_uri.is_empty() {
            if !self.jwks.is_empty() {
                error("jwks", "only one of jwks and jwksUri can be given".into());
            }
            let uri = self.jwks_uri.parse::<Uri>();
            let valid = uri.is_ok_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
            });
            if !valid {
                let message = format!("{:?} is not an http or https URL", self.jwks_uri);
                error("jwksUri", message);
            }
        }
        if !self.jwks.is_empty()
            && let Err(message) = check_keys(&self.jwks)
        {
            error("jwks", message);
        }
        for (index, one) in self.from_headers.iter().enumerate() {
            check_header(&one.name, &format!("fromHeaders[{index}].name"), &mut error);
        }
        for (name, list) in [
            ("fromParams", &self.from_params),
            ("fromCookies", &self.from_cookies),
            ("spaceDelimitedClaims", &self.space_delimited_claims),
        ] {
            for (index, one) in list.iter().enumerate() {
                if one.is_empty() {
                    error(&format!("{name}[{index}]"), "a name is required".into());
                }
            }
        }
        if !self.output_payload_to_header.is_empty() {
            let name = &self.output_payload_to_header;
            check_header(name, "outputPayloadToHeader", &mut error);
        }
        for (index, one) in self.output_claim_to_headers.iter().enumerate() {
            let name = format!("outputClaimToHeaders[{index}]");
            check_header(&one.header, &format!("{name}.header"), &mut error);
            if one.claim.is_empty() {
                error(&format!("{name}.claim"), "a claim is required".into());
            }
        }
        if self.timeout.is_some_and(|one| one.is_zero()) {
            error("timeout", "must be longer than zero".into());
        }
    }
}

fn check_header(name: &str, field: &str, error: &mut impl FnMut(&str, String)) {
    match name.parse::<HeaderName>() {
        Err(_) => error(field, format!("{name:?} is not the name of a header")),
        Ok(name) if is_fixed(&name) => error(
            field,
            format!("{name:?} frames the request or names its host: take a field of your own"),
        ),
        Ok(_) => {}
    }
}

/// A JSON Web Key Set (RFC 7517, section 5).
fn check_keys(text: &str) -> Result<(), String> {
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    match value.get("keys") {
        Some(serde_json::Value::Array(keys)) if !keys.is_empty() => Ok(()),
        _ => Err("not a key set: it has no `keys`".into()),
    }
}
