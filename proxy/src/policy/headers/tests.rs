//! Operations on heads, one line a case.

use super::value::MOST_BYTES;
use super::*;
use crate::policy::format::Nothing;

/// Reads `set:x=1 add:y=2 remove:z`; a value's spaces are written `_`.
fn edit(message: Message, text: &str) -> Result<Edit, HeadersError> {
    let (mut set, mut add, mut remove) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let (operation, rest) = word.split_once(':').expect("operation:name");
        if operation == "remove" {
            remove.push(rest.to_owned());
            continue;
        }
        let (name, value) = rest.split_once('=').expect("name=value");
        let map = if operation == "set" {
            &mut set
        } else {
            &mut add
        };
        map.insert(name.to_owned(), value.replace('_', " "));
    }
    Edit::new(message, &set, &add, &remove)
}

fn request(text: &str) -> Edit {
    edit(Message::Request, text).expect(text)
}

/// Reads `x:1 y:2`.
fn head(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in text.split(' ').filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').expect("name:value");
        let name = HeaderName::try_from(name).expect("name");
        headers.append(name, HeaderValue::try_from(value).expect("value"));
    }
    headers
}

/// The fields, sorted by name; of one name in their order.
fn shown(headers: &HeaderMap) -> String {
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    let lines = names.into_iter().flat_map(|name| {
        let values = headers.get_all(name).iter();
        values.map(move |value| format!("{name}:{}", value.to_str().expect("text")))
    });
    lines.collect::<Vec<_>>().join(" ")
}

#[test]
fn fields_are_removed_then_set_then_added() {
    for (name, operations, before, expected) in [
        (
            "set overwrites all lines",
            "set:x=1",
            "x:a x:b y:c",
            "x:1 y:c",
        ),
        ("set writes what is absent", "set:x=1", "", "x:1"),
        ("add appends", "add:x=1", "x:a", "x:a x:1"),
        ("remove takes all lines", "remove:x", "x:a x:b y:c", "y:c"),
        ("remove, then set", "set:x=1 remove:x", "x:a", "x:1"),
        ("set, then add", "add:x=2 set:x=1", "x:a", "x:1 x:2"),
        (
            "names in any case",
            "set:X-A=1 remove:Y-B",
            "x-a:0 y-b:0",
            "x-a:1",
        ),
        (
            "an empty value is not written",
            "set:x= add:y=",
            "x:a",
            "x:a",
        ),
        (
            "an unknown value is not written",
            "set:x=%REQ(z)%",
            "x:a",
            "x:a",
        ),
        (
            "but what stands beside it is",
            "set:x=<%REQ(z)%>",
            "x:a",
            "x:<>",
        ),
        (
            "values read the request",
            "set:x=%REQ(y)%",
            "y:b",
            "x:b y:b",
        ),
        (
            "a removed field is gone",
            "set:x=%REQ(y)% remove:y",
            "y:b",
            "",
        ),
        (
            "no value sees another's work",
            "set:a=1 set:b=%REQ(a)% add:c=%REQ(b)%",
            "a:0",
            "a:1 b:0",
        ),
        (
            "of repeated lines the first",
            "set:x=%REQ(y)%",
            "y:1 y:2",
            "x:1 y:1 y:2",
        ),
    ] {
        let mut headers = head(before);
        let left_out = request(operations).apply(Message::Request, &mut headers, &Nothing);
        assert_eq!(
            (shown(&headers).as_str(), left_out),
            (expected, 0),
            "{name}"
        );
    }
}

#[test]
fn of_several_levels_the_later_wins() {
    let rule = Operations {
        request: request("set:x=rule add:y=rule set:r=1"),
        response: Edit::default(),
    };
    let destination = Operations {
        request: request("set:x=destination add:y=destination remove:r"),
        response: Edit::default(),
    };
    let mut headers = head("r:0");
    let joined = rule.joined(&destination).request;
    joined.apply(Message::Request, &mut headers, &Nothing);
    assert_eq!(shown(&headers), "r:1 x:destination y:rule y:destination");

    let mut headers = head("r:0");
    for edit in [&destination.request, &rule.request] {
        edit.apply(Message::Request, &mut headers, &Nothing);
    }
    assert_eq!(shown(&headers), "r:1 x:rule y:destination y:rule");
}

