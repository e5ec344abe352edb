//! An authority that speaks Istio's protocol: istiod, or `aquifer ca`.
//!
//! Asked over one HTTP/2 connection, which lives as long as there are requests on it. Its file of
//! roots and the token's file are read anew, since both are replaced while the proxy runs.
//!
//! That file of roots is, at istiod and at `aquifer ca`, the mesh's too. It is no source of trust, since
//! it may as well have the roots of the web; but a root that is taken out of it is meant to be trusted no
//! more, and whoever changes it has something to say that the authority should be asked for.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Uri, header::AUTHORIZATION};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Authority, Failure, News, Signed};
use crate::proto::ca::{
    CLUSTER_ID, CREATE_CERTIFICATE, CertificateRequest, CertificateResponse, IMPERSONATED_IDENTITY,
};
use crate::proto::grpc::client::{self, Call, Sender, call};
use crate::proto::grpc::{Code, Status};
use crate::proto::structure::Struct;
use crate::tls::{self, Bundle, Facts, Request, service};
use crate::types::Identity;

mod address;
pub use address::Address;

/// How long opening a connection may take, to one address and in all.
const ADDRESS: Duration = Duration::from_secs(2);
const OPENING: Duration = Duration::from_secs(5);
/// How long an answer may take once there is a connection. The driver has the last word.
const PATIENCE: Duration = Duration::from_secs(8);
/// The largest answer, in bytes: certificates of a chain, and roots.
const LARGEST: usize = 512 * 1024;
/// The largest head of an answer, in bytes.
const HEADERS: u32 = 16 * 1024;
/// The largest file that is read, in bytes.
const FILE: u64 = 1 << 20;

/// Everything it is asked by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it is.
    pub address: Address,
    /// The name in its certificate, where that is not the address's host.
    pub name: Option<String>,
    /// File of the token that shows who we are.
    pub token: PathBuf,
    /// File of the roots by which its certificate is checked (PEM).
    pub roots: PathBuf,
    /// This cluster's name, as istiod knows it.
    pub cluster: Option<String>,
    /// How long certificates are to hold.
    pub life: Duration,
}

/// The client.
#[derive(Debug)]
pub struct Istio {
    settings: Settings,
    uri: Uri,
    name: ServerName<'static>,
    cluster: Option<HeaderValue>,
    open: Mutex<Weak<Connection>>,
    followed: std::sync::Mutex<Followed>,
    /// How often the roots have changed: what was opened by others is not asked any more.
    era: AtomicU64,
}

/// The file of roots, and what it has had so far.
#[derive(Debug)]
struct Followed {
    file: Bundle,
    ever: Vec<CertificateDer<'static>>,
}

/// An open connection; closed when its last request is done with it.
#[derive(Debug)]
struct Connection {
    sender: Sender,
    driven: AbortHandle,
    era: u64,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driven.abort();
    }
}

impl Istio {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// Where a file can't be read or used, or a name is none: what would never come right by itself.
    /// A token that is not there yet may still come.
    pub fn new(settings: Settings) -> Result<Self, Failure> {
        let Address { host, port } = &settings.address;
        let wrong = |problem: &str| Failure::Unasked(problem.to_owned());
        let name = settings.name.as_ref().unwrap_or(host).clone();
        let name = ServerName::try_from(name).map_err(|_| wrong("its name is none"))?;
        let authority = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let uri = Uri::builder().scheme("https").authority(authority);
        let uri = uri.path_and_query(CREATE_CERTIFICATE).build();
        let cluster = settings.cluster.as_deref().map(HeaderValue::from_str);
        let file = Bundle::open(&settings.roots);
        let file = file.map_err(|error| Failure::Unasked(error.to_string()))?;
        let istio = Self {
            followed: std::sync::Mutex::new(Followed {
                ever: file.roots().to_vec(),
                file,
            }),
            era: AtomicU64::new(0),
            uri: uri.map_err(|_| wrong("its address is none"))?,
            name,
            cluster: cluster
                .transpose()
                .map_err(|_| wrong("the cluster's name can't be sent"))?,
            settings,
            open: Mutex::default(),
        };
        istio.connector()?;
        Ok(istio)
    }

