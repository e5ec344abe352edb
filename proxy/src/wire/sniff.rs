//! What protocol a connection's first bytes speak.
//!
//! Pure: it is shown the bytes received so far and says what they are or that it needs more. When
//! to stop waiting is the caller's decision (`dataplane::protocol`).

/// No request line is waited for beyond this many bytes: a longer one that looks like HTTP so far
/// is taken for HTTP, and the parser answers it.
pub const LIMIT: usize = 4096;

/// RFC 9113, section 3.4.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest method that is looked for (`UPDATEREDIRECTREF` has 17 characters), where a line without
/// a space is not to be waited for.
const LONGEST_METHOD: usize = 24;

/// What the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A request line of HTTP/1.x.
    Http1,
    /// The preface of HTTP/2 with prior knowledge.
    Http2,
    /// A TLS handshake record.
    Tls,
    /// Anything else.
    Opaque,
    /// Too few bytes to tell.
    More,
}

/// Looks at the first bytes of a connection.
pub fn sniff(bytes: &[u8]) -> Verdict {
    look(bytes, false)
}

/// The same for those whom no request must evade: whatever some server may take for one is one, however
/// long its method, and whatever minor version it has.
pub fn sniff_strictly(bytes: &[u8]) -> Verdict {
    look(bytes, true)
}

fn look(bytes: &[u8], strict: bool) -> Verdict {
    if bytes.is_empty() {
        return Verdict::More;
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return Verdict::More.or_http2(bytes.len());
    }
    if bytes.starts_with(HTTP2_PREFACE) {
        return Verdict::Http2;
    }
    match bytes {
        // RFC 8446, section 5.1: type 22, legacy version 3.x.
        [22] => Verdict::More,
        [22, 3, ..] => Verdict::Tls,
        _ => request_line(bytes, strict),
    }
}

/// Whether [`Verdict::More`] may still turn out to be HTTP/2's preface, which no request line begins
/// like.
pub fn may_be_preface(bytes: &[u8]) -> bool {
    const FIRST_WORD: &[u8] = b"PRI ";
    FIRST_WORD.starts_with(&bytes[..bytes.len().min(FIRST_WORD.len())])
}

/// Bytes of a frame's head (RFC 9113, section 4.1).
pub const FRAME_HEAD: usize = 9;

/// Whether what a server says before it was asked anything may still be HTTP: HTTP/2's SETTINGS, or an
/// answer that nobody waits for.
pub fn may_answer_http(bytes: &[u8]) -> bool {
    const ANSWER: &[u8] = b"HTTP/";
    may_be_settings(bytes) || ANSWER.starts_with(&bytes[..bytes.len().min(ANSWER.len())])
}

/// Whether a server says what one of HTTP/2 may say before it has heard its client (RFC 9113,
/// section 3.4): SETTINGS.
pub fn is_settings(bytes: &[u8]) -> bool {
    bytes.len() >= FRAME_HEAD && may_be_settings(bytes)
}

fn may_be_settings(bytes: &[u8]) -> bool {
    // Length of 24 bits, of which a first frame needs few; type 4; no flags; stream 0.
    let mut head = bytes.iter().take(FRAME_HEAD).enumerate();
    head.all(|(at, byte)| match at {
        0 | 5..=8 => *byte == 0,
        3 => *byte == 4,
        4 => byte & !1 == 0,
        _ => true,
    })
}

impl Verdict {
    fn or_http2(self, len: usize) -> Self {
        if len == HTTP2_PREFACE.len() {
            Self::Http2
        } else {
            self
        }
    }
}

/// `METHOD SP target SP HTTP/1.x`: the version is what tells it from the many line protocols whose
/// first word looks like a method (`HELO example.org`).
fn request_line(bytes: &[u8], strict: bool) -> Verdict {
    // RFC 9112, section 2.2: a server should ignore an empty line before the request line. Many ignore
    // however many there are.
    let start = bytes
        .iter()
        .position(|byte| !matches!(byte, b'\r' | b'\n'))
        .unwrap_or(bytes.len());
    let line = &bytes[start..];
    let method = line
        .iter()
        .take_while(|byte| is_method_byte(**byte))
        .count();
    if method > LONGEST_METHOD && !strict {
        return Verdict::Opaque;
    }
    if method == line.len() {
        let full = bytes.len() >= LIMIT;
        return if full { Verdict::Http1 } else { Verdict::More };
    }
    if method == 0 || line[method] != b' ' {
        return Verdict::Opaque;
    }
    let rest = &line[method + 1..];
    match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            if has_version(line, strict) {
                Verdict::Http1
            } else {
                Verdict::Opaque
            }
        }
        None if bytes.len() >= LIMIT => Verdict::Http1,
        None if rest
            .iter()
            .any(|byte| *byte < b' ' && *byte != b'\r' && *byte != b'\t') =>
        {
            Verdict::Opaque
        }
        None => Verdict::More,
    }
}

