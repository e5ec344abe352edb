//! Whether a server outside the mesh is who was meant: chain, time, revocation, name.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use webpki::{
    CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList, RevocationOptionsBuilder,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::super::certificate::{Facts, check_bounds};
use super::super::provider::{outside, unix};

/// Checks one set of settings' servers.
#[derive(Debug)]
pub(super) struct Servers {
    /// `None`: whoever answers is who was meant.
    pub(super) vouched: Option<Vouched>,
    /// One of them is the server's, or else the name that it is asked by.
    pub(super) alternatives: Vec<Alternative>,
}

/// Who may vouch for a server.
#[derive(Debug)]
pub(super) struct Vouched {
    pub(super) roots: Arc<RootCertStore>,
    /// Certificates that are trusted as they are: a server may show one of them itself.
    pub(super) pinned: Vec<CertificateDer<'static>>,
    pub(super) revoked: Vec<CertRevocationList<'static>>,
}

/// A name that a server may have.
#[derive(Debug)]
pub(super) enum Alternative {
    /// A host's name or an address, as TLS knows them.
    Server(ServerName<'static>),
    /// Any other, compared as text.
    Text(Arc<str>),
}

impl Alternative {
    pub(super) fn new(text: &Arc<str>) -> Self {
        let name = text.parse::<IpAddr>().map(ServerName::from);
        match name.or_else(|_| ServerName::try_from(text.to_string())) {
            Ok(name) => Self::Server(name),
            Err(_) => Self::Text(Arc::clone(text)),
        }
    }

    fn is_of(&self, leaf: &EndEntityCert<'_>, der: &CertificateDer<'_>) -> bool {
        match self {
            Self::Server(name) => leaf.verify_is_valid_for_subject_name(name).is_ok(),
            Self::Text(text) => has_name(der, text),
        }
    }
}

/// Whether a certificate has a name with exactly this text: a URI, an e-mail address, a wildcard.
fn has_name(der: &CertificateDer<'_>, text: &str) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return false;
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return false;
    };
    names.value.general_names.iter().any(|name| match name {
        GeneralName::URI(name) | GeneralName::RFC822Name(name) => *name == text,
        GeneralName::DNSName(name) => name.eq_ignore_ascii_case(text),
        _ => false,
    })
}

impl Servers {
    /// Whether the server that has shown `chain` is one that is vouched for, as of that time.
    pub(super) fn vouched_for(
        &self,
        chain: &[CertificateDer<'_>],
        at: SystemTime,
    ) -> Result<(), rustls::Error> {
        let Some(vouched) = &self.vouched else {
            return Ok(());
        };
        let none = rustls::Error::NoCertificatesPresented;
        let (leaf, others) = chain.split_first().ok_or(none)?;
        let at = unix(at).ok_or(rustls::Error::FailedToGetCurrentTime)?;
        let read = EndEntityCert::try_from(leaf).map_err(error)?;
        vouched.check(leaf, &read, others, at)
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let Some(vouched) = &self.vouched else {
            return Ok(());
        };
        check_bounds(leaf, others)?;
        let read = EndEntityCert::try_from(leaf).map_err(error)?;
        vouched.check(leaf, &read, others, now)?;
        let named = if self.alternatives.is_empty() {
            read.verify_is_valid_for_subject_name(name).is_ok()
        } else {
            let mut all = self.alternatives.iter();
            all.any(|one| one.is_of(&read, leaf))
        };
        if named {
            return Ok(());
        }
        let wanted = match &self.alternatives[..] {
            [] => name.to_str().into_owned(),
            all => all
                .iter()
                .map(Alternative::text)
                .collect::<Vec<_>>()
                .join(" or "),
        };
        Err(refused(format!("verify SAN list: it is not for {wanted}")))
    }
}

impl Alternative {
    fn text(&self) -> String {
        match self {
            Self::Server(name) => name.to_str().into_owned(),
            Self::Text(text) => text.to_string(),
        }
    }
}

impl Vouched {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        read: &EndEntityCert<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        // A certificate that signs itself, given as its own authority: no chain leads to it.
        if self.pinned.contains(leaf) {
            return within(leaf, now);
        }
        let revoked: Vec<_> = self.revoked.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&revoked).ok();
        read.verify_for_usage(
            outside().signature_verification_algorithms.all,
            &self.roots.roots,
            others,
            now,
            KeyUsage::server_auth(),
            revocation.map(RevocationOptionsBuilder::build),
            None,
        )
        .map(|_| ())
        .map_err(error)
    }
}

fn within(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let facts = Facts::of(leaf).ok_or(CertificateError::BadEncoding)?;
    let (from, until) = (unix(facts.not_before), unix(facts.not_after));
    if from.is_some_and(|from| now < from) {
        return Err(CertificateError::NotValidYet.into());
    }
    if until.is_none_or(|until| now > until) {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// As rustls names it, so that it tells the server by the alert that fits.
fn error(error: webpki::Error) -> rustls::Error {
    use webpki::Error;
    match error {
        Error::BadDer | Error::BadDerTime => CertificateError::BadEncoding.into(),
        Error::CertExpired { .. } => CertificateError::Expired.into(),
        Error::CertNotValidYet { .. } => CertificateError::NotValidYet.into(),
        Error::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        Error::CertRevoked => CertificateError::Revoked.into(),
        Error::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus.into(),
        other => refused(other.to_string()),
    }
}

/// Any other reason, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Words(String);

fn refused(words: String) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(Words(words)))).into()
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, server_name, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &outside().signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &outside().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        outside()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Lists of revoked certificates, as their file has them.
pub(super) fn revoked(pem: &[u8]) -> Result<Vec<CertRevocationList<'static>>, String> {
    use rustls::pki_types::CertificateRevocationListDer;
    use rustls::pki_types::pem::PemObject as _;
    let lists = CertificateRevocationListDer::pem_slice_iter(pem).map(|list| {
        let list = list.map_err(|error| error.to_string())?;
        let list = OwnedCertRevocationList::from_der(&list).map_err(|error| error.to_string())?;
        Ok(CertRevocationList::from(list))
    });
    lists.collect()
}
