//! Private keys, made on the node, and the requests by which an authority signs for them.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;
use zeroize::Zeroize as _;

use super::{Error, provider};
use crate::types::Identity;

/// A workload's private key: ECDSA on P-256, as ztunnel's. Wiped when it is dropped; there is no way
/// to read it out, and so none to write it down.
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
        let pkcs8 = PrivatePkcs8KeyDer::from(self.0.serialized_der().to_vec());
        provider()
            .key_provider
            .load_private_key(PrivateKeyDer::Pkcs8(pkcs8))
            .map_err(|error| Error::Key(error.to_string()))
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
