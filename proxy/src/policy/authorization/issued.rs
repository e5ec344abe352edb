//! Who a token was issued to, as policies write it: `ISSUER/SUBJECT`, in Istio's forms.
//!
//! An issuer is a URL and may have another one's for a beginning: `https://id/a/*` is whoever
//! `https://id/a` vouches for, and nobody of `https://id/a/b`.

use super::text::{Case, Text};
use super::token::Token;

/// One value of `requestPrincipals` or `request.auth.principal`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Issued {
    /// Issuer and subject, as Istio takes the value apart: at its last `/`.
    form: (Text, Text),
    /// The same, taken apart elsewhere.
    others: Vec<(Text, Text)>,
}

impl Issued {
    /// Reads a value.
    pub(super) fn new(value: &str) -> Self {
        let slashes = value.rmatch_indices('/');
        let mut forms =
            slashes.map(|(at, _)| parted(value, Some((&value[..at], &value[at + 1..]))));
        Self {
            form: forms.next().unwrap_or_else(|| parted(value, None)),
            others: forms.collect(),
        }
    }

    /// Whether it is the token's. `wide`: it is a reason to deny, and counts also where a subject has a
    /// `/` in it, or is empty.
    pub(super) fn is(&self, token: &Token, wide: bool) -> bool {
        let (Some(issuer), Some(subject)) = (token.issuer(), token.subject()) else {
            return false;
        };
        let is = |(issuers, subjects): &(Text, Text)| {
            let is = |form: &Text, text: &str| {
                let empty = wide && *form == Text::Present && text.is_empty();
                empty || form.is(text.as_bytes(), Case::Sensitive)
            };
            is(issuers, issuer) && is(subjects, subject)
        };
        is(&self.form) || (wide && self.others.iter().any(is))
    }
}

/// The forms of a value whose parts are these.
fn parted(value: &str, parts: Option<(&str, &str)>) -> (Text, Text) {
    let exact = |text: &str| Text::Exact(text.into());
    match (value.strip_prefix('*'), value.strip_suffix('*'), parts) {
        (Some(""), ..) => (Text::Present, Text::Present),
        (Some(_), _, Some((issuer, subject))) => (Text::new_suffix(issuer), exact(subject)),
        (Some(rest), _, None) => (Text::Present, Text::Suffix(rest.into())),
        (None, Some(_), Some((issuer, subject))) => (exact(issuer), Text::new(subject)),
        (None, Some(rest), None) => (Text::Prefix(rest.into()), Text::Present),
        (None, None, Some((issuer, subject))) => (exact(issuer), exact(subject)),
        (None, None, None) => (exact(value), exact("")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn issuers_are_not_their_beginnings() {
        for (value, issuer, subject, narrow, wide) in [
            ("*", "https://id", "joe", true, true),
            ("*", "https://id", "", false, true),
            ("https://id/joe", "https://id", "joe", true, true),
            ("https://id/joe", "https://id", "joey", false, false),
            ("https://id/*", "https://id", "joe", true, true),
            ("https://id/*", "https://id", "", false, true),
            // Another issuer, which calls itself so.
            ("https://id/*", "https://id/evil", "joe", false, false),
            ("https://id/a*", "https://id", "ann", true, true),
            ("https://id/a*", "https://id/a", "joe", false, false),
            ("*/joe", "https://id", "joe", true, true),
            ("*/joe", "https://id", "x/joe", false, false),
            ("*id/joe", "https://id", "joe", true, true),
            ("*id/joe", "https://other", "joe", false, false),
            ("*oe", "https://id", "joe", true, true),
            ("https:*", "https://id", "joe", true, true),
            ("id", "id", "", true, true),
            ("id", "id", "joe", false, false),
            ("https://id/a/b", "https://id", "a/b", false, true),
            ("https://id/a/b*", "https://id", "a/bc", false, true),
            ("https://id/a/b*", "https://id", "a", false, false),
        ] {
            let token = Token::new(json!({"iss": issuer, "sub": subject}), &[]);
            let form = Issued::new(value);
            let found = (form.is(&token, false), form.is(&token, true));
            assert_eq!(found, (narrow, wide), "{value} of {issuer} and {subject:?}");
        }
        let nobody = Token::new(json!({"iss": "id"}), &[]);
        for value in ["*", "id", "id/*", "*d"] {
            assert!(!Issued::new(value).is(&nobody, true), "{value}");
        }
    }
}
