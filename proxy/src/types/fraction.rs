//! A share of requests, in millionths: what Istio makes of a percentage.

use std::fmt;

/// The whole.
const WHOLE: u32 = 1_000_000;

/// A share between nothing and everything, in millionths (0.0001 %).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fraction(u32);

/// Why a number is no percentage.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("a percentage is a number from 0 to 100, not {0}")]
pub struct FractionError(f64);

impl Fraction {
    /// Nothing.
    pub const NEVER: Self = Self(0);
    /// Everything.
    pub const ALWAYS: Self = Self(WHOLE);

    /// From a percentage. What is finer than a millionth is cut off, not rounded (Istio).
    ///
    /// # Errors
    /// NaN, below 0, above 100.
    pub fn from_percent(percent: f64) -> Result<Self, FractionError> {
        if !(0.0..=100.0).contains(&percent) {
            return Err(FractionError(percent));
        }
        // In range: the cast cuts off the fraction and nothing else.
        Ok(Self((percent * 10_000.0) as u32))
    }

    /// From millionths; `None` above a million.
    pub fn from_millionths(millionths: u32) -> Option<Self> {
        (millionths <= WHOLE).then_some(Self(millionths))
    }

    /// In millionths.
    pub fn millionths(self) -> u32 {
        self.0
    }

    /// Whether a uniformly random `draw` falls into this share.
    pub fn hit(self, draw: u64) -> bool {
        draw % u64::from(WHOLE) < u64::from(self.0)
    }
}

/// As a percentage: `12.5%`.
impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 10_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_cut_to_millionths() {
        for (percent, expected) in [
            (0.0, Some(0)),
            (-0.0, Some(0)),
            (0.000_09, Some(0)),
            (0.0001, Some(1)),
            (0.000_199, Some(1)),
            (0.1, Some(1000)),
            // The product is a hair below 123,456: Istio cuts that, too.
            (12.3456, Some(123_455)),
            (50.0, Some(500_000)),
            (99.999_99, Some(999_999)),
            (100.0, Some(1_000_000)),
            (100.000_001, None),
            (-0.000_1, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
            (f64::MAX, None),
        ] {
            let found = Fraction::from_percent(percent).ok();
            assert_eq!(found.map(Fraction::millionths), expected, "{percent}");
        }
        assert_eq!(Fraction::from_millionths(1_000_001), None);
        let half = Fraction::from_percent(12.5).expect("in range");
        assert_eq!(half.to_string(), "12.5%");
    }

    #[test]
    fn a_full_cycle_of_draws_is_exact() {
        for millionths in [0, 1, 250_000, 999_999, 1_000_000] {
            let share = Fraction::from_millionths(millionths).expect("in range");
            let hits = (0..u64::from(WHOLE))
                .filter(|draw| share.hit(*draw))
                .count();
            assert_eq!(hits, millionths as usize);
        }
        assert!(Fraction::ALWAYS.hit(u64::MAX) && !Fraction::NEVER.hit(0));
    }
}
