//! Where answers end.

use super::*;

/// What becomes of a body that comes so; `None` where it is refused or cut.
fn read(head: &str, body: &[u8]) -> Option<(String, bool)> {
    let mut answer = Answer::of(format!("HTTP/1.1 200 OK\r\n{head}\r\n").as_bytes())?;
    let mut seen = Vec::new();
    for byte in body {
        if answer == Answer::Over {
            break;
        }
        if answer.due() == 0 {
            answer.framing(*byte).ok()?;
        } else {
            seen.push(*byte);
            answer.took(1);
        }
    }
    let seen = String::from_utf8(seen).ok()?;
    Some((seen, answer == Answer::Over))
}

#[test]
fn answers_end_where_their_heads_say() {
    for (name, head, body, expected) in [
        ("with the connection", "", "abc", Some(("abc", false))),
        (
            "by length",
            "Content-Length: 3\r\n",
            "abcd",
            Some(("abc", true)),
        ),
        (
            "short",
            "content-length: 5\r\n",
            "abc",
            Some(("abc", false)),
        ),
        (
            "twice the same",
            "content-length: 1\r\ncontent-length: 1\r\n",
            "a",
            Some(("a", true)),
        ),
        (
            "two lengths",
            "content-length: 1\r\ncontent-length: 2\r\n",
            "",
            None,
        ),
        ("a sign", "content-length: +1\r\n", "", None),
        (
            "both",
            "content-length: 1\r\ntransfer-encoding: chunked\r\n",
            "",
            None,
        ),
        (
            "another coding",
            "transfer-encoding: gzip, chunked\r\n",
            "",
            None,
        ),
        (
            "chunks",
            "Transfer-Encoding: chunked\r\n",
            "3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\nrest",
            Some(("abcd", true)),
        ),
        (
            "hexadecimal",
            "transfer-encoding: chunked\r\n",
            "0A\r\n0123456789\r\n",
            Some(("0123456789", false)),
        ),
        (
            "trailers",
            "transfer-encoding: chunked\r\n",
            "1\r\na\r\n0\r\nx: y\r\nz: 1\r\n\r\n",
            Some(("a", true)),
        ),
        ("no size", "transfer-encoding: chunked\r\n", "\r\n", None),
        (
            "an extension alone",
            "transfer-encoding: chunked\r\n",
            ";x\r\n",
            None,
        ),
        ("no digit", "transfer-encoding: chunked\r\n", "g\r\n", None),
        (
            "digits apart",
            "transfer-encoding: chunked\r\n",
            "1 0\r\na\r\n0\r\n\r\n",
            Some(("a", true)),
        ),
        (
            "more than there are",
            "transfer-encoding: chunked\r\n",
            "1000000000000000\r\n",
            None,
        ),
        (
            "no end of a chunk",
            "transfer-encoding: chunked\r\n",
            "1\r\nabc",
            None,
        ),
        ("no answer", "nonsense\r\n", "", None),
    ] {
        let found = read(head, body.as_bytes());
        let found = found.as_ref().map(|(text, over)| (text.as_str(), *over));
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn lines_are_bounded() {
    let head = "transfer-encoding: chunked\r\n";
    let long = format!("1;{}\r\n", "x".repeat(2 * LINE));
    assert_eq!(read(head, long.as_bytes()), None);
    let long = format!("0\r\nx: {}\r\n\r\n", "x".repeat(2 * LINE));
    assert_eq!(read(head, long.as_bytes()), None);
}
