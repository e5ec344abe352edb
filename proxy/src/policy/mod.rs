//! What is decided, as pure functions and state machines: no I/O, no clock, no randomness of its
//! own. The caller hands in the time and the random draw.

pub mod authorization;
pub mod balance;
pub mod circuit;
pub mod client_certificate;
pub mod cors;
pub mod external;
pub mod fault;
pub mod format;
pub mod grpc;
pub mod hash;
pub mod headers;
pub mod jwt;
pub mod locality;
pub mod matcher;
pub mod outlier;
mod pattern;
pub mod peer_authentication;
mod re2;
pub mod redirect;
pub mod refresh;
pub mod renewal;
pub mod retry;
pub mod rewrite;
pub mod slow_start;
pub mod split;
mod target;
pub mod timeout;
