//! What is wrong with a certificate, a key or a root.

use crate::types::identity::NotAnIdentity;
use crate::types::{Identity, Reason};

/// Why a certificate was not accepted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// The peer has shown none.
    #[error("it shows no certificate")]
    Absent,
    /// More certificates than a chain may have.
    #[error("its chain has {0} certificates, at most {max} are taken", max = super::MAX_CHAIN)]
    Long(usize),
    /// One is larger than a certificate may be.
    #[error("a certificate of its chain has {0} bytes, at most {max} are taken", max = super::MAX_CERTIFICATE)]
    Large(usize),
    /// It can't be read.
    #[error("its certificate can't be read: {0}")]
    Malformed(String),
    /// It names nobody.
    #[error("its certificate has no URI, so that it is nobody's")]
    Nameless,
    /// SPIFFE's certificates have one URI (X509-SVID, section 2): with several it would be for
    /// others to choose who the peer is.
    #[error("its certificate has {0} URIs where one must be")]
    Ambiguous(usize),
    /// Its URI is not a workload's.
    #[error("its certificate's URI {uri:?} is no workload's identity: {source}")]
    Stranger {
        /// The URI, its beginning alone where it is long.
        uri: String,
        /// What is wrong with it.
        source: NotAnIdentity,
    },
    /// Of another mesh.
    #[error("{0} is of a trust domain that is neither ours nor an alias of it")]
    TrustDomain(Identity),
    /// Not who was meant.
    #[error("it is {found}, expected was {expected}")]
    Unexpected {
        /// Who it is.
        found: Identity,
        /// Who was meant: one of these.
        expected: String,
    },
    /// No root of its trust domain vouches for it now.
    #[error("{identity}: {source}")]
    Chain {
        /// Who it says it is.
        identity: Identity,
        /// What rustls has found.
        source: rustls::Error,
    },
}

impl Refusal {
    /// In one word.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Absent => Reason::NoCertificate,
            Self::Long(_) | Self::Large(_) => Reason::TooLarge,
            Self::Malformed(_) => Reason::Malformed,
            Self::Nameless | Self::Stranger { .. } => Reason::NoIdentity,
            Self::Ambiguous(_) => Reason::SeveralNames,
            Self::TrustDomain(_) => Reason::TrustDomain,
            Self::Unexpected { .. } => Reason::UnexpectedIdentity,
            Self::Chain { source, .. } => word(source),
        }
    }
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        use rustls::{CertificateError, OtherError};
        match refusal {
            // rustls tells the peer by the alert that fits (expired, unknown authority, …).
            Refusal::Chain { source, .. } => source,
            Refusal::Absent => Self::NoCertificatesPresented,
            Refusal::Malformed(_) => Self::InvalidCertificate(CertificateError::BadEncoding),
            other => Self::InvalidCertificate(CertificateError::Other(OtherError(
                std::sync::Arc::new(other),
            ))),
        }
    }
}

/// Why a handshake failed, in one line: rustls writes what a verifier has said as a programmer wants
/// to see it.
pub fn reason(error: &rustls::Error) -> String {
    use rustls::{CertificateError, OtherError};
    if let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = error {
        return inner.to_string();
    }
    error.to_string()
}

/// Why a handshake failed, in one word.
pub fn word(error: &rustls::Error) -> Reason {
    use rustls::CertificateError::{
        BadEncoding, BadSignature, Expired, ExpiredContext, NotValidYet, NotValidYetContext,
    };
    use rustls::{CertificateError, Error, InvalidMessage, OtherError};
    match error {
        Error::InvalidCertificate(wrong) => match wrong {
            Expired | ExpiredContext { .. } => Reason::Expired,
            NotValidYet | NotValidYetContext { .. } => Reason::NotYetValid,
            CertificateError::UnknownIssuer => Reason::UnknownIssuer,
            BadEncoding => Reason::Malformed,
            // Of the handshake: of a chain it is none that we trust who has signed (`Trust::verify`).
            BadSignature => Reason::Signature,
            CertificateError::Other(OtherError(inner)) => inner
                .downcast_ref()
                .map_or(Reason::Certificate, Refusal::reason),
            _ => Reason::Certificate,
        },
        Error::NoCertificatesPresented => Reason::NoCertificate,
        Error::AlertReceived(_) => Reason::RefusedByPeer,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Reason::Incompatible,
        Error::PeerSentOversizedRecord
        | Error::InvalidMessage(
            InvalidMessage::HandshakePayloadTooLarge
            | InvalidMessage::CertificatePayloadTooLarge
            | InvalidMessage::MessageTooLarge,
        ) => Reason::TooLarge,
        _ => Reason::Malformed,
    }
}

/// Why a key, a certificate of ours or a root can't be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A key could not be made or used.
    #[error("private key: {0}")]
    Key(String),
    /// A signing request could not be made.
    #[error("certificate signing request: {0}")]
    Request(String),
    /// The certificate is not one that a peer would accept.
    #[error("certificate for {identity}: {refusal}")]
    Refused {
        /// Whose it should be.
        identity: Identity,
        /// What is wrong.
        refusal: Box<Refusal>,
    },
    /// The certificate is for another key than ours.
    #[error("certificate for {0}: it is not for the key that was sent to be signed")]
    OtherKey(Identity),
    /// Its end lies before its beginning.
    #[error("certificate for {0}: it ends before it begins")]
    Lifetime(Identity),
    /// A root can't be read.
    #[error("root of {domain}: {problem}")]
    Root {
        /// The trust domain.
        domain: String,
        /// What is wrong.
        problem: String,
    },
    /// An authority can't sign.
    #[error("certificate authority: {0}")]
    Issuer(String),
    /// A text is not what PEM files have.
    #[error("PEM: {0}")]
    Pem(String),
    /// rustls does not take it.
    #[error("TLS configuration: {0}")]
    Config(rustls::Error),
}
