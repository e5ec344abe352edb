//! Addresses, names and protocols: the vocabulary of every floor above. Knows no configuration
//! format and no I/O.

pub mod flags;
pub mod name;
pub mod object;
pub mod problem;
pub mod protocol;

pub use flags::ResponseFlags;
pub use name::{ClusterName, Hostname};
pub use object::{ObjectRef, Position};
pub use problem::{Finding, Problem, Severity};
pub use protocol::Protocol;
