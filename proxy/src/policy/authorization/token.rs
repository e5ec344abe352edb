//! What a verified token (JWT) says, as policies ask about it. Verifies nothing.

use serde_json::Value;

/// Claims that are lists in one text, separated by spaces (Istio, RFC 8693 section 4.2).
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

/// A verified token.
#[derive(Clone, Debug, Default)]
pub struct Token {
    claims: Value,
    principal: Option<String>,
    /// Further claims that are lists in one text (`spaceDelimitedClaims`).
    lists: Vec<String>,
}

impl Token {
    /// Of the payload of a token whose signature, issuer and times were verified.
    pub fn new(claims: Value, space_delimited: &[String]) -> Self {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let principal = text("iss")
            .zip(text("sub"))
            .map(|(issuer, subject)| format!("{issuer}/{subject}"));
        Self {
            principal,
            lists: space_delimited.to_vec(),
            claims,
        }
    }

    /// `ISSUER/SUBJECT`.
    pub fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// The claim `iss`.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// The claim `sub`.
    pub(super) fn subject(&self) -> Option<&str> {
        self.claims.get("sub").and_then(Value::as_str)
    }

    /// Whether a text of the claim at `path` passes `test`: of a list, any of its texts.
    pub(super) fn any(&self, path: &[Box<str>], test: impl Fn(&str) -> bool) -> bool {
        let mut value = &self.claims;
        for name in path {
            match value.get(&**name) {
                Some(inner) => value = inner,
                None => return false,
            }
        }
        match value {
            Value::String(text) => {
                let is_list = path.last().is_some_and(|name| {
                    let name = &**name;
                    SPACE_DELIMITED.contains(&name) || self.lists.iter().any(|one| one == name)
                });
                test(text) || (is_list && text.split(' ').any(test))
            }
            Value::Array(list) => list.iter().filter_map(Value::as_str).any(test),
            _ => false,
        }
    }
}
