//! Keys out of a URL: over HTTP or HTTPS, with bounds on time, size and redirections.
//!
//! The URL is given by whoever writes the configuration, the answer by whoever is there: nothing in
//! it is believed but keys.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, HeaderValue, LOCATION, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::mesh::Snapshot;
use crate::policy::jwt::{Keys, Location, NotKeys, Origin};
use crate::tls::outside::Limits;
use crate::tls::{self, service};
use crate::types::ClusterName;

/// The largest answer, in bytes.
const LARGEST: usize = 1 << 20;
/// The largest head of an answer, in bytes.
const HEAD: usize = 64 * 1024;
/// Redirections that are followed.
const REDIRECTIONS: usize = 3;
/// The longest that one fetch may take, whatever its rule says: others wait for its place.
const LONGEST: Duration = Duration::from_secs(60);
/// How long opening a connection to one of several addresses may take.
const ADDRESS: Duration = Duration::from_secs(2);

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It is not a URL that can be asked.
    #[error("{0:?} is not an http or https URL")]
    Url(String),
    /// Nobody is there.
    #[error("{host}: {problem}")]
    Unreachable {
        /// Host and port.
        host: String,
        /// What was met.
        problem: String,
    },
    /// The roots that servers are checked by can't be read.
    #[error("roots: {0}")]
    Roots(String),
    /// It took too long.
    #[error("no complete answer within {0:?}")]
    Silent(Duration),
    /// It says no.
    #[error("it answers {0}")]
    Refused(StatusCode),
    /// It sends elsewhere, too often or to what is not protected any more.
    #[error("it sends on to {0:?}, where nobody follows")]
    Redirected(String),
    /// It is too large.
    #[error("its answer is larger than {LARGEST} bytes")]
    TooLarge,
    /// The answer broke off.
    #[error("its answer can't be read: {0}")]
    Broken(String),
    /// It is no OpenID configuration of that issuer.
    #[error("no OpenID configuration: {0}")]
    Configuration(String),
    /// It is no key set.
    #[error(transparent)]
    Keys(#[from] NotKeys),
}

/// Fetches keys.
#[derive(Debug)]
pub struct Fetcher {
    limits: Limits,
}

/// What is read of an issuer's configuration (OpenID Connect Discovery, section 3).
#[derive(Deserialize)]
struct Configuration {
    issuer: Option<String>,
    jwks_uri: String,
}

/// A URL, taken apart.
struct Target {
    secure: bool,
    host: String,
    port: u16,
    uri: Uri,
}

impl Fetcher {
    /// Checks servers by the system's roots, as `limits` say where these are.
    pub fn new(limits: Limits) -> Self {
        Self { limits }
    }

    /// Fetches the keys from `origin`. A host that is a Service of the mesh is asked at one of its
    /// pods, whether or not this node's resolver knows it.
    ///
    /// # Errors
    /// Where there are none.
    pub async fn fetch(&self, origin: &Origin, mesh: &Snapshot) -> Result<Keys, Failure> {
        let work = async {
            let first = self.get(&origin.location.to_string(), mesh).await?;
            let set = match &origin.location {
                Location::Keys(_) => first,
                Location::Issuer(issuer) => {
                    let wrong = |problem: String| Failure::Configuration(problem);
                    let found: Configuration =
                        serde_json::from_slice(&first).map_err(|error| wrong(error.to_string()))?;
                    // Section 4.3: they must be the same.
                    if let Some(other) = found.issuer.filter(|one| **one != **issuer) {
                        return Err(wrong(format!("it is that of the issuer {other:?}")));
                    }
                    let (own, next) = (Target::of(issuer)?, Target::of(&found.jwks_uri)?);
                    if own.secure && !next.secure {
                        return Err(Failure::Redirected(found.jwks_uri));
                    }
                    self.get(&found.jwks_uri, mesh).await?
                }
            };
            Ok(Keys::read(&set)?)
        };
        let patience = origin.timeout.min(LONGEST);
        let done = timeout(patience, work).await;
        done.map_err(|_| Failure::Silent(patience))?
    }

    async fn get(&self, url: &str, mesh: &Snapshot) -> Result<Bytes, Failure> {
        let mut target = Target::of(url)?;
        for _ in 0..=REDIRECTIONS {
            let stream = target.connect(mesh).await?;
            let answer = if target.secure {
                let name = ServerName::try_from(target.host.clone());
                let name = name.map_err(|_| Failure::Url(url.to_owned()))?;
                let connected = self.connector()?.connect(name, stream).await;
                target
                    .ask(connected.map_err(|error| target.unreachable(shown(&error)))?)
                    .await?
            } else {
                target.ask(stream).await?
            };
            match answer {
                Answer::Body(body) => return Ok(body),
                Answer::Elsewhere(place) => {
                    let next = target.next(&place);
                    target = next.ok_or(Failure::Redirected(place))?;
                }
            }
        }
        Err(Failure::Redirected(target.uri.to_string()))
    }

