//! Header fields on their way through: what belongs to one hop is taken off, what a mesh proxy says
//! is put on. Names and behaviour are Envoy's under Istio's settings.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HeaderName, SERVER, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue};

use super::canonical::wants_trailers;
use super::fields::{Fields, ends_here};
pub(super) use crate::policy::client_certificate::NAME as CLIENT_CERT;
use crate::policy::timeout::Expected;

const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
/// How long a gRPC client waits.
pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
/// The authority and the path before they were rewritten.
pub(super) const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
pub(super) const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// How long the upstream took until its head, in milliseconds.
pub(super) const SERVICE_TIME: HeaderName =
    HeaderName::from_static("x-envoy-upstream-service-time");
/// The request's identity in logs and traces.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Who it was sent for.
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What `Connection` says (RFC 9110, section 7.6.1).
fn options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',').map(str::trim))
}

/// Whether a client says that this is its last request.
pub(super) fn is_last(headers: &HeaderMap) -> bool {
    options(headers).any(|option| option.eq_ignore_ascii_case("close"))
}

/// The protocol that a request asks to change to, where it does (RFC 9110, section 7.8).
fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = headers.get(UPGRADE)?;
    let named = options(headers).any(|option| option.eq_ignore_ascii_case("upgrade"));
    // RFC 9113, section 3.1: `h2c` is obsolete, and Envoy ignores it.
    (named && !wanted.as_bytes().eq_ignore_ascii_case(b"h2c")).then(|| wanted.clone())
}

