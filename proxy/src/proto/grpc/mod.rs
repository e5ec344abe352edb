//! Unary gRPC over HTTP/2, both sides: one message there, one message back, a status in the trailers
//! (github.com/grpc/grpc, `doc/PROTOCOL-HTTP2.md`).
//!
//! No compression and no streams of messages. The caller brings the connection and bounds the time.

pub mod client;
mod frame;
pub mod server;
mod status;
mod timeout;

pub use frame::{Broken, frame, read};
pub use status::{Code, Status};

/// `content-type` of both directions.
const CONTENT_TYPE: &str = "application/grpc";

#[cfg(test)]
mod tests;
