//! Bytes to values and back. Pure: no socket, no clock.

pub mod baggage;
pub mod client_hello;
pub mod path;
pub mod proxy_protocol;
pub mod sniff;