/// RFC 9110, section 5.6.2: a method is a token.
fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn has_version(line: &[u8], strict: bool) -> bool {
    let trimmed = line.trim_ascii_end();
    let digits = trimmed
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_digit());
    let (before, minor) = trimmed.split_at(trimmed.len() - digits.count());
    // Some servers take 1.2 for 1.1.
    before.ends_with(b"HTTP/1.") && (matches!(minor, b"0" | b"1") || (strict && !minor.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_the_protocol() {
        for (bytes, expected) in [
            (&b""[..], Verdict::More),
            (b"G", Verdict::More),
            (b"GET /", Verdict::More),
            (b"GET / HTTP/1.1\r\n", Verdict::Http1),
            (b"GET / HTTP/1.0\n", Verdict::Http1),
            (b"\r\nGET / HTTP/1.1\r\n", Verdict::Http1),
            (b"FOO-BAR /x HTTP/1.1\r\n", Verdict::Http1),
            (b"GET / HTTP/2\r\n", Verdict::Opaque),
            (b"PRI * HTTP/1.9\r\n", Verdict::Opaque),
            (b"HELO example.org\r\n", Verdict::Opaque),
            (b"QUIT\r\n", Verdict::Opaque),
            (b"PRI", Verdict::More),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Verdict::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Verdict::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Verdict::Opaque),
            (b"PRIVMSG #c hi\r\n", Verdict::Opaque),
            (b"\x16", Verdict::More),
            (b"\x16\x03\x01\x02", Verdict::Tls),
            (b"\x16\x04", Verdict::Opaque),
            (b"\0\0\0\x08", Verdict::Opaque),
            (b"*1\r\n$4\r\nPING\r\n", Verdict::Opaque),
            (b"SELECTAVERYLONGWORDTHATISNOMETHOD", Verdict::Opaque),
            (b"GET \0", Verdict::Opaque),
            (b"\r\n\r\n\r\n", Verdict::More),
            (b"\r\n\r\n\r\n\n\nGET / HTTP/1.1\r\n", Verdict::Http1),
            (b"\r\n\r\n\r\nEHLO a\r\n", Verdict::Opaque),
            (b"G!T / HTTP/1.1\r\n", Verdict::Http1),
            (b"GET / HTTP/1.2\r\n", Verdict::Opaque),
        ] {
            assert_eq!(
                sniff(bytes),
                expected,
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn a_prefix_never_contradicts_the_whole() {
        for whole in [
            &b"GET /some/path?and=query HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01",
            b"HELO example.org\r\n",
        ] {
            let verdict = sniff(whole);
            for end in 0..whole.len() {
                let early = sniff(&whole[..end]);
                assert!(
                    early == Verdict::More || early == verdict,
                    "{end} of {whole:?}: {early:?}"
                );
            }
        }
    }

    #[test]
    fn a_request_line_without_an_end_is_http() {
        let mut line = b"GET /".to_vec();
        line.resize(LIMIT, b'a');
        assert_eq!(sniff(&line), Verdict::Http1);
        assert_eq!(sniff(&[b'\n'; LIMIT]), Verdict::Http1);
    }

    #[test]
    fn servers_of_http_may_speak_first() {
        for (bytes, expected) in [
            (&b"\0\0\x12\x04\0\0\0\0\0\0\x03"[..], true),
            (b"\0\0\0\x04\0\0\0\0\0", true),
            (b"\0\0", true),
            (b"\0\0\x12\x05\0\0\0\0\0", false),
            (b"\0\0\x12\x04\0\0\0\0\x01", false),
            (b"HTTP/1.1 408 Request Timeout\r\n", true),
            (b"HT", true),
            (b"220 hello", false),
            // MySQL.
            (b"\x4a\0\0\0\x0a8.0", false),
            (b"SSH-2.0-", false),
        ] {
            assert_eq!(may_answer_http(bytes), expected, "{bytes:?}");
            let whole = bytes.len() >= FRAME_HEAD && bytes[0] == 0;
            assert_eq!(is_settings(bytes), expected && whole, "{bytes:?}");
        }
    }

    #[test]
    fn no_request_is_missed_where_none_must_be() {
        let long = "M".repeat(LONGEST_METHOD + 1);
        for (bytes, expected) in [
            (long.clone(), Verdict::More),
            (format!("{long} / HTTP/1.1\r\n"), Verdict::Http1),
            (format!("{long}\r\n"), Verdict::Opaque),
            ("M".repeat(LIMIT), Verdict::Http1),
            ("EHLO a\r\n".to_owned(), Verdict::Opaque),
            ("GET / HTTP/1.2\r\n".to_owned(), Verdict::Http1),
            ("GET / HTTP/1.11\n".to_owned(), Verdict::Http1),
            ("GET / HTTP/1.\r\n".to_owned(), Verdict::Opaque),
            ("GET / HTTP/3.0\r\n".to_owned(), Verdict::Opaque),
        ] {
            assert_eq!(sniff_strictly(bytes.as_bytes()), expected, "{bytes}");
            if bytes.contains(&long) {
                assert_eq!(sniff(bytes.as_bytes()), Verdict::Opaque, "{bytes}");
            }
        }
    }
}
