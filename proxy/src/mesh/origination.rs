//! TLS that the proxy itself speaks with a cluster's endpoints: a DestinationRule's client `tls`.
//!
//! What is said there, not what is in the files that it names: those are read elsewhere, and again
//! when they change.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A `tls` block that asks for TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origination {
    /// `sni`: the name that is sent. Without one it is the host of the request, or that of the
    /// service where bytes are not looked at.
    pub name: Option<Arc<str>>,
    /// `subjectAltNames`: the server must have one of them. Without any it must have the name.
    pub alternatives: Box<[Arc<str>]>,
    /// What is shown, and who may vouch for the server.
    pub credentials: Credentials,
}

/// What is shown, and who may vouch for the server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Credentials {
    /// `ISTIO_MUTUAL`: the mesh's own certificates and roots.
    Mesh,
    /// `SIMPLE` and `MUTUAL`.
    Files(Files),
    /// There can be none. No connection is made: plain text was not asked for.
    Unusable(&'static str),
}

/// Files of PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Files {
    /// `caCertificates`; `None` for those that the system trusts.
    pub roots: Option<PathBuf>,
    /// `caCrl`: certificates that were revoked.
    pub revoked: Option<PathBuf>,
    /// `clientCertificate` and `privateKey`.
    pub own: Option<(PathBuf, PathBuf)>,
    /// `insecureSkipVerify`: whoever answers is taken for who was meant.
    pub unverified: bool,
}

impl Files {
    /// Those that are given.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let own = self
            .own
            .iter()
            .flat_map(|(certificate, key)| [certificate, key]);
        self.roots.iter().chain(&self.revoked).chain(own)
    }
}

impl fmt::Display for Origination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.credentials {
            Credentials::Mesh => f.write_str("TLS of Istio's sidecars")?,
            Credentials::Unusable(_) => f.write_str("TLS")?,
            Credentials::Files(files) => {
                f.write_str(if files.own.is_some() {
                    "mutual TLS"
                } else {
                    "TLS"
                })?;
                for path in files.paths() {
                    write!(f, " {}", path.display())?;
                }
                if files.unverified {
                    f.write_str(" unverified")?;
                }
            }
        }
        if let Some(name) = &self.name {
            write!(f, " to {name}")?;
        }
        if !self.alternatives.is_empty() {
            write!(f, " as {}", self.alternatives.join(" or "))?;
        }
        Ok(())
    }
}
