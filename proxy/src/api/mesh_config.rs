//! Istio's MeshConfig, as it lies in the ConfigMap `istio` of the root namespace: of its fields
//! the external authorizers of `extensionProviders`, and
//! `defaultConfig.proxyHeaders.forwardedClientCert`. Trust domains are settings of each proxy, since a
//! ConfigMap that changes must not change who a pod is; what it says of them is told.
//!
//! The fields are those of `mesh/v1alpha1/config.proto`.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use serde::Deserialize;

use super::{Metadata, decode, duration, or_default, schema};
use crate::types::Finding;

/// The ConfigMap's key.
const KEY: &str = "mesh";
/// What `--trust-domain` is where it is not given.
const TRUST_DOMAIN: &str = "cluster.local";
/// The only one there is here.
const ROOT_NAMESPACE: &str = "istio-system";

/// `v1` ConfigMap. Only Istio's is looked into.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ConfigMap {
    /// `metadata`.
    pub metadata: Metadata,
    /// `data`.
    #[serde(default, deserialize_with = "or_default")]
    pub data: BTreeMap<String, String>,
}

/// MeshConfig.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshConfig {
    /// `extensionProviders`.
    #[serde(
        default,
        alias = "extension_providers",
        deserialize_with = "or_default"
    )]
    pub extension_providers: Vec<ExtensionProvider>,
    /// `defaultConfig`.
    #[serde(default, alias = "default_config", deserialize_with = "or_default")]
    pub default_config: ProxyConfig,
    /// `trustDomain`.
    #[serde(default, alias = "trust_domain", deserialize_with = "or_default")]
    pub trust_domain: String,
    /// `trustDomainAliases`.
    #[serde(
        default,
        alias = "trust_domain_aliases",
        deserialize_with = "or_default"
    )]
    pub trust_domain_aliases: Vec<String>,
    /// `rootNamespace`.
    #[serde(default, alias = "root_namespace", deserialize_with = "or_default")]
    pub root_namespace: String,
}

/// `defaultConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyConfig {
    /// `proxyHeaders`.
    #[serde(default, alias = "proxy_headers", deserialize_with = "or_default")]
    pub proxy_headers: ProxyHeaders,
}

/// `proxyHeaders`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyHeaders {
    /// `forwardedClientCert`.
    #[serde(
        default,
        alias = "forwarded_client_cert",
        deserialize_with = "or_default"
    )]
    pub forwarded_client_cert: ForwardedClientCert,
}

/// `forwardedClientCert`: what becomes of `x-forwarded-client-cert`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ForwardedClientCert {
    /// Absent.
    #[default]
    Undefined,
    /// Taken off.
    Sanitize,
    /// Left as it is, from callers with a certificate.
    ForwardOnly,
    /// The same, and the caller's at its end.
    AppendForward,
    /// The caller's alone.
    SanitizeSet,
    /// Left as it is.
    AlwaysForwardOnly,
}

/// One of `extensionProviders`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExtensionProvider {
    /// `name`.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// `envoyExtAuthzHttp`.
    #[serde(default, alias = "envoy_ext_authz_http")]
    pub envoy_ext_authz_http: Option<Authorizer>,
    /// `envoyExtAuthzGrpc`.
    #[serde(default, alias = "envoy_ext_authz_grpc")]
    pub envoy_ext_authz_grpc: Option<Authorizer>,
}

