//! HBONE, Istio's tunnel between workloads: TLS 1.3 with the certificates of both, HTTP/2 inside,
//! one CONNECT stream for each connection.
//!
//! Settings, statuses and what closes what are ztunnel's, so that one can stand on either side.
//! Where both sides are ours a reset travels as a reset, which ztunnel makes an end of.

pub(super) mod client;
mod expiry;
mod failure;
mod keepalive;
mod pool;
mod request;
pub(super) mod server;
mod tunnel;

use std::time::Duration;

pub(super) use failure::Failure;
pub(super) use pool::{Place, Pool};
pub(super) use tunnel::{Gone, Tunnel};

/// The port at each workload's address. No socket is bound to it.
pub(super) const PORT: u16 = 15008;

/// Bytes of one stream that may be under way to us unread. ztunnel has 4 MiB, and 16 MiB for a
/// connection: four streams that nobody reads stop all others.
const STREAM_WINDOW: u32 = 1 << 20;
/// And of a connection: what is unread of one stream takes nothing from another. What all together may
/// hold is bounded by the descriptors of the connections that they are carried to.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS;
/// The largest frame that is taken (ztunnel's).
const FRAME: u32 = 1 << 20;
/// Streams of one connection that a peer may have open (ztunnel's), and as many may be reset before
/// they were looked at: clients that go away together must not cost the others their connection.
const STREAMS: u32 = 200;
/// Bytes of a caller's header section (ztunnel's).
const REQUEST_HEADERS: u32 = 64 << 10;
/// Bytes of the header section of an answer (ztunnel's).
const RESPONSE_HEADERS: u32 = 16 << 10;
/// Bytes that may wait to be sent on one stream.
const SEND_BUFFER: usize = 256 << 10;
/// What small unread frames may cost on a connection before it is ended: each of them 256 bytes less
/// its length. An application that doesn't read must not cost others their connection, where a
/// caller sends it single bytes: some 130,000 of them.
const SMALL_FRAMES: usize = 32 << 20;
/// How long a handshake, that of TLS and that of HTTP/2, may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
