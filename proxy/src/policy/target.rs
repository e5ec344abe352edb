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
