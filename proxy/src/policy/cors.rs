//! CORS: which origins may call, and what a browser is told about it (Envoy, `cors_filter.cc`).
//!
//! Knows no upstream: it decides on a request's head whether the proxy answers a preflight, and what
//! a response is given. Nothing is refused here; keeping to the answer is the browser's part.

use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::pattern::Pattern;

/// Envoy's name of a preflight's answer.
pub const DETAILS: &str = "cors_response";

/// `corsPolicy` of a rule.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `allowOrigins`. A pattern that matches `*` allows every origin.
    pub origins: Vec<Pattern>,
    /// `allowMethods`.
    pub methods: List,
    /// `allowHeaders`.
    pub headers: List,
    /// `exposeHeaders`; `*` stands for itself.
    pub expose: List,
    /// `maxAge`; whole seconds are told.
    pub max_age: Option<Duration>,
    /// `allowCredentials`.
    pub credentials: bool,
    /// `unmatchedPreflights`.
    pub unmatched: Unmatched,
}

/// A list that a browser is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List(Option<HeaderValue>);

/// A name in a list that no header value can hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} can't stand in a header")]
pub struct ListError(String);

impl List {
    /// Joins names by commas. Empty: nothing is told. A single `*` among methods and headers: what
    /// the browser asks for is allowed.
    ///
    /// # Errors
    /// A name with characters that no header value can hold.
    pub fn new<T: AsRef<str>>(names: &[T]) -> Result<Self, ListError> {
        let mut text = String::new();
        for (index, name) in names.iter().map(AsRef::as_ref).enumerate() {
            if !name
                .bytes()
                .all(|byte| byte.is_ascii_graphic() || byte == b' ')
            {
                return Err(ListError(name.to_owned()));
            }
            if index > 0 {
                text.push(',');
            }
            text.push_str(name);
        }
        if text.is_empty() {
            return Ok(Self(None));
        }
        match HeaderValue::try_from(&text) {
            Ok(value) => Ok(Self(Some(value))),
            Err(_) => Err(ListError(text)),
        }
    }

    /// What stands for it where the browser asks for `asked`.
    fn answer(&self, asked: Option<HeaderValue>) -> Option<HeaderValue> {
        let value = self.0.as_ref()?;
        if value.as_bytes() == b"*" {
            // Envoy writes an empty field where nothing was asked for.
            return Some(asked.unwrap_or(HeaderValue::from_static("")));
        }
        Some(value.clone())
    }
}

/// What becomes of a preflight from an origin that is not allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmatched {
    /// The upstream answers it.
    #[default]
    Forward,
    /// The proxy answers it, and allows nothing.
    Ignore,
}

/// What is done with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// No origin is told: CORS has nothing to do with it.
    Unconcerned,
    /// Forwarded, the response is left alone (`cors.origin_invalid`).
    Foreign,
    /// Forwarded, and [`Policy::grant`] is called for the response (`cors.origin_valid`), whoever
    /// answers it.
    Allowed(Origin),
    /// A preflight that is answered: 200, these fields, no body. The rule's header operations do
    /// not apply to it (Envoy's router is never reached).
    Answered {
        /// Whether the origin is allowed: which of the two counters.
        allowed: bool,
        /// Everything that the answer says.
        headers: HeaderMap,
    },
}