/// `envoyExtAuthzHttp` and `envoyExtAuthzGrpc`. The fields about headers and paths are the former's
/// alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authorizer {
    /// `service`: `[NAMESPACE/]HOST`.
    #[serde(default, deserialize_with = "or_default")]
    pub service: String,
    /// `port` of the service.
    #[serde(default, deserialize_with = "or_default")]
    pub port: u32,
    /// `timeout`; 600 s where absent.
    #[serde(default, deserialize_with = "duration::optional")]
    pub timeout: Option<Duration>,
    /// `pathPrefix`.
    #[serde(default, alias = "path_prefix", deserialize_with = "or_default")]
    pub path_prefix: String,
    /// `failOpen`.
    #[serde(default, alias = "fail_open", deserialize_with = "or_default")]
    pub fail_open: bool,
    /// `clearRouteCache`.
    #[serde(default, alias = "clear_route_cache")]
    pub clear_route_cache: Option<bool>,
    /// `statusOnError`; 403 where absent.
    #[serde(default, alias = "status_on_error", deserialize_with = "or_default")]
    pub status_on_error: String,
    /// `includeRequestHeadersInCheck`.
    #[serde(
        default,
        alias = "include_request_headers_in_check",
        deserialize_with = "or_default"
    )]
    pub include_request_headers_in_check: Vec<String>,
    /// `includeHeadersInCheck`, deprecated.
    #[serde(
        default,
        alias = "include_headers_in_check",
        deserialize_with = "or_default"
    )]
    pub include_headers_in_check: Vec<String>,
    /// `includeAdditionalHeadersInCheck`.
    #[serde(
        default,
        alias = "include_additional_headers_in_check",
        deserialize_with = "or_default"
    )]
    pub include_additional_headers_in_check: BTreeMap<String, String>,
    /// `includeRequestBodyInCheck`.
    #[serde(default, alias = "include_request_body_in_check")]
    pub include_request_body_in_check: Option<RequestBody>,
    /// `headersToUpstreamOnAllow`.
    #[serde(
        default,
        alias = "headers_to_upstream_on_allow",
        deserialize_with = "or_default"
    )]
    pub headers_to_upstream_on_allow: Vec<String>,
    /// `headersToDownstreamOnDeny`.
    #[serde(
        default,
        alias = "headers_to_downstream_on_deny",
        deserialize_with = "or_default"
    )]
    pub headers_to_downstream_on_deny: Vec<String>,
    /// `headersToDownstreamOnAllow`.
    #[serde(
        default,
        alias = "headers_to_downstream_on_allow",
        deserialize_with = "or_default"
    )]
    pub headers_to_downstream_on_allow: Vec<String>,
}

/// `includeRequestBodyInCheck`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestBody {
    /// `maxRequestBytes`.
    #[serde(default, alias = "max_request_bytes", deserialize_with = "or_default")]
    pub max_request_bytes: u32,
    /// `allowPartialMessage`.
    #[serde(
        default,
        alias = "allow_partial_message",
        deserialize_with = "or_default"
    )]
    pub allow_partial_message: bool,
    /// `packAsBytes`.
    #[serde(default, alias = "pack_as_bytes", deserialize_with = "or_default")]
    pub pack_as_bytes: bool,
}

impl ConfigMap {
    /// What Istio's says; nothing where it is another's, or says nothing that can be read.
    pub fn mesh_config(&self) -> MeshConfig {
        self.read(&mut Vec::new()).unwrap_or_default()
    }

    pub(super) fn validate(&self, findings: &mut Vec<Finding>) {
        let Some(config) = self.read(findings) else {
            return;
        };
        config.tell_settings(findings);
        let mut names = HashSet::new();
        for (index, one) in config.extension_providers.iter().enumerate() {
            let field = format!("data.{KEY}.extensionProviders[{index}]");
            if one.name.is_empty() {
                findings.push(Finding::error(
                    format!("{field}.name"),
                    "a provider needs a name",
                ));
            } else if !names.insert(&one.name) {
                findings.push(Finding::warning(
                    format!("{field}.name"),
                    format!("{} is given twice: the first one counts", one.name),
                ));
            }
            one.validate(&field, findings);
        }
    }

    fn read(&self, findings: &mut Vec<Finding>) -> Option<MeshConfig> {
        if &*self.metadata.name != schema::MESH_CONFIG {
            return None;
        }
        decode::text(self.data.get(KEY)?, &format!("data.{KEY}"), findings)
    }
}

