//! `retryOn`: the words that say what is tried again.

use std::fmt;

use http::StatusCode;

/// A set of conditions.
#[derive(Clone, PartialEq, Eq)]
pub struct Conditions {
    tokens: u32,
    /// Sorted.
    statuses: Vec<StatusCode>,
}

/// Why `retryOn` is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// No word of Istio's and no status with a name.
    #[error("{0:?} is not a retry condition{1}")]
    Unknown(String, String),
}

macro_rules! tokens {
    ($($name:ident = $text:literal, $help:literal;)+) => {
        /// A word of `retryOn`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Token {
            $(#[doc = $help] $name,)+
        }

        impl Token {
            const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, $text),)+];
        }
    };
}

tokens! {
    ServerError = "5xx", "A status from 500 to 599, or any reset.";
    GatewayError = "gateway-error", "502, 503, 504, or any reset.";
    Reset = "reset", "Any reset.";
    ResetBeforeRequest = "reset-before-request", "A reset before a byte of the request was sent.";
    ConnectFailure = "connect-failure", "No connection could be made.";
    Retriable4xx = "retriable-4xx", "409.";
    RefusedStream = "refused-stream", "A reset with `REFUSED_STREAM`.";
    StatusCodes = "retriable-status-codes", "One of the statuses listed, from the upstream itself.";
    Headers = "retriable-headers", "A field that the request names.";
    RateLimited = "envoy-ratelimited", "A response with `x-envoy-ratelimited`.";
    Http3PostConnectFailure = "http3-post-connect-failure", "QUIC only: never here.";
    Cancelled = "cancelled", "gRPC's status 1 in the response's head.";
    DeadlineExceeded = "deadline-exceeded", "gRPC's status 4 in the response's head.";
    Internal = "internal", "gRPC's status 13 in the response's head.";
    ResourceExhausted = "resource-exhausted", "gRPC's status 8 in the response's head.";
    Unavailable = "unavailable", "gRPC's status 14 in the response's head.";
}

impl Default for Conditions {
    /// Istio's default list.
    fn default() -> Self {
        [
            Token::ConnectFailure,
            Token::RefusedStream,
            Token::Unavailable,
            Token::Cancelled,
            Token::StatusCodes,
        ]
        .into_iter()
        .fold(Self::NONE, Self::with)
    }
}

impl Conditions {
    const NONE: Self = Self {
        tokens: 0,
        statuses: Vec::new(),
    };

    /// Reads `retryOn`: words and statuses, separated by commas. Nothing is trimmed (Istio), and an
    /// empty text is the default list.
    ///
    /// # Errors
    /// The first word that is unknown.
    pub fn parse(text: &str) -> Result<Self, ConditionError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut conditions = Self::NONE;
        let mut statuses = Vec::new();
        for word in text.split(',') {
            if let Some((token, _)) = Token::ALL.iter().find(|(_, known)| *known == word) {
                conditions = conditions.with(*token);
            } else if let Some(status) = status(word) {
                statuses.push(status);
                conditions = conditions.with(Token::StatusCodes);
            } else {
                return Err(ConditionError::Unknown(word.to_owned(), way_out(word)));
            }
        }
        statuses.sort_unstable();
        statuses.dedup();
        conditions.statuses = statuses;
        Ok(conditions)
    }

    fn with(mut self, token: Token) -> Self {
        self.tokens |= 1 << token as u32;
        self
    }

    /// Whether it holds this word.
    pub fn has(&self, token: Token) -> bool {
        self.tokens & (1 << token as u32) != 0
    }

    /// The words that cover no outcome, whatever happens, and why.
    pub fn idle(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        Token::ALL.iter().filter_map(|(token, text)| {
            let why = match token {
                Token::Headers => "a VirtualService can't say which headers are meant",
                Token::Http3PostConnectFailure => "there is no HTTP/3 here",
                Token::StatusCodes if self.statuses.is_empty() => {
                    "no status is listed; write it, as in 503"
                }
                _ => return None,
            };
            self.has(*token).then_some((*text, why))
        })
    }

    /// The statuses listed.
    pub fn statuses(&self) -> &[StatusCode] {
        &self.statuses
    }
}

/// A status, if it has a standard reason phrase (Istio accepts no other). Digits alone: `+503` and
/// `0503` are none.
fn status(word: &str) -> Option<StatusCode> {
    let status = StatusCode::from_bytes(word.as_bytes()).ok()?;
    status.canonical_reason().is_some().then_some(status)
}

fn way_out(word: &str) -> String {
    let trimmed = word.trim();
    if trimmed != word && Conditions::parse(trimmed).is_ok() && !trimmed.is_empty() {
        return "; write the list without spaces".to_owned();
    }
    if word.bytes().all(|byte| byte.is_ascii_digit()) && !word.is_empty() {
        return "; a status must be one with a standard reason phrase, such as 503".to_owned();
    }
    let lower = word.to_ascii_lowercase();
    let near = Token::ALL
        .iter()
        .map(|(_, known)| (strsim::damerau_levenshtein(known, &lower), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len() / 4);
    match near {
        Some((_, near)) => format!("; near it: {near}"),
        None => String::new(),
    }
}

/// As it is written.
impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (token, text) in Token::ALL {
            if self.has(*token) {
                write!(f, "{separator}{text}")?;
                separator = ",";
            }
        }
        for status in &self.statuses {
            write!(f, "{separator}{}", status.as_u16())?;
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conditions({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_istio_reads_them() {
        let default = "connect-failure,refused-stream,retriable-status-codes,cancelled,unavailable";
        for (text, expected) in [
            ("", Some(default)),
            ("5xx", Some("5xx")),
            ("reset,5xx,reset", Some("5xx,reset")),
            ("503,409,503", Some("retriable-status-codes,409,503")),
            (
                "gateway-error,429",
                Some("gateway-error,retriable-status-codes,429"),
            ),
            ("5xx, reset", None),
            (" 5xx", None),
            ("5xx,", None),
            (",", None),
            ("5XX", None),
            ("520", None),
            ("599", None),
            ("+503", None),
            ("0503", None),
            ("99", None),
            ("1000", None),
            ("teapot", None),
        ] {
            let found = Conditions::parse(text).ok().map(|found| found.to_string());
            assert_eq!(found.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_refusal_shows_the_way_out() {
        for (text, expected) in [
            (
                "5xx, reset",
                r#"" reset" is not a retry condition; write the list without spaces"#,
            ),
            (
                "520",
                r#""520" is not a retry condition; a status must be one with a standard reason phrase, such as 503"#,
            ),
            (
                "gateway-errors",
                r#""gateway-errors" is not a retry condition; near it: gateway-error"#,
            ),
            ("x", r#""x" is not a retry condition"#),
        ] {
            let error = Conditions::parse(text).expect_err(text);
            assert_eq!(error.to_string(), expected);
        }
    }
}
