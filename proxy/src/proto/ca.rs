//! `istio.v1.auth.IstioCertificateService`: how Istio's proxies ask for certificates.

use super::structure::Struct;

/// Its one method.
pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// Key of the metadata by which a node proxy says whose certificate it asks for (a SPIFFE identity).
pub const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";
/// HTTP header that names the caller's cluster.
pub const CLUSTER_ID: &str = "clusterid";

/// `IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateRequest {
    /// PKCS#10, as PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// How long it is to hold, in seconds.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// [`IMPERSONATED_IDENTITY`] and the like.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Struct>,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateResponse {
    /// PEM: the certificate asked for, the authorities above it, the root or roots last. Istio has
    /// put several roots into one last element, and one into each of the last elements.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}
