//! An external authorizer: how it is asked, and what of its answer counts.
//!
//! Pure: it is handed an answer and says what becomes of it. Names and defaults are Istio's and
//! Envoy's (`extensions/filters/http/ext_authz`).

use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::types::ClusterName;
use crate::types::field::is_fixed;

/// One of MeshConfig's `extensionProviders`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// By which policies name it.
    pub name: Arc<str>,
    /// Who is asked.
    pub cluster: ClusterName,
    /// How.
    pub protocol: Protocol,
    /// How long it may take.
    pub timeout: Duration,
    /// Whether what could not be asked is allowed.
    pub fail_open: bool,
    /// What is answered where it could not be asked and is not allowed.
    pub status_on_error: StatusCode,
    /// How much of a request's body it is told; `None` for nothing.
    pub body: Option<Body>,
}

/// `includeRequestBodyInCheck`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    /// Bytes.
    pub most: usize,
    /// Whether it is told the beginning of one that is longer; otherwise that is refused.
    pub partial: bool,
    /// Whether a message of gRPC has it as bytes, and not as text.
    pub bytes: bool,
}

/// How it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// By a request like the one that is asked about.
    Http(Http),
    /// By `envoy.service.auth.v3.Authorization`.
    Grpc,
}

/// By HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http {
    /// What stands before the request's own path.
    pub path_prefix: String,
    /// Fields of the request that it is told.
    pub include: Vec<Name>,
    /// Fields that it is told beside them.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Fields of its answer that the application gets.
    pub to_upstream: Vec<Name>,
    /// Fields of its answer that a client gets whose request is denied; all where there is none.
    pub to_downstream_on_deny: Vec<Name>,
    /// Fields of its answer that a client gets whose request is allowed.
    pub to_downstream_on_allow: Vec<Name>,
}

/// Names of header fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// This one.
    Exact(String),
    /// `abc*`.
    Prefix(String),
    /// `*abc`.
    Suffix(String),
}

impl Name {
    /// As it is written.
    pub fn new(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        if let Some(suffix) = text.strip_prefix('*') {
            return Self::Suffix(suffix.to_owned());
        }
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None => Self::Exact(text),
        }
    }

    fn is(&self, name: &HeaderName) -> bool {
        let name = name.as_str();
        match self {
            Self::Exact(text) => name == text,
            Self::Prefix(text) => name.starts_with(text.as_str()),
            Self::Suffix(text) => name.ends_with(text.as_str()),
        }
    }
}

/// What becomes of a request that is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Fields that the application does not get.
    pub remove: Vec<HeaderName>,
    /// Fields that it gets in the place of those of the request.
    pub set: HeaderMap,
    /// Fields that it gets beside them.
    pub append: HeaderMap,
    /// Fields that the client gets with its answer, in the place of the application's.
    pub answer_set: HeaderMap,
    /// And beside those.
    pub answer_append: HeaderMap,
}

/// What is answered to a request that is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// Fields beside those of every answer.
    pub headers: HeaderMap,
    /// The body.
    pub body: bytes::Bytes,
}

impl Refusal {
    /// Without a word.
    pub fn of(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: bytes::Bytes::new(),
        }
    }
}

impl Changes {
    /// Changes the head of the request.
    pub fn apply(&mut self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        put(headers, std::mem::take(&mut self.set), true);
        put(headers, std::mem::take(&mut self.append), false);
    }

    /// Changes the head of the answer.
    pub fn apply_to_answer(&mut self, headers: &mut HeaderMap) {
        put(headers, std::mem::take(&mut self.answer_set), true);
        put(headers, std::mem::take(&mut self.answer_append), false);
    }

    /// Takes over what another provider asks for as well.
    pub fn and(&mut self, other: Self) {
        self.answer_set.extend(other.answer_set);
        for (name, value) in &other.answer_append {
            self.answer_append.append(name, value.clone());
        }
    }
}

