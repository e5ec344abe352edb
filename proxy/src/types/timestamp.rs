//! A wall-clock time as operators read it.

use std::fmt::{self, Display};
use std::time::SystemTime;

use time::OffsetDateTime;

/// A wall-clock time, written as `2024-05-01T10:00:00.123Z`.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp(pub SystemTime);

impl Timestamp {
    /// In UTC's calendar; `None` before the year -9999 and after 9999.
    pub fn date(self) -> Option<OffsetDateTime> {
        let nanoseconds = match self.0.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i128::try_from(after.as_nanos()).ok()?,
            Err(before) => -i128::try_from(before.duration().as_nanos()).ok()?,
        };
        OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()
    }
}

impl Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(date) = self.date() else {
            return f.write_str("-");
        };
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            date.year(),
            u8::from(date.month()),
            date.day(),
            date.hour(),
            date.minute(),
            date.second(),
            date.millisecond()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_in_utc_to_the_millisecond() {
        let epoch = SystemTime::UNIX_EPOCH;
        for (time, expected) in [
            (Some(epoch), "1970-01-01T00:00:00.000Z"),
            (
                epoch.checked_add(Duration::from_micros(1_714_557_600_123_999)),
                "2024-05-01T10:00:00.123Z",
            ),
            (
                epoch.checked_sub(Duration::from_millis(1)),
                "1969-12-31T23:59:59.999Z",
            ),
            (epoch.checked_add(Duration::from_secs(1 << 45)), "-"),
        ] {
            let time = time.expect("representable");
            assert_eq!(Timestamp(time).to_string(), expected);
        }
    }
}
