//! Path normalisation: one spelling for every path that means the same, before anything is decided
//! by it. The upstream is sent the same spelling.
//!
//! Mesh default `BASE` (RFC 3986, section 6.2.2; as seen on Envoy 1.40): dot segments go, `\` is
//! `/`, escapes of unreserved characters are decoded, characters that a path must not hold are
//! escaped. Slashes are not merged; `%2F`, `%5C` and broken escapes stay as they are.

use std::borrow::Cow;

/// The path holds a NUL, plain or escaped: no two programs agree on what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path holds a NUL")]
pub struct Refused;

/// Normalises the path of an origin-form target, without its query.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, Refused> {
    if is_normal(path) {
        return Ok(Cow::Borrowed(path));
    }
    let mut text = String::with_capacity(path.len() + 8);
    let bytes = path.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        match (byte, escape(&bytes[at..])) {
            (b'%', Some(0)) | (0, _) => return Err(Refused),
            (b'%', Some(decoded)) if is_unreserved(decoded) => text.push(char::from(decoded)),
            (b'%', Some(_)) => text.push_str(&path[at..at + 3]),
            (b'\\', _) => text.push('/'),
            _ if is_path_character(byte) => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
        at += if byte == b'%' && escape(&bytes[at..]).is_some() {
            3
        } else {
            1
        };
    }
    Ok(Cow::Owned(without_dot_segments(&text)))
}

/// Nothing to do, as for nearly every request.
fn is_normal(path: &str) -> bool {
    path.starts_with('/')
        && path
            .bytes()
            .all(|byte| byte != b'%' && byte != b'\\' && is_path_character(byte))
        && !path.contains("/.")
}

/// The byte that an escape at the beginning of `bytes` stands for.
fn escape(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else {
        return None;
    };
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// RFC 3986, section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// RFC 3986, section 3.3 (`pchar` and `/`), and `%`.
fn is_path_character(byte: u8) -> bool {
    is_unreserved(byte) || b"/%:@!$&'()*+,;=".contains(&byte)
}

/// RFC 3986, section 5.2.4.
fn without_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if last {
            kept.push("");
        }
    }
    let mut text = String::with_capacity(path.len());
    for segment in &kept {
        text.push('/');
        text.push_str(segment);
    }
    if text.is_empty() { "/".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_for_each_path() {
        for (path, expected) in [
            ("/", Ok("/")),
            ("/a/b", Ok("/a/b")),
            ("/a/../b", Ok("/b")),
            ("/a/./b", Ok("/a/b")),
            ("/a/%2e/b", Ok("/a/b")),
            ("/a/%2E%2e/b", Ok("/b")),
            ("/../..", Ok("/")),
            ("/a/..", Ok("/")),
            ("/a/.", Ok("/a/")),
            ("/a/...", Ok("/a/...")),
            ("/.hidden", Ok("/.hidden")),
            ("/a\\..\\b", Ok("/b")),
            ("/%61/%7Eu", Ok("/a/~u")),
            ("/a|b\"", Ok("/a%7Cb%22")),
            ("//a//b", Ok("//a//b")),
            ("/a%2Fb%5Cc", Ok("/a%2Fb%5Cc")),
            ("/a%2f..", Ok("/a%2f..")),
            ("/%", Ok("/%")),
            ("/%zz", Ok("/%zz")),
            ("/%4", Ok("/%4")),
            ("/%00", Err(Refused)),
            ("/a\0", Err(Refused)),
            ("/é", Ok("/%C3%A9")),
        ] {
            assert_eq!(
                normalise(path).as_deref(),
                expected.as_ref().map(|p| *p),
                "{path}"
            );
        }
    }

    #[test]
    fn normalising_twice_changes_nothing() {
        let pieces = [
            "a", ".", "..", "%2e", "%2E%2e", "%41", "%", "\\", "|", "%2F", "",
        ];
        for first in pieces {
            for second in pieces {
                for third in pieces {
                    let path = format!("/{first}/{second}{third}/x");
                    let once = normalise(&path).expect("no NUL").into_owned();
                    let twice = normalise(&once).expect("no NUL");
                    assert_eq!(twice, once, "{path}");
                    assert!(
                        !twice.contains("/../") && !twice.contains("/./"),
                        "{path}: {twice}"
                    );
                }
            }
        }
    }
}