impl MeshConfig {
    /// What it says that is a setting here. What is the same without being set is not worth a word:
    /// Istio's own installation writes these down.
    fn tell_settings(&self, findings: &mut Vec<Finding>) {
        let mut tell = |field: &str, message: String| {
            findings.push(Finding::warning(format!("data.{KEY}.{field}"), message));
        };
        if !["", TRUST_DOMAIN].contains(&&*self.trust_domain) {
            let message = format!(
                "is not read: give each proxy, and aquifer ca, --trust-domain {}",
                self.trust_domain
            );
            tell("trustDomain", message);
        }
        if !self.trust_domain_aliases.is_empty() {
            let message = format!(
                "is not read: give each proxy --trust-domain-alias {}",
                self.trust_domain_aliases.join(",")
            );
            tell("trustDomainAliases", message);
        }
        if !["", ROOT_NAMESPACE].contains(&&*self.root_namespace) {
            let message = format!(
                "is not read: {ROOT_NAMESPACE} is the root namespace, and no setting makes it another"
            );
            tell("rootNamespace", message);
        }
    }
}

impl ExtensionProvider {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        match (&self.envoy_ext_authz_http, &self.envoy_ext_authz_grpc) {
            (Some(_), Some(_)) => findings.push(Finding::error(
                field,
                "is one of envoyExtAuthzHttp and envoyExtAuthzGrpc, not both",
            )),
            (Some(one), None) => one.validate(&format!("{field}.envoyExtAuthzHttp"), findings),
            (None, Some(one)) => {
                let field = format!("{field}.envoyExtAuthzGrpc");
                one.validate(&field, findings);
                if !one.has_grpc_fields_alone() {
                    let message = "fields about headers and paths are those of envoyExtAuthzHttp: \
                                   they have no effect here";
                    findings.push(Finding::warning(field, message));
                }
            }
            // Of logs, traces and metrics, which are not read.
            (None, None) => {}
        }
    }
}

impl Authorizer {
    fn has_grpc_fields_alone(&self) -> bool {
        self.path_prefix.is_empty()
            && self.include_request_headers_in_check.is_empty()
            && self.include_headers_in_check.is_empty()
            && self.include_additional_headers_in_check.is_empty()
            && self.headers_to_upstream_on_allow.is_empty()
            && self.headers_to_downstream_on_allow.is_empty()
            && self.headers_to_downstream_on_deny.is_empty()
    }

    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        let at = |name: &str| format!("{field}.{name}");
        let host = self.service.rsplit('/').next().unwrap_or_default();
        if host.is_empty() || host.contains('*') {
            findings.push(Finding::error(
                at("service"),
                "must be [NAMESPACE/]HOST, without a wildcard",
            ));
        }
        if !(1..=65_535).contains(&self.port) {
            findings.push(Finding::error(
                at("port"),
                "a port is a number from 1 to 65535",
            ));
        }
        duration::check(self.timeout, &at("timeout"), findings);
        if !self.path_prefix.is_empty() && !self.path_prefix.starts_with('/') {
            findings.push(Finding::error(at("pathPrefix"), "must begin with /"));
        }
        let status = self.status_on_error.parse::<u16>();
        if !self.status_on_error.is_empty()
            && !status.is_ok_and(|status| (200..=599).contains(&status))
        {
            findings.push(Finding::error(
                at("statusOnError"),
                format!("{:?} is no status of HTTP", self.status_on_error),
            ));
        }
        for (name, value) in &self.include_additional_headers_in_check {
            if HeaderName::from_bytes(name.as_bytes()).is_err()
                || HeaderValue::from_str(value).is_err()
            {
                findings.push(Finding::error(
                    at("includeAdditionalHeadersInCheck"),
                    format!("{name:?} with {value:?} is no header"),
                ));
            }
        }
        if let Some(body) = &self.include_request_body_in_check
            && !(1..=MOST_BODY).contains(&body.max_request_bytes)
        {
            findings.push(Finding::error(
                at("includeRequestBodyInCheck.maxRequestBytes"),
                format!("must be from 1 to {MOST_BODY}"),
            ));
        }
        if self.clear_route_cache == Some(true) {
            findings.push(Finding::info(
                at("clearRouteCache"),
                "has no effect: it is asked at the destination, where nothing is routed any more",
            ));
        }
    }
}

/// The most of a body that is kept for a check, in bytes.
pub const MOST_BODY: u32 = 1 << 20;
