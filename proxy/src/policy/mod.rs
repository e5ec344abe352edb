//! What is decided, as pure functions and state machines: no I/O, no clock, no randomness of its
//! own. The caller hands in the time and the random draw.

pub mod balance;
pub mod matcher;
mod pattern;
mod re2;
pub mod split;
