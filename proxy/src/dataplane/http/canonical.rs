//! Makes one unambiguous request of what was received, or refuses it. Routing and the upstream see
//! the result and nothing else.

use std::borrow::Cow;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Uri, Version, request};

use hyper::ext::Protocol;

use super::fields::Fields;
use crate::dataplane::error::Error;
use crate::wire::path;

/// Envoy's default bound (`max_headers_count`); hyper holds it for HTTP/1 only.
const MOST_HEADERS: usize = 100;

/// A request's head that every reader understands in the same way: an origin-form target that is
/// normalised, exactly one authority (which is the `Host` field too), no field that belongs to the
/// hop it came by.
#[derive(Debug)]
pub(super) struct Canonical {
    /// On the heap, since it goes through many hands.
    pub(super) parts: Box<request::Parts>,
    /// Also in `parts.headers` as `Host`.
    pub(super) authority: HeaderValue,
}

impl Canonical {
    /// The authority as text. It was checked.
    pub(super) fn authority(&self) -> &str {
        self.authority.to_str().unwrap_or_default()
    }

    /// Reads a request's head.
    pub(super) fn new(mut parts: Box<request::Parts>, fields: Fields) -> Result<Self, Error> {
        plain_upgrade(&mut parts)?;
        if parts.headers.len() > MOST_HEADERS {
            return Err(Error::HeadersTooLarge);
        }
        if fields.has(Fields::TRANSFER_ENCODING) {
            check_framing(&parts.headers)?;
        }
        // Otherwise the authority is what stands in `Host`.
        let absolute = parts.uri.authority().is_some();
        let authority = authority(&parts)?;
        if parts.method == Method::CONNECT {
            // No VirtualService rule matches CONNECT (Envoy asks for a connect matcher).
            return Err(Error::NoRoute);
        }
        let target = target(&parts)?;
        if let Some(target) = target {
            let mut uri = http::uri::Parts::default();
            uri.path_and_query = Some(target);
            parts.uri =
                Uri::from_parts(uri).map_err(|_| Error::BadRequest("path_normalization_failed"))?;
        }
        if absolute && parts.headers.get(HOST) != Some(&authority) {
            parts.headers.insert(HOST, authority.clone());
        }
        Ok(Self { parts, authority })
    }
}

/// RFC 8441: what an HTTP/2 client asks for by an extended CONNECT is an upgrade like HTTP/1.1's, and
/// routed as one (Envoy).
fn plain_upgrade(parts: &mut request::Parts) -> Result<(), Error> {
    let Some(protocol) = parts.extensions.remove::<Protocol>() else {
        return Ok(());
    };
    if parts.method != Method::CONNECT {
        return Err(Error::BadRequest("protocol_without_connect"));
    }
    let name = HeaderValue::try_from(protocol.as_str());
    let name = name.map_err(|_| Error::BadRequest("invalid_protocol"))?;
    parts.method = Method::GET;
    parts.headers.insert(UPGRADE, name);
    parts
        .headers
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    Ok(())
}

/// RFC 9112, section 6.1: a message with a transfer coding that is not understood is refused (hyper
/// takes any list that ends in `chunked`). Content-Length beside it never gets here: hyper drops it
/// and reads the message as chunked.
fn check_framing(headers: &HeaderMap) -> Result<(), Error> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
            return Err(Error::TransferCoding);
        }
        if headers.contains_key(CONTENT_LENGTH) {
            return Err(Error::BadRequest(
                "http1.content_length_and_chunked_not_allowed",
            ));
        }
    }
    Ok(())
}

/// The one authority: `:authority` of HTTP/2, the target's of an absolute form (RFC 9112, section
/// 3.2.2: it replaces Host), or the one Host field.
fn authority(parts: &request::Parts) -> Result<HeaderValue, Error> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Error::BadRequest("multiple_host_fields"));
    }
    if let Some(authority) = parts.uri.authority() {
        let named = authority.as_str().as_bytes();
        // RFC 9113, section 8.3.1: they must not differ; a difference is how smugglers begin.
        if parts.version == Version::HTTP_2
            && host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(named))
        {
            return Err(Error::BadRequest("host_differs_from_authority"));
        }
        check_authority(authority)?;
        return HeaderValue::from_bytes(named).map_err(|_| Error::BadRequest("invalid_authority"));
    }
    let host = host.ok_or(Error::BadRequest("missing_host_header"))?;
    let parsed = Authority::try_from(host.as_bytes());
    check_authority(&parsed.map_err(|_| Error::BadRequest("invalid_host"))?)?;
    Ok(host.clone())
}

fn check_authority(authority: &Authority) -> Result<(), Error> {
    let text = authority.as_str();
    let port = text
        .rsplit_once(':')
        .map(|(_, port)| port)
        .filter(|port| !port.contains(']'));
    let sound = !text.contains('@')
        && !authority.host().is_empty()
        && port.is_none_or(|port| port.is_empty() || port.parse::<u16>().is_ok())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(&b));
    if sound {
        Ok(())
    } else {
        Err(Error::BadRequest("invalid_host"))
    }
}

