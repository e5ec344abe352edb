//! Bytes both ways in the bodies of one POST and its answer.

use std::cmp::min;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead as _, AsyncRead, AsyncWrite, BufReader, ReadBuf};

use crate::dataplane::http::inbound::Abort;
use crate::dataplane::upstream::Upstream;

/// Bytes of one chunk at most.
const CHUNK: usize = 16 * 1024;
/// Digits of a chunk's size at most, and bytes of the line that they begin, or of a trailer.
const DIGITS: usize = 15;
const LINE: usize = 4096;

/// Where the answer's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// With the connection.
    Open,
    /// After so many bytes more.
    Length(u64),
    /// It comes in chunks.
    Chunks(Chunk),
    /// It has ended.
    Over,
}

/// How far chunks have been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// In the line of a chunk's size: the size so far, its digits, bytes of the line.
    Size(u64, usize, usize),
    /// In a chunk, of which so much is left.
    Data(u64),
    /// At its end, of which so many bytes are left.
    End(usize),
    /// In the trailers: bytes of this line.
    Trailer(usize),
}

impl Answer {
    /// What a head says. `None`: nothing that can be relied upon.
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(head).ok()?;
        let (mut length, mut chunked) = (None, false);
        for line in text.split("\r\n").skip(1).take_while(|one| !one.is_empty()) {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                let number = value.bytes().all(|one| one.is_ascii_digit());
                let value = number.then(|| value.parse().ok()).flatten()?;
                if length.is_some_and(|one| one != value) {
                    return None;
                }
                length = Some(value);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                if chunked || !value.eq_ignore_ascii_case("chunked") {
                    return None;
                }
                chunked = true;
            }
        }
        match (chunked, length) {
            (true, Some(_)) => None,
            (true, None) => Some(Self::Chunks(Chunk::Size(0, 0, 0))),
            (false, Some(length)) => Some(Self::Length(length)),
            (false, None) => Some(Self::Open),
        }
    }

    /// Takes a byte of what frames the body; in a chunk or a body none is due.
    fn framing(&mut self, byte: u8) -> io::Result<()> {
        let Self::Chunks(chunk) = self else {
            return Ok(());
        };
        *chunk = match (*chunk, byte) {
            (Chunk::Size(0, digits @ 1.., _), b'\n') if digits > 0 => Chunk::Trailer(0),
            (Chunk::Size(size, 1.., _), b'\n') => Chunk::Data(size),
            // The digits, then an extension that nobody reads.
            (Chunk::Size(size, digits, line), byte)
                if line == digits && byte.is_ascii_hexdigit() =>
            {
                if digits >= DIGITS {
                    return Err(malformed());
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                Chunk::Size(size * 16 + u64::from(digit), digits + 1, line + 1)
            }
            (Chunk::Size(size, digits @ 1.., line), b'\r' | b';' | b' ' | b'\t') if line < LINE => {
                Chunk::Size(size, digits, line.max(digits) + 1)
            }
            (Chunk::Size(size, digits @ 1.., line), _) if line > digits && line < LINE => {
                Chunk::Size(size, digits, line + 1)
            }
            (Chunk::End(2), b'\r') => Chunk::End(1),
            (Chunk::End(1), b'\n') => Chunk::Size(0, 0, 0),
            (Chunk::Trailer(0 | 1), b'\n') => {
                *self = Self::Over;
                return Ok(());
            }
            (Chunk::Trailer(_), b'\n') => Chunk::Trailer(0),
            (Chunk::Trailer(0), b'\r') => Chunk::Trailer(1),
            (Chunk::Trailer(line), _) if line < LINE => Chunk::Trailer(line.max(1) + 1),
            _ => return Err(malformed()),
        };
        Ok(())
    }

    /// Bytes of the body that may be taken now; 0 where what frames it is due.
    fn due(&self) -> u64 {
        match self {
            Self::Open => u64::MAX,
            Self::Length(left) | Self::Chunks(Chunk::Data(left)) => *left,
            Self::Chunks(_) | Self::Over => 0,
        }
    }

    fn took(&mut self, count: u64) {
        *self = match *self {
            Self::Length(left) if left > count => Self::Length(left - count),
            Self::Length(_) => Self::Over,
            Self::Chunks(Chunk::Data(left)) if left > count => {
                Self::Chunks(Chunk::Data(left - count))
            }
            Self::Chunks(Chunk::Data(_)) => Self::Chunks(Chunk::End(2)),
            other => other,
        };
    }
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// An exchange whose bodies carry a connection.
pub(in crate::dataplane) struct Posted {
    stream: BufReader<Upstream>,
    answer: Answer,
    /// A chunk on its way, and how much of it has gone.
    chunk: Vec<u8>,
    gone: usize,
    /// Bytes of the caller's in it.
    taken: usize,
    ended: bool,
}

impl Posted {
    pub(super) fn new(stream: Upstream, answer: Answer) -> Self {
        let answer = match answer {
            Answer::Length(0) => Answer::Over,
            answer => answer,
        };
        Self {
            stream: BufReader::new(stream),
            answer,
            chunk: Vec::new(),
            gone: 0,
            taken: 0,
            ended: false,
        }
    }

    /// What it runs over.
    pub(in crate::dataplane) fn over(&self) -> &Upstream {
        self.stream.get_ref()
    }

    /// Resolves when there is something to read, an end or an error included.
    pub(in crate::dataplane) async fn speaks(&mut self) {
        if self.stream.buffer().is_empty() {
            Box::pin(self.stream.get_mut().speaks()).await;
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let rest @ [_, ..] = &self.chunk[self.gone..] {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gone += written;
        }
        self.chunk.clear();
        self.gone = 0;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl AsyncRead for Posted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.answer == Answer::Over {
                return Poll::Ready(Ok(()));
            }
            let bytes = ready!(Pin::new(&mut this.stream).poll_fill_buf(cx))?;
            let Some(&first) = bytes.first() else {
                return Poll::Ready(match this.answer {
                    Answer::Open => Ok(()),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                });
            };
            let due = this.answer.due();
            if due == 0 {
                Pin::new(&mut this.stream).consume(1);
                this.answer.framing(first)?;
                continue;
            }
            let most = usize::try_from(due).unwrap_or(usize::MAX);
            let count = min(min(bytes.len(), most), buffer.remaining());
            buffer.put_slice(&bytes[..count]);
            Pin::new(&mut this.stream).consume(count);
            this.answer.took(count as u64);
            return Poll::Ready(Ok(()));
        }
    }
}

/// A chunk is taken once it has gone: whoever is told to wait comes again with the same bytes, as
/// `write_all` does.
impl AsyncWrite for Posted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.chunk.is_empty() && !bytes.is_empty() {
            this.taken = min(bytes.len(), CHUNK);
            this.chunk
                .extend_from_slice(format!("{:x}\r\n", this.taken).as_bytes());
            this.chunk.extend_from_slice(&bytes[..this.taken]);
            this.chunk.extend_from_slice(b"\r\n");
        }
        ready!(this.poll_send(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut this.taken)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    /// Ends the request; its connection stays open for what is left of the answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended {
            self.ended = true;
            self.chunk.extend_from_slice(b"0\r\n\r\n");
        }
        self.poll_send(cx)
    }
}

impl Abort for Posted {
    fn abort(&mut self) {
        self.over().reset_on_close();
    }
}

#[cfg(test)]
mod tests;
