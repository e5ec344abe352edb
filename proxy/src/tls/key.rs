//! Private keys, made on the node, and the requests by which an authority signs for them.

use std::fmt;

use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SignatureAlgorithm,
};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;
use zeroize::{Zeroize as _, Zeroizing};

use super::Error;
use crate::types::Identity;

/// A private key: a workload's, which is ECDSA on P-256 as ztunnel's, or an authority's. Wiped when it
/// is dropped; none but an authority can read its own out, and so none can be written down.
pub struct Key(KeyPair);

/// A request to sign a key: PKCS#10, with the identity as its only name (a URI) and no common name.
#[derive(Clone, Debug)]
pub struct Request {
    /// As bytes.
    pub der: CertificateSigningRequestDer<'static>,
    /// As text, which is how Istio's authority takes it.
    pub pem: String,
}

impl Key {
    /// Makes one.
    ///
    /// # Errors
    /// Where the machine has no randomness.
    pub fn generate() -> Result<Self, Error> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map(Self)
            .map_err(|error| Error::Key(error.to_string()))
    }

    /// One that exists, an authority's (PEM).
    pub(super) fn from_pem(text: &str) -> Result<Self, Error> {
        let wrong = |problem: &str, error: &dyn fmt::Display| {
            Error::Issuer(format!("its key can't be {problem}: {error}"))
        };
        let mut der = PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map_err(|error| wrong("read", &error))?;
        let pair = KeyPair::try_from(&der);
        der.zeroize();
        Ok(Self(pair.map_err(|error| wrong("used", &error))?))
    }

    /// As text (PKCS#8).
    pub(super) fn pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// The request to sign it for `identity`.
    ///
    /// # Errors
    /// Where the identity can't be written as a URI: none that [`Identity::new`] makes.
    pub fn request(&self, identity: &Identity) -> Result<Request, Error> {
        let wrong = |error: rcgen::Error| Error::Request(error.to_string());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = identity.to_string().try_into().map_err(wrong)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let request = params.serialize_request(&self.0).map_err(wrong)?;
        Ok(Request {
            pem: request.pem().map_err(wrong)?,
            der: request.der().clone(),
        })
    }

    pub(super) fn pair(&self) -> &KeyPair {
        &self.0
    }

    /// What rustls signs by.
    pub(super) fn signing(&self) -> Result<std::sync::Arc<dyn SigningKey>, Error> {
        let pkcs8 = PrivatePkcs8KeyDer::from(self.0.serialized_der());
        any_supported_type(&PrivateKeyDer::Pkcs8(pkcs8))
            .map_err(|error| Error::Key(error.to_string()))
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

/// So that what signs in an authority's name is wiped with it.
impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        rcgen::SigningKey::sign(&self.0, message)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}
