//! How long a request may take: the rule's limit, and for gRPC the one that the client announces.
//!
//! Pure: the clock runs elsewhere, from the moment in which the whole request has been received.

use std::time::Duration;

/// The most that `grpc-timeout` can say: eight digits of hours.
const DIGITS: usize = 8;

/// Reads a `grpc-timeout` header (gRPC over HTTP/2, "Requests"): up to eight digits and a unit.
/// `None` where it is malformed: such a header has no effect.
pub fn parse_grpc(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}
