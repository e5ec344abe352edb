//! The tokens of a request: verified before anything is judged, so that what policies ask about a
//! request is what a valid token says of it.

use std::time::UNIX_EPOCH;

use http::{HeaderValue, Uri, request};

use crate::clock;
use crate::dataplane::outcome::Exchange;
use crate::dataplane::worker::Worker;
use crate::mesh::Guard;
use crate::policy::jwt::{self, Known, Refusal, Subject, Verified};

/// Bytes of a path that are repeated to whoever is refused (Envoy).
const LONGEST_PATH: usize = 256;

/// A request whose token is not valid.
#[derive(Debug)]
pub(in crate::dataplane::http) struct Refused {
    /// Why.
    pub(in crate::dataplane::http) refusal: Refusal,
    /// What is said about how to be let in: `WWW-Authenticate` (RFC 6750, section 3).
    pub(in crate::dataplane::http) challenge: HeaderValue,
}

/// Verifies the token, and makes of the request what its rule says. `None` where it has none, or
/// nobody here asks for any.
pub(super) fn examine(
    worker: &Worker,
    guard: &Guard,
    exchange: &mut Exchange,
    parts: &mut request::Parts,
    authority: &HeaderValue,
) -> Result<Option<Verified>, Refused> {
    if guard.tokens.is_empty() {
        return Ok(None);
    }
    let known = Known {
        // Before 1970 every token with an expiry is valid, and none that has a beginning.
        now: clock::wall()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
        keys: &|origin| worker.keys.keys(origin),
    };
    let before = parts.uri.clone();
    let subject = Subject {
        method: &parts.method,
        target: &mut parts.uri,
        headers: &mut parts.headers,
    };
    match jwt::examine(&guard.tokens, subject, &known) {
        Ok(None) => Ok(None),
        Ok(Some(verified)) => {
            worker.counters.jwt_allowed.increment();
            // What was taken off a query is not to be read in a log.
            if parts.uri != before
                && let Some(requested) = &mut exchange.requested
            {
                requested.target = parts.uri.clone();
                conceal(guard, &mut requested.target);
            }
            Ok(Some(verified))
        }
        Err(refusal) => {
            worker.counters.jwt_denied.increment();
            let challenge = challenge(authority, parts.uri.path());
            Err(Refused { refusal, challenge })
        }
    }
}

/// Makes of a target what may stand in a log, where `guard` takes tokens from queries.
pub(super) fn conceal(guard: &Guard, target: &mut Uri) {
    if let Some(concealed) = jwt::concealed(&guard.tokens, target) {
        *target = concealed;
    }
}

/// Envoy's, but without the query, where the token may be.
fn challenge(authority: &HeaderValue, path: &str) -> HeaderValue {
    let mut end = path.len().min(LONGEST_PATH);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    let path = path[..end].replace('"', "%22");
    let host = authority.to_str().unwrap_or_default().replace('"', "");
    let text = format!("Bearer realm=\"http://{host}{path}\", error=\"invalid_token\"");
    HeaderValue::try_from(text)
        .unwrap_or_else(|_| HeaderValue::from_static("Bearer error=\"invalid_token\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_names_what_was_asked_for() {
        for (host, path, expected) in [
            ("a.test:80", "/x", "http://a.test:80/x".to_owned()),
            ("a.test", "/a\"b", "http://a.test/a%22b".to_owned()),
            (
                "a.test",
                &format!("/{}", "x".repeat(600)),
                format!("http://a.test/{}", "x".repeat(255)),
            ),
            (
                "a.test",
                &format!("/{}é", "x".repeat(254)),
                format!("http://a.test/{}", "x".repeat(254)),
            ),
        ] {
            let host = HeaderValue::from_static(host);
            let expected = format!("Bearer realm=\"{expected}\", error=\"invalid_token\"");
            assert_eq!(challenge(&host, path), expected, "{path}");
        }
    }
}
