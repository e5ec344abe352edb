//! Which bytes a request target or a `Location` may hold, and what stands for the others.

/// The longest request target, in bytes (the `http` crate's).
pub(super) const LONGEST: usize = 65_534;

/// Besides letters, digits and `-._~`: what a path may hold (RFC 3986, section 3.3), `%`, which
/// begins what is encoded already, and `?`, with which a configured path may bring a query.
pub(super) const PATH: &[u8] = b"-._~/%:@!$&'()*+,;=?";
/// Likewise for a query, and what clients are known to send there as it is: a query is kept
/// untouched.
pub(super) const QUERY: &[u8] = b"-._~/%:@!$&'()*+,;=?[]{}|^`\\";
/// Likewise for a path that stands in the configuration of a redirect: with a fragment, too.
pub(super) const LOCATION: &[u8] = b"-._~/%:@!$&'()*+,;=?#";
/// Likewise for host and port.
pub(super) const AUTHORITY: &[u8] = b"-._~%:!$&'()*+,;=[]";

/// Appends `text`, percent-encoding what is neither a letter, a digit nor one of `allowed`.
pub(super) fn encode(text: &[u8], allowed: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text {
        if byte.is_ascii_alphanumeric() || allowed.contains(byte) {
            out.push(*byte);
        } else {
            let [high, low] = [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]);
            out.extend_from_slice(&[b'%', high, low]);
        }
    }
}

/// Whether a text is host and port of a request target: without user information, with a port that
/// is one.
pub(super) fn is_authority(text: &[u8]) -> bool {
    let Ok(authority) = http::uri::Authority::try_from(text) else {
        return false;
    };
    let port = split_port(authority.as_str()).1;
    !text.contains(&b'@')
        && !authority.host().is_empty()
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || AUTHORITY.contains(byte))
        && port.is_none_or(|port| port.is_empty() || port.parse::<u16>().is_ok())
}

/// `a:80`, `[::1]:80`: host and port.
pub(super) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_told_from_other_texts() {
        for (text, expected) in [
            ("web", true),
            ("web:80", true),
            ("web:", true),
            ("[::1]", true),
            ("[::1]:80", true),
            ("a_b.c-d", true),
            ("", false),
            (":80", false),
            ("web:x", false),
            ("web:65536", false),
            ("user@web", false),
            ("web/path", false),
            ("web?q", false),
            ("we b", false),
            ("w\u{e9}b", false),
        ] {
            assert_eq!(is_authority(text.as_bytes()), expected, "{text}");
        }
        assert!(!is_authority(b"\xff"));
    }
}
