//! Tests of hash keys: requests and the bytes that are hashed of them.

use std::collections::BTreeMap;

use http::{HeaderName, Method};

use super::*;
use crate::policy::matcher::Source;

fn ends() -> Ends {
    Ends {
        remote: ([10, 0, 0, 1], 40_000).into(),
        local: ([10, 96, 0, 7], 80).into(),
    }
}

fn hashed(keys: &[Key], target: &str, headers: &[(&'static str, &'static str)]) -> Hashed {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        })
        .collect();
    let request = Request {
        method: &Method::GET,
        path,
        query,
        authority: "web.shop",
        headers: &headers,
        scheme: "http",
        source: Source {
            namespace: "shop",
            labels: &BTreeMap::new(),
        },
    };
    of_request(keys, &request, ends())
}

fn header(name: &'static str) -> Key {
    Key::Header(Field::Header(HeaderName::from_static(name)))
}

fn cookie(ttl: Option<u64>) -> Key {
    Key::Cookie(Cookie {
        name: "user".into(),
        path: "".into(),
        ttl: ttl.map(Duration::from_secs),
        attributes: Vec::new(),
    })
}

fn text(text: &str) -> Option<u64> {
    Some(xxh64(text.as_bytes(), 0))
}

/// Known answers, so that a change of library or of seed is seen.
#[test]
fn the_hash_is_xxhash64() {
    for (bytes, seed, expected) in [
        (&b""[..], 0, 0xef46_db37_51d8_e999_u64),
        (b"a", 0, 0xd24e_c4f1_a98c_6e5b),
        (b"abc", 0, 0x44bc_2cf5_ad77_0999),
        (b"", 1, 0xd5af_ba13_36a3_be4b),
    ] {
        assert_eq!(xxh64(bytes, seed), expected, "{bytes:?} {seed}");
    }
}

#[test]
fn each_key_reads_its_part_of_the_request() {
    let parameter = |name: &str| Key::QueryParameter(name.into());
    let field = Key::Header;
    for (name, key, target, headers, expected) in [
        (
            "header",
            header("x-user"),
            "/",
            &[("x-user", "ann")][..],
            text("ann"),
        ),
        (
            "empty header",
            header("x-user"),
            "/",
            &[("x-user", "")],
            text(""),
        ),
        (
            "no header",
            header("x-user"),
            "/",
            &[("x-uses", "ann")],
            None,
        ),
        ("method", field(Field::Method), "/", &[], text("GET")),
        (
            "authority",
            field(Field::Authority),
            "/",
            &[],
            text("web.shop"),
        ),
        ("path", field(Field::Path), "/a?b=c", &[], text("/a?b=c")),
        ("path alone", field(Field::Path), "/a", &[], text("/a")),
        ("source", Key::SourceAddress, "/", &[], text("10.0.0.1")),
        (
            "query",
            parameter("u"),
            "/?a=1&u=ann&u=bob",
            &[],
            text("ann"),
        ),
        (
            "not decoded",
            parameter("u"),
            "/?u=a%20b",
            &[],
            text("a%20b"),
        ),
        ("case", parameter("U"), "/?u=ann", &[], None),
        ("without value", parameter("u"), "/?u", &[], text("")),
        ("no query", parameter("u"), "/u=ann", &[], None),
        (
            "cookie",
            cookie(None),
            "/",
            &[("cookie", "a=b; user=ann;user=bob")],
            text("ann"),
        ),
        (
            "a later line",
            cookie(None),
            "/",
            &[("cookie", "a=b"), ("cookie", "user=ann")],
            text("ann"),
        ),
        (
            "quoted",
            cookie(None),
            "/",
            &[("cookie", "user=\"ann\"")],
            text("ann"),
        ),
        (
            "half a quote",
            cookie(None),
            "/",
            &[("cookie", "user=\"")],
            text("\""),
        ),
        (
            "value with =",
            cookie(None),
            "/",
            &[("cookie", "user=a=b")],
            text("a=b"),
        ),
        (
            "malformed",
            cookie(None),
            "/",
            &[("cookie", "user; ;=;")],
            None,
        ),
        ("no cookie", cookie(None), "/", &[], None),
        (
            "empty cookie",
            cookie(None),
            "/",
            &[("cookie", "user=")],
            None,
        ),
    ] {
        let hashed = hashed(&[key], target, headers);
        assert_eq!(hashed.hash, expected, "{name}");
        assert_eq!(hashed.cookies, Vec::<HeaderValue>::new(), "{name}");
    }
}

