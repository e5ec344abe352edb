//! HTTP/2 in its bare frames over TLS (RFC 9113, section 4.1), for what no library would send.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aquifer_tests::PATIENCE;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) id: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: u8, flags: u8, id: u32, payload: impl Into<Vec<u8>>) -> Self {
        let payload = payload.into();
        Self {
            kind,
            flags,
            id,
            payload,
        }
    }

    /// A header section, each field of which is written out.
    pub(crate) fn headers(id: u32, flags: u8, fields: &[(&str, &str)]) -> Self {
        // RFC 7541, section 6.2.2: a literal without indexing, with a new name.
        let text = |text: &str| {
            let length = u8::try_from(text.len()).expect("a short one");
            assert!(length < 0x7f, "one byte of length");
            [&[length], text.as_bytes()].concat()
        };
        let mut section = Vec::new();
        for (name, value) in fields {
            section.push(0);
            section.extend(text(name));
            section.extend(text(value));
        }
        Self::new(HEADERS, END_HEADERS | flags, id, section)
    }

    /// A CONNECT as it should be.
    pub(crate) fn connect(id: u32, authority: &str) -> Self {
        Self::headers(id, 0, &[(":method", "CONNECT"), (":authority", authority)])
    }

    pub(crate) fn data(id: u32, flags: u8, bytes: &[u8]) -> Self {
        Self::new(DATA, flags, id, bytes)
    }

    pub(crate) fn reset(id: u32, reason: h2::Reason) -> Self {
        Self::new(RST_STREAM, 0, id, u32::from(reason).to_be_bytes())
    }

    /// What a SETTINGS frame sets.
    pub(crate) fn settings(&self) -> Vec<(u16, u32)> {
        let all = self.payload.chunks_exact(6);
        all.map(|one| {
            let id = u16::from_be_bytes([one[0], one[1]]);
            (id, u32::from_be_bytes([one[2], one[3], one[4], one[5]]))
        })
        .collect()
    }

    /// What RST_STREAM says, or WINDOW_UPDATE.
    pub(crate) fn number(&self) -> Option<u32> {
        self.payload.first_chunk().copied().map(u32::from_be_bytes)
    }
}

/// One end of a connection.
pub(crate) struct Frames {
    stream: TlsStream<TcpStream>,
}

impl Frames {
    /// A client's, which has said nothing but the preface and empty settings.
    pub(crate) async fn call(stream: TcpStream, config: Arc<ClientConfig>) -> Result<Self> {
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(IpAddr::from([127, 0, 0, 1]).into());
        let mut stream = TlsConnector::from(config).connect(name, stream).await?;
        stream.write_all(PREFACE).await?;
        let mut this = Self {
            stream: stream.into(),
        };
        this.send(&[Frame::new(SETTINGS, 0, 0, [])]).await?;
        Ok(this)
    }

    /// A server's, which has said nothing at all.
    pub(crate) async fn take(stream: TcpStream, config: Arc<ServerConfig>) -> Result<Self> {
        stream.set_nodelay(true)?;
        let mut stream = TlsAcceptor::from(config).accept(stream).await?;
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).await?;
        ensure!(preface == PREFACE, "{preface:?}");
        Ok(Self {
            stream: stream.into(),
        })
    }

    /// All at once.
    pub(crate) async fn send(&mut self, frames: &[Frame]) -> Result<()> {
        let mut all = Vec::new();
        for frame in frames {
            let length = u32::try_from(frame.payload.len())?.to_be_bytes();
            all.extend_from_slice(&length[1..]);
            all.extend_from_slice(&[frame.kind, frame.flags]);
            all.extend_from_slice(&frame.id.to_be_bytes());
            all.extend_from_slice(&frame.payload);
        }
        self.stream.write_all(&all).await?;
        Ok(self.stream.flush().await?)
    }

    pub(crate) async fn next(&mut self) -> Result<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await?;
            let [a, b, c, kind, flags, id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).await?;
            let id = u32::from_be_bytes(id);
            anyhow::Ok(Frame::new(kind, flags, id, payload))
        };
        tokio::time::timeout(PATIENCE, read)
            .await
            .context("nothing came")?
    }

    /// The next that `wanted` takes; the others are passed over.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Result<Frame> {
        loop {
            let frame = self.next().await?;
            if wanted(&frame) {
                return Ok(frame);
            }
        }
    }
}
