//! The line of a connection, one file a step, in reading order: [`accept`] → [`origin`] →
//! [`resolve`] → [`protocol`] → [`tcp`] or [`http`] → [`balance`] → [`connect`] → [`relay`] →
//! [`outcome`]. Each step takes the value that the step before it made. Into a pod: [`accept`] →
//! [`origin`] → [`authorize`] → [`connect`] → [`relay`] → [`outcome`].
//!
//! Knows no configuration format: everything it asks is in a `mesh::Snapshot`. Everything in here
//! runs on one worker's thread and shares nothing with other workers but what is atomic.

mod accept;
mod authorize;
mod balance;
mod cluster;
mod connect;
mod error;
mod http;
mod inbound;
mod origin;
mod outbound;
mod outcome;
mod pod;
mod pool;
mod protocol;
mod relay;
mod resolve;
mod tcp;
pub mod worker;

pub use cluster::Registry;
pub use worker::{Parts, run};
