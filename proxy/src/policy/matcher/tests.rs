//! Conditions and requests, one line a case.

use http::HeaderValue;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();
const NOBODY: Source<'static> = Source {
    namespace: "shop",
    labels: &NO_LABELS,
};

/// Reads `GET /path?query host a:1 b:2`.
fn matches(block: &Match, request: &str) -> bool {
    let mut words = request.split(' ');
    let method = Method::from_bytes(words.next().expect("method").as_bytes()).expect("method");
    let target = words.next().expect("target");
    let authority = words.next().unwrap_or("web");
    let mut headers = HeaderMap::new();
    for word in words {
        let (name, value) = word.split_once(':').expect("name:value");
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).expect("name"),
            HeaderValue::from_str(value).expect("value"),
        );
    }
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    block.matches(&Request {
        method: &method,
        path,
        query,
        authority,
        headers: &headers,
        scheme: "http",
        source: NOBODY,
    })
}

fn exact(text: &str) -> Pattern {
    Pattern::Exact(text.into(), Case::Sensitive)
}

fn prefix(text: &str) -> Pattern {
    Pattern::Prefix(text.into(), Case::Sensitive)
}

fn regex(text: &str) -> Pattern {
    Pattern::regex(text).expect("valid")
}

fn uri(pattern: Pattern) -> Match {
    Match {
        path: Some(pattern),
        ..Match::default()
    }
}

fn header(sense: Sense, name: &str, pattern: Option<Pattern>) -> Match {
    let field = match name {
        ":path" => Field::Path,
        ":method" => Field::Method,
        ":authority" => Field::Authority,
        name => Field::Header(HeaderName::from_bytes(name.as_bytes()).expect("name")),
    };
    Match {
        headers: vec![HeaderCondition {
            field,
            sense,
            pattern,
        }],
        ..Match::default()
    }
}

fn with(name: &str, pattern: Option<Pattern>) -> Match {
    header(Sense::With, name, pattern)
}

fn without(name: &str, pattern: Option<Pattern>) -> Match {
    header(Sense::Without, name, pattern)
}

fn query(name: &str, pattern: Option<Pattern>) -> Match {
    Match {
        query: vec![QueryCondition {
            name: name.into(),
            pattern,
        }],
        ..Match::default()
    }
}

