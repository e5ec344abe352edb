//! Redirects and requests, one line a case.

use http::HeaderName;
use proptest::prelude::*;

use super::*;

const NOTHING: Redirect = Redirect::ITSELF;

/// Reads `https web:8080 /a/b?q`; the client dialled 8080, the rule matched the prefix `/a`.
fn location(redirect: &Redirect, request: &str) -> String {
    let words: Vec<&str> = request.split(' ').collect();
    let (path, query) = match words[2].split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (words[2], None),
    };
    let value = redirect.location(&Request {
        scheme: if words[0] == "https" {
            Scheme::Https
        } else {
            Scheme::Http
        },
        authority: words[1],
        path,
        query,
        port: 8080,
        matched: Matched::Prefix(2),
    });
    value.to_str().expect("text").to_owned()
}

#[test]
fn locations_are_composed_as_envoy_does() {
    let scheme = |scheme| Redirect {
        scheme: Some(scheme),
        ..NOTHING
    };
    let authority = |text: &str| Redirect {
        authority: Some(text.into()),
        ..NOTHING
    };
    let port = |port| Redirect { port, ..NOTHING };
    let whole = |text: &str| Redirect {
        path: Path::Whole(text.into()),
        ..NOTHING
    };
    let prefix = |text: &str| Redirect {
        path: Path::Prefix(text.into()),
        ..NOTHING
    };
    for (name, redirect, request, expected) in [
        (
            "nothing changes",
            NOTHING,
            "http web /a/b?q=1",
            "http://web/a/b?q=1",
        ),
        ("path", whole("/new"), "http web /a", "http://web/new"),
        (
            "the query is kept",
            whole("/new"),
            "http web /a?q=1",
            "http://web/new?q=1",
        ),
        (
            "an empty query too",
            whole("/new"),
            "http web /a?",
            "http://web/new?",
        ),
        (
            "unless the path has one",
            whole("/new?x"),
            "http web /a?q=1",
            "http://web/new?x",
        ),
        (
            "a slash is added",
            whole("new"),
            "http web /a",
            "http://web/new",
        ),
        ("an empty path", whole(""), "http web /a", "http://web/"),
        (
            "prefix",
            prefix("/new"),
            "http web /a/b?q",
            "http://web/new/b?q",
        ),
        (
            "prefix as bytes",
            prefix("/"),
            "http web /a/b",
            "http://web//b",
        ),
        ("empty prefix", prefix(""), "http web /a/b", "http://web/b"),
        ("nothing is left", prefix(""), "http web /a", "http://web/"),
        (
            "authority",
            authority("other"),
            "http web:8080 /a",
            "http://other/a",
        ),
        (
            "authority with port",
            authority("other:1"),
            "http web:8080 /a",
            "http://other:1/a",
        ),
        (
            "https",
            scheme(Scheme::Https),
            "http web /a",
            "https://web/a",
        ),
        (
            "https drops 80",
            scheme(Scheme::Https),
            "http web:80 /a",
            "https://web/a",
        ),
        (
            "https keeps 8080",
            scheme(Scheme::Https),
            "http web:8080 /a",
            "https://web:8080/a",
        ),
        (
            "https keeps 443",
            scheme(Scheme::Https),
            "http web:443 /a",
            "https://web:443/a",
        ),
        (
            "http drops 443",
            scheme(Scheme::Http),
            "https web:443 /a",
            "http://web/a",
        ),
        (
            "the same scheme keeps 80",
            scheme(Scheme::Http),
            "http web:80 /a",
            "http://web:80/a",
        ),
        (
            "IPv6",
            scheme(Scheme::Https),
            "http [::1]:80 /a",
            "https://[::1]/a",
        ),
        (
            "IPv6 without port",
            scheme(Scheme::Https),
            "http [::80] /a",
            "https://[::80]/a",
        ),
        (
            "port",
            port(Port::Fixed(9090)),
            "http web /a",
            "http://web:9090/a",
        ),
        (
            "port replaces",
            port(Port::Fixed(9090)),
            "http web:1 /a",
            "http://web:9090/a",
        ),
        (
            "port, IPv6",
            port(Port::Fixed(9090)),
            "http [::1]:1 /a",
            "http://[::1]:9090/a",
        ),
        (
            "the scheme's own is omitted",
            port(Port::Fixed(80)),
            "http web /a",
            "http://web/a",
        ),
        (
            "and then the request's stays",
            port(Port::Fixed(80)),
            "http web:1 /a",
            "http://web:1/a",
        ),
        (
            "request port",
            port(Port::Request),
            "http web /a",
            "http://web:8080/a",
        ),
        (
            "default port",
            port(Port::ProtocolDefault),
            "http web:1 /a",
            "http://web:1/a",
        ),
        (
            "scheme and port",
            Redirect {
                scheme: Some(Scheme::Https),
                port: Port::Fixed(443),
                ..NOTHING
            },
            "http web:80 /a",
            "https://web/a",
        ),
        (
            "authority and port",
            Redirect {
                authority: Some("other:1".into()),
                port: Port::Fixed(2),
                ..NOTHING
            },
            "http web /a",
            "http://other:2/a",
        ),
        (
            "what a path can't hold",
            whole("/a b\"<é>"),
            "http web /a",
            "http://web/a%20b%22%3C%C3%A9%3E",
        ),
        (
            "what is encoded",
            whole("/a%20b"),
            "http web /a",
            "http://web/a%20b",
        ),
        ("a fragment", whole("/a#b"), "http web /a", "http://web/a#b"),
        (
            "line breaks",
            whole("/a\r\nset-cookie: x"),
            "http web /a",
            "http://web/a%0D%0Aset-cookie:%20x",
        ),
    ] {
        assert_eq!(location(&redirect, request), expected, "{name}");
    }
}

proptest! {
    /// Whatever is configured and asked for, the location is a URI with the scheme and, where it is
    /// configured, the port that were meant.
    #[test]
    fn a_location_is_always_a_uri(
        https: bool,
        authority in proptest::option::of("\\PC{0,8}"),
        port in proptest::option::of(any::<u16>()),
        path in prop_oneof![
            Just(Path::Kept),
            "\\PC{0,12}".prop_map(|text| Path::Whole(text.into())),
            ".{0,12}".prop_map(|text| Path::Prefix(text.into())),
        ],
        asked in "/.{0,12}",
        query in proptest::option::of(".{0,12}"),
        len in 0..20_usize,
    ) {
        let redirect = Redirect {
            scheme: https.then_some(Scheme::Https),
            authority: authority.map(Into::into),
            port: port.map_or(Port::Kept, Port::Fixed),
            path,
            ..NOTHING
        };
        let value = redirect.location(&Request {
            scheme: Scheme::Http,
            authority: "web",
            path: &asked,
            query: query.as_deref(),
            port: 8080,
            matched: Matched::Prefix(len),
        });
        let text = value.to_str().expect("visible characters");
        let scheme = if https { "https" } else { "http" };
        let rest = text.strip_prefix(scheme).expect("scheme");
        prop_assert!(rest.starts_with("://"));
        prop_assert!(rest[3..].contains('/'));
        prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
        let mut map = http::HeaderMap::new();
        map.insert(HeaderName::from_static("location"), value);
    }
}
