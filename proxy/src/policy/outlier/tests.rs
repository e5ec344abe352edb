//! Tests of outlier detection: stories of outcomes, told to a detector whose sweeps are on time.

use std::fmt::Write;

use proptest::prelude::*;

use super::*;

#[allow(clippy::disallowed_methods, reason = "some instant to count from")]
fn start() -> Instant {
    Instant::now()
}

/// The driver's part: one cluster, sweeps when they are due.
struct Driver {
    detector: Detector<u8>,
    start: Instant,
    now: Instant,
    story: String,
}

impl Driver {
    fn new(settings: Settings, endpoints: u8) -> Self {
        let start = start();
        let mut detector = Detector::new(Arc::new(settings), start);
        detector.set_endpoints(1..=endpoints);
        Self {
            detector,
            start,
            now: start,
            story: String::new(),
        }
    }

    fn tell(&mut self, change: Change<u8>) {
        let seconds = (self.now - self.start).as_secs();
        let separator = if self.story.is_empty() { "" } else { ", " };
        let (verb, endpoint) = match change {
            Change::Eject(endpoint, _) => ("eject", endpoint),
            Change::Restore(endpoint) => ("restore", endpoint),
        };
        write!(self.story, "{separator}{verb} {endpoint} at {seconds}").expect("a string");
    }

