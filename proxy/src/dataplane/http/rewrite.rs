//! Changes a request's head as its rule asks, in Envoy's order: header operations, then the
//! authority, then the path. Operators in values see the original authority and path.

use http::HeaderValue;
use http::header::HOST;
use http::uri::{Authority, Parts, Uri};

use super::canonical::Canonical;
use super::finish::protocol;
use super::variables::View;
use super::{Downstream, headers};
use crate::dataplane::error::Error;
use crate::dataplane::outcome::Exchange;
use crate::mesh::route::Forward;
use crate::policy::format::Message;
use crate::policy::hash;
use crate::policy::headers::Operations;
use crate::policy::matcher::Request;
use crate::policy::rewrite::Matched;

/// Applies `edits`, the most specific first, and the rule's rewrite.
pub(super) fn apply(
    canonical: &mut Canonical,
    exchange: &Exchange,
    edits: &[Option<&Operations>],
    forward: &Forward,
    matched: Matched,
) -> Result<(), Error> {
    let rewrite = forward.rewrite.as_deref();
    let mut wanted = rewrite.and_then(|rewrite| rewrite.authority.clone());
    for operations in edits.iter().copied().flatten() {
        if operations.request.is_empty() {
            continue;
        }
        let authority = edit(canonical, exchange, operations);
        // The rule's wins over a destination's, a rewrite's over both (Istio).
        if rewrite.is_none_or(|rewrite| rewrite.authority.is_none()) && authority.is_some() {
            wanted = authority;
        }
    }
    if let Some(authority) = wanted {
        set_authority(canonical, authority)?;
    }
    if let Some(path) = rewrite.and_then(|rewrite| rewrite.path.as_ref()) {
        let uri = &canonical.parts.uri;
        let before = uri.path_and_query().map(|path| path.as_str().to_owned());
        let new = path
            .apply(uri.path(), uri.query(), matched)
            .map_err(|_| Error::BadRequest("path_rewrite_too_long"))?;
        if let Some(new) = new {
            let mut parts = Parts::default();
            parts.path_and_query = Some(new);
            canonical.parts.uri =
                Uri::from_parts(parts).map_err(|_| Error::BadRequest("path_rewrite_failed"))?;
            if let Some(Ok(before)) = before.map(HeaderValue::try_from) {
                let fields = &mut canonical.parts.headers;
                fields.insert(headers::ORIGINAL_PATH, before);
            }
        }
    }
    Ok(())
}

/// Applies one level's operations. The authority that they ask for.
fn edit(
    canonical: &mut Canonical,
    exchange: &Exchange,
    operations: &Operations,
) -> Option<HeaderValue> {
    let Canonical { parts, authority } = canonical;
    let view = View {
        exchange,
        method: &parts.method,
        path: parts.uri.path_and_query().map_or("/", |path| path.as_str()),
        authority: authority.to_str().unwrap_or_default(),
        protocol: protocol(parts.version),
        request: None,
    };
    let edit = &operations.request;
    let left_out = edit.apply(Message::Request, &mut parts.headers, &view);
    if left_out > 0 {
        tracing::debug!(
            left_out,
            "header operations beyond what a request's head holds"
        );
    }
    edit.authority(&View {
        request: Some(&parts.headers),
        ..view
    })
}

/// Hashes the request by the keys of its rule. A cookie that is made on the way goes into the answer.
pub(super) fn hash<'k>(
    keys: impl IntoIterator<Item = &'k hash::Key>,
    canonical: &Canonical,
    downstream: &Downstream,
    exchange: &mut Exchange,
) -> Option<u64> {
    let uri = &canonical.parts.uri;
    let pod = downstream.pod.pod();
    let request = Request {
        method: &canonical.parts.method,
        path: uri.path(),
        query: uri.query(),
        authority: canonical.authority(),
        headers: &canonical.parts.headers,
        scheme: "http",
        source: pod.workload.source(),
    };
    let ends = hash::Ends {
        remote: exchange.remote(),
        local: downstream.destination,
    };
    let hashed = hash::of_request(keys, &request, ends);
    for cookie in hashed.cookies {
        exchange.finish.set_cookie(cookie);
    }
    hashed.hash
}

fn set_authority(canonical: &mut Canonical, authority: HeaderValue) -> Result<(), Error> {
    if authority == canonical.authority {
        return Ok(());
    }
    // What a template made of a client's words must be an authority still.
    Authority::try_from(authority.as_bytes()).map_err(|_| Error::BadRequest("invalid_host"))?;
    let before = std::mem::replace(&mut canonical.authority, authority.clone());
    let fields = &mut canonical.parts.headers;
    fields.insert(HOST, authority);
    fields.insert(headers::ORIGINAL_HOST, before);
    Ok(())
}
