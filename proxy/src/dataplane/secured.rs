//! TLS of the proxy's own with an endpoint, as a DestinationRule asks for it, over whatever leads there.
//!
//! To a pod of the mesh `ISTIO_MUTUAL` is what HBONE does already; any other mode is between the
//! client's side and the application, inside of it (Istio). Where TLS can't be had there is no
//! connection: there is no way back to plain text. One that is open is cut as soon as nobody who is
//! trusted vouches for its server any more.

mod stream;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt as _;
use http::header::HOST;
use http::request;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

pub(super) use self::stream::{Secured, Stream};
use super::cluster::{Local, Shown};
use super::error::Error;
use super::hbone::client::Behalf;
use super::pod::LocalPod;
use super::standing::{Rule, Standing};
use super::upstream::{self, Greeting, Own, Upstream};
use super::way;
use super::worker::Worker;
use crate::mesh::cluster::Tcp;
use crate::mesh::origination::{Credentials, Origination};
use crate::net::ahead::Ahead;
use crate::tls::Peer;
use crate::types::Identity;
use crate::types::name::without_port;

/// What a connection is for: it decides what is offered by ALPN, and by which name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Speech<'a> {
    /// Bytes that nobody looks at.
    Bytes,
    /// Requests, to this host where the name depends on it.
    Http1(Option<&'a str>),
    /// Requests by HTTP/2.
    Http2(Option<&'a str>),
}

/// What is asked for.
pub(super) struct Asked<'a> {
    pub(super) cluster: &'a Local,
    pub(super) settings: &'a Arc<Origination>,
    pub(super) tcp: &'a Tcp,
    pub(super) speech: Speech<'a>,
    pub(super) behalf: Behalf<'a>,
    pub(super) greeting: Greeting,
}

/// The host that a request names, by which TLS is asked for where no rule gives a name.
pub(super) fn host(parts: &request::Parts) -> Rc<str> {
    let authority = match parts.headers.get(HOST) {
        Some(host) => host.to_str().unwrap_or_default(),
        None => parts.uri.authority().map_or("", |one| one.as_str()),
    };
    without_port(authority).to_ascii_lowercase().into()
}

/// Connects, TLS included, within the time that the policy gives.
pub(super) async fn connect(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    to: SocketAddr,
    asked: Asked<'_>,
) -> Result<Upstream, Error> {
    let connected = tokio::time::timeout(asked.tcp.connect_timeout, open(worker, pod, to, &asked));
    connected.await.unwrap_or(Err(Error::ConnectTimeout))
}

async fn open(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    to: SocketAddr,
    asked: &Asked<'_>,
) -> Result<Upstream, Error> {
    let settings = asked.settings;
    let is_mesh = settings.credentials == Credentials::Mesh;
    if is_mesh && way::is_in_mesh(worker, to) {
        return lead(worker, pod, to, asked).await;
    }
    let changes = match is_mesh {
        true => worker.secrets.subscribe(),
        false => worker.outside.subscribe(),
    };
    let (config, shown) = match &settings.credentials {
        Credentials::Mesh => {
            // First: a certificate that is newer is noticed later, one that is older would not be.
            let shown = shown(worker, pod, settings);
            (sidecar(worker, pod, to, settings)?, shown)
        }
        Credentials::Files(_) => {
            let loaded = worker.outside.loaded(settings).await.map_err(Error::Tls)?;
            (Arc::clone(&loaded.config), Some(Arc::clone(&loaded.shown)))
        }
        Credentials::Unusable(why) => return Err(failed(why)),
    };
    asked.cluster.shows(shown);
    let name = name(asked, to)?;
    let stream = lead(worker, pod, to, asked).await?;
    worker.counters.upstream_cx_tls.increment();
    let connected = TlsConnector::from(config)
        .with_alpn(protocols(asked.speech, is_mesh))
        .connect(name, Ahead::new(stream))
        .await;
    let stream = connected.map_err(|error| {
        worker.counters.upstream_cx_tls_fail.increment();
        worker.counters.upstream_cx_connect_fail.increment();
        Error::Tls(reason(&error).into())
    })?;
    let session = stream.get_ref().1;
    let mut standing = match is_mesh {
        true => Standing::in_mesh((&worker.secrets, changes), Peer::Server, session),
        false => {
            let rule = Rule {
                worker: Rc::clone(worker),
                pod: Rc::clone(pod),
                cluster: asked.cluster.state.name.clone(),
                settings: Arc::clone(settings),
            };
            Standing::outside((rule, changes), session)
        }
    };
    // What has changed during the handshake counts before anything is said.
    if let Some(reason) = standing.withdrawn().now_or_never() {
        worker.counters.upstream_cx_tls_fail.increment();
        worker.counters.upstream_cx_connect_fail.increment();
        return Err(failed(&reason));
    }
    let secured = Secured::new(worker, pod, to, stream, standing);
    Ok(Upstream::Secured(Own::new(Box::new(secured))))
}

