//! Sockets and network namespaces: how connections are made and taken inside a pod.
//!
//! Knows options of sockets and the kernel's name spaces; knows no map of the kernel side and no
//! protocol. `dataplane` connects and relays, `control::enrol` opens and closes.

pub mod ahead;
pub mod begun;
pub mod connections;
pub mod descriptors;
pub mod gather;
pub mod last_words;
pub mod linger;
pub mod listener;
pub mod netns;
pub mod pod;
pub mod routes;
pub mod socket;
pub(crate) mod through;

/// This machine's name; empty where it has none.
pub fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default()
}

pub use netns::Namespace;
pub use pod::{Change, Listeners, Pod};
