//! Servers outside the mesh that speak TLS, and who vouches for them.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod stage;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use aquifer_tests::Pod;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Who signs.
pub(crate) struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as text.
pub(crate) struct Signed {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters
            .distinguished_name
            .push(DnType::CommonName, name.to_owned());
        let certificate = parameters.self_signed(&key)?.pem();
        Ok(Self {
            certificate,
            issuer: Issuer::new(parameters, key),
        })
    }

    pub(crate) fn pem(&self) -> &str {
        &self.certificate
    }

    /// For a host or a client of these names.
    pub(crate) fn sign(&self, names: &[&str]) -> Result<Signed> {
        self.sign_with(names, |_| ())
    }

    /// One that has ended.
    pub(crate) fn expired(&self, names: &[&str]) -> Result<Signed> {
        self.sign_with(names, |parameters| {
            parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
            parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
        })
    }

    /// A list of revoked certificates: the one of this number.
    pub(crate) fn revoking(&self, serial: u64) -> Result<String> {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }

    /// For a host of these names, with this serial number.
    pub(crate) fn numbered(&self, names: &[&str], serial: u64) -> Result<Signed> {
        self.sign_with(names, |parameters| {
            parameters.serial_number = Some(SerialNumber::from(serial));
        })
    }

    fn sign_with(
        &self,
        names: &[&str],
        set: impl FnOnce(&mut CertificateParams),
    ) -> Result<Signed> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::default();
        for name in names {
            parameters.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if name.contains("://") => SanType::URI((*name).try_into()?),
                Err(_) => SanType::DnsName((*name).try_into()?),
            });
        }
        set(&mut parameters);
        Ok(Signed {
            certificate: parameters.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

impl Signed {
    /// For a server that shows it. `clients`: who may vouch for its clients, which then must show a
    /// certificate.
    pub(crate) fn server(
        &self,
        clients: Option<&Authority>,
        protocols: &[&str],
    ) -> Result<Arc<ServerConfig>> {
        self.server_trusting(clients.map(Authority::pem), protocols)
    }

    /// The same, `clients` being a root as text.
    pub(crate) fn server_trusting(
        &self,
        clients: Option<&str>,
        protocols: &[&str],
    ) -> Result<Arc<ServerConfig>> {
        self.server_of(rustls::DEFAULT_VERSIONS, clients, protocols)
    }

    /// The same, by these versions of TLS alone.
    pub(crate) fn server_of(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        clients: Option<&str>,
        protocols: &[&str],
    ) -> Result<Arc<ServerConfig>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(root) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(root.as_bytes())?)?;
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build()?)
            }
        };
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = protocols
            .iter()
            .map(|one| one.as_bytes().to_vec())
            .collect();
        Ok(Arc::new(config))
    }

    /// Writes both into a folder, as NAME.crt and NAME.key.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
        let (certificate, key) = (
            folder.join(format!("{name}.crt")),
            folder.join(format!("{name}.key")),
        );
        std::fs::write(&certificate, &self.certificate)?;
        std::fs::write(&key, &self.key)?;
        Ok((certificate, key))
    }
}

/// A running server. Ends on drop, with its connections.
pub(crate) struct Server {
    handshakes: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    /// Runs `script` on each connection whose handshake is complete.
    pub(crate) fn start<F>(
        pod: &Pod,
        port: u16,
        config: Arc<ServerConfig>,
        script: impl Fn(TlsStream<TcpStream>) -> F + Clone + Send + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = pod.netns.listen(SocketAddr::from(([0u16; 8], port)))?;
        let handshakes = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&handshakes);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { continue };
                        let acceptor = TlsAcceptor::from(Arc::clone(&config));
                        let (script, count) = (script.clone(), Arc::clone(&count));
                        connections.spawn(async move {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                count.fetch_add(1, Ordering::Relaxed);
                                script(stream).await;
                            }
                        });
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self { handshakes, task })
    }

    /// Answers requests with what TLS said.
    pub(crate) fn http(pod: &Pod, port: u16, config: Arc<ServerConfig>) -> Result<Self> {
        Self::start(pod, port, config, |stream| async move {
            let said = {
                let session = stream.get_ref().1;
                let protocol = session.alpn_protocol().unwrap_or_default();
                json!({
                    "sni": session.server_name(),
                    "alpn": String::from_utf8_lossy(protocol),
                    "certificates": session.peer_certificates().map_or(0, <[_]>::len),
                })
            };
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let mut said = said.clone();
                said["version"] = json!(format!("{:?}", request.version()));
                async move {
                    let _ = request.into_body().collect().await;
                    Ok::<_, std::convert::Infallible>(Response::new(Full::new(bytes::Bytes::from(
                        said.to_string(),
                    ))))
                }
            });
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        })
    }

    /// Ends it, so that its port is free.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// How many handshakes were complete.
    pub(crate) fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
