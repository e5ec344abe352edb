//! HTTP from inside a pod: one connection, used as a test says. It pools nothing and retries
//! nothing, so that whatever the proxy does is seen.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use socket2::{SockRef, Socket};
use tokio::net::TcpStream;

use crate::{PATIENCE, lab::Pod};

/// The body of a request: whole or streamed.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// A body that is all there.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

/// One client connection.
#[derive(Debug)]
pub enum Http {
    /// HTTP/1.1.
    One(conn::http1::SendRequest<Body>),
    /// HTTP/2 with prior knowledge.
    Two(conn::http2::SendRequest<Body>),
}

/// A complete response.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, all of it.
    pub body: Bytes,
    /// Its trailers, where there were some.
    pub trailers: Option<HeaderMap>,
}

impl Http {
    /// Connects from `pod` and speaks HTTP/1.1.
    pub async fn connect(pod: &Pod, to: SocketAddr) -> Result<Self> {
        let stream = pod
            .netns
            .connect(to)
            .await
            .with_context(|| format!("connect to {to}"))?;
        Self::over1(stream).await
    }

    /// Connects from `pod` and speaks HTTP/2.
    pub async fn connect2(pod: &Pod, to: SocketAddr) -> Result<Self> {
        Ok(Self::cut2(pod, to).await?.0)
    }

    /// The same, with the socket, to cut it off in the middle of whatever it does.
    pub async fn cut2(pod: &Pod, to: SocketAddr) -> Result<(Self, Socket)> {
        let stream = pod
            .netns
            .connect(to)
            .await
            .with_context(|| format!("connect to {to}"))?;
        let cut = SockRef::from(&stream).try_clone()?;
        Ok((Self::over2(stream).await?, cut))
    }

    /// Speaks HTTP/2 over an open connection.
    pub async fn over2(stream: TcpStream) -> Result<Self> {
        let io = TokioIo::new(stream);
        let (sender, connection) = conn::http2::handshake(TokioExecutor::new(), io).await?;
        // Its error also comes out of the request that meets it.
        tokio::spawn(connection);
        Ok(Self::Two(sender))
    }

    /// Speaks HTTP/1.1 over an open connection.
    pub async fn over1(stream: TcpStream) -> Result<Self> {
        let (sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(Self::One(sender))
    }

    /// Sends a GET and reads the whole response.
    pub async fn get(&mut self, host: &str, path: &str) -> Result<Reply> {
        self.exchange(request("GET", host, path).body(whole(""))?)
            .await
    }

    /// Sends a request and reads the whole response.
    pub async fn exchange(&mut self, request: Request<Body>) -> Result<Reply> {
        let reply = async { Reply::read(self.send(request).await?).await };
        tokio::time::timeout(PATIENCE, reply)
            .await
            .context("no complete response in time")?
    }

    /// Sends a request and gives the response once its head is there. The request is in origin
    /// form with a Host header, as [`request`] makes it; HTTP/2 gets it in its own form.
    pub async fn send(&mut self, mut request: Request<Body>) -> Result<Response<Incoming>> {
        Ok(match self {
            Self::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Two(sender) => {
                let host = request
                    .headers_mut()
                    .remove("host")
                    .context("no Host header")?;
                let path = request
                    .uri()
                    .path_and_query()
                    .map_or("/", |path| path.as_str());
                let uri = Uri::builder().scheme("http").authority(host.as_bytes());
                *request.uri_mut() = uri.path_and_query(path).build()?;
                *request.version_mut() = http::Version::HTTP_2;
                sender.ready().await?;
                sender.send_request(request).await?
            }
        })
    }

    /// True once the other end has closed the connection, or said that it will.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_closed(),
            Self::Two(sender) => sender.is_closed(),
        }
    }
}

/// The head of a request to `path` at `host`.
pub fn request(method: &str, host: &str, path: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", host)
}

impl Reply {
    /// Reads a response to its end.
    pub async fn read(response: Response<Incoming>) -> Result<Self> {
        let (head, body) = response.into_parts();
        let body = body
            .collect()
            .await
            .context("in the body of the response")?;
        let trailers = body.trailers().cloned();
        let (status, headers) = (head.status.as_u16(), head.headers);
        Ok(Self {
            status,
            headers,
            body: body.to_bytes(),
            trailers,
        })
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What the echo server saw.
    pub fn seen(&self) -> Result<Seen> {
        let value = serde_json::from_slice(&self.body);
        Ok(Seen(value.with_context(|| {
            format!("{}: not an echo: {}", self.status, self.text())
        })?))
    }
}

/// What an echo server saw of a request.
#[derive(Debug)]
pub struct Seen(pub Value);

impl Seen {
    /// The name of the server.
    pub fn server(&self) -> &str {
        self.0["server"].as_str().unwrap_or_default()
    }

    /// One of its plain fields: `method`, `target`, `version`, `peer`, `local`, `host`.
    pub fn field(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }

    /// How many bytes the body had.
    pub fn body_bytes(&self) -> u64 {
        self.0["body_bytes"].as_u64().unwrap_or_default()
    }

    /// All values of a header, in order; the name in lower case.
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.pairs("headers", name)
    }

    /// All values of a trailer.
    pub fn trailer(&self, name: &str) -> Vec<&str> {
        self.pairs("trailers", name)
    }

    fn pairs(&self, part: &str, name: &str) -> Vec<&str> {
        let pairs = self.0[part].as_array().into_iter().flatten();
        pairs
            .filter(|pair| pair[0] == name)
            .filter_map(|pair| pair[1].as_str())
            .collect()
    }
}