/// Takes off every field that ends here, and those that `Connection` names.
fn strip(headers: &mut HeaderMap, ends_here: impl Fn(&HeaderName) -> bool) {
    let named: Vec<HeaderName> = options(headers)
        // What most servers say names no field but what goes anyway.
        .filter(|option| !matches!(*option, "keep-alive" | "close"))
        .filter_map(|option| HeaderName::try_from(option).ok())
        // What routing and authorization rest on is not a client's to take away.
        .filter(|name| !is_kept(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    while let Some(name) = headers.keys().find(|name| ends_here(name)).cloned() {
        headers.remove(name);
    }
}

fn is_kept(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "host" | "authorization" | "cookie" | "te" | "content-length" | "x-request-id"
    ) || name.starts_with("x-forwarded-")
        || name.starts_with("x-envoy-")
}

/// Makes a client's header fields those that rules see: what belongs to the hop is gone, but for an
/// upgrade that is asked for (returned), and what a mesh proxy says is there.
pub(super) fn enter(
    headers: &mut HeaderMap,
    fields: Fields,
    request_id: impl FnOnce() -> u128,
) -> Option<HeaderValue> {
    let upgrade = if fields.has(Fields::UPGRADE) {
        upgrade(headers)
    } else {
        None
    };
    let trailers = fields.has(Fields::TE) && wants_trailers(headers);
    // `expect` too: the proxy answers it, since hyper sends 100 when the body is first asked for.
    if fields.has(Fields::HOP) {
        strip(headers, |name| ends_here(name.as_str()));
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = &upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    if !fields.has(Fields::FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !fields.has(Fields::REQUEST_ID) {
        headers.insert(REQUEST_ID, uuid(request_id()));
    }
    upgrade
}

/// Says that a request came by TLS, where nobody before has said how it was sent (Envoy).
pub(super) fn came_by_tls(headers: &mut HeaderMap) {
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
}

/// Takes the upgrade off: HTTP/2 has none (RFC 9113, section 8.6), but asks for it in another way.
pub(super) fn take_upgrade(headers: &mut HeaderMap) -> Option<HeaderValue> {
    headers.remove(CONNECTION);
    headers.remove(UPGRADE)
}

/// Tells the upstream which attempt this is, and how long its answer is waited for.
pub(super) fn announce(
    headers: &mut HeaderMap,
    attempt: u32,
    expected: Option<Expected>,
    grpc: bool,
) {
    let number = match attempt {
        1 => HeaderValue::from_static("1"),
        number => HeaderValue::from(number),
    };
    headers.insert(ATTEMPT_COUNT, number);
    if let Some(expected) = expected {
        headers.insert(EXPECTED_TIMEOUT, expected.header());
        if grpc {
            headers.insert(GRPC_TIMEOUT, expected.grpc_header());
        }
    }
}

/// Who a request is for, as its client says: the last address of `x-forwarded-for`, which becomes
/// one field (Envoy, which trusts it as far as it names the client, under Istio's settings).
pub(super) fn forwarded(headers: &mut HeaderMap) -> Option<IpAddr> {
    let values: Vec<&[u8]> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if values.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&values.join(&b","[..]))
    {
        headers.insert(FORWARDED_FOR, joined);
    }
    let all = headers.get(FORWARDED_FOR)?.to_str().ok()?;
    all.rsplit(',').next()?.trim().parse().ok()
}

/// Marks a copy of a request as one, sent by the pod at `own` (Envoy, `AsyncStreamImpl`).
pub(super) fn mark_copy(headers: &mut HeaderMap, own: Option<IpAddr>) {
    headers.insert(INTERNAL, HeaderValue::from_static("true"));
    let Some(own) = own.map(|own| own.to_string()) else {
        return;
    };
    let all = match headers.get(FORWARDED_FOR) {
        Some(before) => [before.as_bytes(), own.as_bytes()].join(&b","[..]),
        None => own.into_bytes(),
    };
    if let Ok(all) = HeaderValue::from_bytes(&all) {
        headers.insert(FORWARDED_FOR, all);
    }
}

/// RFC 9113, section 8.2.3: cookies that HTTP/2 split are one field in HTTP/1.
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// Whether a response has two statements of its length: what follows it can't be told apart.
pub(super) fn has_two_lengths(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH)
}

/// Takes off what belongs to the hop that an answer came by.
pub(super) fn leave(headers: &mut HeaderMap) {
    let own = |name: &HeaderName| {
        matches!(
            name.as_str(),
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade"
        )
    };
    if headers.keys().any(own) {
        strip(headers, own);
    }
}

/// Makes an upstream's header fields those of the answer to the client.
pub(super) fn to_downstream(headers: &mut HeaderMap, service_time: Option<u64>) {
    leave(headers);
    headers.insert(SERVER, HeaderValue::from_static("envoy"));
    let service_time = match service_time {
        None => return,
        Some(0) => HeaderValue::from_static("0"),
        Some(millis) => HeaderValue::from(millis),
    };
    headers.insert(SERVICE_TIME, service_time);
}

/// A random (version 4) UUID of 128 random bits, RFC 9562.
fn uuid(random: u128) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bits = random & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let mut text = *b"00000000-0000-4000-8000-000000000000";
    let places = text.iter_mut().filter(|byte| **byte != b'-');
    for (nibble, place) in (0..32).rev().zip(places) {
        *place = DIGITS[(bits >> (nibble * 4) & 0xf) as usize];
    }
    HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&text))
        .unwrap_or_else(|_| HeaderValue::from_static("00000000-0000-4000-8000-000000000000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            })
    }

    #[test]
    fn what_belongs_to_a_hop_ends_there() {
        let mut headers = fields(&[
            ("connection", "close, X-Private"),
            ("connection", "keep-alive, cookie"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("upgrade", "websocket"),
            ("expect", "100-continue"),
            ("x-envoy-max-retries", "9"),
            ("cookie", "kept"),
        ]);
        let fields = Fields::of(&headers);
        assert_eq!(enter(&mut headers, fields, || 0), None);
        for gone in [
            "connection",
            "x-private",
            "keep-alive",
            "upgrade",
            "expect",
            "x-envoy-max-retries",
        ] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        assert_eq!(headers["te"], "trailers");
        assert_eq!(headers["cookie"], "kept");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(
            headers["x-request-id"],
            "00000000-0000-4000-8000-000000000000"
        );
    }

    #[test]
    fn an_upgrade_is_asked_for_by_two_fields() {
        for (list, expected) in [
            (
                &[("connection", "Upgrade"), ("upgrade", "websocket")][..],
                Some("websocket"),
            ),
            (
                &[("connection", "keep-alive, upgrade"), ("upgrade", "x")],
                Some("x"),
            ),
            (&[("upgrade", "websocket")], None),
            (&[("connection", "upgrade")], None),
            (
                &[
                    ("connection", "upgrade, http2-settings"),
                    ("upgrade", "h2c"),
                ],
                None,
            ),
        ] {
            let found = upgrade(&fields(list));
            assert_eq!(
                found.as_ref().map(|v| v.to_str().expect("text")),
                expected,
                "{list:?}"
            );
        }
    }

    #[test]
    fn the_last_address_is_trusted() {
        for (values, joined, address) in [
            (&["1.2.3.4"][..], "1.2.3.4", Some("1.2.3.4")),
            (&["1.1.1.1, fd00::1"], "1.1.1.1, fd00::1", Some("fd00::1")),
            (&["1.1.1.1", "2.2.2.2"], "1.1.1.1,2.2.2.2", Some("2.2.2.2")),
            (&["1.1.1.1, x"], "1.1.1.1, x", None),
            (&["1.1.1.1:5"], "1.1.1.1:5", None),
            (&[""], "", None),
        ] {
            let list: Vec<_> = values.iter().map(|one| ("x-forwarded-for", *one)).collect();
            let mut headers = fields(&list);
            let address = address.map(|one| one.parse().expect("an address"));
            assert_eq!(forwarded(&mut headers), address, "{values:?}");
            let all: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
            assert_eq!(all, [joined]);
        }
    }

    #[test]
    fn copies_say_who_sent_them() {
        let own = Some(IpAddr::from([10, 0, 0, 1]));
        for (before, after) in [(None, "10.0.0.1"), (Some("1.1.1.1"), "1.1.1.1,10.0.0.1")] {
            let list: Vec<_> = before
                .map(|one| ("x-forwarded-for", one))
                .into_iter()
                .collect();
            let mut headers = fields(&list);
            mark_copy(&mut headers, own);
            assert_eq!(headers["x-forwarded-for"], after);
            assert_eq!(headers["x-envoy-internal"], "true");
        }
    }

    #[test]
    fn cookies_become_one_field() {
        let mut headers = fields(&[("cookie", "a=1"), ("cookie", "b=2")]);
        join_cookies(&mut headers);
        assert_eq!(
            headers.get_all("cookie").iter().collect::<Vec<_>>(),
            ["a=1; b=2"]
        );
    }

    #[test]
    fn request_ids_are_version_4() {
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
