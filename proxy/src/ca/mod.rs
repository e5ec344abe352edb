//! A certificate authority for the mesh's nodes: the server behind `aquifer ca`. It speaks the
//! protocol of Istio's, `istio.v1.auth.IstioCertificateService`.
//!
//! A node proxy asks for the certificate of a service account; the answer is yes where the node is who
//! it says ([`Reviewer`]) and a pod of that account runs on it ([`Places`]). Knows no Kubernetes: who
//! answers either question is handed in, as is the folder with the root.

mod counters;
mod keeper;
mod places;
mod refusal;
mod reviewer;
mod server;
mod service;
mod tokens;

pub use counters::Counters;
pub use keeper::{Keeper, Lives};
pub use places::Places;
pub use refusal::Refusal;
pub use reviewer::{Caller, Reviewer, Unreviewed};
pub use server::{Server, bind};
pub use service::Service;
pub use tokens::Tokens;

#[cfg(test)]
mod tests;
