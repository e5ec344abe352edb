//! Tests of circuit breakers: scripts of what is taken and given back, and every interleaving of it.

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[allow(clippy::disallowed_methods, reason = "some instant to count from")]
fn start() -> Instant {
    Instant::now()
}

fn limits(all: u32) -> Limits {
    Limits {
        max_connections: all,
        max_pending: all,
        max_requests: all,
        max_retries: all,
        retry_budget: None,
    }
}

/// What a test does: it takes (`c`, `p`, `q`, `t`: connection, pending, request, retry; `C` the
/// first connection of an endpoint), turns its oldest pending one into a request (`>`), or drops
/// the oldest permit of a kind (`-c`). `!` after a step: it must be refused.
fn run(breaker: &Breaker, script: &str) -> [u64; 4] {
    let now = start();
    let mut held: Vec<Permit> = Vec::new();
    let mut queue: Vec<Pending> = Vec::new();
    for step in script.split_whitespace() {
        let (step, refused) = match step.strip_suffix('!') {
            Some(step) => (step, true),
            None => (step, false),
        };
        let taken = match step {
            "c" => breaker.try_connection().map(|permit| held.push(permit)),
            "C" => {
                held.push(breaker.first_connection());
                Ok(())
            }
            "p" => breaker.try_pending().map(|pending| queue.push(pending)),
            "q" => breaker.try_request(now).map(|permit| held.push(permit)),
            "t" => breaker.try_retry(now).map(|permit| held.push(permit)),
            ">" => queue
                .remove(0)
                .into_request(breaker, now)
                .map(|permit| held.push(permit)),
            "-p" => {
                drop(queue.remove(0));
                Ok(())
            }
            step => {
                let resource = match step {
                    "-c" => Resource::Connections,
                    "-q" => Resource::Requests,
                    "-t" => Resource::Retries,
                    other => panic!("no such step: {other}"),
                };
                let index = held
                    .iter()
                    .position(|permit| permit.resource() == resource)
                    .expect("one is held");
                drop(held.remove(index));
                Ok(())
            }
        };
        assert_eq!(taken.is_err(), refused, "{step} in {script}");
    }
    Resource::ALL.map(|resource| breaker.in_use(resource))
}

#[test]
fn places_are_taken_and_given_back() {
    for (name, limit, script, expected) in [
        ("one connection", 1, "c c!", [1, 0, 0, 0]),
        ("room again", 1, "c c! -c c", [1, 0, 0, 0]),
        ("an endpoint without any", 1, "c c! C", [2, 0, 0, 0]),
        ("beyond the limit none more", 1, "c C -c c!", [1, 0, 0, 0]),
        ("the third is refused", 1, "q p p!", [0, 1, 1, 0]),
        ("pending hands over", 1, "p > p", [0, 1, 1, 0]),
        ("over to a full house", 1, "q p >!", [0, 0, 1, 0]),
        ("pending gives up", 1, "p -p p", [0, 1, 0, 0]),
        ("retries", 2, "t t t! -t t", [0, 0, 0, 2]),
        ("nothing allowed", 0, "c! p! q! t!", [0; 4]),
        (
            "no limit",
            Limits::UNLIMITED,
            "c c p p q q t t",
            [2, 2, 2, 2],
        ),
    ] {
        let breaker = Breaker::new(limits(limit), start());
        assert_eq!(run(&breaker, script), expected, "{name}");
        let after = Resource::ALL.map(|resource| breaker.in_use(resource));
        assert_eq!(after, [0; 4], "{name}: all is given back");
        let refused: u64 = Resource::ALL.map(|of| breaker.overflows(of)).iter().sum();
        assert_eq!(refused, script.matches('!').count() as u64, "{name}");
    }
}

#[test]
fn gauges_tell_of_the_limit() {
    let breaker = Breaker::new(limits(1), start());
    let resource = Resource::Connections;
    assert!(!breaker.is_open(resource));
    assert_eq!(breaker.remaining(resource), 1);
    let first = breaker.first_connection();
    let second = breaker.first_connection();
    assert!(breaker.is_open(resource));
    assert_eq!(breaker.remaining(resource), 0);
    drop(first);
    assert!(breaker.is_open(resource));
    drop(second);
    assert!(!breaker.is_open(resource));
}

#[test]
fn other_limits_count_what_is_under_way() {
    let now = start();
    let wide = Breaker::new(limits(5), now);
    let held: Vec<_> = (0..3).map(|_| wide.try_request(now)).collect();
    let narrow = wide.with_limits(limits(2), now);
    assert_eq!(
        narrow.try_request(now).err(),
        Some(Overflow(Resource::Requests))
    );
    drop(held);
    assert!(narrow.try_request(now).is_ok());
}

