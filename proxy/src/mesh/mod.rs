//! What is known about the mesh: one immutable [`Snapshot`], swapped whole by [`Store`].
//!
//! Does not know where it comes from (`control` compiles it out of objects) nor what is done with
//! it (`dataplane` routes by it). A request takes one snapshot and keeps it to its end.

pub mod cluster;
pub mod route;
pub mod service;
pub mod snapshot;
pub mod store;
pub mod workload;

pub use cluster::{Cluster, Endpoint};
pub use route::{Action, Destination, RouteTable, Rule};
pub use service::{Service, ServicePort};
pub use snapshot::{Owner, Snapshot};
pub use store::Store;
pub use workload::{Enrolment, FailureMode, Workload};
