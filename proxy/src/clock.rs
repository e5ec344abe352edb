//! The only reader of time. Whoever decides something is handed the time as an argument; whoever
//! drives it asks here.

use std::time::{Instant, SystemTime};

/// The monotonic time, for durations and deadlines.
#[allow(clippy::disallowed_methods, reason = "the one place that reads it")]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock, for what people read.
#[allow(clippy::disallowed_methods, reason = "the one place that reads it")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
