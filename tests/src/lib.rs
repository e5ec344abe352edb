//! Harness of the end-to-end tests, and the floor under `cargo xtask demo` and `bench`: pods that
//! are network namespaces, a proxy that is the real binary, peers that speak to it.
//!
//! Everything made here is undone when its owner is dropped; what a killed test leaves behind is
//! undone by the next one that starts (see [`slot`]). It knows nothing of the proxy's insides:
//! only its command line, its admin address and what it prints.
//!
//! | module | what |
//! | --- | --- |
//! | [`slot`] | a number of one's own: names, addresses, clean-up after the dead |
//! | [`netns`] | a network namespace; sockets and processes made inside it |
//! | [`lab`] | a small network: pods on one bridge |
//! | [`config`] | the directory that the proxy reads |
//! | [`manifest`] | the Kubernetes objects that tell the proxy about the lab |
//! | [`process`] | a child process, its end and its lines as events |
//! | [`proxy`] | the `aquifer` binary: start, readiness, admin, end |
//! | [`authority`] | `aquifer ca`: start, readiness, end |
//! | [`peer`] | Envoy and ztunnel as proxies of other meshes beside a pod |
//! | [`world`] | the lab that most tests start from |
//! | [`shop`] | the lab of `deploy/examples` |
//! | [`differential`] | the same requests through aquifer and Envoy |
//! | [`client`], [`echo`], [`raw`] | HTTP from a pod, an HTTP server that tells what it saw, bytes by script |
//! | [`wire`] | everything that goes over a lab's network |
//! | [`gate`] | answers that wait until they are let go |

pub mod authority;
pub mod client;
pub mod clock;
pub mod config;
pub mod differential;
pub mod echo;
pub mod gate;
pub mod lab;
pub mod manifest;
pub mod netns;
pub mod peer;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod reasons;
pub mod shop;
pub mod slot;
pub mod wire;
pub mod world;

pub use config::Config;
pub use lab::{Lab, Pod};
pub use manifest::Manifests;
pub use proxy::Proxy;
pub use world::World;

/// How long anything in a test may take before it counts as hanging. Generous, since a machine
/// that builds something else at the same time is slow; nothing waits for it to pass.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// How long what is promised within a second may take in a test. An idle machine needs milliseconds for
/// all of it; what waits for a timer or for a sweep takes longer than this.
pub const SOON: std::time::Duration = std::time::Duration::from_secs(3);
