//! Outcomes and what follows on them, one line a case.

use http::{HeaderName, HeaderValue};

use super::*;

fn on(conditions: &str) -> Policy {
    Policy {
        on: Conditions::parse(conditions).expect(conditions),
        ..Policy::default()
    }
}

/// Reads `503`, `200 grpc-status:14`, `connect`, `closed unsent`.
fn with_outcome<T>(text: &str, run: impl FnOnce(&Outcome<'_>) -> T) -> T {
    let mut words = text.split(' ');
    let first = words.next().expect("a word");
    if let Ok(status) = StatusCode::from_bytes(first.as_bytes()) {
        let mut headers = HeaderMap::new();
        for word in words {
            let (name, value) = word.split_once(':').expect("name:value");
            let name = HeaderName::try_from(name).expect("name");
            headers.append(name, HeaderValue::try_from(value).expect("value"));
        }
        return run(&Outcome::Response {
            status,
            headers: &headers,
        });
    }
    let sent = match words.next() {
        None => Sent::Something,
        Some("unsent") => Sent::Nothing,
        Some(other) => panic!("{other}"),
    };
    let reset = match first {
        "connect" => Reset::Connect,
        "overflow" => Reset::Overflow,
        "refused" => Reset::Refused,
        "stream" => Reset::Stream,
        "closed" => Reset::Closed,
        "protocol" => Reset::Protocol,
        "local" => Reset::Local,
        other => panic!("{other}"),
    };
    run(&Outcome::Reset { reset, sent })
}

/// Every outcome that the tokens are told apart by.
const OUTCOMES: &[&str] = &[
    "200",
    "404",
    "409",
    "425",
    "429",
    "500",
    "501",
    "502",
    "503",
    "504",
    "505",
    "599",
    "600",
    "503 x-envoy-ratelimited:true",
    "429 x-envoy-ratelimited:true",
    "200 grpc-status:0",
    "200 grpc-status:1",
    "200 grpc-status:2",
    "200 grpc-status:4",
    "200 grpc-status:8",
    "200 grpc-status:13",
    "200 grpc-status:14",
    "200 grpc-status:99",
    "200 grpc-status:x",
    "connect unsent",
    "overflow unsent",
    "refused",
    "stream",
    "closed",
    "closed unsent",
    "protocol",
    "local",
];

#[test]
fn each_token_covers_its_outcomes_and_no_other() {
    const RESETS: &[&str] = &[
        "connect unsent",
        "refused",
        "stream",
        "closed",
        "closed unsent",
        "protocol",
        "local",
    ];
    let with = |more: &[&'static str]| [more, RESETS].concat();
    for (token, covered) in [
        (
            "5xx",
            with(&["500", "501", "502", "503", "504", "505", "599"]),
        ),
        ("gateway-error", with(&["502", "503", "504"])),
        ("reset", with(&[])),
        (
            "reset-before-request",
            vec!["connect unsent", "closed unsent"],
        ),
        ("connect-failure", vec!["connect unsent"]),
        ("refused-stream", vec!["refused"]),
        ("retriable-4xx", vec!["409"]),
        ("503", vec!["503"]),
        ("409,429,500", vec!["409", "429", "500"]),
        ("425", vec!["425"]),
        ("retriable-status-codes", vec![]),
        ("retriable-headers", vec![]),
        ("http3-post-connect-failure", vec![]),
        (
            "envoy-ratelimited",
            vec![
                "503 x-envoy-ratelimited:true",
                "429 x-envoy-ratelimited:true",
            ],
        ),
        ("cancelled", vec!["200 grpc-status:1"]),
        ("deadline-exceeded", vec!["200 grpc-status:4"]),
        ("resource-exhausted", vec!["200 grpc-status:8"]),
        ("internal", vec!["200 grpc-status:13"]),
        ("unavailable", vec!["200 grpc-status:14"]),
        // The default list.
        (
            "",
            vec![
                "200 grpc-status:1",
                "200 grpc-status:14",
                "connect unsent",
                "refused",
            ],
        ),
    ] {
        let policy = on(token);
        let found: Vec<_> = OUTCOMES
            .iter()
            .filter(|outcome| with_outcome(outcome, |outcome| policy.covers(outcome)))
            .copied()
            .collect();
        assert_eq!(found, covered, "{token}");
    }
}

/// What follows on each outcome: `+25ms` (a retry after less than that), `-` (not retriable),
/// `x` (exhausted).
fn run(policy: &Policy, outcomes: &[&str]) -> String {
    let mut attempts = Attempts::new(policy);
    let words: Vec<String> = outcomes
        .iter()
        .map(|outcome| with_outcome(outcome, |outcome| attempts.verdict(outcome)))
        .map(|verdict| match verdict {
            Verdict::Retry(backoff) => format!("+{:?}", backoff.end()),
            Verdict::No(Reason::NotRetriable) => "-".to_owned(),
            Verdict::No(Reason::Exhausted) => "x".to_owned(),
        })
        .collect();
    words.join(" ")
}

#[test]
fn attempts_are_counted_and_waits_grow() {
    let many = Policy {
        attempts: 7,
        ..on("5xx")
    };
    let slow = Policy {
        attempts: 3,
        backoff: Duration::from_secs(1),
        ..on("5xx")
    };
    let endless = Policy {
        attempts: u32::MAX,
        backoff: Duration::MAX,
        ..on("5xx")
    };
    for (name, policy, outcomes, expected) in [
        ("success at once", &on("5xx"), &["200"][..], "-"),
        (
            "success in the end",
            &on("5xx"),
            &["503", "connect", "200"],
            "+25ms +50ms -",
        ),
        (
            "used up",
            &on("5xx"),
            &["503", "503", "503"],
            "+25ms +50ms x",
        ),
        (
            "an end that is not retriable is not exhausted",
            &on("503"),
            &["503", "503", "500"],
            "+25ms +50ms -",
        ),
        (
            "capped at ten times the base",
            &many,
            &["503"; 8],
            "+25ms +50ms +100ms +200ms +250ms +250ms +250ms x",
        ),
        ("another base", &slow, &["503"; 4], "+1s +2s +4s x"),
        (
            "no retries, never exhausted",
            &Policy::never(),
            &["connect unsent"],
            "-",
        ),
        ("overflow", &on("5xx,reset"), &["overflow unsent"], "-"),
    ] {
        assert_eq!(run(policy, outcomes), expected, "{name}");
    }
    let mut attempts = Attempts::new(&endless);
    for _ in 0..100 {
        assert!(attempts.may_retry());
        with_outcome("503", |outcome| attempts.verdict(outcome));
    }
    assert_eq!(attempts.number(), 101);
}

#[test]
fn waits_are_uniform_below_the_end() {
    let backoff = Backoff(Duration::from_millis(25));
    for (draw, expected) in [
        (0, Duration::ZERO),
        (24_999, Duration::from_micros(24_999)),
        (25_000, Duration::ZERO),
    ] {
        assert_eq!(backoff.wait(draw), expected);
    }
    assert_eq!(Backoff(Duration::ZERO).wait(u64::MAX), Duration::ZERO);
    assert!(Backoff(Duration::MAX).wait(u64::MAX) <= Duration::MAX);
}

#[test]
fn previous_hosts_are_avoided_unless_a_hash_picks() {
    for (given, consistent_hash, expected) in [
        (None, false, true),
        (None, true, false),
        (Some(true), true, true),
        (Some(false), false, false),
    ] {
        let policy = Policy {
            ignore_previous_hosts: given,
            ..Policy::default()
        };
        assert_eq!(policy.avoids_previous_hosts(consistent_hash), expected);
    }
}
