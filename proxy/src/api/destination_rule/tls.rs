//! `tls`, `tunnel` and `proxyProtocol`, as they are written.

use serde::Deserialize;

use crate::api::or_default;

/// `tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// `mode`.
    #[serde(default, deserialize_with = "or_default")]
    pub mode: TlsMode,
    /// `clientCertificate`.
    #[serde(default, alias = "client_certificate", deserialize_with = "or_default")]
    pub client_certificate: String,
    /// `privateKey`.
    #[serde(default, alias = "private_key", deserialize_with = "or_default")]
    pub private_key: String,
    /// `caCertificates`.
    #[serde(default, alias = "ca_certificates", deserialize_with = "or_default")]
    pub ca_certificates: String,
    /// `caCrl`.
    #[serde(default, alias = "ca_crl", deserialize_with = "or_default")]
    pub ca_crl: String,
    /// `credentialName`.
    #[serde(default, alias = "credential_name", deserialize_with = "or_default")]
    pub credential_name: String,
    /// `subjectAltNames`.
    #[serde(default, alias = "subject_alt_names", deserialize_with = "or_default")]
    pub subject_alt_names: Vec<String>,
    /// `sni`.
    #[serde(default, deserialize_with = "or_default")]
    pub sni: String,
    /// `insecureSkipVerify`.
    #[serde(default, alias = "insecure_skip_verify")]
    pub insecure_skip_verify: Option<bool>,
}

/// `mode` of [`Tls`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TlsMode {
    /// Plain text.
    #[default]
    Disable,
    /// TLS with the server's certificate alone.
    Simple,
    /// TLS with certificates on both sides.
    Mutual,
    /// Mutual TLS with the mesh's own certificates.
    IstioMutual,
}

/// `tunnel`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tunnel {
    /// `protocol`: `CONNECT` or `POST`.
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: String,
    /// `targetHost`.
    #[serde(default, alias = "target_host", deserialize_with = "or_default")]
    pub target_host: String,
    /// `targetPort`.
    #[serde(default, alias = "target_port", deserialize_with = "or_default")]
    pub target_port: u32,
}

/// `proxyProtocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ProxyProtocol {
    /// `version`.
    #[serde(default, deserialize_with = "or_default")]
    pub version: ProxyProtocolVersion,
}

/// `version` of [`ProxyProtocol`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ProxyProtocolVersion {
    /// Text.
    #[default]
    V1,
    /// Binary.
    V2,
}