#[test]
fn the_authority_is_set_apart() {
    for (operations, expected) in [
        ("set:x=1", None),
        ("set::authority=web:80", Some("web:80")),
        ("set:Host=web", Some("web")),
        ("add:host=web", Some("web")),
        ("set:host=not_a_host", None),
        ("set:host=user@web", None),
        ("set:host=%REQ(x)%", None),
    ] {
        let edit = request(operations);
        let found = edit.authority(&Nothing);
        let found = found.as_ref().map(|value| value.to_str().expect("text"));
        assert_eq!(found, expected, "{operations}");
        let mut headers = head("host:old");
        edit.apply(Message::Request, &mut headers, &Nothing);
        assert_eq!(headers[HOST], "old", "{operations}");
    }
    let both = |first: &str, second: &str| {
        Operations {
            request: request(first),
            response: Edit::default(),
        }
        .joined(&Operations {
            request: request(second),
            response: Edit::default(),
        })
    };
    for (first, second, expected) in [
        ("set:host=rule", "set:host=destination", "rule"),
        ("", "set:host=destination", "destination"),
    ] {
        let found = both(first, second).request.authority(&Nothing);
        assert_eq!(found, Some(HeaderValue::try_from(expected).expect("value")));
    }
}

#[test]
fn what_cannot_be_done_is_refused() {
    use Message::{Request, Response};
    for (message, operations, expected) in [
        (
            Request,
            "set:a/b=1",
            r#"set: "a/b" is not the name of a header"#,
        ),
        (
            Request,
            "add:é=1",
            r#"add: "é" is not the name of a header"#,
        ),
        (
            Request,
            "remove:",
            r#"remove: "" is not the name of a header"#,
        ),
        (
            Request,
            "set::path=/x",
            r#"set: ":path" can't be changed here; the authority can be set on requests, and other pseudo-headers not at all"#,
        ),
        (
            Request,
            "remove:Host",
            r#"remove: "Host" can't be changed here; the authority can be set on requests, and other pseudo-headers not at all"#,
        ),
        (
            Response,
            "set:host=x",
            r#"set: "host" can't be changed here; the authority can be set on requests, and other pseudo-headers not at all"#,
        ),
        (
            Request,
            "set:host=a add::authority=b",
            "add: the authority is set more than once",
        ),
        (
            Request,
            "set:x=%REQS(y)%",
            "set.x: unknown operator %REQS%; near it: %REQ%",
        ),
        (
            Request,
            "set:x=\u{7}",
            "set.x: a control character at byte 0: a header value can't hold it",
        ),
    ] {
        let error = edit(message, operations).expect_err(operations);
        let text = error.to_string();
        assert_eq!(text, expected);
    }
}

#[test]
fn what_values_read_is_known() {
    for (operations, expected) in [
        ("set:x=1", (false, false, false)),
        ("set:x=%REQ(y)%", (true, false, false)),
        ("add:x=%RESP(y)%%TRAILER(z)%", (false, true, true)),
        ("set:host=%REQ(y)%", (true, false, false)),
    ] {
        let edit = request(operations);
        let found = (
            edit.reads(Message::Request),
            edit.reads(Message::Response),
            edit.reads(Message::Trailers),
        );
        assert_eq!(found, expected, "{operations}");
    }
}

/// Ten thousand operations of each kind, and the most that templates can make of a large field.
#[test]
fn large_edits_are_bounded() {
    let many = |prefix: &str, value: &str| {
        let names = (0..10_000).map(|index| (format!("{prefix}-{index}"), value.to_owned()));
        names.collect::<BTreeMap<_, _>>()
    };
    let remove: Vec<String> = (0..10_000).map(|index| format!("r-{index}")).collect();
    let edit = Edit::new(
        Message::Request,
        &many("s", "1"),
        &many("a", "%REQ(x)%"),
        &remove,
    );
    let edit = edit.expect("valid");
    let mut headers = head("x:1 r-77:1");
    assert_eq!(edit.apply(Message::Request, &mut headers, &Nothing), 0);
    assert_eq!(headers.len(), 20_001);

    let large = HeaderValue::try_from("v".repeat(60_000)).expect("value");
    let mut headers = HeaderMap::new();
    headers.insert("x", large);
    let left_out = edit.apply(Message::Request, &mut headers, &Nothing);
    let bytes: usize = headers.values().map(HeaderValue::len).sum();
    assert!(bytes <= 60_000 + MOST_BYTES, "{bytes}");
    assert_eq!(left_out, 20_001 - headers.len());

    let more = Edit::new(
        Message::Request,
        &many("t", "1"),
        &many("b", "%REQ(x)%"),
        &[],
    );
    let both = edit.joined(&more.expect("valid"));
    let mut headers = head("x:1");
    let left_out = both.apply(Message::Request, &mut headers, &Nothing);
    assert!(left_out > 0);
    assert_eq!(headers.len() + left_out, 40_001);
}
