//! What a certificate says, as far as the mesh asks: whose it is, from when until when. Read with
//! bounds, since the bytes are a stranger's.
//!
//! Says nothing about who signed it: `trust` does.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::asn1_rs::FromDer as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

use super::Refusal;
use crate::types::Identity;

/// The most certificates that a chain may have, the workload's own included: webpki follows six
/// authorities below a root (`MAX_SUB_CA_COUNT`). Istio's have two or three; a company's authority
/// above it adds one or two.
pub const MAX_CHAIN: usize = 7;
/// The largest certificate that is read, in bytes. One of a workload has about 600, and 3,000 with a
/// large RSA key.
pub const MAX_CERTIFICATE: usize = 16 * 1024;
/// How much of a wrong URI is told.
const SHOWN: usize = 128;

/// What a workload's certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is.
    pub identity: Identity,
    /// From when on it holds.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// Its number, as its authority counts, in hexadecimal.
    pub serial: String,
}

impl Certificate {
    /// Reads the first certificate of a peer's chain, and the bounds of the others.
    ///
    /// # Errors
    /// Where it names nobody, or several, or is beyond a bound.
    pub fn of_chain(chain: &[CertificateDer<'_>]) -> Result<Self, Refusal> {
        let leaf = chain.first().ok_or(Refusal::Absent)?;
        check_bounds(leaf, &chain[1..])?;
        Self::read(leaf)
    }

    /// Reads one certificate, whose size has been checked.
    pub(super) fn read(leaf: &[u8]) -> Result<Self, Refusal> {
        let malformed = |problem: &dyn std::fmt::Display| Refusal::Malformed(problem.to_string());
        let (rest, certificate) =
            X509Certificate::from_der(leaf).map_err(|error| malformed(&error))?;
        if !rest.is_empty() {
            return Err(malformed(&"there are bytes after its end"));
        }
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| malformed(&error))?;
        let names = names.map_or(&[][..], |extension| &extension.value.general_names);
        let mut uris = Vec::new();
        for name in names {
            match name {
                GeneralName::URI(uri) => uris.push(*uri),
                // It could be a URI that another reader makes something of.
                GeneralName::Invalid(..) => return Err(malformed(&"a name in it is malformed")),
                _ => {}
            }
        }
        let uri = match uris[..] {
            [] => return Err(Refusal::Nameless),
            [uri] => uri,
            _ => return Err(Refusal::Ambiguous(uris.len())),
        };
        let identity = uri.parse().map_err(|source| Refusal::Stranger {
            uri: uri.chars().take(SHOWN).collect(),
            source,
        })?;
        let validity = certificate.validity();
        Ok(Self {
            identity,
            not_before: system_time(validity.not_before)
                .ok_or_else(|| malformed(&"its beginning is no time"))?,
            not_after: system_time(validity.not_after)
                .ok_or_else(|| malformed(&"its end is no time"))?,
            serial: serial(&certificate),
        })
    }
}

/// What any certificate says, a root's too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whom it is for, as `O=cluster.local`.
    pub subject: String,
    /// From when on it holds.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// Its number, in hexadecimal.
    pub serial: String,
    /// Whether it names itself as the one who signed it, as roots do.
    pub self_signed: bool,
}

impl Facts {
    /// Reads one; `None` where it can't be read.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        Some(Self {
            subject: certificate.subject().to_string(),
            not_before: system_time(certificate.validity().not_before)?,
            not_after: system_time(certificate.validity().not_after)?,
            serial: serial(&certificate),
            self_signed: certificate.subject() == certificate.issuer(),
        })
    }
}

fn serial(certificate: &X509Certificate<'_>) -> String {
    certificate.raw_serial_as_string().replace(':', "")
}

/// Refuses a chain that is longer or larger than any real one, before anything of it is read.
pub(super) fn check_bounds(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
) -> Result<(), Refusal> {
    if others.len() >= MAX_CHAIN {
        return Err(Refusal::Long(others.len().saturating_add(1)));
    }
    let large = std::iter::once(leaf)
        .chain(others)
        .find(|one| one.len() > MAX_CERTIFICATE);
    large.map_or(Ok(()), |one| Err(Refusal::Large(one.len())))
}

pub(super) fn system_time(time: ASN1Time) -> Option<SystemTime> {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    }
}