#[test]
fn a_budget_replaces_the_limit_of_retries() {
    let now = start();
    let budget = Budget {
        percent: 50.0,
        min_concurrency: 1,
        interval: Duration::ZERO,
    };
    let breaker = Breaker::new(
        Limits {
            max_retries: 0,
            retry_budget: Some(budget),
            ..Limits::default()
        },
        now,
    );
    let first = breaker.try_retry(now).expect("the minimum");
    assert!(breaker.try_retry(now).is_err());
    let _requests: Vec<_> = (0..3).map(|_| breaker.try_request(now)).collect();
    assert!(breaker.try_retry(now).is_err(), "half of three is one");
    let _pending = breaker.try_pending();
    let second = breaker.try_retry(now).expect("half of four");
    assert!(breaker.try_retry(now).is_err());
    assert_eq!(breaker.remaining(Resource::Retries), 0);
    drop((first, second));
    assert!(breaker.try_retry(now).is_ok());
}

#[test]
fn a_budget_over_an_interval_counts_requests_that_have_ended() {
    let now = start();
    let breaker = Breaker::new(
        Limits {
            retry_budget: Some(Budget {
                percent: 20.0,
                min_concurrency: 0,
                interval: Duration::from_secs(10),
            }),
            ..Limits::default()
        },
        now,
    );
    for _ in 0..10 {
        drop(breaker.try_request(now));
    }
    let later = now + Duration::from_secs(9);
    let held: Vec<_> = (0..3).map(|_| breaker.try_retry(later).ok()).collect();
    assert_eq!(held.iter().flatten().count(), 2);
    drop(held);
    assert!(breaker.try_retry(now + Duration::from_secs(11)).is_err());
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Take(Resource),
    HandOver,
    Drop(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..4usize).prop_map(|index| Step::Take(Resource::ALL[index])),
        1 => Just(Step::HandOver),
        2 => any::<usize>().prop_map(Step::Drop),
    ];
    prop::collection::vec(step, 0..60)
}

/// Everything that one thread holds. Dropping it in the middle is a cancellation.
#[derive(Default)]
struct Held {
    permits: Vec<Permit>,
    pending: Vec<Pending>,
}

impl Held {
    fn step(&mut self, breaker: &Breaker, step: Step, now: Instant) {
        match step {
            Step::Take(Resource::Connections) => self.permits.extend(breaker.try_connection()),
            Step::Take(Resource::Pending) => self.pending.extend(breaker.try_pending()),
            Step::Take(Resource::Requests) => self.permits.extend(breaker.try_request(now)),
            Step::Take(Resource::Retries) => self.permits.extend(breaker.try_retry(now)),
            Step::HandOver => {
                let pending = self.pending.pop();
                self.permits
                    .extend(pending.and_then(|one| one.into_request(breaker, now).ok()));
            }
            Step::Drop(which) if !self.permits.is_empty() => {
                let index = which % self.permits.len();
                drop(self.permits.swap_remove(index));
            }
            Step::Drop(_) => drop(self.pending.pop()),
        }
    }

    fn count(&self, resource: Resource) -> u64 {
        let permits = self.permits.iter().map(Permit::resource);
        let pending = self.pending.iter().map(|pending| pending.0.resource());
        permits.chain(pending).filter(|of| *of == resource).count() as u64
    }
}

proptest! {
    #[test]
    fn what_is_held_is_what_is_counted(limit in 0..6u32, steps in steps()) {
        let now = start();
        let breaker = Breaker::new(limits(limit), now);
        let mut held = Held::default();
        for step in steps {
            held.step(&breaker, step, now);
            for resource in Resource::ALL {
                prop_assert_eq!(breaker.in_use(resource), held.count(resource));
                prop_assert!(breaker.in_use(resource) <= u64::from(limit));
            }
        }
        drop(held);
        for resource in Resource::ALL {
            prop_assert_eq!(breaker.in_use(resource), 0);
        }
    }

    #[test]
    fn no_interleaving_loses_a_permit_or_exceeds_a_limit(
        limit in 0..6u32,
        scripts in prop::collection::vec((steps(), any::<usize>()), 2..5),
    ) {
        let now = start();
        let breaker = Breaker::new(limits(limit), now);
        let exceeded = AtomicBool::new(false);
        let watch = || {
            if Resource::ALL.iter().any(|of| breaker.in_use(*of) > u64::from(limit)) {
                exceeded.store(true, Ordering::Relaxed);
            }
        };
        thread::scope(|scope| {
            for (script, cancelled) in &scripts {
                let (breaker, watch) = (&breaker, &watch);
                scope.spawn(move || {
                    let mut held = Held::default();
                    for (index, step) in script.iter().cycle().take(500).enumerate() {
                        held.step(breaker, *step, now);
                        watch();
                        if index % 50 == cancelled % 50 {
                            held = Held::default();
                        }
                    }
                });
            }
        });
        prop_assert!(!exceeded.load(Ordering::Relaxed));
        for resource in Resource::ALL {
            prop_assert_eq!(breaker.in_use(resource), 0);
        }
    }
}
