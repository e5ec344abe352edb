//! aquifer: a kernel-assisted transparent proxy for Kubernetes, one per node.
//!
//! Modules are grouped in floors; a module imports from floors below its own only (`cargo xtask
//! floors` holds it). `ARCHITECTURE.md` draws the floors and follows one connection through them.

#![deny(unsafe_code)]

// Floor 6
pub mod admin;
pub mod memory;
pub mod settings;
// Floor 5
pub mod ca;
pub mod control;
pub mod dataplane;
// Floor 4
pub mod kernel;
pub mod net;
pub mod telemetry;
pub mod tls;
// Floor 3
pub mod mesh;
// Floor 2
pub mod policy;
pub mod wire;
// Floor 1
pub mod api;
pub mod clock;
pub mod proto;
pub mod types;
// Floor 7: the parts meet here.
pub mod app;
pub mod cli;
