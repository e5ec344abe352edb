//! Certificates of the service accounts whose pods run here: fetched when the first of them comes,
//! renewed, kept through an outage of the authority until they expire, dropped with the last pod.
//!
//! Knows the mesh's snapshots and who signs ([`Authority`]); tells [`Secrets`] what is in force.
//! Nothing here is asked by traffic.

mod account;
mod anchors;
pub mod authority;
mod driver;
pub mod istio;
mod own;
pub mod status;

pub use anchors::Anchors;
pub use authority::{Authority, Failure, News, Signed};
pub use driver::Driver;
pub use istio::Istio;
pub use own::Own;
pub use status::{Report, Status};

#[cfg(test)]
mod tests;