    fn connector(&self) -> Result<TlsConnector, Failure> {
        let roots = self.limits.system_roots().map_err(Failure::Roots)?;
        let config = service::web_client(roots);
        Ok(config
            .map_err(|error| Failure::Roots(error.to_string()))?
            .into())
    }
}

/// What was answered.
enum Answer {
    Body(Bytes),
    Elsewhere(String),
}

impl Target {
    fn of(url: &str) -> Result<Self, Failure> {
        let wrong = || Failure::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(wrong());
        }
        let host = authority.host();
        let bare = host
            .strip_prefix('[')
            .map_or(host, |rest| rest.trim_end_matches(']'));
        Ok(Self {
            secure,
            host: bare.to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if secure { 443 } else { 80 }),
            uri,
        })
    }

    /// Where a redirection leads: to another place at this host, or to another host by HTTPS, which
    /// proves who it is. Never from HTTPS to HTTP.
    fn next(&self, place: &str) -> Option<Self> {
        let next = if place.starts_with('/') && !place.starts_with("//") {
            let authority = self.uri.authority()?;
            let scheme = self.uri.scheme_str()?;
            Self::of(&format!("{scheme}://{authority}{place}")).ok()?
        } else {
            Self::of(place).ok()?
        };
        let same = next.host.eq_ignore_ascii_case(&self.host);
        (next.secure || (same && !self.secure)).then_some(next)
    }

    fn unreachable(&self, problem: impl Into<String>) -> Failure {
        Failure::Unreachable {
            host: format!("{}:{}", self.host, self.port),
            problem: problem.into(),
        }
    }

    async fn connect(&self, mesh: &Snapshot) -> Result<TcpStream, Failure> {
        let addresses: Vec<SocketAddr> = match pods(mesh, &self.host, self.port) {
            Some(pods) => pods,
            None => {
                let found = lookup_host((self.host.as_str(), self.port)).await;
                let found = found.map_err(|error| self.unreachable(error.to_string()))?;
                found.collect()
            }
        };
        let mut problem = "there is no address that it has".to_owned();
        for address in addresses {
            match timeout(ADDRESS, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => problem = format!("{address}: {error}"),
                Err(_) => problem = format!("{address}: no answer within {ADDRESS:?}"),
            }
        }
        Err(self.unreachable(problem))
    }

    async fn ask<S>(&self, stream: S) -> Result<Answer, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |error: hyper::Error| Failure::Broken(error.to_string());
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let driven = tokio::spawn(async move {
            // Its error also comes out of the request.
            let _ = connection.await;
        });
        let driven = Ended(driven.abort_handle());
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self.uri.authority().map(|one| one.as_str());
        let request = Request::get(path)
            .header(HOST, host.unwrap_or_default())
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .header(USER_AGENT, HeaderValue::from_static("aquifer"))
            .body(Empty::<Bytes>::new())
            .map_err(|error| Failure::Broken(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        if status.is_redirection()
            && let Some(place) = response.headers().get(LOCATION)
        {
            let place = String::from_utf8_lossy(place.as_bytes()).into_owned();
            return Ok(Answer::Elsewhere(place));
        }
        if status != StatusCode::OK {
            return Err(Failure::Refused(status));
        }
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        drop(driven);
        match body {
            Ok(body) => Ok(Answer::Body(body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(Failure::TooLarge),
            Err(error) => Err(Failure::Broken(error.to_string())),
        }
    }
}

/// Ends a connection that nobody waits for any more.
struct Ended(tokio::task::AbortHandle);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The ready pods of the Service that `host` names in full (`NAME.NAMESPACE.svc[.DOMAIN]`); `None`
/// where it names none.
fn pods(mesh: &Snapshot, host: &str, port: u16) -> Option<Vec<SocketAddr>> {
    if !host.contains(".svc") {
        return None;
    }
    let (service, _) = mesh.host(host, "", port)?;
    let cluster = mesh.cluster(&ClusterName::outbound(port, None, &service.hostname))?;
    let ready = cluster.endpoints.iter().filter(|one| one.ready);
    Some(ready.map(|one| one.address).collect())
}

/// What rustls has said, in one line.
fn shown(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let reason = inner.map_or_else(|| error.to_string(), tls::reason);
    format!("TLS: {reason}")
}
