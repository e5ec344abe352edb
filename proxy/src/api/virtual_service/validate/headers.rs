//! Header operations, and CORS, which is a matter of headers too.

use http::HeaderName;

use super::Empty;
use super::policies::is_authority;
use crate::api::virtual_service::{CorsPolicy, HeaderOperations, Headers};
use crate::types::Finding;

/// What `allowMethods` may name.
const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*",
];

/// The most fields that one block may set and add, and that it may remove: Envoy takes no route that
/// sets more (`max_items` in its `route_components.proto`).
const MOST: usize = 1000;

impl CorsPolicy {
    pub(super) fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        for (index, one) in self.allow_origins.iter().enumerate() {
            let field = format!("{field}.allowOrigins[{index}]");
            one.validate(&field, Empty::Refused, findings);
            if one.exact.is_none() && one.prefix.is_none() && one.regex.is_none() {
                findings.push(Finding::error(
                    field,
                    "one of exact, prefix and regex is required",
                ));
            }
        }
        if !self.allow_origin.is_empty() {
            findings.push(Finding::warning(
                format!("{field}.allowOrigin"),
                if self.allow_origins.is_empty() {
                    "deprecated; use allowOrigins"
                } else {
                    "has no effect beside allowOrigins"
                },
            ));
        }
        for (index, method) in self.allow_methods.iter().enumerate() {
            if !METHODS.contains(&method.as_str()) {
                findings.push(Finding::error(
                    format!("{field}.allowMethods[{index}]"),
                    format!("{method:?} is not the name of a method, in capitals"),
                ));
            }
        }
        for (name, list) in [
            ("allowHeaders", &self.allow_headers),
            ("exposeHeaders", &self.expose_headers),
        ] {
            for (index, header) in list.iter().enumerate() {
                if header != "*" && HeaderName::from_bytes(header.as_bytes()).is_err() {
                    findings.push(Finding::error(
                        format!("{field}.{name}[{index}]"),
                        format!("{header:?} is not the name of a header"),
                    ));
                }
            }
        }
        if self.max_age.is_some_and(|age| age.subsec_nanos() != 0) {
            findings.push(Finding::error(
                format!("{field}.maxAge"),
                "must be in whole seconds",
            ));
        }
    }
}

impl Headers {
    pub(super) fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        for (name, operations, side) in [
            ("request", &self.request, Side::Request),
            ("response", &self.response, Side::Response),
        ] {
            if let Some(operations) = operations {
                operations.validate(&format!("{field}.{name}"), side, findings);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Response,
}

impl HeaderOperations {
    fn validate(&self, field: &str, side: Side, findings: &mut Vec<Finding>) {
        let written = self.set.len() + self.add.len();
        if written > MOST || self.remove.len() > MOST {
            // Nothing about each of them: one message is enough.
            findings.push(Finding::error(
                field,
                format!(
                    "{written} headers are set or added and {} removed: at most {MOST} operations of each kind are allowed",
                    self.remove.len()
                ),
            ));
            return;
        }
        for (name, map) in [("set", &self.set), ("add", &self.add)] {
            for key in map.keys() {
                if side == Side::Request && is_authority(key) {
                    continue;
                }
                check_key(key, &format!("{field}.{name}.{key}"), findings);
            }
        }
        for (index, key) in self.remove.iter().enumerate() {
            let field = format!("{field}.remove[{index}]");
            if side == Side::Request && is_authority(key) {
                findings.push(Finding::error(field, "the authority can't be removed"));
            } else {
                check_key(key, &field, findings);
            }
        }
    }
}

fn check_key(key: &str, field: &str, findings: &mut Vec<Finding>) {
    if key.starts_with(':') {
        findings.push(Finding::error(
            field,
            format!("{key:?} can't be changed by header operations"),
        ));
    } else if HeaderName::from_bytes(key.as_bytes()).is_err() {
        findings.push(Finding::error(
            field,
            format!("{key:?} is not the name of a header"),
        ));
    }
}
