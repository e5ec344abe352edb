//! Sources of configuration in, snapshots out; pods enrolled. Meets the data plane only in
//! [`crate::mesh::Store`].

pub mod advice;
pub mod certificates;
pub mod compile;
pub mod enrol;
pub mod files;
mod follow;
pub mod issuers;
pub mod outside;
pub mod store;

pub use follow::follow;
