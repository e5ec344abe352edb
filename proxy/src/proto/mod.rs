//! Messages of other projects' protocols, and the little of gRPC by which they travel.
//!
//! The messages are written as `prost` derives them, field for field as their `.proto` files say, so
//! that building needs no protoc. Nothing here opens a connection or knows what a message is for.

pub mod authorization;
pub mod ca;
pub mod grpc;
pub mod structure;
