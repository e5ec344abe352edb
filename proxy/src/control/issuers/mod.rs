//! The keys of tokens' issuers: fetched for the RequestAuthentications of local pods, fetched again
//! while these name them, kept through an outage.
//!
//! Knows the mesh's snapshots; tells `mesh::KeyRing` what is in force. Nothing here is asked by
//! traffic, and no request waits for it.

mod driver;
mod fetch;

pub use driver::{Driver, Report, Row, Status};
pub use fetch::{Failure, Fetcher};

#[cfg(test)]
mod tests;
