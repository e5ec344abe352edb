//! The line of a connection, one file a step, in reading order: [`accept`] → [`origin`] →
//! [`resolve`] → [`protocol`] → [`tcp`] or [`http`] → [`balance`] → [`upstream`] → [`relay`] →
//! [`outcome`]. Each step takes the value that the step before it made. Into a pod: [`accept`] →
//! [`origin`] → [`hbone`] → [`authorize`] → [`connect`] → [`relay`] → [`outcome`].
//!
//! Knows no configuration format: everything it asks is in a `mesh::Snapshot`. Everything in here
//! runs on one worker's thread and shares nothing with other workers but what is atomic.

mod accept;
mod allowance;
mod arriving;
mod authorize;
mod balance;
mod channel;
mod cluster;
mod connect;
mod error;
mod hbone;
mod http;
mod idle;
mod inbound;
mod neighbours;
mod origin;
mod outbound;
mod outcome;
mod parts;
mod pod;
mod pool;
mod protocol;
mod proxied;
mod relay;
mod resolve;
mod secured;
mod standing;
mod task;
mod tcp;
mod upstream;
mod way;
mod within;
pub mod worker;

pub use cluster::Registry;
pub use neighbours::SameNode;
pub use parts::Parts;
pub use worker::run;
