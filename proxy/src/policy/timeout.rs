//! How long a request may take: the rule's limit, and for gRPC the one that the client announces
//! (Envoy, `router.cc`, `finalTimeout`, under Istio's settings).
//!
//! Pure: the clock runs elsewhere, from the moment in which the whole request has been received.

use std::time::Duration;

use http::HeaderValue;

/// The largest number in a `grpc-timeout` header: eight digits.
const MOST: u64 = 99_999_999;

/// The limits of one request; `None` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// For all attempts and the waits between them.
    pub request: Option<Duration>,
    /// For one attempt.
    pub attempt: Option<Duration>,
}

impl Limits {
    /// From a rule's `timeout` and `perTryTimeout`, where zero is none, and for a gRPC request the
    /// value of its `grpc-timeout` header: that may shorten the rule's limit and not lengthen it. A
    /// malformed header counts as none.
    pub fn new(
        timeout: Option<Duration>,
        per_try: Option<Duration>,
        grpc_timeout: Option<&[u8]>,
    ) -> Self {
        let positive = |limit: &Duration| !limit.is_zero();
        let announced = grpc_timeout.and_then(parse_grpc).filter(positive);
        let request = [timeout.filter(positive), announced]
            .into_iter()
            .flatten()
            .min();
        // An attempt's limit that the request's would cut off anyway is ignored.
        let attempt = per_try
            .filter(positive)
            .filter(|attempt| request.is_none_or(|request| *attempt < request));
        Self { request, attempt }
    }

    /// What the upstream is told of an attempt that begins `elapsed` after the request was
    /// complete: how long the answer is waited for. At least a millisecond, since 0 would mean that
    /// there is no limit.
    pub fn expected(&self, elapsed: Duration) -> Option<Expected> {
        let mut expected = self.attempt.or(self.request)?;
        if let Some(request) = self.request {
            expected = expected.min(request.saturating_sub(elapsed));
        }
        let milliseconds = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
        Some(Expected(milliseconds.max(1)))
    }
}

/// How long an answer is waited for, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected(u64);

impl Expected {
    /// The value of `x-envoy-expected-rq-timeout-ms`.
    pub fn header(self) -> HeaderValue {
        self.0.into()
    }

    /// The value that replaces a gRPC request's `grpc-timeout`, also where it had none.
    pub fn grpc_header(self) -> HeaderValue {
        let mut units = [(1000, "S"), (60, "M"), (60, "H")].into_iter();
        let (mut amount, mut unit) = (self.0, "m");
        while amount > MOST {
            match units.next() {
                Some((factor, next)) => (amount, unit) = (amount / factor, next),
                None => amount = MOST,
            }
        }
        HeaderValue::try_from(format!("{amount}{unit}")).unwrap_or(HeaderValue::from_static("1m"))
    }
}

/// Reads a `grpc-timeout` header (gRPC over HTTP/2, "Requests"): a number of at most eight digits
/// and a unit. Fractions of a millisecond are rounded up (Envoy).
fn parse_grpc(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    if amount > MOST {
        return None;
    }
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_millis(amount.div_ceil(1000)),
        b'n' => Duration::from_millis(amount.div_ceil(1_000_000)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(amount: u64) -> Option<Duration> {
        Some(Duration::from_millis(amount))
    }

    #[test]
    fn grpc_timeouts_are_read() {
        for (value, expected) in [
            ("1H", ms(3_600_000)),
            ("99999999H", ms(99_999_999 * 3_600_000)),
            ("2M", ms(120_000)),
            ("3S", ms(3_000)),
            ("4m", ms(4)),
            ("5u", ms(1)),
            ("1000u", ms(1)),
            ("1001u", ms(2)),
            ("1n", ms(1)),
            ("0n", ms(0)),
            ("000000005S", ms(5_000)),
            ("100000000S", None),
            ("99999999999999999999999S", None),
            ("", None),
            ("S", None),
            ("5", None),
            ("5s", None),
            ("5h", None),
            ("-5S", None),
            ("+5S", None),
            ("5.5S", None),
            (" 5S", None),
            ("5 S", None),
            ("5SS", None),
        ] {
            assert_eq!(parse_grpc(value.as_bytes()), expected, "{value:?}");
        }
        assert_eq!(parse_grpc(b"5\xffS"), None);
    }

    #[test]
    fn the_shortest_limit_is_in_force() {
        for (name, timeout, per_try, header, expected) in [
            ("none", None, None, None, (None, None)),
            ("the rule's", ms(500), None, None, (ms(500), None)),
            ("zero is none", ms(0), ms(0), Some("0m"), (None, None)),
            (
                "gRPC shortens",
                ms(500),
                None,
                Some("200m"),
                (ms(200), None),
            ),
            (
                "gRPC does not lengthen",
                ms(500),
                None,
                Some("1S"),
                (ms(500), None),
            ),
            ("gRPC alone", None, None, Some("1S"), (ms(1000), None)),
            ("gRPC malformed", ms(500), None, Some("1x"), (ms(500), None)),
            ("an attempt's", ms(500), ms(200), None, (ms(500), ms(200))),
            ("an attempt's alone", None, ms(200), None, (None, ms(200))),
            (
                "an attempt's as long is ignored",
                ms(500),
                ms(500),
                None,
                (ms(500), None),
            ),
            (
                "also where gRPC shortens",
                ms(500),
                ms(200),
                Some("200m"),
                (ms(200), None),
            ),
        ] {
            let limits = Limits::new(timeout, per_try, header.map(str::as_bytes));
            assert_eq!((limits.request, limits.attempt), expected, "{name}");
        }
    }

    #[test]
    fn the_upstream_is_told_what_remains() {
        let limits = |request, attempt| Limits { request, attempt };
        for (name, limits, elapsed, expected) in [
            ("no limit", limits(None, None), 0, None),
            ("the request's", limits(ms(500), None), 0, Some("500")),
            (
                "what remains of it",
                limits(ms(500), None),
                120,
                Some("380"),
            ),
            ("the attempt's", limits(ms(500), ms(200)), 120, Some("200")),
            (
                "the attempt's, cut",
                limits(ms(500), ms(200)),
                400,
                Some("100"),
            ),
            (
                "the attempt's alone",
                limits(None, ms(200)),
                9_999,
                Some("200"),
            ),
            ("never zero", limits(ms(500), None), 500, Some("1")),
            ("nor below", limits(ms(500), None), 800, Some("1")),
        ] {
            let found = limits.expected(Duration::from_millis(elapsed));
            let found = found.map(Expected::header);
            assert_eq!(
                found.as_ref().map(|value| value.to_str().expect("text")),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn grpc_timeouts_fit_eight_digits() {
        for (milliseconds, expected) in [
            (1, "1m"),
            (99_999_999, "99999999m"),
            (100_000_000, "100000S"),
            (100_000_000_000, "1666666M"),
            (u64::MAX, "99999999H"),
        ] {
            assert_eq!(Expected(milliseconds).grpc_header(), expected);
        }
    }
}
