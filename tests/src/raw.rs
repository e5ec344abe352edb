//! Bytes by script: servers that say exactly what a test wants, clients that see exactly what came
//! and how it ended.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

use crate::{PATIENCE, lab::Pod};

/// A server whose every connection runs a script. Ends on drop, with its connections.
#[derive(Debug)]
pub struct Server {
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens on `port` of all of the pod's addresses. `script` gets each connection with its
    /// number, from 0.
    pub fn start<F, Fut>(pod: &Pod, port: u16, script: F) -> Result<Self>
    where
        F: Fn(TcpStream, usize) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = pod.netns.listen(SocketAddr::from(([0u16; 8], port)))?;
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = accepted.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { continue };
                        let _ = stream.set_nodelay(true);
                        let number = count.fetch_add(1, Ordering::Relaxed);
                        connections.spawn(script(stream, number));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self { accepted, task })
    }

    /// Sends back what comes, until the client ends it.
    pub fn echo(pod: &Pod, port: u16) -> Result<Self> {
        Self::start(pod, port, |mut stream, _| async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        })
    }

    /// Hands every connection over.
    pub fn accepting(pod: &Pod, port: u16) -> Result<(Self, mpsc::UnboundedReceiver<TcpStream>)> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let server = Self::start(pod, port, move |stream, _| {
            let _ = sender.send(stream);
            async {}
        })?;
        Ok((server, receiver))
    }

    /// Ends it, so that its port is free.
    pub async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By FIN.
    Closed,
    /// By RST.
    Reset,
}

/// Reads until the peer ends it; gives what came and how it ended. An error means that it did not
/// end in time.
pub async fn drain(stream: &mut TcpStream) -> Result<(Vec<u8>, End)> {
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    let end = match ended.with_context(|| format!("still open after {:?}", shown(&bytes)))? {
        Ok(_) => End::Closed,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => End::Reset,
        Err(error) => return Err(error.into()),
    };
    Ok((bytes, end))
}

/// Reads until `mark` has come; gives all that came. Fails where the peer ends first.
pub async fn read_until(stream: &mut TcpStream, mark: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let reading = async {
        while !bytes.windows(mark.len()).any(|window| window == mark) {
            if stream.read_buf(&mut bytes).await? == 0 {
                anyhow::bail!("the peer closed");
            }
        }
        Ok(())
    };
    let outcome = tokio::time::timeout(PATIENCE, reading).await;
    let outcome = outcome.unwrap_or_else(|_| anyhow::bail!("nothing more came in time"));
    outcome.with_context(|| format!("waiting for {:?} after {:?}", shown(mark), shown(&bytes)))?;
    Ok(bytes)
}

/// Reads until `mark` has come, and not a byte more.
pub async fn read_until_exactly(stream: &mut TcpStream, mark: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(mark) {
        bytes.extend(read_exactly(stream, 1).await?);
    }
    Ok(bytes)
}

/// Reads exactly `count` bytes.
pub async fn read_exactly(stream: &mut TcpStream, count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut bytes))
        .await
        .with_context(|| format!("{count} bytes did not come in time"))??;
    Ok(bytes)
}

/// Sends `request` from `pod` and reads until the peer ends the connection.
pub async fn ask(pod: &Pod, to: SocketAddr, request: &[u8]) -> Result<(String, End)> {
    let mut stream = pod.netns.connect(to).await?;
    // The peer may refuse before it has read everything: what it said still counts.
    let _ = stream.write_all(request).await;
    let (bytes, end) = drain(&mut stream).await?;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), end))
}

/// Ends the connection by a reset instead of a FIN.
pub fn reset(stream: TcpStream) -> io::Result<()> {
    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO))
}

/// Bytes that differ from place to place, so that a lost or doubled block shows.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
        .collect()
}

/// The first bytes of a TLS client that asks for `name`: a ClientHello (RFC 8446, section 4.1.2) with
/// one cipher suite, one signature algorithm and the server name, in one record.
pub fn client_hello(name: &str) -> Vec<u8> {
    let sized = |bytes: &[u8]| -> Vec<u8> {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        [&length.to_be_bytes()[..], bytes].concat()
    };
    let entry = [&[0][..], &sized(name.as_bytes())].concat();
    let server_name = [&[0, 0][..], &sized(&sized(&entry))].concat();
    let extensions = [&server_name[..], &[0, 13, 0, 4, 0, 2, 4, 3]].concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(sized(&extensions));
    let handshake = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&handshake)].concat()
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(400).collect()
}
