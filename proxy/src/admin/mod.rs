//! The proxy's HTTP interfaces for people and probes: what is in force, metrics, readiness. Served
//! by the control runtime, so that traffic never waits for them.

pub mod authority;
pub mod certificates;
mod filter;
pub mod node;
pub mod server;
pub mod status;
pub mod views;

pub use filter::Filter;
pub use status::Status;
