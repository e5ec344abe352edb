//! Peers of HBONE made by hand: an authority, a client that speaks TLS and raw HTTP/2 to port 15008.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod asked;
pub(crate) mod frames;

use std::{
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use aquifer::tls::{Credential, Issuer, Key, Secrets, Trust};
use aquifer::types::Identity;
use aquifer_tests::{Config, PATIENCE, Pod, raw::Server};
use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{Request, Response, Uri};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

pub(crate) use aquifer_tests::peer::HBONE;

/// What the pods of the usual world are.
pub(crate) const DEFAULT: &str = "spiffe://cluster.local/ns/default/sa/default";

const HOUR: Duration = Duration::from_secs(3600);

/// Sends back what comes, its end too.
pub(crate) fn echo(pod: &Pod, port: u16) -> Result<Server> {
    Server::start(pod, port, |mut stream, _| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
}

/// Bulk to an [`echo`] and back, which ends by half-closes, over one connection and over `many` at
/// once.
pub(crate) async fn play(connect: impl AsyncFn() -> Result<TcpStream>, many: usize) -> Result<()> {
    let one = async |size: u32| -> Result<()> {
        let data: Vec<u8> = (0..size)
            .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect();
        let mut stream = connect().await?;
        let (mut read, mut write) = stream.split();
        let mut found = Vec::new();
        let sending = async {
            write.write_all(&data).await?;
            write.shutdown().await
        };
        let (sent, received) = tokio::join!(sending, read.read_to_end(&mut found));
        sent?;
        received?;
        anyhow::ensure!(found == data, "{} of {size} bytes came back", found.len());
        Ok(())
    };
    tokio::time::timeout(PATIENCE, one(16 << 20)).await??;
    let many = (0..many).map(|_| one(20_000));
    let all = futures_util::future::join_all(many);
    for one in tokio::time::timeout(PATIENCE, all).await? {
        one?;
    }
    Ok(())
}

/// Who signs.
pub(crate) struct Authority {
    issuer: Issuer,
    domain: Arc<str>,
}

impl Authority {
    /// That of the proxies that read this configuration.
    pub(crate) fn of(config: &Config) -> Result<Self> {
        Self::at(&config.path().join(".ca"))
    }

    /// The one in a folder.
    pub(crate) fn at(folder: &std::path::Path) -> Result<Self> {
        let read = |name| std::fs::read_to_string(folder.join(name));
        let issuer = Issuer::from_pem(&read("ca-cert.pem")?, &read("ca-key.pem")?, "")?;
        Ok(Self {
            issuer,
            domain: "cluster.local".into(),
        })
    }

    /// Another, of the same name or of another.
    pub(crate) fn foreign(domain: &str) -> Result<Self> {
        let now = aquifer::clock::wall();
        Ok(Self {
            issuer: Issuer::root(domain, now - HOUR, now + 24 * HOUR)?,
            domain: domain.into(),
        })
    }

    /// One that ends after a time.
    pub(crate) fn ending(domain: &str, after: Duration) -> Result<Self> {
        let now = aquifer::clock::wall();
        Ok(Self {
            issuer: Issuer::root(domain, now - HOUR, now + after)?,
            domain: domain.into(),
        })
    }

    /// As `--ca-dir` has it.
    pub(crate) fn folder(&self) -> Result<tempfile::TempDir> {
        let folder = tempfile::tempdir()?;
        let (certificate, key) = self.pem();
        std::fs::write(folder.path().join("ca-cert.pem"), certificate)?;
        std::fs::write(folder.path().join("ca-key.pem"), key)?;
        Ok(folder)
    }

    /// The authority's certificate and key.
    pub(crate) fn pem(&self) -> (String, String) {
        (
            self.issuer.certificate_pem(),
            self.issuer.key_pem().to_string(),
        )
    }

    /// A certificate that holds now.
    pub(crate) fn secrets(&self, identity: &str) -> Result<Secrets> {
        let now = aquifer::clock::wall();
        self.secrets_within(identity, now - HOUR, now + HOUR, self)
    }

    /// A certificate for a time; trusts those that `trusted` has signed.
    pub(crate) fn secrets_within(
        &self,
        identity: &str,
        from: SystemTime,
        until: SystemTime,
        trusted: &Self,
    ) -> Result<Secrets> {
        let identity: Identity = identity.parse()?;
        let key = Key::generate()?;
        let request = key.request(&identity)?;
        let chain = self.issuer.sign(&request.der, &identity, from, until)?;
        let root = trusted.issuer.certificate().clone();
        let trust = Trust::new(
            Arc::clone(&trusted.domain),
            [],
            [(Arc::clone(&trusted.domain), vec![root])],
        )?;
        let secrets = Secrets::new(trust);
        secrets.put(Credential::new(&identity, &key, chain)?)?;
        Ok(secrets)
    }

    /// The one who signs, for those who sign by themselves.
    pub(crate) fn issuer(self) -> Issuer {
        self.issuer
    }

    /// A certificate and its key as text, for those who read files; it names these URIs.
    pub(crate) fn files(&self, names: &[&str]) -> Result<(String, rcgen::KeyPair)> {
        let (certificate, key) = self.pem();
        let issuer =
            rcgen::Issuer::from_ca_cert_pem(&certificate, rcgen::KeyPair::from_pem(&key)?)?;
        let mut parameters = rcgen::CertificateParams::default();
        for name in names {
            let uri = rcgen::SanType::URI((*name).try_into()?);
            parameters.subject_alt_names.push(uri);
        }
        parameters.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let key = rcgen::KeyPair::generate()?;
        Ok((parameters.signed_by(&key, &issuer)?.pem(), key))
    }

    /// What a client with a good certificate of `identity` uses.
    pub(crate) fn client(&self, identity: &str) -> Result<Arc<ClientConfig>> {
        let secrets = self.secrets(identity)?;
        let client = secrets.client(&identity.parse()?, &[DEFAULT.parse()?]);
        client.context("a configuration")
    }
}

/// A client's connection.
pub(crate) struct Peer {
    pub(crate) send: SendRequest<Bytes>,
    pub(crate) driver: JoinHandle<Result<(), h2::Error>>,
}

impl Peer {
    /// From a pod to another's HBONE port.
    pub(crate) async fn connect(from: &Pod, to: IpAddr, config: Arc<ClientConfig>) -> Result<Self> {
        let stream = from.netns.connect(SocketAddr::new(to, HBONE)).await?;
        stream.set_nodelay(true)?;
        Self::over(stream, config).await
    }

    /// Over a stream that leads there.
    pub(crate) async fn over<S>(stream: S, config: Arc<ClientConfig>) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let name = ServerName::IpAddress(IpAddr::from([127, 0, 0, 1]).into());
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(stream)
            .await?;
        let driver = tokio::spawn(connection);
        Ok(Self { send, driver })
    }

    /// Sends a CONNECT, whatever comes of it.
    pub(crate) async fn ask(
        &self,
        authority: &str,
    ) -> Result<(Response<RecvStream>, SendStream<Bytes>)> {
        let uri: Uri = authority.parse()?;
        self.request(Request::connect(uri).body(())?).await
    }

    pub(crate) async fn request(
        &self,
        request: Request<()>,
    ) -> Result<(Response<RecvStream>, SendStream<Bytes>)> {
        let mut send = self.send.clone().ready().await?;
        let (response, stream) = send.send_request(request, false)?;
        let response = tokio::time::timeout(PATIENCE, response).await??;
        Ok((response, stream))
    }

    /// The status that a CONNECT is answered.
    pub(crate) async fn status(&self, authority: &str) -> Result<u16> {
        Ok(self.ask(authority).await?.0.status().as_u16())
    }

    /// A tunnel.
    pub(crate) async fn open(&self, authority: &str) -> Result<Tunnel> {
        let (response, send) = self.ask(authority).await?;
        anyhow::ensure!(response.status() == 200, "{authority}: {response:?}");
        Ok(Tunnel {
            send,
            receive: response.into_body(),
        })
    }
}

/// A stream that was answered 200.
pub(crate) struct Tunnel {
    pub(crate) send: SendStream<Bytes>,
    pub(crate) receive: RecvStream,
}

impl Tunnel {
    pub(crate) async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            self.send.reserve_capacity(bytes.len());
            let capacity = poll_fn(|cx| self.send.poll_capacity(cx)).await;
            let capacity = capacity.context("the stream is over")??;
            let piece = bytes.split_to(capacity.min(bytes.len()));
            self.send.send_data(piece, false)?;
        }
        Ok(())
    }

    pub(crate) fn finish(&mut self) -> Result<()> {
        Ok(self.send.send_data(Bytes::new(), true)?)
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn read(&mut self) -> Result<Option<Bytes>> {
        let read = tokio::time::timeout(PATIENCE, self.receive.data()).await?;
        let Some(bytes) = read.transpose()? else {
            return Ok(None);
        };
        self.receive.flow_control().release_capacity(bytes.len())?;
        Ok(Some(bytes))
    }

    pub(crate) async fn read_exactly(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < count {
            let more = self.read().await?.context("the end came too early")?;
            all.extend_from_slice(&more);
        }
        anyhow::ensure!(all.len() == count, "more than was asked for");
        Ok(all)
    }

    /// Reads until `mark` has come, and no further.
    pub(crate) async fn read_until(&mut self, mark: &str) -> Result<String> {
        let mut all = String::new();
        while !all.contains(mark) {
            let more = self.read().await?;
            let more = more.with_context(|| format!("the end came after {all:?}"))?;
            all.push_str(&String::from_utf8_lossy(&more));
        }
        Ok(all)
    }

    pub(crate) async fn read_to_end(&mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(more) = self.read().await? {
            all.extend_from_slice(&more);
        }
        Ok(all)
    }
}

