//! A workload's certificate with its key: what this node shows for it.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::provider::unix;
use super::{Certificate, Error, Key, Peer, Refusal, Trust};
use crate::types::Identity;

/// One workload's certificate: read, checked, and with the key it is for.
pub struct Credential {
    /// What the certificate says.
    pub certificate: Certificate,
    chain: Vec<CertificateDer<'static>>,
    shown: Arc<SingleCertAndKey>,
}

impl Credential {
    /// Puts together what an authority has signed, the workload's own certificate first, with the
    /// key that was made for it.
    ///
    /// # Errors
    /// Where the certificate is another's, for another key, or one that peers would refuse to read.
    pub fn new(
        identity: &Identity,
        key: &Key,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<Self, Error> {
        let refused = |refusal| Error::Refused {
            identity: identity.clone(),
            refusal: Box::new(refusal),
        };
        let certificate = Certificate::of_chain(&chain).map_err(refused)?;
        if certificate.identity != *identity {
            return Err(refused(Refusal::Unexpected {
                found: certificate.identity,
                expected: identity.to_string(),
            }));
        }
        if certificate.not_after <= certificate.not_before {
            return Err(Error::Lifetime(identity.clone()));
        }
        let certified = CertifiedKey::new(chain.clone(), key.signing()?);
        certified
            .keys_match()
            .map_err(|_| Error::OtherKey(identity.clone()))?;
        Ok(Self {
            certificate,
            chain,
            shown: Arc::new(SingleCertAndKey::from(certified)),
        })
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.certificate.identity
    }

    /// The chain as it is shown: the workload's own first, no root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Whether a peer that trusts the same would accept it at that time, on either side.
    ///
    /// # Errors
    /// What the peer would say.
    pub fn verify(&self, trust: &Trust, at: SystemTime) -> Result<(), Error> {
        let refused = |refusal| Error::Refused {
            identity: self.identity().clone(),
            refusal: Box::new(refusal),
        };
        let (leaf, others) = self.chain.split_first().ok_or(refused(Refusal::Absent))?;
        let at = unix(at).ok_or(Error::Config(rustls::Error::FailedToGetCurrentTime))?;
        for side in [Peer::Client, Peer::Server] {
            trust.verify(side, leaf, others, at).map_err(refused)?;
        }
        Ok(())
    }

    pub(super) fn shown(&self) -> &Arc<SingleCertAndKey> {
        &self.shown
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("certificate", &self.certificate)
            .field("chain", &self.chain.len())
            .finish_non_exhaustive()
    }
}
