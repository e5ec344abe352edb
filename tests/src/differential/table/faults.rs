//! Faults.

use crate::differential::scenario::{Scenario, http};

/// A rule with this fault.
fn fault(name: &str, fault: &str) -> Scenario {
    http(name, &format!("{{fault: {{{fault}}}, TO}}"))
}

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        fault("fault-abort", "abort: {httpStatus: 418, percentage: {value: 100}}").ask("GET /", "418 FI x0 body=fault+filter+abort content-type=text/plain details=fault_filter_abort").ask("h2 GET /", "418 FI").ask("HEAD /", "418 FI body="),
        fault("fault-abort-never", "abort: {httpStatus: 418, percentage: {value: 0}}").ask("5x GET /", "200 - x5"),
        fault("fault-abort-unsaid", "abort: {httpStatus: 418}").ask("5x GET /", "200 - x5"),
        fault("fault-abort-half", "abort: {httpStatus: 418, percentage: {value: 50}}").ask("300x GET /", "").shares(),
        fault("fault-abort-few", "abort: {httpStatus: 418, percentage: {value: 10}}").ask("400x GET /", "").shares(),
        fault("fault-abort-grpc", "abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}").http2().ask("h2 POST / | content-type: application/grpc | =x", "200 FI x0 grpc-status=14 content-type=application/grpc"),
        fault("fault-abort-grpc-plain", "abort: {grpcStatus: NOT_FOUND, percentage: {value: 100}}").ask("GET /", "x0 FI"),
        fault("fault-abort-http-grpc", "abort: {httpStatus: 503, percentage: {value: 100}}").http2().ask("h2 POST / | content-type: application/grpc | =x", "200 FI x0 grpc-status=14"),
        fault("fault-abort-200", "abort: {httpStatus: 200, percentage: {value: 100}}").ask("GET /", "200 FI x0"),
        fault("fault-delay", "delay: {fixedDelay: 300ms, percentage: {value: 100}}").ask("GET /", "200 DI x1 took=300").timed(),
        fault("fault-delay-abort", "delay: {fixedDelay: 200ms, percentage: {value: 100}}, abort: {httpStatus: 500, percentage: {value: 100}}").ask("GET /", "500 DI,FI x0 took=200").timed(),
        http("fault-delay-not-timeout", "{fault: {delay: {fixedDelay: 400ms, percentage: {value: 100}}}, timeout: 300ms, TO}").ask("GET /", "200 DI x1 took=400").timed(),
        http("fault-delay-then-timeout", "{fault: {delay: {fixedDelay: 200ms, percentage: {value: 100}}}, timeout: 300ms, TO}").up("200,wait=2000").ask("GET /", "504 x1 took=500").timed(),
        http("fault-not-retried", "{fault: {abort: {httpStatus: 503, percentage: {value: 100}}}, retries: {attempts: 3, retryOn: 5xx}, TO}").ask("GET /", "503 FI x0"),
        http("fault-one-rule", "{match: [{uri: {prefix: /a}}], fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, TO}, {TO}").ask("GET /a", "418 x0").ask("GET /b", "200 x1"),
        http("fault-headers", "{headers: {response: {set: {x-a: b}}}, fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, TO}").ask("GET /", "418"),
        fault("fault-delay-gone", "delay: {fixedDelay: 2s, percentage: {value: 100}}").ask("GET / | !200", "DI,DC x0 end=gaveup"),
        fault("fault-upload", "abort: {httpStatus: 418, percentage: {value: 100}}").ask("POST / | #50000", "418 x0"),
    ]
}
