//! The scenarios, a table for each subject.

use super::scenario::Scenario;

mod matching;
mod retries;

/// All of them.
pub fn all() -> Vec<Scenario> {
    [matching::table(), retries::table()].concat()
}
