//! What MeshConfig says: its external authorizers, as the data plane asks them, and what applications
//! are told of certificates.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use super::ROOT_NAMESPACE;
use crate::api::mesh_config::{Authorizer, ExtensionProvider, ForwardedClientCert, MeshConfig};
use crate::api::schema::MESH_CONFIG;
use crate::control::store::{Key, Objects};
use crate::mesh::snapshot::Providers;
use crate::policy::client_certificate::Mode;
use crate::policy::external::{Body, Http, Name, Protocol, Provider};
use crate::types::{ClusterName, Hostname};

/// Istio's: as good as for ever for somebody who waits.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Whether the ConfigMap of this name says it.
pub(super) fn is_source((namespace, name): &Key) -> bool {
    **namespace == *ROOT_NAMESPACE && **name == *MESH_CONFIG
}

/// What there is; nothing where there is none.
pub(super) fn mesh_config(objects: &Objects) -> MeshConfig {
    let key: Key = (ROOT_NAMESPACE.into(), MESH_CONFIG.into());
    let map = objects.config_maps.get(&key);
    map.map_or_else(MeshConfig::default, |map| map.mesh_config())
}

/// What applications are told of their callers' certificates.
pub(super) fn client_certificate(config: &MeshConfig) -> Mode {
    match config.default_config.proxy_headers.forwarded_client_cert {
        ForwardedClientCert::Undefined => Mode::default(),
        ForwardedClientCert::Sanitize => Mode::Sanitize,
        ForwardedClientCert::ForwardOnly => Mode::ForwardOnly,
        ForwardedClientCert::AppendForward => Mode::AppendForward,
        ForwardedClientCert::SanitizeSet => Mode::SanitizeSet,
        ForwardedClientCert::AlwaysForwardOnly => Mode::AlwaysForwardOnly,
    }
}

/// All external authorizers that the mesh has.
pub(super) fn all(config: &MeshConfig) -> Providers {
    let mut providers = Providers::default();
    for one in &config.extension_providers {
        if let Some(provider) = compile(one) {
            let name = Arc::clone(&provider.name);
            providers.entry(name).or_insert(Arc::new(provider));
        }
    }
    providers
}

fn compile(source: &ExtensionProvider) -> Option<Provider> {
    let (given, protocol) = match (&source.envoy_ext_authz_http, &source.envoy_ext_authz_grpc) {
        (Some(given), _) => (given, Protocol::Http(http(given))),
        (None, Some(given)) => (given, Protocol::Grpc),
        (None, None) => return None,
    };
    let host = given.service.rsplit('/').next().unwrap_or_default();
    let status = StatusCode::from_bytes(given.status_on_error.as_bytes());
    let body = given.include_request_body_in_check.map(|body| Body {
        most: body.max_request_bytes as usize,
        partial: body.allow_partial_message,
        bytes: body.pack_as_bytes,
    });
    Some(Provider {
        name: source.name.as_str().into(),
        cluster: ClusterName::outbound(u16::try_from(given.port).ok()?, None, &Hostname::new(host)),
        protocol,
        timeout: given.timeout.unwrap_or(TIMEOUT),
        fail_open: given.fail_open,
        status_on_error: status.unwrap_or(StatusCode::FORBIDDEN),
        body,
    })
}

fn http(given: &Authorizer) -> Http {
    let names = |all: &[String]| all.iter().map(|name| Name::new(name)).collect();
    let include = match &given.include_request_headers_in_check[..] {
        [] => &given.include_headers_in_check[..],
        all => all,
    };
    let add = given.include_additional_headers_in_check.iter();
    let add = add.filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(value).ok()?))
    });
    Http {
        path_prefix: given.path_prefix.clone(),
        include: names(include),
        add: add.collect(),
        to_upstream: names(&given.headers_to_upstream_on_allow),
        to_downstream_on_deny: names(&given.headers_to_downstream_on_deny),
        to_downstream_on_allow: names(&given.headers_to_downstream_on_allow),
    }
}
