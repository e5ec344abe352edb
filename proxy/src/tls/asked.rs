//! A request to sign a key (PKCS#10), as a stranger sends it: which names it asks for.

use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use super::{Error, MAX_CERTIFICATE};
use crate::types::Identity;

/// A request that could be read. Whether it is signed by its own key is checked where it is signed.
#[derive(Clone, Debug)]
pub struct Asked {
    /// As bytes.
    pub der: CertificateSigningRequestDer<'static>,
    /// Its alternative names, written out: `URI:spiffe://…`, `DNS:…`.
    names: Vec<String>,
}

impl Asked {
    /// Reads one from PEM.
    ///
    /// # Errors
    /// Where there is none, or it is larger than any real one.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let wrong = |problem: &dyn std::fmt::Display| Error::Request(problem.to_string());
        // Base64 takes four bytes for three, and the lines have ends.
        if text.len() > MAX_CERTIFICATE.saturating_mul(2) {
            let size = text.len();
            return Err(wrong(&format_args!("{size} bytes are too many")));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes())
            .map_err(|error| wrong(&format_args!("it can't be read: {error}")))?;
        let (_, request) = X509CertificationRequest::from_der(&der)
            .map_err(|error| wrong(&format_args!("it can't be read: {error}")))?;
        let mut names = Vec::new();
        for extension in request.requested_extensions().into_iter().flatten() {
            match extension {
                ParsedExtension::SubjectAlternativeName(all) => {
                    names.extend(all.general_names.iter().map(shown));
                }
                ParsedExtension::ParseError { error } => {
                    return Err(wrong(&format_args!("an extension of it: {error}")));
                }
                _ => {}
            }
        }
        Ok(Self { der, names })
    }

    /// The names that it asks for beside that of `identity`, which it need not have.
    pub fn beside<'a>(&'a self, identity: &Identity) -> impl Iterator<Item = &'a str> + use<'a> {
        let own = format!("URI:{identity}");
        let names = self.names.iter().map(String::as_str);
        names.filter(move |name| *name != own)
    }
}

fn shown(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::URI(uri) => format!("URI:{uri}"),
        GeneralName::DNSName(name) => format!("DNS:{name}"),
        GeneralName::RFC822Name(name) => format!("email:{name}"),
        other => other.to_string(),
    }
}