fn put(headers: &mut HeaderMap, given: HeaderMap, replace: bool) {
    let mut last = None;
    for (name, value) in given {
        // Only the first of several lines has its name.
        let first = name.is_some();
        last = name.or(last);
        let Some(name) = &last else {
            continue;
        };
        if replace && first {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
}

impl Http {
    /// What the authorizer is told of a request's head, but for its method and path.
    pub fn told(&self, request: &HeaderMap, host: &HeaderValue) -> HeaderMap {
        let mut told = HeaderMap::new();
        told.insert(HOST, host.clone());
        for (name, value) in request {
            // Told in any case (Envoy).
            let always = *name == http::header::AUTHORIZATION;
            if (always || self.include.iter().any(|one| one.is(name))) && !is_fixed(name) {
                told.append(name, value.clone());
            }
        }
        for (name, value) in &self.add {
            if !is_fixed(name) {
                told.insert(name, value.clone());
            }
        }
        told
    }

    /// What becomes of a request whose check was answered so. `Err(None)`: the authorizer failed.
    ///
    /// # Errors
    /// Where it is denied, or the authorizer could not say.
    pub fn judge(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: bytes::Bytes,
    ) -> Result<Changes, Option<Box<Refusal>>> {
        let of = |names: &[Name]| {
            let mut found = HeaderMap::new();
            for (name, value) in headers {
                if !is_fixed(name) && names.iter().any(|one| one.is(name)) {
                    found.append(name, value.clone());
                }
            }
            found
        };
        if status == StatusCode::OK {
            return Ok(Changes {
                set: of(&self.to_upstream),
                answer_set: of(&self.to_downstream_on_allow),
                ..Changes::default()
            });
        }
        if status.is_server_error() {
            return Err(None);
        }
        let headers = if self.to_downstream_on_deny.is_empty() {
            of(&[Name::Prefix(String::new())])
        } else {
            let always = ["location", "www-authenticate", "content-type"].map(Name::new);
            of(&[&self.to_downstream_on_deny[..], &always].concat())
        };
        Err(Some(Box::new(Refusal {
            status,
            headers,
            body,
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn shown(headers: &HeaderMap) -> String {
        let pairs = headers.iter();
        let pairs = pairs.map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
        let mut pairs: Vec<_> = pairs.collect();
        pairs.sort();
        pairs.join(" ")
    }

    fn names(all: &[&str]) -> Vec<Name> {
        all.iter().map(|one| Name::new(one)).collect()
    }

    #[test]
    fn the_authorizer_is_told_what_is_listed_and_nothing_of_the_hop() {
        let request = fields(&[
            ("authorization", "secret"),
            ("cookie", "a"),
            ("x-a", "1"),
            ("x-a", "2"),
            ("x-b", "3"),
            ("te", "trailers"),
            ("content-length", "5"),
        ]);
        let host = HeaderValue::from_static("web");
        for (include, add, expected) in [
            (&[][..], &[][..], "authorization=secret host=web"),
            (&["X-A"], &[], "authorization=secret host=web x-a=1 x-a=2"),
            (
                &["x-*"],
                &[],
                "authorization=secret host=web x-a=1 x-a=2 x-b=3",
            ),
            (&["*-b"], &[], "authorization=secret host=web x-b=3"),
            (
                &["*"],
                &[],
                "authorization=secret cookie=a host=web x-a=1 x-a=2 x-b=3",
            ),
            (
                &["x-a"],
                &[("x-a", "own"), ("host", "evil")],
                "authorization=secret host=web x-a=own",
            ),
        ] {
            let http = Http {
                include: names(include),
                add: add
                    .iter()
                    .map(|(name, value)| {
                        (
                            HeaderName::from_static(name),
                            HeaderValue::from_static(value),
                        )
                    })
                    .collect(),
                ..Http::default()
            };
            assert_eq!(shown(&http.told(&request, &host)), expected, "{include:?}");
        }
    }

    #[test]
    fn what_of_an_answer_counts_is_what_was_asked_for() {
        let answer = fields(&[
            ("x-user", "one"),
            ("x-more", "two"),
            ("location", "/login"),
            ("content-length", "9"),
            ("connection", "close"),
        ]);
        let open = Http::default();
        let some = Http {
            to_upstream: names(&["x-user", "content-length"]),
            to_downstream_on_allow: names(&["x-m*"]),
            to_downstream_on_deny: names(&["x-user"]),
            ..Http::default()
        };
        for (http, status, expected) in [
            (&open, 200, "allowed [] []"),
            (&some, 200, "allowed [x-user=one] [x-more=two]"),
            // Of an answer that is no 200, success or not, the client hears (Envoy).
            (&open, 204, "204 [location=/login x-more=two x-user=one]"),
            (&open, 302, "302 [location=/login x-more=two x-user=one]"),
            (&some, 401, "401 [location=/login x-user=one]"),
            (&some, 500, "failed"),
            (&some, 503, "failed"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let found = match http.judge(status, &answer, "no".into()) {
                Ok(changes) => format!(
                    "allowed [{}] [{}]",
                    shown(&changes.set),
                    shown(&changes.answer_set)
                ),
                Err(Some(refusal)) => {
                    format!("{} [{}]", refusal.status.as_u16(), shown(&refusal.headers))
                }
                Err(None) => "failed".to_owned(),
            };
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn changes_replace_add_and_remove() {
        let mut headers = fields(&[("a", "1"), ("a", "2"), ("b", "1"), ("c", "1")]);
        let mut changes = Changes {
            remove: vec![HeaderName::from_static("c")],
            set: fields(&[("a", "3"), ("a", "4"), ("d", "5")]),
            append: fields(&[("b", "2")]),
            ..Changes::default()
        };
        changes.apply(&mut headers);
        assert_eq!(shown(&headers), "a=3 a=4 b=1 b=2 d=5");
    }
}