/// The target in origin form, normalised; `None` where it is that already.
fn target(parts: &request::Parts) -> Result<Option<PathAndQuery>, Error> {
    let whole = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if !whole.is_ascii() {
        return Err(Error::BadRequest("path_not_ascii"));
    }
    // `GET abc`: an authority alone is for CONNECT (RFC 9112, section 3.2.3).
    if parts.uri.authority().is_some() && parts.uri.scheme().is_none() {
        return Err(Error::BadRequest("path_not_absolute"));
    }
    let path = parts.uri.path();
    if path == "*" && parts.method == Method::OPTIONS {
        return Err(Error::NoRoute);
    }
    if !path.is_empty() && !path.starts_with('/') {
        return Err(Error::BadRequest("path_not_absolute"));
    }
    let absolute = parts.uri.scheme().is_some() || parts.uri.authority().is_some();
    let normalised = match path {
        "" => Cow::Borrowed("/"),
        path => {
            path::normalise(path).map_err(|_| Error::BadRequest("path_normalization_failed"))?
        }
    };
    if !absolute && normalised == path {
        return Ok(None);
    }
    let target = match parts.uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{normalised}?{query}")),
        None => PathAndQuery::try_from(&*normalised),
    };
    target
        .map(Some)
        .map_err(|_| Error::BadRequest("path_normalization_failed"))
}

/// Whether the client reads trailers (RFC 9110, section 10.1.4). Kept on the way to the upstream.
pub(super) fn wants_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(parts: request::Parts) -> Result<Canonical, Error> {
        let fields = Fields::of(&parts.headers);
        Canonical::new(Box::new(parts), fields)
    }

    fn request(target: &str, headers: &[(&'static str, &str)]) -> request::Parts {
        let mut request = http::Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn what_is_ambiguous_is_refused_and_the_rest_has_one_form() {
        for (target, headers, expected) in [
            ("/", &[("host", "a")][..], Ok(("a", "/"))),
            (
                "/x/../y?q=/../z",
                &[("host", "a:80")],
                Ok(("a:80", "/y?q=/../z")),
            ),
            ("http://b/x", &[("host", "a")], Ok(("b", "/x"))),
            ("http://b", &[("host", "a")], Ok(("b", "/"))),
            ("/", &[], Err("missing_host_header")),
            ("abc", &[("host", "a")], Err("path_not_absolute")),
            (
                "/",
                &[("host", "a"), ("host", "b")],
                Err("multiple_host_fields"),
            ),
            (
                "/",
                &[("host", "a"), ("host", "a")],
                Err("multiple_host_fields"),
            ),
            ("/", &[("host", "a b")], Err("invalid_host")),
            ("/", &[("host", "a^{b")], Err("invalid_host")),
            ("/", &[("host", "u@a")], Err("invalid_host")),
            ("/", &[("host", "a:99999")], Err("invalid_host")),
            ("/", &[("host", "")], Err("invalid_host")),
            ("/", &[("host", "[fd00::1]:80")], Ok(("[fd00::1]:80", "/"))),
            ("/", &[("host", "[fd00::1]")], Ok(("[fd00::1]", "/"))),
            ("/%00", &[("host", "a")], Err("path_normalization_failed")),
            (
                "/",
                &[
                    ("host", "a"),
                    ("transfer-encoding", "chunked"),
                    ("content-length", "1"),
                ],
                Err("http1.content_length_and_chunked_not_allowed"),
            ),
            (
                "/",
                &[("host", "a"), ("transfer-encoding", "gzip, chunked")],
                Err("http1.invalid_transfer_encoding"),
            ),
            (
                "/",
                &[("host", "a"), ("transfer-encoding", "Chunked")],
                Ok(("a", "/")),
            ),
        ] {
            let canonical = canonical(request(target, headers));
            let found = canonical
                .as_ref()
                .map(|c| {
                    (
                        c.authority(),
                        c.parts.uri.path_and_query().expect("origin form").as_str(),
                    )
                })
                .map_err(Error::details);
            assert_eq!(
                found,
                expected.map_err(Cow::Borrowed),
                "{target} {headers:?}"
            );
            if let Ok(canonical) = &canonical {
                assert_eq!(canonical.parts.headers[HOST], canonical.authority);
                assert_eq!(canonical.parts.uri.authority(), None);
            }
        }
    }

    #[test]
    fn too_many_fields_are_refused() {
        let mut parts = request("/", &[("host", "a")]);
        for index in 0..MOST_HEADERS {
            let name = http::HeaderName::try_from(format!("x-{index}")).expect("a name");
            parts.headers.append(name, HeaderValue::from_static("v"));
        }
        assert!(matches!(canonical(parts), Err(Error::HeadersTooLarge)));
    }

    #[test]
    fn trailers_are_wanted_by_te() {
        for (value, expected) in [
            ("trailers", true),
            ("gzip, Trailers", true),
            ("gzip", false),
        ] {
            let parts = request("/", &[("te", value)]);
            assert_eq!(wants_trailers(&parts.headers), expected, "{value}");
        }
    }
}
