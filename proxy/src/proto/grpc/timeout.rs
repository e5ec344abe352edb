//! `grpc-timeout`: at most eight digits and a unit.

use std::time::Duration;

/// Writes a time, rounded down to milliseconds.
pub(super) fn write(time: Duration) -> String {
    let millis = time.as_millis();
    if millis < 100_000_000 {
        return format!("{millis}m");
    }
    format!("{}S", time.as_secs().min(99_999_999))
}

/// Reads one; `None` where it is malformed.
pub(super) fn read(text: &str) -> Option<Duration> {
    let unit = *text.as_bytes().last()?;
    let digits = text.get(..text.len() - 1)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    // Eight digits of hours are 11,000 years: nothing overflows.
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}