#[test]
fn conditions_hold_as_envoy_holds_them() {
    let both = Match {
        path: Some(prefix("/a")),
        method: Some(exact("GET")),
        ..Match::default()
    };
    for (name, block, request, expected) in [
        ("nothing asked", Match::default(), "GET /", true),
        ("exact path", uri(exact("/a")), "GET /a", true),
        (
            "exact path, not its prefix",
            uri(exact("/a")),
            "GET /ab",
            false,
        ),
        (
            "the query is no part of it",
            uri(exact("/a")),
            "GET /a?b=c",
            true,
        ),
        (
            "a prefix is of bytes",
            uri(prefix("/api")),
            "GET /apix",
            true,
        ),
        (
            "a prefix with slash",
            uri(prefix("/api/")),
            "GET /api",
            false,
        ),
        ("the empty prefix", uri(prefix("")), "GET /x", true),
        (
            "path regex is full",
            uri(regex("/v[12]")),
            "GET /v1/x",
            false,
        ),
        (
            "path regex, no query",
            uri(regex("/v[12]")),
            "GET /v1?x=1",
            true,
        ),
        ("paths keep their case", uri(exact("/a")), "GET /A", false),
        ("both hold", both.clone(), "GET /ab", true),
        ("one of both fails", both, "POST /ab", false),
        (
            "authority has its port",
            Match {
                authority: Some(exact("web:80")),
                ..Match::default()
            },
            "GET / web:80",
            true,
        ),
        (
            "authority without the port asked for",
            Match {
                authority: Some(exact("web")),
                ..Match::default()
            },
            "GET / web:80",
            false,
        ),
        (
            "header equals",
            with("x", Some(exact("a"))),
            "GET / web x:a",
            true,
        ),
        (
            "header differs",
            with("x", Some(exact("a"))),
            "GET / web x:b",
            false,
        ),
        (
            "header is missing",
            with("x", Some(exact("a"))),
            "GET / web",
            false,
        ),
        (
            "missing is not empty",
            with("x", Some(exact(""))),
            "GET / web",
            false,
        ),
        (
            "missing, any regex",
            with("x", Some(regex(".*"))),
            "GET / web",
            false,
        ),
        (
            "second line, exact",
            with("x", Some(exact("b"))),
            "GET / web x:a x:b",
            true,
        ),
        (
            "second line, prefix",
            with("x", Some(prefix("b"))),
            "GET / web x:a x:bc",
            true,
        ),
        (
            "a list is one value",
            with("x", Some(exact("a"))),
            "GET / web x:a,b",
            false,
        ),
        (
            "a list is one value, last",
            with("x", Some(exact("b"))),
            "GET / web x:a,b",
            false,
        ),
        ("present", with("x", None), "GET / web x:", true),
        ("not present", with("x", None), "GET / web y:1", false),
        (
            "pseudo method",
            with(":method", Some(exact("GET"))),
            "GET /",
            true,
        ),
        (
            "pseudo authority",
            with(":authority", Some(prefix("w"))),
            "GET / web",
            true,
        ),
        (
            "pseudo path has the query",
            with(":path", Some(exact("/a?b"))),
            "GET /a?b",
            true,
        ),
        (
            "pseudo path alone",
            with(":path", Some(exact("/a"))),
            "GET /a?b",
            false,
        ),
        (
            "without, value differs",
            without("x", Some(exact("a"))),
            "GET / web x:b",
            true,
        ),
        (
            "without, value equals",
            without("x", Some(exact("a"))),
            "GET / web x:a",
            false,
        ),
        (
            "without, missing",
            without("x", Some(exact("a"))),
            "GET / web",
            true,
        ),
        (
            "without, missing is empty",
            without("x", Some(exact(""))),
            "GET / web",
            false,
        ),
        (
            "without, missing, regex of empty",
            without("x", Some(regex("a*"))),
            "GET / web",
            false,
        ),
        (
            "without, one line matches",
            without("x", Some(exact("b"))),
            "GET / web x:a x:b",
            false,
        ),
        (
            "without, no line matches",
            without("x", Some(exact("c"))),
            "GET / web x:a x:b",
            true,
        ),
        (
            "without presence, absent",
            without("x", None),
            "GET / web",
            true,
        ),
        (
            "without presence, present",
            without("x", None),
            "GET / web x:a",
            false,
        ),
        (
            "query equals",
            query("v", Some(exact("2"))),
            "GET /?v=2",
            true,
        ),
        (
            "query differs",
            query("v", Some(exact("2"))),
            "GET /?v=3",
            false,
        ),
        ("no query", query("v", Some(exact(""))), "GET /", false),
        (
            "key is missing",
            query("v", Some(regex(".*"))),
            "GET /?w=1",
            false,
        ),
        (
            "the first value counts",
            query("v", Some(exact("1"))),
            "GET /?v=1&v=2",
            true,
        ),
        (
            "the second does not",
            query("v", Some(exact("2"))),
            "GET /?v=1&v=2",
            false,
        ),
        (
            "nothing is decoded",
            query("v", Some(exact("2"))),
            "GET /?v=%32",
            false,
        ),
        (
            "a semicolon separates nothing",
            query("v", Some(exact("1"))),
            "GET /?a=b;v=1",
            false,
        ),
        (
            "a value keeps its semicolon",
            query("v", Some(exact("1;b"))),
            "GET /?v=1;b",
            true,
        ),
        ("empty value", query("v", Some(exact(""))), "GET /?v=", true),
        ("no value", query("v", Some(exact(""))), "GET /?v", true),
        ("parameter present", query("v", None), "GET /?a&v", true),
        ("parameter absent", query("v", None), "GET /?a&vv", false),
        (
            "query regex is full",
            query("v", Some(regex("[0-9]+"))),
            "GET /?v=1a",
            false,
        ),
        (
            "a value with an equals sign",
            query("v", Some(exact("a=b"))),
            "GET /?v=a=b",
            true,
        ),
        (
            "no parameter has the empty name",
            query("", None),
            "GET /?",
            false,
        ),
    ] {
        assert_eq!(matches(&block, request), expected, "{name}");
    }
}

