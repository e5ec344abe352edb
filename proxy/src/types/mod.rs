//! Addresses, names and protocols: the vocabulary of every floor above. Knows no configuration
//! format and no I/O.

pub mod field;
pub mod flags;
pub mod fraction;
pub mod identity;
pub mod locality;
pub mod name;
pub mod object;
pub mod percent;
pub mod problem;
pub mod protocol;
pub mod reason;
pub mod timestamp;

pub use flags::ResponseFlags;
pub use fraction::Fraction;
pub use identity::Identity;
pub use locality::Locality;
pub use name::{ClusterName, Hostname};
pub use object::{ObjectRef, Position};
pub use percent::Percent;
pub use problem::{Finding, Problem, Severity};
pub use protocol::Protocol;
pub use reason::Reason;
pub use timestamp::Timestamp;
