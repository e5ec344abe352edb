//! An authority's own certificate and key, and what it signs with them.
//!
//! Knows no file and no caller: whoever asks has been checked, and says whose the certificate is to
//! be. Nothing of the request but its key is taken over.

use std::fmt;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::asn1_rs::FromDer as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use zeroize::Zeroizing;

use super::certificate::system_time;
use super::{Error, Key, MAX_CERTIFICATE, MAX_CHAIN};
use crate::types::{Identity, Timestamp};

/// Who signs certificates: a root, or an intermediate below one.
pub struct Issuer {
    inner: rcgen::Issuer<'static, Key>,
    certificate: CertificateDer<'static>,
    /// What a workload must show beside its own certificate: this authority and those above it, the
    /// root left out.
    below_root: Vec<CertificateDer<'static>>,
    not_after: SystemTime,
}

impl Issuer {
    /// A new root for a trust domain.
    ///
    /// # Errors
    /// Where the machine has no randomness, or a time is beyond the calendar.
    pub fn root(domain: &str, from: SystemTime, until: SystemTime) -> Result<Self, Error> {
        let params = authority(domain, "root", None, from, until)?;
        let key = Key::generate()?;
        let certificate = params.self_signed(&key).map_err(issuing)?.der().clone();
        Ok(Self {
            inner: rcgen::Issuer::new(params, key),
            certificate,
            below_root: Vec::new(),
            not_after: until,
        })
    }

    /// An authority below this one, which signs workloads' certificates alone. It ends with this one
    /// at the latest.
    ///
    /// # Errors
    /// As [`Self::root`].
    pub fn intermediate(
        &self,
        domain: &str,
        from: SystemTime,
        until: SystemTime,
    ) -> Result<Self, Error> {
        let until = until.min(self.not_after);
        let params = authority(domain, "intermediate", Some(0), from, until)?;
        let key = Key::generate()?;
        let signed = params.signed_by(&key, &self.inner).map_err(issuing)?;
        let certificate = signed.der().clone();
        let own = std::iter::once(certificate.clone());
        Ok(Self {
            below_root: own.chain(self.below_root.iter().cloned()).collect(),
            inner: rcgen::Issuer::new(params, key),
            certificate,
            not_after: until,
        })
    }

