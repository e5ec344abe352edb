//! Bytes to values and back. Pure: no socket, no clock.

pub mod path;
pub mod sniff;