#[test]
fn a_header_value_need_not_be_text() {
    let mut headers = HeaderMap::new();
    headers.insert(
        "x",
        HeaderValue::from_bytes(b"a\xff").expect("opaque bytes"),
    );
    let request = Request {
        method: &Method::GET,
        path: "/",
        query: None,
        authority: "web",
        headers: &headers,
        scheme: "http",
        source: NOBODY,
    };
    assert!(with("x", Some(prefix("a"))).matches(&request));
    assert!(!with("x", Some(exact("a"))).matches(&request));
    assert!(with("x", None).matches(&request));
}

/// Whatever an expression and a request are made of, nothing panics.
#[test]
fn no_input_panics() {
    const PIECES: &[&str] = &[
        "a",
        "/",
        "[",
        "]",
        "(",
        ")",
        "?",
        "*",
        "+",
        "\\",
        "Q",
        "E",
        "^",
        "$",
        "|",
        "{2}",
        "{",
        "}",
        "-",
        "&&",
        "~~",
        "[:alpha:]",
        "d",
        "é",
        "\u{0}",
        "=",
        ":",
        "(?i)",
        "(?P<n>",
        ".",
        "1",
    ];
    let mut random = StdRng::seed_from_u64(7);
    let mut compiled = 0;
    let text = |random: &mut StdRng| -> String {
        (0..random.random_range(0..8))
            .map(|_| PIECES[random.random_range(0..PIECES.len())])
            .collect()
    };
    let headers = HeaderMap::new();
    for _ in 0..3_000 {
        let Ok(pattern) = Pattern::regex(&text(&mut random)) else {
            continue;
        };
        compiled += 1;
        let (path, query_text, name) = (text(&mut random), text(&mut random), text(&mut random));
        let request = Request {
            method: &Method::GET,
            path: &path,
            query: Some(&query_text),
            authority: &name,
            headers: &headers,
            scheme: "http",
            source: NOBODY,
        };
        for block in [
            uri(pattern.clone()),
            uri(Pattern::Prefix(name.as_str().into(), Case::Ignored)),
            query(&name, Some(pattern.clone())),
            with(":path", Some(pattern.clone())),
            without("x", Some(pattern)),
        ] {
            block.matches(&request);
        }
    }
    assert!(compiled > 300, "too few expressions were valid: {compiled}");
}

#[test]
fn conditions_on_the_caller_and_the_scheme() {
    let labels = |text: &str| -> BTreeMap<String, String> {
        let pairs = text
            .split_whitespace()
            .filter_map(|one| one.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    };
    for (namespace, wanted, scheme, own, expected) in [
        (None, "", None, "", true),
        (Some("shop"), "", None, "", true),
        (Some("other"), "", None, "", false),
        (None, "a=1", None, "a=1 b=2", true),
        (None, "a=1 b=2", None, "a=1 b=2", true),
        (None, "a=1 b=3", None, "a=1 b=2", false),
        (None, "c=", None, "a=1", false),
        (Some("shop"), "a=2", None, "a=1", false),
        (None, "", Some("http"), "", true),
        (None, "", Some("https"), "", false),
        (None, "", Some("HTTP"), "", false),
    ] {
        let caller = Caller {
            namespace: namespace.map(Into::into),
            labels: labels(wanted),
        };
        let block = Match {
            scheme: scheme.map(|one| Pattern::Exact(one.into(), Case::Sensitive)),
            caller: (caller != Caller::default()).then(|| Arc::new(caller)),
            ..Match::default()
        };
        let (own, headers) = (labels(own), HeaderMap::new());
        let request = Request {
            method: &Method::GET,
            path: "/",
            query: None,
            authority: "web",
            headers: &headers,
            scheme: "http",
            source: Source {
                namespace: "shop",
                labels: &own,
            },
        };
        assert_eq!(block.matches(&request), expected, "{block}");
    }
}
