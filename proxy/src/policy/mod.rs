//! What is decided, as pure functions and state machines: no I/O, no clock, no randomness of its
//! own. The caller hands in the time and the random draw.

pub mod balance;
pub mod circuit;
pub mod hash;
pub mod locality;
pub mod matcher;
pub mod outlier;
mod pattern;
mod re2;
pub mod slow_start;
pub mod split;
