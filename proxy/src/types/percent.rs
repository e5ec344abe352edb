//! A whole percentage, as DestinationRules give their thresholds. Finer shares of traffic are
//! another type.

use std::fmt;

/// From 0 to 100 percent, both included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Percent(u8);

impl Percent {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// Everything.
    pub const ALL: Self = Self(100);

    /// `None` outside 0 to 100.
    pub fn new(percent: i64) -> Option<Self> {
        let percent = u8::try_from(percent).ok()?;
        (percent <= 100).then_some(Self(percent))
    }

    /// The number, 0 to 100.
    pub fn get(self) -> u8 {
        self.0
    }

    /// Whether `count` of `total` is at most this share, by exact division. Nothing is a share of
    /// nothing.
    pub fn allows(self, count: usize, total: usize) -> bool {
        total > 0 && (count as u128) * 100 <= (total as u128) * u128::from(self.0)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_percentages_are_percentages() {
        for (number, expected) in [
            (-1, None),
            (0, Some(Percent::ZERO)),
            (100, Some(Percent::ALL)),
            (101, None),
            (256, None),
            (i64::MIN, None),
            (i64::MAX, None),
        ] {
            assert_eq!(Percent::new(number), expected, "{number}");
        }
    }

    #[test]
    fn a_share_is_compared_without_rounding() {
        for (percent, count, total, expected) in [
            (10, 1, 9, false),
            (10, 1, 10, true),
            (10, 2, 19, false),
            (10, 2, 20, true),
            (100, 3, 3, true),
            (0, 1, usize::MAX, false),
            (33, 1, 3, false),
            (34, 1, 3, true),
            (100, 1, 0, false),
            (100, usize::MAX, usize::MAX, true),
        ] {
            let percent = Percent::new(percent).expect("a percentage");
            assert_eq!(
                percent.allows(count, total),
                expected,
                "{count} of {total} within {percent}"
            );
        }
    }
}