/// What new connections by these settings show; `None` where there can be none.
pub(super) fn shown(worker: &Worker, pod: &LocalPod, settings: &Arc<Origination>) -> Option<Shown> {
    match &settings.credentials {
        Credentials::Mesh => {
            let own = pod.identity(worker).ok()?;
            Some(worker.secrets.credential(&own)?.chain().into())
        }
        Credentials::Files(_) => {
            let loaded = worker.outside.known(settings)?.ok()?;
            Some(Arc::clone(&loaded.shown))
        }
        Credentials::Unusable(_) => None,
    }
}

/// What TLS is to run over.
async fn lead(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    to: SocketAddr,
    asked: &Asked<'_>,
) -> Result<Upstream, Error> {
    upstream::transport(worker, pod, to, asked.tcp, asked.behalf, asked.greeting).await
}

fn failed(why: &str) -> Error {
    Error::Tls(why.into())
}

/// Istio's own mutual TLS, as its sidecars speak it: with the pod's certificate, to the workload that
/// has the address or to whom the rule names.
fn sidecar(
    worker: &Worker,
    pod: &LocalPod,
    to: SocketAddr,
    settings: &Origination,
) -> Result<Arc<ClientConfig>, Error> {
    let own = pod.identity(worker);
    let own = own.map_err(|error| failed(&error.to_string()))?;
    let expected: Arc<[Identity]> = if settings.alternatives.is_empty() {
        let found = way::workload(worker, to).map(|one| way::identities(worker, &one));
        found.and_then(Result::ok).unwrap_or_default()
    } else {
        let named = settings.alternatives.iter();
        named.filter_map(|name| name.parse().ok()).collect()
    };
    if expected.is_empty() {
        return Err(failed(
            "nobody knows whose certificate to expect: no pod has the address, and subjectAltNames \
             names no workload",
        ));
    }
    let config = worker.secrets.sidecar(&own, &expected);
    config.ok_or_else(|| failed(&format!("there is no certificate for {own}")))
}

/// The name that is sent, and that is looked for where the rule names no other.
fn name(asked: &Asked<'_>, to: SocketAddr) -> Result<ServerName<'static>, Error> {
    let settings = asked.settings;
    let (host, from) = match (&settings.name, asked.speech) {
        (Some(name), _) => (name.to_string(), "sni"),
        (None, Speech::Http1(Some(host)) | Speech::Http2(Some(host))) => {
            (host.to_owned(), "the request's host")
        }
        (None, _) => {
            let host = asked.cluster.members().cluster.hostname.to_string();
            (host, "the service's host")
        }
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(address.into());
    }
    match ServerName::try_from(bare.trim_end_matches('.').to_owned()) {
        Ok(name) => Ok(name),
        // It is neither sent nor looked for.
        Err(_) if !needs_name(settings) => Ok(to.ip().into()),
        Err(_) => Err(failed(&format!("{from} {host:?} can't be a server's name"))),
    }
}

fn needs_name(settings: &Origination) -> bool {
    match &settings.credentials {
        Credentials::Files(files) => !files.unverified && settings.alternatives.is_empty(),
        Credentials::Mesh | Credentials::Unusable(_) => false,
    }
}

/// What is offered by ALPN (Envoy's, and that of Istio's own filter for its sidecars; without
/// `istio-peer-exchange`, after which bytes of another protocol would be due).
fn protocols(speech: Speech<'_>, is_mesh: bool) -> Vec<Vec<u8>> {
    let names: &[&str] = match (speech, is_mesh) {
        (Speech::Bytes, false) => &[],
        (Speech::Http1(_), false) => &["http/1.1"],
        (Speech::Http2(_), false) => &["h2"],
        (Speech::Bytes, true) => &["istio"],
        (Speech::Http1(_), true) => &["istio-http/1.1", "istio", "http/1.1"],
        (Speech::Http2(_), true) => &["istio-h2", "istio", "h2"],
    };
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// Why a handshake has failed, in one line that has what people grep for.
fn reason(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(error @ rustls::Error::InvalidCertificate(_)) => {
            format!("CERTIFICATE_VERIFY_FAILED:{}", crate::tls::reason(error))
        }
        Some(error) => crate::tls::reason(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server closed the connection during the handshake".to_owned()
        }
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecars_are_offered_istios_protocols_and_others_the_plain_ones() {
        for (speech, is_mesh, expected) in [
            (Speech::Bytes, false, ""),
            (Speech::Http1(None), false, "http/1.1"),
            (Speech::Http2(None), false, "h2"),
            (Speech::Bytes, true, "istio"),
            (Speech::Http1(None), true, "istio-http/1.1,istio,http/1.1"),
            (Speech::Http2(None), true, "istio-h2,istio,h2"),
        ] {
            let found = protocols(speech, is_mesh).join(&b',');
            assert_eq!(String::from_utf8_lossy(&found), expected);
        }
    }

    #[test]
    fn reasons_say_what_was_refused() {
        let certificate = rustls::Error::from(rustls::CertificateError::Expired);
        let refused = io::Error::new(io::ErrorKind::InvalidData, certificate);
        assert!(
            reason(&refused).starts_with("CERTIFICATE_VERIFY_FAILED:"),
            "{refused}"
        );
        let closed = io::ErrorKind::UnexpectedEof.into();
        assert!(reason(&closed).contains("closed the connection"));
    }
}
