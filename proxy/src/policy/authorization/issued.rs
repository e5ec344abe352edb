//! Who a token was issued to, as policies write it: `ISSUER/SUBJECT`, in Istio's forms.
//!
//! An issuer is a URL and may have another one's for a beginning: `https://id/a/*` is whoever
//! `https://id/a` vouches for, and nobody of `https://id/a/b`.

use super::text::{Case, Text};
use super::token::Token;

/// One value of `requestPrincipals` or `request.auth.principal`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Issued {
    issuer: Text,
    subject: Text,
    /// The value as one text.
    whole: Text,
}

impl Issued {
    /// Reads a value, which Istio takes apart at its last `/`.
    pub(super) fn new(value: &str) -> Self {
        let exact = |text: &str| Text::Exact(text.into());
        let parts = value.rsplit_once('/');
        let (issuer, subject) = match (value.strip_prefix('*'), value.strip_suffix('*'), parts) {
            (Some(""), ..) => (Text::Present, Text::Present),
            (Some(_), _, Some((issuer, subject))) => (Text::new_suffix(issuer), exact(subject)),
            (Some(rest), _, None) => (Text::Present, Text::Suffix(rest.into())),
            (None, Some(_), Some((issuer, subject))) => (exact(issuer), Text::new(subject)),
            (None, Some(rest), None) => (Text::Prefix(rest.into()), Text::Present),
            (None, None, Some((issuer, subject))) => (exact(issuer), exact(subject)),
            (None, None, None) => (exact(value), exact("")),
        };
        Self {
            issuer,
            subject,
            whole: Text::new(value),
        }
    }

    /// Whether it is the token's. `wide`: it is a reason to deny, and counts also where the value as a
    /// whole says so (a subject may have a `/` in it).
    pub(super) fn is(&self, token: &Token, wide: bool) -> bool {
        let is = |form: &Text, text: Option<&str>| {
            text.is_some_and(|text| form.is(text.as_bytes(), Case::Sensitive))
        };
        (is(&self.issuer, token.issuer()) && is(&self.subject, token.subject()))
            || (wide && is(&self.whole, token.principal()))
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
            ("https://id/*", "https://id/evil", "joe", false, true),
            ("https://id/a*", "https://id", "ann", true, true),
            ("https://id/a*", "https://id/a", "joe", false, true),
            ("*/joe", "https://id", "joe", true, true),
            ("*/joe", "https://id", "x/joe", false, true),
            ("*id/joe", "https://id", "joe", true, true),
            ("*id/joe", "https://other", "joe", false, false),
            ("*oe", "https://id", "joe", true, true),
            ("https:*", "https://id", "joe", true, true),
            ("id", "id", "", true, true),
            ("id", "id", "joe", false, false),
            ("https://id/a/b", "https://id", "a/b", false, true),
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