#[test]
fn repeated_lines_are_hashed_in_any_order_alike() {
    let key = [header("x")];
    let one = hashed(&key, "/", &[("x", "b"), ("x", "a"), ("x", "c")]);
    let other = hashed(&key, "/", &[("x", "c"), ("x", "b"), ("x", "a")]);
    assert_eq!(one, other);
    let chained = xxh64(b"c", xxh64(b"b", xxh64(b"a", 0)));
    assert_eq!(one.hash, Some(chained));
}

#[test]
fn keys_combine() {
    let (a, b) = (xxh64(b"ann", 0), xxh64(b"bob", 0));
    let headers = &[("a", "ann"), ("b", "bob")];
    for (keys, expected) in [
        (&[header("a"), header("b")][..], Some(a.rotate_left(1) ^ b)),
        (&[header("b"), header("a")], Some(b.rotate_left(1) ^ a)),
        (
            &[header("a"), header("none"), header("b")],
            Some(a.rotate_left(1) ^ b),
        ),
        (&[header("none"), header("b")], Some(b)),
        (&[header("a"), header("a")], Some(a.rotate_left(1) ^ a)),
        (&[header("none")], None),
        (&[], None),
    ] {
        assert_eq!(hashed(keys, "/", headers).hash, expected, "{keys:?}");
    }
}

#[test]
fn a_cookie_is_made_where_there_is_none() {
    let value = format!("{:016x}", xxh64(b"10.0.0.1:4000010.96.0.7:80", 0));
    let attribute = |name: &str, value: &str| (Arc::from(name), Arc::from(value));
    for (ttl, path, attributes, expected) in [
        (0, "", vec![], "; HttpOnly"),
        (3600, "", vec![], "; Max-Age=3600; HttpOnly"),
        (0, "/shop", vec![], "; Path=/shop; HttpOnly"),
        (
            5,
            "/",
            vec![attribute("SameSite", "Strict"), attribute("Secure", "")],
            "; Max-Age=5; Path=/; SameSite=Strict; Secure; HttpOnly",
        ),
    ] {
        let key = Key::Cookie(Cookie {
            name: "user".into(),
            path: path.into(),
            ttl: Some(Duration::from_secs(ttl)),
            attributes,
        });
        for headers in [&[][..], &[("cookie", "user=")], &[("cookie", "other=1")]] {
            let hashed = hashed(std::slice::from_ref(&key), "/", headers);
            assert_eq!(hashed.hash, text(&value));
            assert_eq!(hashed.cookies, [format!("user=\"{value}\"{expected}")]);
        }
        let sent = hashed(&[key], "/", &[("cookie", "user=ann")]);
        assert_eq!((sent.hash, sent.cookies.len()), (text("ann"), 0));
    }
}

#[test]
fn less_than_a_second_is_a_session() {
    let Key::Cookie(cookie) = cookie(Some(0)) else {
        panic!("a cookie");
    };
    let line = cookie.set_cookie("v", Duration::from_millis(999));
    assert_eq!(line.expect("a value"), "user=\"v\"; HttpOnly");
}

#[test]
fn what_no_header_may_hold_is_not_set() {
    let key = Key::Cookie(Cookie {
        name: "user\r\nx: y".into(),
        path: "".into(),
        ttl: Some(Duration::ZERO),
        attributes: Vec::new(),
    });
    let hashed = hashed(&[key], "/", &[]);
    assert!(hashed.hash.is_some());
    assert_eq!(hashed.cookies, Vec::<HeaderValue>::new());
}