/// An origin that is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl Policy {
    /// Decides on a request.
    pub fn decide(&self, method: &Method, headers: &HeaderMap) -> Decision {
        let Some(origin) = line(headers, &ORIGIN).filter(|origin| !origin.is_empty()) else {
            return Decision::Unconcerned;
        };
        let allowed = self.allows(origin.as_bytes());
        let asked = line(headers, &ACCESS_CONTROL_REQUEST_METHOD).filter(|one| !one.is_empty());
        let is_preflight = method == Method::OPTIONS && asked.is_some();
        if !is_preflight || (!allowed && self.unmatched == Unmatched::Forward) {
            return if allowed {
                Decision::Allowed(Origin(origin))
            } else {
                Decision::Foreign
            };
        }
        let mut answer = HeaderMap::new();
        if let Some(methods) = self.methods.answer(asked) {
            answer.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        let asked = line(headers, &ACCESS_CONTROL_REQUEST_HEADERS);
        if let Some(names) = self.headers.answer(asked) {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
        if let Some(age) = self.max_age {
            answer.insert(ACCESS_CONTROL_MAX_AGE, age.as_secs().into());
        }
        if allowed {
            // The answer passes the filter once more on its way out, so it exposes headers too.
            self.grant(&Origin(origin), &mut answer);
        } else if self.credentials {
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        Decision::Answered {
            allowed,
            headers: answer,
        }
    }

    /// Tells the browser, in a response's head, that `origin` may read it. What the upstream said
    /// about it is overwritten.
    pub fn grant(&self, origin: &Origin, response: &mut HeaderMap) {
        response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.0.clone());
        if self.credentials {
            response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if let Some(names) = &self.expose.0 {
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names.clone());
        }
    }

    fn allows(&self, origin: &[u8]) -> bool {
        let mut patterns = self.origins.iter();
        patterns.any(|pattern| pattern.matches(b"*") || pattern.matches(origin))
    }
}

const TRUE: HeaderValue = HeaderValue::from_static("true");

/// A field's value; of repeated lines all, joined as Envoy joins them.
fn line(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    if lines.next().is_none() {
        return Some(first.clone());
    }
    let all: Vec<&[u8]> = headers
        .get_all(name)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    HeaderValue::from_bytes(&all.join(&b","[..])).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::pattern::Case;

    fn list(names: &[&str]) -> List {
        List::new(names).expect("valid")
    }

    fn policy() -> Policy {
        Policy {
            origins: vec![
                Pattern::Exact("https://a.example".into(), Case::Sensitive),
                Pattern::Prefix("https://p.".into(), Case::Sensitive),
                Pattern::regex(r"https://.*\.r").expect("valid"),
            ],
            methods: list(&["GET", "PUT"]),
            headers: list(&["x-a", "x-b"]),
            expose: list(&["x-seen"]),
            max_age: Some(Duration::from_secs(86_400)),
            credentials: true,
            unmatched: Unmatched::Forward,
        }
    }

    fn map(text: &str) -> HeaderMap {
        let lines = text.split(' ').filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let (name, value) = line.split_once(':').expect("name:value");
                let name = HeaderName::try_from(name).expect("name");
                (name, HeaderValue::try_from(value).expect("value"))
            })
            .fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            })
    }

    /// The outcome in short, with the response's fields sorted.
    fn run(policy: &Policy, method: &str, headers: &str) -> String {
        let method = Method::from_bytes(method.as_bytes()).expect("method");
        let mut response = map("access-control-allow-origin:upstream");
        let word = match policy.decide(&method, &map(headers)) {
            Decision::Unconcerned => "unconcerned".to_owned(),
            Decision::Foreign => "foreign".to_owned(),
            Decision::Allowed(origin) => {
                policy.grant(&origin, &mut response);
                "allowed".to_owned()
            }
            Decision::Answered { allowed, headers } => {
                response = headers;
                format!("answered {allowed}")
            }
        };
        let mut lines: Vec<String> = response
            .iter()
            .map(|(name, value)| {
                let name = name.as_str().trim_start_matches("access-control-");
                format!("{name}={}", value.to_str().expect("text"))
            })
            .collect();
        lines.sort();
        format!("{word}: {}", lines.join(" "))
    }

    #[test]
    fn requests_are_decided_as_envoy_does() {
        const PREFLIGHT: &str =
            "access-control-request-method:PATCH access-control-request-headers:x-q";
        let strict = policy();
        let ignoring = Policy {
            unmatched: Unmatched::Ignore,
            ..policy()
        };
        let any = Policy {
            origins: vec![Pattern::Exact("*".into(), Case::Sensitive)],
            methods: list(&["*"]),
            headers: list(&["*"]),
            ..Policy::default()
        };
        for (name, policy, method, headers, expected) in [
            (
                "no origin",
                &strict,
                "GET",
                "",
                "unconcerned: allow-origin=upstream",
            ),
            (
                "an empty origin",
                &strict,
                "GET",
                "origin:",
                "unconcerned: allow-origin=upstream",
            ),
            (
                "foreign",
                &strict,
                "GET",
                "origin:https://b",
                "foreign: allow-origin=upstream",
            ),
            (
                "exact is the whole",
                &strict,
                "GET",
                "origin:https://a.example.org",
                "foreign: allow-origin=upstream",
            ),
            (
                "exact",
                &strict,
                "GET",
                "origin:https://a.example",
                "allowed: allow-credentials=true allow-origin=https://a.example expose-headers=x-seen",
            ),
            (
                "prefix",
                &strict,
                "POST",
                "origin:https://p.x",
                "allowed: allow-credentials=true allow-origin=https://p.x expose-headers=x-seen",
            ),
            (
                "regex",
                &strict,
                "GET",
                "origin:https://x.r",
                "allowed: allow-credentials=true allow-origin=https://x.r expose-headers=x-seen",
            ),
            (
                "OPTIONS alone is no preflight",
                &strict,
                "OPTIONS",
                "origin:https://x.r",
                "allowed: allow-credentials=true allow-origin=https://x.r expose-headers=x-seen",
            ),
            (
                "preflight",
                &strict,
                "OPTIONS",
                &format!("origin:https://x.r {PREFLIGHT}"),
                "answered true: allow-credentials=true allow-headers=x-a,x-b allow-methods=GET,PUT \
                 allow-origin=https://x.r expose-headers=x-seen max-age=86400",
            ),
            (
                "a foreign preflight is forwarded",
                &strict,
                "OPTIONS",
                &format!("origin:https://b {PREFLIGHT}"),
                "foreign: allow-origin=upstream",
            ),
            (
                "or answered without an origin",
                &ignoring,
                "OPTIONS",
                &format!("origin:https://b {PREFLIGHT}"),
                "answered false: allow-credentials=true allow-headers=x-a,x-b allow-methods=GET,PUT max-age=86400",
            ),
            (
                "a star echoes",
                &any,
                "OPTIONS",
                &format!("origin:null {PREFLIGHT}"),
                "answered true: allow-headers=x-q allow-methods=PATCH allow-origin=null",
            ),
            (
                "a star echoes nothing where nothing is asked for",
                &any,
                "OPTIONS",
                "origin:null access-control-request-method:GET",
                "answered true: allow-headers= allow-methods=GET allow-origin=null",
            ),
            (
                "repeated origins are one",
                &strict,
                "GET",
                "origin:https://a.example origin:https://a.example",
                "foreign: allow-origin=upstream",
            ),
        ] {
            assert_eq!(run(policy, method, headers), expected, "{name}");
        }
    }

    #[test]
    fn lists_are_joined_and_checked() {
        assert_eq!(list(&[]), List(None));
        assert_eq!(
            list(&["a", "*"]),
            List(Some(HeaderValue::from_static("a,*")))
        );
        assert_eq!(
            List::new(&["a", "b\r\nc"]),
            Err(ListError("b\r\nc".to_owned()))
        );
    }
}
