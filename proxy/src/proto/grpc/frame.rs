//! A message's five bytes of prefix, written and read with a bound.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt as _;
use prost::Message;

use super::Status;

/// A flag and the length, big-endian.
const PREFIX: usize = 5;

/// What is wrong with a body that should have one message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The stream broke off.
    #[error("it broke off: {0}")]
    Stream(String),
    /// It ended before the message did.
    #[error("it ends in the midst of a message")]
    Short,
    /// There is no message.
    #[error("it has no message")]
    Empty,
    /// More than one message, or bytes after the first.
    #[error("it has more than one message")]
    Long,
    /// The message is compressed, which was not offered.
    #[error("its message is compressed, or has the unknown flag {0}")]
    Flag(u8),
    /// The message is larger than is taken.
    #[error("its message has {size} bytes, at most {limit} are taken")]
    Large {
        /// In bytes.
        size: usize,
        /// In bytes.
        limit: usize,
    },
    /// The message is not what it should be.
    #[error("its message can't be read: {0}")]
    Message(String),
}

/// A message with its prefix.
pub fn frame(message: &impl Message) -> Bytes {
    let size = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX.saturating_add(size));
    out.put_u8(0);
    // No message of ours comes near 4 GiB; one that did would be refused by its reader.
    out.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
    out.put_slice(&message.encode_to_vec());
    out.freeze()
}

/// Reads a body with one message of at most `limit` bytes, and its trailers. Never keeps more than
/// that, whatever the prefix says.
///
/// # Errors
/// Where the body has anything else. A status in the trailers comes along: a peer that fails sends
/// that and no message.
pub async fn read<M, B>(
    mut body: B,
    limit: usize,
) -> Result<(M, HeaderMap), (Broken, Option<Status>)>
where
    M: Message + Default,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut held = BytesMut::new();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| (Broken::Stream(error.to_string()), None))?;
        match frame.into_data() {
            Ok(data) => {
                held.extend_from_slice(&data);
                check(&held, limit).map_err(|broken| (broken, None))?;
            }
            Err(frame) => {
                if let Ok(found) = frame.into_trailers() {
                    trailers = found;
                }
            }
        }
    }
    let status = || Status::of(&trailers);
    if held.is_empty() {
        return Err((Broken::Empty, status()));
    }
    if held.len() < PREFIX || held.len() - PREFIX < length(&held) {
        return Err((Broken::Short, status()));
    }
    match M::decode(&held[PREFIX..]) {
        Ok(message) => Ok((message, trailers)),
        Err(error) => Err((Broken::Message(error.to_string()), status())),
    }
}

/// Whether what there is may still become one message.
fn check(held: &[u8], limit: usize) -> Result<(), Broken> {
    match held.first() {
        None | Some(0) => {}
        Some(&flag) => return Err(Broken::Flag(flag)),
    }
    if held.len() < PREFIX {
        return Ok(());
    }
    let size = length(held);
    if size > limit {
        return Err(Broken::Large { size, limit });
    }
    if held.len() - PREFIX > size {
        return Err(Broken::Long);
    }
    Ok(())
}

/// Of a message whose prefix is there.
fn length(held: &[u8]) -> usize {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&held[1..PREFIX]);
    usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX)
}