    async fn ask(&self, identity: &Identity, request: &Request) -> Result<Signed, Failure> {
        let metadata = self.metadata()?;
        let connection = self.connection().await?;
        let message = CertificateRequest {
            csr: request.pem.clone(),
            validity_duration: i64::try_from(self.settings.life.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(Struct {
                fields: [(
                    IMPERSONATED_IDENTITY.to_owned(),
                    identity.to_string().into(),
                )]
                .into(),
            }),
        };
        let asked = Call {
            uri: self.uri.clone(),
            metadata,
            patience: PATIENCE,
            limit: LARGEST,
        };
        let mut sender = connection.sender.clone();
        let answer = timeout(
            PATIENCE,
            call::<CertificateResponse>(&mut sender, asked, &message),
        );
        let answer = answer.await.map_err(|_| Failure::Silent(PATIENCE))?;
        read(&answer.map_err(failure)?)
    }

    /// The token, read anew: the kubelet replaces it long before it expires.
    fn metadata(&self) -> Result<HeaderMap, Failure> {
        let path = &self.settings.token;
        let wrong = |problem: &str| Failure::Unasked(format!("{}: {problem}", path.display()));
        let token = file(path)?;
        let token = token.trim();
        if token.is_empty() {
            return Err(wrong("there is no token in it"));
        }
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| wrong("what is in it is no token"))?;
        bearer.set_sensitive(true);
        let mut metadata = HeaderMap::new();
        metadata.insert(AUTHORIZATION, bearer);
        if let Some(cluster) = &self.cluster {
            metadata.insert(CLUSTER_ID, cluster.clone());
        }
        Ok(metadata)
    }

    /// The open connection, or a new one. Whoever comes meanwhile waits for it.
    async fn connection(&self) -> Result<Arc<Connection>, Failure> {
        let mut open = self.open.lock().await;
        // Before the roots are read by which a new one is checked.
        let era = self.era.load(Ordering::Acquire);
        if let Some(connection) = open.upgrade()
            && !connection.sender.is_closed()
            && connection.era == era
        {
            return Ok(connection);
        }
        let connector = self.connector()?;
        let Address { host, port } = &self.settings.address;
        let opened = timeout(OPENING, self.connect(connector, era)).await;
        let opened = opened.unwrap_or_else(|_| Err(format!("not within {OPENING:?}")));
        let connection =
            opened.map_err(|problem| Failure::Unreachable(format!("{host}:{port}: {problem}")))?;
        let connection = Arc::new(connection);
        *open = Arc::downgrade(&connection);
        Ok(connection)
    }

    fn connector(&self) -> Result<TlsConnector, Failure> {
        let path = &self.settings.roots;
        let wrong = |error: tls::Error| Failure::Unasked(format!("{}: {error}", path.display()));
        let roots = tls::certificates(&file(path)?).map_err(wrong)?;
        Ok(service::client(&roots).map_err(wrong)?.into())
    }

    async fn connect(&self, connector: TlsConnector, era: u64) -> Result<Connection, String> {
        let Address { host, port } = &self.settings.address;
        let told = |error: std::io::Error| error.to_string();
        let mut problem = "its name has no address".to_owned();
        for address in lookup_host((host.as_str(), *port)).await.map_err(told)? {
            let stream = match timeout(ADDRESS, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    problem = format!("{address}: {error}");
                    continue;
                }
                Err(_) => {
                    problem = format!("{address}: no answer within {ADDRESS:?}");
                    continue;
                }
            };
            let stream = connector.connect(self.name.clone(), stream).await;
            let stream = stream.map_err(|error| format!("TLS: {}", shown(&error)))?;
            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                return Err("TLS: it does not speak HTTP/2 (ALPN)".to_owned());
            }
            let (sender, connection) =
                hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .max_header_list_size(HEADERS)
                    .handshake(TokioIo::new(stream))
                    .await
                    .map_err(|error| error.to_string())?;
            let driven = tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "the connection to the authority ended");
                }
            });
            return Ok(Connection {
                sender,
                driven: driven.abort_handle(),
                era,
            });
        }
        Err(problem)
    }
}

