//! TLS of what is no workload: the mesh's certificate authority, which has a host's name and is asked
//! before there is any identity; servers on the web.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::provider::Clock;
use super::{Error, Key, MAX_ROOTS, provider};

const ALPN: &[u8] = b"h2";

/// For the server: TLS 1.3, HTTP/2, nobody is asked for a certificate.
///
/// # Errors
/// Where the certificate is for another key.
pub fn server(chain: Vec<CertificateDer<'static>>, key: &Key) -> Result<Arc<ServerConfig>, Error> {
    let certified = CertifiedKey::new(chain, key.signing()?);
    certified.keys_match().map_err(Error::Config)?;
    let mut config = ServerConfig::builder_with_details(Arc::clone(provider()), Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::Config)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For its clients: TLS 1.3, HTTP/2, the server's name as in any web browser, but these roots alone.
///
/// # Errors
/// Where a root can't be read, or there is none, or too many.
pub fn client(roots: &[CertificateDer<'static>]) -> Result<Arc<ClientConfig>, Error> {
    if roots.is_empty() || roots.len() > MAX_ROOTS {
        let count = roots.len();
        return Err(Error::Pem(format!(
            "{count} certificates, from 1 to {MAX_ROOTS} are wanted"
        )));
    }
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(Error::Config)?;
    }
    let mut config = ClientConfig::builder_with_details(Arc::clone(provider()), Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::Config)?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// For servers on the web: TLS 1.2 or 1.3, HTTP/1.1, the server's name, these roots alone.
///
/// # Errors
/// Where rustls will not have it.
pub fn web_client(roots: RootCertStore) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_details(Arc::clone(provider()), Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(Error::Config)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