    /// One that exists: its certificate, its key, and the authorities above it as far as workloads
    /// must show them (none where it is a root itself).
    ///
    /// # Errors
    /// Where the certificate is no authority's or the key is another's.
    pub fn from_pem(certificate: &str, key: &str, above: &str) -> Result<Self, Error> {
        let wrong = |problem: &str| Error::Issuer(problem.to_owned());
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| Error::Issuer(format!("its certificate can't be read: {error}")))?;
        let above = certificates(above)?;
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|error| Error::Issuer(format!("its certificate can't be read: {error}")))?;
        if !parsed.is_ca() {
            return Err(wrong("its certificate is not an authority's (CA:TRUE)"));
        }
        let may_sign = |usage: x509_parser::certificate::BasicExtension<
            &x509_parser::extensions::KeyUsage,
        >| usage.value.key_cert_sign();
        if let Ok(Some(usage)) = parsed.key_usage()
            && !may_sign(usage)
        {
            return Err(wrong("its certificate does not allow to sign certificates"));
        }
        let not_after = system_time(parsed.validity().not_after)
            .ok_or_else(|| wrong("its certificate's end is no time"))?;
        let pair = Key::from_pem(key)?;
        if parsed.public_key().subject_public_key.as_ref() != pair.der_bytes() {
            return Err(wrong("its key is not its certificate's"));
        }
        let is_root = parsed.subject() == parsed.issuer();
        let own = (!is_root).then(|| certificate.clone());
        let below_root: Vec<_> = own.into_iter().chain(above).collect();
        if below_root.len() >= MAX_CHAIN {
            return Err(wrong(
                "there are more authorities above it than a peer takes",
            ));
        }
        let inner = rcgen::Issuer::from_ca_cert_der(&certificate, pair).map_err(issuing)?;
        Ok(Self {
            inner,
            below_root,
            not_after,
            certificate: certificate.clone(),
        })
    }

    /// Signs the key of a request (PKCS#10) for `identity`, after checking that who asks has it. The
    /// chain that comes out has the workload's certificate first and no root. It ends with the
    /// authority's own certificate at the latest.
    ///
    /// # Errors
    /// Where the request can't be read, its key is of a kind that TLS does not take, or the
    /// authority's own certificate has expired.
    pub fn sign(
        &self,
        request: &[u8],
        identity: &Identity,
        from: SystemTime,
        until: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, Error> {
        let wrong = |problem: String| Error::Request(problem);
        if request.len() > MAX_CERTIFICATE {
            return Err(wrong(format!("{} bytes are too many", request.len())));
        }
        let until = until.min(self.not_after);
        if until <= from {
            return Err(Error::Issuer("its own certificate has expired".to_owned()));
        }
        let (rest, asked) = X509CertificationRequest::from_der(request)
            .map_err(|error| wrong(format!("it can't be read: {error}")))?;
        if !rest.is_empty() {
            return Err(wrong("there are bytes after its end".to_owned()));
        }
        asked
            .verify_signature()
            .map_err(|_| wrong("it is not signed by the key that it is for".to_owned()))?;
        let key = SubjectPublicKeyInfo::from_der(asked.certification_request_info.subject_pki.raw)
            .map_err(|error| wrong(format!("its key: {error}")))?;

        let mut params = lasting(from, until)?;
        params.distinguished_name = DistinguishedName::new();
        let uri = identity.to_string();
        let uri = uri
            .try_into()
            .map_err(|error: rcgen::Error| wrong(error.to_string()))?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let signed = params.signed_by(&key, &self.inner).map_err(issuing)?;
        let leaf = std::iter::once(signed.der().clone());
        Ok(leaf.chain(self.below_root.iter().cloned()).collect())
    }

    /// Signs a certificate for a server that is no workload, known by these host names and IP
    /// addresses. The chain is as [`Self::sign`] makes it.
    ///
    /// # Errors
    /// Where a name is none.
    pub fn host(
        &self,
        key: &Key,
        names: &[String],
        from: SystemTime,
        until: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, Error> {
        let mut params = lasting(from, until.min(self.not_after))?;
        params.distinguished_name = DistinguishedName::new();
        for name in names {
            params.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into().map_err(issuing)?),
            });
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let signed = params.signed_by(key.pair(), &self.inner).map_err(issuing)?;
        let leaf = std::iter::once(signed.der().clone());
        Ok(leaf.chain(self.below_root.iter().cloned()).collect())
    }

    /// Whether nobody stands above it.
    pub fn is_root(&self) -> bool {
        self.below_root.is_empty()
    }

    /// Its own certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Until when it can sign.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Its own certificate, as text.
    pub fn certificate_pem(&self) -> String {
        pem(&self.certificate)
    }

    /// Its key, as text (PKCS#8): for the one who keeps an authority beyond the life of a process.
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.inner.key().pem()
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("not_after", &Timestamp(self.not_after).to_string())
            .finish_non_exhaustive()
    }
}

/// The certificates of a PEM text, in order; other sections are passed over.
///
/// # Errors
/// Where one can't be read, or there are more than [`super::MAX_ROOTS`].
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let mut all = Vec::new();
    for one in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        if all.len() >= super::MAX_ROOTS {
            return Err(Error::Pem("there are too many certificates".to_owned()));
        }
        all.push(one.map_err(|error| Error::Pem(error.to_string()))?);
    }
    Ok(all)
}

/// A certificate as text.
pub fn pem(certificate: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out + "-----END CERTIFICATE-----\n"
}

fn authority(
    domain: &str,
    what: &str,
    path: Option<u8>,
    from: SystemTime,
    until: SystemTime,
) -> Result<CertificateParams, Error> {
    let mut params = lasting(from, until)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, domain);
    name.push(DnType::CommonName, format!("aquifer {what}"));
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(path.map_or(
        BasicConstraints::Unconstrained,
        BasicConstraints::Constrained,
    ));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn lasting(from: SystemTime, until: SystemTime) -> Result<CertificateParams, Error> {
    let date = |time| {
        let date = Timestamp(time).date();
        date.ok_or_else(|| Error::Issuer("a time is beyond the calendar".to_owned()))
    };
    let mut params = CertificateParams::default();
    params.not_before = date(from)?;
    params.not_after = date(until)?;
    // Positive and of full length in DER, whatever is drawn (RFC 5280, section 4.1.2.2).
    let mut serial: [u8; 16] = rand::random();
    serial[0] = (serial[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn issuing(error: rcgen::Error) -> Error {
    Error::Issuer(error.to_string())
}