/// What comes of a connection that should come to nothing: its first error.
pub(crate) async fn refusal(from: &Pod, to: IpAddr, config: Arc<ClientConfig>) -> Result<String> {
    let stream = from.netns.connect(SocketAddr::new(to, HBONE)).await?;
    let name = ServerName::IpAddress(IpAddr::from([127, 0, 0, 1]).into());
    let ended = async {
        // TLS 1.3's client hears of its certificate only when it reads.
        let mut stream = TlsConnector::from(config).connect(name, stream).await?;
        stream.read_to_end(&mut Vec::new()).await
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await?;
    Ok(ended
        .err()
        .map_or_else(String::new, |error| error.to_string()))
}

/// A socket that sends and receives one byte at a time.
pub(crate) struct Bytewise(pub(crate) TcpStream);

impl AsyncRead for Bytewise {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let mut byte = [0];
        let mut one = tokio::io::ReadBuf::new(&mut byte);
        std::task::ready!(std::pin::Pin::new(&mut self.0).poll_read(cx, &mut one))?;
        buffer.put_slice(one.filled());
        std::task::Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bytewise {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let one = &bytes[..bytes.len().min(1)];
        std::pin::Pin::new(&mut self.0).poll_write(cx, one)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A socket whose first record, the client's hello, goes out in records of one byte.
pub(crate) struct Shredded {
    stream: TcpStream,
    /// What is left of it, once it was cut.
    cut: Option<Bytes>,
}

impl Shredded {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, cut: None }
    }
}

impl AsyncRead for Shredded {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Shredded {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let this = &mut *self;
        let first = this.cut.is_none();
        let rest = this.cut.get_or_insert_with(|| {
            assert_eq!(bytes.first(), Some(&22), "a record of the handshake");
            let (head, body) = (&bytes[..3], &bytes[5..]);
            let records = body.iter().flat_map(|byte| [head, &[0, 1, *byte]].concat());
            records.collect()
        });
        let mut stream = std::pin::Pin::new(&mut this.stream);
        while !rest.is_empty() {
            // There is room for it: nothing was sent before.
            match stream.as_mut().poll_write(cx, rest)? {
                std::task::Poll::Ready(count) => drop(rest.split_to(count)),
                std::task::Poll::Pending => return std::task::Poll::Pending,
            }
        }
        if first {
            return std::task::Poll::Ready(Ok(bytes.len()));
        }
        stream.poll_write(cx, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The records of the hello of a client.
pub(crate) fn hello_bytes(config: Arc<ClientConfig>) -> Result<Vec<u8>> {
    let name = ServerName::IpAddress(IpAddr::from([127, 0, 0, 1]).into());
    let mut connection = rustls::ClientConnection::new(config, name)?;
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes)?;
    }
    Ok(bytes)
}

/// A client like `config`, whose hello has `size` bytes, the four of its head not counted: it takes
/// ever so many protocols (ALPN).
pub(crate) fn hello_of(config: &ClientConfig, size: usize) -> Result<Arc<ClientConfig>> {
    let measured = |config: &ClientConfig| -> Result<usize> {
        let bytes = hello_bytes(Arc::new(config.clone()))?;
        let length = bytes.get(6..9).context("a hello")?;
        Ok(length
            .iter()
            .fold(0, |all, byte| all << 8 | usize::from(*byte)))
    };
    let mut config = config.clone();
    let mut missing = size
        .checked_sub(measured(&config)?)
        .context("it is larger by itself")?;
    while missing > 0 {
        // A byte of length and the name, which may not be empty: none is left over for one.
        let most = missing.min(256);
        let piece = if missing - most == 1 { most - 1 } else { most };
        config.alpn_protocols.push(vec![b'x'; piece - 1]);
        missing -= piece;
    }
    let found = measured(&config)?;
    anyhow::ensure!(found == size, "{found} where {size} was wanted");
    Ok(Arc::new(config))
}

/// Opens `count` streams on one connection by frames of its own making, whatever the peer allows.
/// Gives how many were answered, and the reasons by which the others were reset.
pub(crate) async fn insist(
    stream: TcpStream,
    config: Arc<ClientConfig>,
    authority: &str,
    count: u32,
) -> Result<(usize, Vec<u32>)> {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    let name = ServerName::IpAddress(IpAddr::from([127, 0, 0, 1]).into());
    let mut stream = TlsConnector::from(config).connect(name, stream).await?;
    // RFC 7541: literals without indexing, of the static table's `:method` and `:authority`.
    let mut section = vec![0x02, 7];
    section.extend_from_slice(b"CONNECT");
    section.extend_from_slice(&[0x01, u8::try_from(authority.len())?]);
    section.extend_from_slice(authority.as_bytes());
    let mut all = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut frame = |kind: u8, flags: u8, id: u32, payload: &[u8]| -> Result<()> {
        all.extend_from_slice(&u32::try_from(payload.len())?.to_be_bytes()[1..]);
        all.extend_from_slice(&[kind, flags]);
        all.extend_from_slice(&id.to_be_bytes());
        all.extend_from_slice(payload);
        Ok(())
    };
    frame(SETTINGS, 0, 0, &[])?;
    for index in 0..count {
        // END_HEADERS alone.
        frame(HEADERS, 4, 2 * index + 1, &section)?;
    }
    tokio::io::AsyncWriteExt::write_all(&mut stream, &all).await?;
    let (mut answered, mut refused) = (0, Vec::new());
    while answered + refused.len() < count as usize {
        let mut head = [0; 9];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await??;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
        match (head[3], payload.first_chunk()) {
            (HEADERS, _) => answered += 1,
            (RST_STREAM, Some(reason)) => refused.push(u32::from_be_bytes(*reason)),
            _ => {}
        }
    }
    Ok((answered, refused))
}
