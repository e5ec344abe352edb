//! A match block into conditions on the request.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderName;

use crate::api::virtual_service::{HttpMatch, StringMatch};
use crate::policy::matcher::{
    Caller, Case, Field, HeaderCondition, Match, Pattern, QueryCondition, Sense,
};
use crate::types::Finding;

pub(super) fn compile(block: &HttpMatch, field: &str, errors: &mut Vec<Finding>) -> Match {
    let case = if block.ignore_uri_case {
        Case::Ignored
    } else {
        Case::Sensitive
    };
    let mut one = |name: &str, given: &Option<StringMatch>, case| {
        let given = given.as_ref()?;
        pattern(given, &format!("{field}.{name}"), case, errors)
    };
    let path = one("uri", &block.uri, case);
    let method = one("method", &block.method, Case::Sensitive);
    let authority = one("authority", &block.authority, Case::Sensitive);
    let scheme = one("scheme", &block.scheme, Case::Sensitive);
    let mut headers = Vec::new();
    for (sense, name, given) in [
        (Sense::With, "headers", &block.headers),
        (Sense::Without, "withoutHeaders", &block.without_headers),
    ] {
        for (key, condition) in given {
            let Some(header) = header(key) else { continue };
            let field = format!("{field}.{name}.{key}");
            let condition = condition.as_ref().filter(|one| !is_presence(one, sense));
            headers.push(HeaderCondition {
                field: header,
                sense,
                pattern: condition.and_then(|one| pattern(one, &field, Case::Sensitive, errors)),
            });
        }
    }
    let query = block
        .query_params
        .iter()
        .map(|(key, condition)| QueryCondition {
            name: key.as_str().into(),
            pattern: condition.as_ref().and_then(|one| {
                let field = format!("{field}.queryParams.{key}");
                pattern(one, &field, Case::Sensitive, errors)
            }),
        })
        .collect();
    // Istio doesn't ask about the source in blocks that name gateways.
    let caller = if block.gateways.is_empty() {
        caller(&block.source_labels, &block.source_namespace)
    } else {
        None
    };
    Match {
        path,
        method,
        authority,
        headers,
        query,
        scheme,
        caller,
    }
}

/// `sourceLabels` and `sourceNamespace`, where there is something to ask.
pub(super) fn caller(labels: &BTreeMap<String, String>, namespace: &str) -> Option<Arc<Caller>> {
    let caller = Caller {
        namespace: (!namespace.is_empty()).then(|| namespace.into()),
        labels: labels.clone(),
    };
    (caller != Caller::default()).then(|| Arc::new(caller))
}

/// `regex: "*"` is no expression; in `withoutHeaders` Istio takes it for presence.
fn is_presence(given: &StringMatch, sense: Sense) -> bool {
    sense == Sense::Without && given.regex.as_deref() == Some("*")
}

/// `None` for the names that Istio ignores (validation has warned), and for the claims of a token
/// (whose block never applies).
fn header(key: &str) -> Option<Field> {
    match key {
        ":method" => Some(Field::Method),
        ":authority" => Some(Field::Authority),
        ":path" => Some(Field::Path),
        "uri" | "scheme" | "method" | "authority" => None,
        key => HeaderName::from_bytes(key.as_bytes())
            .ok()
            .map(Field::Header),
    }
}

/// `None` where nothing is given, or where it is refused.
pub(super) fn pattern(
    given: &StringMatch,
    field: &str,
    case: Case,
    errors: &mut Vec<Finding>,
) -> Option<Pattern> {
    if let Some(text) = &given.exact {
        return Some(Pattern::Exact(text.as_str().into(), case));
    }
    if let Some(text) = &given.prefix {
        return Some(Pattern::Prefix(text.as_str().into(), case));
    }
    match Pattern::regex(given.regex.as_ref()?) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            errors.push(Finding::error(format!("{field}.regex"), error.to_string()));
            None
        }
    }
}
