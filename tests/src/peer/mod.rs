//! Other meshes' proxies beside a pod, as those that call and those that are called.
//!
//! Each has its settings from a folder of its own, which goes with it.

mod agent;
pub mod envoy;
pub mod ztunnel;

pub use envoy::Envoy;
pub use ztunnel::Ztunnel;

/// The port of HBONE at each workload's address.
pub const HBONE: u16 = 15008;
