//! A DestinationRule's client `tls`, `proxyProtocol` and `tunnel` as the data plane has them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::api::destination_rule::{ProxyProtocol, ProxyProtocolVersion, Tls, TlsMode, Tunnel};
use crate::mesh::cluster;
use crate::mesh::origination::{Credentials, Files, Origination};
use crate::types::Hostname;
use crate::wire::proxy_protocol::Version;

/// How endpoints are told whose connection it is.
pub(super) fn greeting(given: ProxyProtocol) -> Version {
    match given.version {
        ProxyProtocolVersion::V1 => Version::One,
        ProxyProtocolVersion::V2 => Version::Two,
    }
}

/// Through whom bytes go, and to whom.
pub(super) fn tunnel(given: &Tunnel) -> Arc<cluster::Tunnel> {
    let host = &given.target_host;
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.clone(),
    };
    Arc::new(cluster::Tunnel {
        posts: given.protocol == "POST",
        target: format!("{host}:{}", given.target_port).into(),
    })
}

/// What `tls` asks for on the way to a cluster; `None` for plain text.
pub(super) fn compile(
    tls: &Tls,
    hostname: &Hostname,
    port: u16,
    subset: Option<&str>,
) -> Option<Arc<Origination>> {
    let given = |text: &str| Some(text).filter(|text| !text.is_empty()).map(Arc::from);
    let path = |text: &str| {
        Some(text)
            .filter(|text| !text.is_empty())
            .map(PathBuf::from)
    };
    let alternatives = tls.subject_alt_names.iter();
    let alternatives = alternatives.map(|name| Arc::from(name.as_str())).collect();
    let (name, credentials) = match tls.mode {
        TlsMode::Disable => return None,
        TlsMode::IstioMutual => {
            // By which a sidecar, or an east-west gateway, knows what is meant (Istio).
            let subset = subset.unwrap_or_default();
            let name = format!("outbound_.{port}_.{subset}_.{hostname}");
            (Some(name.into()), Credentials::Mesh)
        }
        TlsMode::Simple | TlsMode::Mutual if !tls.credential_name.is_empty() => (
            given(&tls.sni),
            Credentials::Unusable("Secrets are not read, and credentialName names one"),
        ),
        TlsMode::Simple | TlsMode::Mutual => {
            let own = path(&tls.client_certificate).zip(path(&tls.private_key));
            let files = Files {
                roots: path(&tls.ca_certificates),
                revoked: path(&tls.ca_crl),
                own: own.filter(|_| tls.mode == TlsMode::Mutual),
                unverified: tls.insecure_skip_verify == Some(true),
            };
            (given(&tls.sni), Credentials::Files(files))
        }
    };
    Some(Arc::new(Origination {
        name,
        alternatives,
        credentials,
    }))
}
