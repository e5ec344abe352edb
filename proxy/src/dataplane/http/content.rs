//! What is kept of a request's body, so that it can be sent once more or to a mirror.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};

/// What is kept of one body at most: Envoy's default bound of a stream's buffer, 1 MiB.
pub(super) const LIMIT: usize = 1 << 20;
/// Chunks below this are copied to be kept: a small one may hold the large buffer that it was read
/// into, and a thousand of one byte would cost more than what they say.
const COPIED: usize = 16 * 1024;

/// The beginning of a body, or all of it.
#[derive(Clone, Default)]
pub(super) struct Content {
    pub(super) chunks: Vec<Bytes>,
    /// Small chunks that came last, one behind the other.
    small: BytesMut,
    pub(super) trailers: Option<HeaderMap>,
    bytes: usize,
}

impl Content {
    /// A whole body.
    pub(super) fn of(bytes: Bytes) -> Self {
        Self {
            bytes: bytes.len(),
            chunks: vec![bytes],
            ..Self::default()
        }
    }

    /// Bytes, without the trailers.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there was room.
    pub(super) fn push(&mut self, frame: &Frame<Bytes>) -> bool {
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        if let Some(data) = frame.data_ref() {
            if self.bytes + data.len() > LIMIT {
                return false;
            }
            self.bytes += data.len();
            if data.len() < COPIED {
                self.small.extend_from_slice(data);
                if self.small.len() >= COPIED {
                    self.settle();
                }
            } else {
                self.settle();
                self.chunks.push(data.clone());
            }
        }
        true
    }

    /// Makes a chunk of the small ones that came last.
    pub(super) fn settle(&mut self) {
        if !self.small.is_empty() {
            self.chunks.push(std::mem::take(&mut self.small).freeze());
        }
    }
}

/// A whole body that nobody waits for.
pub(crate) struct Copied {
    chunks: std::vec::IntoIter<Bytes>,
    trailers: Option<HeaderMap>,
    left: u64,
}

impl From<Content> for Copied {
    fn from(content: Content) -> Self {
        Self {
            left: content.bytes as u64,
            chunks: content.chunks.into_iter(),
            trailers: content.trailers,
        }
    }
}

impl Copied {
    /// What comes next.
    pub(super) fn next(&mut self) -> Option<Frame<Bytes>> {
        match self.chunks.next() {
            Some(chunk) => {
                self.left = self.left.saturating_sub(chunk.len() as u64);
                Some(Frame::data(chunk))
            }
            None => self.trailers.take().map(Frame::trailers),
        }
    }

    /// Whether nothing comes any more.
    pub(super) fn is_over(&self) -> bool {
        self.chunks.len() == 0 && self.trailers.is_none()
    }

    /// How much is left. HTTP/1 carries trailers in chunks alone, without a length.
    pub(super) fn size_hint(&self) -> SizeHint {
        match self.trailers {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(self.left),
        }
    }
}
