//! What is done to the head of an answer before it goes to the client, whoever answered: the rule's
//! and the destination's header operations, CORS, a cookie for consistent hashing.

use std::sync::Arc;

use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderValue};

use super::canonical::Canonical;
use super::variables::View;
use crate::dataplane::outcome::{Exchange, Requested};
use crate::mesh::{Destination, Rule};
use crate::policy::cors;
use crate::policy::format::Message;
use crate::policy::headers::Operations;

/// What is to be done. Empty as a rule.
#[derive(Default)]
pub(crate) struct Finish {
    edits: Option<Box<Edits>>,
    cors: Option<Box<(Arc<cors::Policy>, cors::Origin)>>,
    cookies: Vec<HeaderValue>,
}

/// Header operations, and the request that their values may ask about.
#[derive(Default)]
struct Edits {
    rule: Option<Arc<Operations>>,
    destination: Option<Arc<Operations>>,
    request: Option<Head>,
}

/// A request's head as the client sent it.
struct Head {
    method: http::Method,
    path: String,
    authority: String,
    protocol: &'static str,
    fields: HeaderMap,
}

impl Finish {
    /// What `rule` asks for.
    pub(super) fn of(rule: &Rule, canonical: &Canonical, requested: Option<&Requested>) -> Self {
        let own = (!rule.headers.response.is_empty()).then(|| Arc::clone(&rule.headers));
        let many = match &rule.action {
            crate::mesh::Action::Forward(forward) => forward
                .destinations
                .iter()
                .filter_map(|one| one.headers.as_deref())
                .any(|one| !one.response.is_empty()),
            _ => false,
        };
        if own.is_none() && !many {
            return Self::default();
        }
        let parts = &canonical.parts;
        let request = Head {
            method: parts.method.clone(),
            path: parts
                .uri
                .path_and_query()
                .map_or_else(String::new, |path| path.as_str().to_owned()),
            authority: canonical.authority().to_owned(),
            protocol: requested.map_or_else(|| protocol(parts.version), |one| one.protocol),
            fields: parts.headers.clone(),
        };
        Self {
            edits: Some(Box::new(Edits {
                rule: own,
                destination: None,
                request: Some(request),
            })),
            ..Self::default()
        }
    }

    /// The destination that was chosen has operations of its own.
    pub(super) fn toward(&mut self, destination: &Destination) {
        if let (Some(edits), Some(headers)) = (&mut self.edits, &destination.headers) {
            edits.destination = Some(Arc::clone(headers));
        }
    }

    /// The browser may read the answer.
    pub(super) fn grant(&mut self, policy: &Arc<cors::Policy>, origin: cors::Origin) {
        self.cors = Some(Box::new((Arc::clone(policy), origin)));
    }

    /// The client is given a cookie.
    pub(super) fn set_cookie(&mut self, cookie: HeaderValue) {
        self.cookies.push(cookie);
    }

    /// Does it.
    pub(crate) fn apply(&self, exchange: &Exchange, headers: &mut HeaderMap) {
        for cookie in &self.cookies {
            headers.append(SET_COOKIE, cookie.clone());
        }
        if let Some(edits) = &self.edits
            && let Some(request) = &edits.request
        {
            let view = View {
                exchange,
                method: &request.method,
                path: &request.path,
                authority: &request.authority,
                protocol: request.protocol,
                request: Some(&request.fields),
            };
            // The most specific first; what comes later wins (Envoy).
            for edit in [&edits.destination, &edits.rule].into_iter().flatten() {
                let left_out = edit.response.apply(Message::Response, headers, &view);
                if left_out > 0 {
                    tracing::debug!(
                        left_out,
                        "header operations beyond what a response's head holds"
                    );
                }
            }
        }
        if let Some(granted) = &self.cors {
            let (policy, origin) = &**granted;
            policy.grant(origin, headers);
        }
    }
}

/// Envoy's name of an HTTP version.
pub(super) fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_2 => "HTTP/2",
        http::Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}