impl Authority for Istio {
    fn sign<'a>(
        &'a self,
        identity: &'a Identity,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Signed, Failure>> {
        Box::pin(self.ask(identity, request))
    }

    fn look(&self) -> Option<News> {
        let followed = &mut *self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        match followed.file.look() {
            Ok(false) => return None,
            Ok(true) => {}
            Err(error) => {
                tracing::error!(%error, "--ca-roots: nobody loses trust by this");
                return None;
            }
        }
        self.era.fetch_add(1, Ordering::AcqRel);
        let Followed { file, ever } = followed;
        for root in file.roots() {
            if !ever.contains(root) {
                ever.push(root.clone());
            }
        }
        let gone = ever.iter().filter(|root| !file.roots().contains(root));
        let withdrawn: Vec<_> = gone.cloned().collect();
        tracing::info!(
            roots = file.roots().len(),
            withdrawn = withdrawn.len(),
            "--ca-roots has changed: the authority is asked anew"
        );
        Some(News::Others { withdrawn })
    }

    fn name(&self) -> String {
        let authority = self.uri.authority().map(ToString::to_string);
        format!("https://{}", authority.unwrap_or_default())
    }
}

/// Takes an answer apart. The first element has the workload's certificate. Of the others what is
/// signed by itself is a root; where nothing is, the last element has them: older istiods put all
/// roots there, newer ones each into an element of its own, and a root may be one that another
/// authority has signed.
pub(super) fn read(answer: &CertificateResponse) -> Result<Signed, Failure> {
    let nonsense = |problem: &str| Failure::Nonsense(problem.to_owned());
    let mut all: Vec<(usize, CertificateDer<'static>)> = Vec::new();
    for (index, text) in answer.cert_chain.iter().enumerate() {
        let found =
            tls::certificates(text).map_err(|error| Failure::Nonsense(error.to_string()))?;
        all.extend(found.into_iter().map(|one| (index, one)));
        if all.len() > tls::MAX_CHAIN + tls::MAX_ROOTS {
            return Err(nonsense("it has too many certificates"));
        }
    }
    let mut all = all.into_iter();
    let Some((0, leaf)) = all.next() else {
        return Err(nonsense("it has no certificate"));
    };
    let others: Vec<_> = all.collect();
    let is_root = |one: &CertificateDer<'_>| Facts::of(one).is_some_and(|facts| facts.self_signed);
    let (mut roots, mut between): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|(_, one)| is_root(one));
    if roots.is_empty()
        && let Some(last) = answer.cert_chain.len().checked_sub(1)
        && last > 0
    {
        (roots, between) = between.into_iter().partition(|(index, _)| *index == last);
    }
    let plain = |all: Vec<(usize, CertificateDer<'static>)>| all.into_iter().map(|(_, one)| one);
    Ok(Signed {
        chain: std::iter::once(leaf).chain(plain(between)).collect(),
        roots: plain(roots).collect(),
    })
}

/// What a call's failure means for who waits.
fn failure(failure: client::Failure) -> Failure {
    match failure {
        client::Failure::Connection(problem) => Failure::Unreachable(problem),
        client::Failure::Status(Status {
            code: Code::DeadlineExceeded,
            ..
        }) => Failure::Silent(PATIENCE),
        client::Failure::Status(status) if status.code == Code::Unavailable => {
            Failure::Unreachable(status.to_string())
        }
        client::Failure::Status(status) => Failure::Refused(status.to_string()),
        nonsense @ (client::Failure::NotGrpc { .. } | client::Failure::Broken(_)) => {
            Failure::Nonsense(nonsense.to_string())
        }
    }
}

/// What rustls has said, in one line.
fn shown(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    inner.map_or_else(|| error.to_string(), tls::reason)
}

fn file(path: &Path) -> Result<String, Failure> {
    let wrong = |error: std::io::Error| Failure::Unasked(format!("{}: {error}", path.display()));
    let mut text = String::new();
    let file = File::open(path).map_err(wrong)?;
    file.take(FILE).read_to_string(&mut text).map_err(wrong)?;
    Ok(text)
}

#[cfg(test)]
mod tests;