    fn record(&mut self, endpoint: u8, outcome: Outcome) {
        let Some(monitor) = self.detector.monitor(&endpoint) else {
            return;
        };
        for kind in monitor.record(self.detector.settings(), outcome) {
            if let Some(change) = self.detector.detect(self.now, endpoint, kind) {
                self.tell(change);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(deadline) = self.detector.next_deadline().filter(|at| *at <= until) {
            assert!(deadline > self.now || self.now == self.start, "progress");
            self.now = deadline;
            for change in self.detector.sweep(deadline) {
                self.tell(change);
            }
        }
        self.now = until;
    }
}

/// `1:503` endpoint 1 answers so; `1:ok` with 200; `1:f` fails to answer, `1:t` times out, `1:c`
/// is connected to, `1:e` is connected to for opaque bytes; `3*1:f` three times; `10s` passes;
/// `=4` discovery gives endpoints 1 to 4.
fn run(settings: Settings, endpoints: u8, script: &str) -> Driver {
    let mut driver = Driver::new(settings, endpoints);
    for step in script.split_whitespace() {
        if let Some(seconds) = step.strip_suffix('s') {
            driver.pass(Duration::from_secs(seconds.parse().expect("seconds")));
            continue;
        }
        if let Some(endpoints) = step.strip_prefix('=') {
            let endpoints: u8 = endpoints.parse().expect("a number");
            driver.detector.set_endpoints(1..=endpoints);
            continue;
        }
        let (times, step) = step.split_once('*').unwrap_or(("1", step));
        let (endpoint, outcome) = step.split_once(':').expect("endpoint:outcome");
        let outcome = match outcome {
            "ok" => Outcome::Response(200),
            "f" => Outcome::Failed,
            "t" => Outcome::TimedOut,
            "c" => Outcome::Connected,
            "e" => Outcome::Established,
            status => Outcome::Response(status.parse().expect("a status")),
        };
        for _ in 0..times.parse().expect("a number") {
            driver.record(endpoint.parse().expect("an endpoint"), outcome);
        }
    }
    driver
}

fn settings(consecutive_5xx: u32, max_ejected: i64) -> Settings {
    Settings {
        consecutive_5xx,
        max_ejected: Percent::new(max_ejected).expect("a percentage"),
        ..Settings::default()
    }
}

#[test]
fn failures_in_a_row_eject() {
    for (name, threshold, script, expected) in [
        ("fewer do not", 3, "2*1:500", ""),
        ("as many do", 3, "3*1:500", "eject 1 at 0"),
        ("a success clears", 3, "2*1:500 1:ok 2*1:500", ""),
        ("a client's error is a success", 2, "1:500 1:404 1:500", ""),
        (
            "any 5xx counts",
            4,
            "1:500 1:503 1:501 1:599",
            "eject 1 at 0",
        ),
        (
            "time does not matter",
            3,
            "1:500 100s 1:500 100s 1:500",
            "eject 1 at 200",
        ),
        ("each endpoint for itself", 2, "1:500 2:500 1:ok 2:ok", ""),
        ("no answer is a 503", 2, "1:f 1:500", "eject 1 at 0"),
        ("too late is a 504", 2, "1:t 1:500", "eject 1 at 0"),
        (
            "a connection proves nothing",
            2,
            "1:f 1:c 1:f",
            "eject 1 at 0",
        ),
        ("of opaque bytes it does", 2, "1:f 1:e 1:f", ""),
        ("zero turns it off", 0, "100*1:500", ""),
        ("unknown endpoints are ignored", 1, "9:500", ""),
        (
            "ejected ones are not counted",
            1,
            "1:500 5*1:500",
            "eject 1 at 0",
        ),
    ] {
        let driver = run(settings(threshold, 100), 4, script);
        assert_eq!(driver.story, expected, "{name}");
    }
}

#[test]
fn ejections_end_at_a_sweep() {
    for (name, script, expected) in [
        (
            "after the base",
            "1:500 29s 1s",
            "eject 1 at 0, restore 1 at 30",
        ),
        (
            "rounded up to the sweep",
            "1s 1:500 60s",
            "eject 1 at 1, restore 1 at 40",
        ),
        (
            "longer the second time",
            "1:500 30s 1:500 100s",
            "eject 1 at 0, restore 1 at 30, eject 1 at 30, restore 1 at 90",
        ),
        (
            "by the base each time",
            "1:500 30s 1:500 60s 1:500 90s",
            "eject 1 at 0, restore 1 at 30, eject 1 at 30, restore 1 at 90, eject 1 at 90, \
             restore 1 at 180",
        ),
        (
            "an interval of health takes one off",
            "1:500 40s 1:500 100s",
            "eject 1 at 0, restore 1 at 30, eject 1 at 40, restore 1 at 70",
        ),
        (
            "less than that does not",
            "1:500 39s 1:500 100s",
            "eject 1 at 0, restore 1 at 30, eject 1 at 39, restore 1 at 100",
        ),
        (
            "counting begins anew",
            "1:500 3*1:500 30s 1:ok 1:500",
            "eject 1 at 0, restore 1 at 30, eject 1 at 30",
        ),
        (
            "gone and back is new",
            "1:500 =0 =4 10s 1:500 30s",
            "eject 1 at 0, eject 1 at 10, restore 1 at 40",
        ),
        (
            "others may come and go",
            "1:500 10s =2 1:500 20s",
            "eject 1 at 0, restore 1 at 30",
        ),
    ] {
        let driver = run(settings(1, 100), 4, script);
        assert_eq!(driver.story, expected, "{name}");
    }
}

#[test]
fn no_ejection_lasts_longer_than_five_minutes_or_the_base() {
    for (base, expected) in [
        (
            30,
            &[30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300][..],
        ),
        (200, &[200, 300, 300]),
        (400, &[400, 400, 400]),
    ] {
        let settings = Settings {
            base_ejection: Duration::from_secs(base),
            ..settings(1, 100)
        };
        let mut driver = Driver::new(settings, 1);
        let mut lasted = Vec::new();
        for _ in expected {
            driver.record(1, Outcome::Response(500));
            let ejected = driver.now;
            while driver.detector.ejected() > 0 {
                let next = driver.detector.next_deadline().expect("an end");
                driver.pass(next - driver.now);
            }
            lasted.push((driver.now - ejected).as_secs());
        }
        assert_eq!(lasted, expected, "base {base}");
    }
}

#[test]
fn so_many_may_be_ejected_and_no_more() {
    for (percent, endpoints, expected) in [
        (10, 1, 0),
        (10, 9, 0),
        (10, 10, 1),
        (10, 19, 1),
        (10, 20, 2),
        (50, 3, 1),
        (34, 3, 1),
        (33, 3, 0),
        (100, 3, 3),
        (0, 3, 0),
    ] {
        let mut driver = Driver::new(settings(1, percent), endpoints);
        for endpoint in 1..=endpoints {
            driver.record(endpoint, Outcome::Response(500));
        }
        let detector = &driver.detector;
        let name = format!("{percent} % of {endpoints}");
        assert_eq!(detector.ejected(), expected, "{name}");
        let refused = u64::from(endpoints) - expected as u64;
        assert_eq!(detector.stats().overflow, refused, "{name}");
        assert_eq!(detector.stats().enforced_total(), expected as u64, "{name}");
        let detected = detector.stats().detected(Kind::Consecutive5xx);
        assert_eq!(detected, u64::from(endpoints), "{name}");
    }
}

#[test]
fn a_refused_ejection_starts_the_count_again() {
    let driver = run(settings(3, 10), 4, "8*1:500");
    assert_eq!(driver.story, "");
    assert_eq!(driver.detector.stats().overflow, 2);
    // With ten endpoints the next bout ejects, at its third failure.
    let driver = run(settings(3, 10), 4, "4*1:500 =10 1s 1:500 1s 1:500");
    assert_eq!(driver.story, "eject 1 at 2");
}

#[test]
fn gateway_errors_and_failures_of_ones_own_are_counted_apart() {
    let all = |consecutive_5xx, consecutive_gateway, split| Settings {
        consecutive_gateway,
        consecutive_local_origin: 2,
        split_local_origin: split,
        ..settings(consecutive_5xx, 100)
    };
    // Gateway failures, any 5xx, failures of one's own.
    for (name, settings, script, enforced) in [
        ("gateway", all(0, 2, false), "1:502 1:504", [1, 0, 0]),
        ("500 is none", all(0, 2, false), "1:502 1:500 1:502", [0; 3]),
        ("nor is 501 or 505", all(0, 1, false), "1:501 1:505", [0; 3]),
        ("no answer is one", all(0, 2, false), "1:f 1:t", [1, 0, 0]),
        (
            "gateway comes first",
            all(2, 2, false),
            "2*1:503",
            [1, 0, 0],
        ),
        (
            "both count",
            all(3, 2, false),
            "1:503 1:500 1:500",
            [0, 1, 0],
        ),
        ("split: no answer", all(1, 1, true), "2*1:f", [0, 0, 1]),
        ("split: too late", all(1, 1, true), "1:f 1:t", [0, 0, 1]),
        ("split: connected", all(1, 1, true), "1:f 1:c 1:f", [0; 3]),
        ("split: opaque", all(1, 1, true), "1:f 1:e 1:f", [0; 3]),
        ("split: a response", all(9, 1, true), "1:503", [1, 0, 0]),
        ("split: any 5xx", all(1, 0, true), "1:500", [0, 1, 0]),
        (
            "split: a response proves no connection",
            all(0, 0, true),
            "1:f 1:ok 1:f",
            [0, 0, 1],
        ),
    ] {
        let driver = run(settings, 1, script);
        let stats = driver.detector.stats();
        let counted = Kind::ALL.map(|kind| stats.enforced(kind));
        assert_eq!(counted, enforced, "{name}");
    }
}

#[test]
fn a_list_of_codes_decides_what_is_an_error() {
    for (name, codes, script, expected) in [
        (
            "in the list",
            &[429, 503][..],
            "1:429 1:503",
            "eject 1 at 0",
        ),
        ("not in the list", &[429], "9*1:500", ""),
        ("a success between", &[429], "1:429 1:500 1:429", ""),
        (
            "what is no response is not asked",
            &[429],
            "2*1:f",
            "eject 1 at 0",
        ),
        ("an empty list", &[], "9*1:503", ""),
    ] {
        let settings = Settings {
            error_codes: Some(codes.iter().copied().collect()),
            ..settings(2, 100)
        };
        assert_eq!(run(settings, 1, script).story, expected, "{name}");
    }
}

#[test]
fn a_code_below_500_is_no_gateway_error() {
    let settings = Settings {
        error_codes: Some([429, 503].into()),
        consecutive_gateway: 1,
        ..settings(0, 100)
    };
    assert_eq!(run(settings.clone(), 1, "9*1:429").story, "");
    assert_eq!(run(settings, 1, "1:503").story, "eject 1 at 0");
}

#[test]
fn nothing_to_do_needs_no_sweep() {
    let mut driver = Driver::new(settings(1, 100), 2);
    assert_eq!(driver.detector.next_deadline(), None);
    driver.record(1, Outcome::Response(500));
    let start = driver.start;
    let at = |seconds| Some(start + Duration::from_secs(seconds));
    assert_eq!(driver.detector.next_deadline(), at(30));
    driver.pass(Duration::from_secs(30));
    assert_eq!(driver.detector.next_deadline(), at(40));
    driver.pass(Duration::from_secs(10));
    assert_eq!(driver.detector.next_deadline(), None);
    assert_eq!(driver.detector.sweep(driver.now), []);
}

#[test]
fn enormous_times_do_not_overflow() {
    let settings = Settings {
        interval: Duration::MAX,
        base_ejection: Duration::MAX,
        ..settings(1, 100)
    };
    let mut driver = Driver::new(settings, 1);
    driver.record(1, Outcome::Failed);
    assert_eq!(driver.detector.next_deadline(), None);
    assert_eq!(driver.detector.sweep(driver.now), []);
    assert_eq!(driver.detector.ejected(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Record(u8, Outcome),
    Pass(u64),
    Endpoints(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Response(503)),
        2 => Just(Outcome::Failed),
        2 => Just(Outcome::TimedOut),
        1 => Just(Outcome::Response(200)),
        1 => Just(Outcome::Connected),
    ];
    let step = prop_oneof![
        20 => (1..30u8, outcome).prop_map(|(endpoint, outcome)| Step::Record(endpoint, outcome)),
        2 => (0..120u64).prop_map(Step::Pass),
        1 => (0..30u8).prop_map(Step::Endpoints),
    ];
    prop::collection::vec(step, 0..300)
}

proptest! {
    #[test]
    fn no_ejection_goes_beyond_the_maximum(
        percent in 0..=100i64,
        threshold in 1..4u32,
        split in any::<bool>(),
        endpoints in 0..30u8,
        steps in steps(),
    ) {
        let settings = Settings {
            consecutive_gateway: threshold + 1,
            consecutive_local_origin: threshold,
            split_local_origin: split,
            ..settings(threshold, percent)
        };
        let maximum = settings.max_ejected;
        let mut driver = Driver::new(settings, endpoints);
        let mut total = usize::from(endpoints);
        for step in steps {
            let before = driver.detector.ejected();
            match step {
                Step::Record(endpoint, outcome) => driver.record(endpoint, outcome),
                Step::Pass(seconds) => driver.pass(Duration::from_secs(seconds)),
                Step::Endpoints(count) => {
                    total = usize::from(count);
                    driver.detector.set_endpoints(1..=count);
                }
            }
            let after = driver.detector.ejected();
            // Only discovery may leave a larger share behind: it takes healthy ones away.
            prop_assert!(after <= before || maximum.allows(after, total));
            let told = (1..=30).filter(|endpoint| driver.detector.is_ejected(endpoint)).count();
            prop_assert_eq!(after, told);
            let known = (1..=30u8).filter_map(|endpoint| driver.detector.monitor(&endpoint));
            prop_assert_eq!(after, known.filter(|monitor| monitor.is_ejected()).count());
            prop_assert!(after == 0 || driver.detector.next_deadline().is_some());
        }
        driver.pass(Duration::from_secs(3600));
        prop_assert_eq!(driver.detector.ejected(), 0);
        prop_assert_eq!(driver.detector.next_deadline(), None);
    }
}
