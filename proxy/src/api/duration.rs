//! Durations as Istio's resources write them: Go's notation, as in `1.5s`, `300ms` or `1h30m`.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, Unexpected, Visitor};

use crate::types::Finding;

/// Go's units, in nanoseconds. The longer of two that begin alike comes first.
const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
];

/// The longest that Go's 64-bit nanoseconds hold, about 292 years.
const MAX_NANOS: u128 = i64::MAX as u128;

/// For a field that holds a duration, or nothing.
pub(super) fn optional<'de, D>(deserializer: D) -> Result<Option<Duration>, D::Error>
where
    D: Deserializer<'de>,
{
    deserializer.deserialize_option(Text)
}

struct Text;

impl<'de> Visitor<'de> for Text {
    type Value = Option<Duration>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration with its unit, as in \"1.5s\" or \"300ms\"")
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(Self)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        match parse(text) {
            Ok(duration) => Ok(Some(duration)),
            Err(Refused::Form) => Err(E::invalid_value(Unexpected::Str(text), &self)),
            Err(Refused::Negative) => Err(E::custom(format!("{text:?} is negative"))),
            Err(Refused::TooLong) => Err(E::custom(format!(
                "{text:?} is longer than a duration can be (about 292 years)"
            ))),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Form,
    Negative,
    TooLong,
}

/// Go's `time.ParseDuration`, without negative durations.
fn parse(text: &str) -> Result<Duration, Refused> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return Err(Refused::Form);
    }
    let mut nanos: u128 = 0;
    if rest != "0" {
        while !rest.is_empty() {
            let (amount, after) = term(rest)?;
            nanos = nanos.checked_add(amount).ok_or(Refused::TooLong)?;
            rest = after;
        }
    }
    if negative && nanos > 0 {
        return Err(Refused::Negative);
    }
    if nanos > MAX_NANOS {
        return Err(Refused::TooLong);
    }
    Ok(Duration::from_nanos(
        u64::try_from(nanos).map_err(|_| Refused::TooLong)?,
    ))
}

/// One number with its unit, in nanoseconds, and what follows it.
fn term(text: &str) -> Result<(u128, &str), Refused> {
    let digits =
        |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let whole = &text[..digits(text)];
    let mut rest = &text[whole.len()..];
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        fraction = &after[..digits(after)];
        rest = &after[fraction.len()..];
    }
    if whole.is_empty() && fraction.is_empty() {
        return Err(Refused::Form);
    }
    let (unit, nanos) = UNITS
        .iter()
        .find(|(unit, _)| {
            rest.strip_prefix(unit).is_some_and(|after| {
                after.is_empty() || after.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            })
        })
        .ok_or(Refused::Form)?;
    let number = |text: &str| match text {
        "" => Ok(0),
        text => text.parse::<u128>().map_err(|_| Refused::TooLong),
    };
    let amount = number(whole)?.checked_mul(*nanos).ok_or(Refused::TooLong)?;
    // Digits past the eighteenth are less than a nanosecond of an hour's fraction.
    let fraction = &fraction[..fraction.len().min(18)];
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let part = number(fraction)? * nanos / scale;
    let total = amount.checked_add(part).ok_or(Refused::TooLong)?;
    Ok((total, &rest[unit.len()..]))
}

/// Istio's `ValidateDuration`: at least a millisecond, in whole milliseconds.
pub(super) fn check(value: Option<Duration>, field: &str, findings: &mut Vec<Finding>) {
    let Some(value) = value else { return };
    if value < Duration::from_millis(1) {
        findings.push(Finding::error(
            field,
            "must be at least 1ms; leave the field out for its default",
        ));
    } else {
        check_whole_millis(value, field, findings);
    }
}

/// Zero is allowed; otherwise whole milliseconds.
pub(super) fn check_or_zero(value: Option<Duration>, field: &str, findings: &mut Vec<Finding>) {
    if let Some(value) = value {
        check_whole_millis(value, field, findings);
    }
}

fn check_whole_millis(value: Duration, field: &str, findings: &mut Vec<Finding>) {
    if !value.subsec_nanos().is_multiple_of(1_000_000) {
        findings.push(Finding::error(field, "is finer than a millisecond"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let ok = |nanos| Ok(Duration::from_nanos(nanos));
        for (text, expected) in [
            ("0", ok(0)),
            ("0s", ok(0)),
            ("-0s", ok(0)),
            ("+5s", ok(5_000_000_000)),
            ("1.5s", ok(1_500_000_000)),
            (".5s", ok(500_000_000)),
            ("1.s", ok(1_000_000_000)),
            ("300ms", ok(300_000_000)),
            ("1h2m3s4ms5us6ns", ok(3_723_004_005_006)),
            ("1\u{b5}s", ok(1_000)),
            ("0.0000000001s", ok(0)),
            ("0.333333333333333333333333s", ok(333_333_333)),
            ("", Err(Refused::Form)),
            ("-", Err(Refused::Form)),
            ("5", Err(Refused::Form)),
            ("s", Err(Refused::Form)),
            (".s", Err(Refused::Form)),
            ("5 s", Err(Refused::Form)),
            ("5sec", Err(Refused::Form)),
            ("5d", Err(Refused::Form)),
            ("1e3s", Err(Refused::Form)),
            ("five", Err(Refused::Form)),
            ("NaN", Err(Refused::Form)),
            ("5s-1s", Err(Refused::Form)),
            ("-1s", Err(Refused::Negative)),
            ("-1ns", Err(Refused::Negative)),
            ("2562047h", ok(9_223_369_200_000_000_000)),
            ("2562048h", Err(Refused::TooLong)),
            (
                "99999999999999999999999999999999999999999999h",
                Err(Refused::TooLong),
            ),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
