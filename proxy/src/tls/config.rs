//! rustls configurations of HBONE: TLS 1.3, both sides show a certificate, no connection is resumed.
//!
//! No resumption, because a resumed session would keep a trust that was taken away, and a pooled
//! connection lives long enough not to need it.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ServerConfig};

use super::provider::Clock;
use super::verify::{Servers, clients};
use super::{Credential, Error, Trust, provider};
use crate::types::Identity;

/// For connections of a workload to one of `expected` by Istio's own mutual TLS, as its sidecars speak
/// it: the name and the protocols are given where the connection is made.
pub(super) fn sidecar(
    credential: &Credential,
    trust: &Trust,
    expected: &[Identity],
) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::clone(&*client(credential, trust, expected)?);
    config.alpn_protocols.clear();
    config.enable_sni = true;
    Ok(Arc::new(config))
}

/// HTTP/2, the only protocol inside.
const ALPN: &[u8] = b"h2";

/// For connections to a workload. A client that offers other protocols alone is refused; one that
/// offers none is taken, as ztunnel does.
pub(super) fn server(credential: &Credential, trust: &Trust) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_details(Arc::clone(provider()), Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::Config)?
        .with_client_cert_verifier(clients(trust))
        .with_cert_resolver(Arc::clone(credential.shown()) as _);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For connections of a workload to one of `expected`.
pub(super) fn client(
    credential: &Credential,
    trust: &Trust,
    expected: &[Identity],
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = Servers {
        trust: trust.clone(),
        expected: expected.into(),
    };
    let mut config = ClientConfig::builder_with_details(Arc::clone(provider()), Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::Config)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::clone(credential.shown()) as _);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}
