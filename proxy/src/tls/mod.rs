//! TLS between workloads: who may call itself what, under which roots, and the rustls configurations
//! that hold it. rustls with AWS-LC alone; TLS 1.3 alone, but for servers [`outside`] the mesh.
//!
//! Knows no socket and no HTTP: the data plane takes a configuration from [`Secrets`] for each
//! connection that it opens or accepts, and `control` writes them. Workloads' private keys are made
//! here ([`Key::generate`]), on the node where they are used, and are never written anywhere; a
//! root's lies in its [`folder`].

mod asked;
mod bundle;
mod certificate;
mod config;
mod credential;
mod error;
pub mod folder;
mod issuer;
mod key;
pub mod outside;
mod provider;
mod secrets;
pub mod service;
mod trust;
mod verify;

pub use asked::Asked;
pub use bundle::Bundle;
pub use certificate::{Certificate, Facts, MAX_CERTIFICATE, MAX_CHAIN};
pub use credential::Credential;
pub use error::{Error, Refusal, reason, word};
pub use issuer::{Issuer, certificates, pem};
pub use key::{Key, Request};
pub use outside::Outside;
pub use provider::{digest, provider};
pub use secrets::Secrets;
pub use trust::{MAX_ROOTS, Trust};
pub use verify::{Peer, peer};

#[cfg(test)]
mod tests;
