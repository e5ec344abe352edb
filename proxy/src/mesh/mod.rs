//! What is known about the mesh: one immutable [`Snapshot`], swapped whole by [`Store`].
//!
//! Does not know where it comes from (`control` compiles it out of objects) nor what is done with
//! it (`dataplane` routes by it). A request takes one snapshot and keeps it to its end.

pub mod cluster;
pub mod clusters;
pub mod guard;
pub mod key_ring;
pub mod l4;
pub mod origination;
pub mod route;
pub mod service;
pub mod snapshot;
pub mod store;
pub mod virtual_host;
pub mod workload;

pub use cluster::{Cluster, Endpoint};
pub use clusters::Clusters;
pub use guard::{Guard, Verdict};
pub use key_ring::KeyRing;
pub use l4::{L4Choice, L4Kind, L4Request, L4Rule, L4Table};
pub use origination::Origination;
pub use route::{Action, Choice, Destination, DirectResponse, Forward, Mirror, RouteTable, Rule};
pub use service::{Service, ServicePort};
pub use snapshot::{Guards, Owner, Snapshot, Variants};
pub use store::Store;
pub use virtual_host::{VirtualHost, VirtualHosts};
pub use workload::{Enrolment, FailureMode, Workload};
