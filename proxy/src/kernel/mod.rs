//! The kernel side, as user space holds it: programs loaded, attached and pinned; maps written.
//! The only user of aya.
//!
//! Does not know what enrols a pod (`control::enrol`) nor what becomes of a connection
//! (`dataplane`). All maps and links are pinned, so that they outlive the process: what a dead
//! proxy means is decided in the kernel, by the failure mode that a pod's entry carries.

pub mod error;
pub mod maps;
pub mod pins;
pub mod redirects;

pub use error::Error;
pub use pins::Pins;
pub use redirects::Redirects;
