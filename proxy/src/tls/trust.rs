//! Who may vouch for whom: roots by trust domain.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, RootCertStore};

use super::certificate::{Certificate, check_bounds};
use super::provider::unix;
use super::{Error, MAX_CERTIFICATE, Peer, Refusal, provider};
use crate::types::Identity;

/// The most roots that a trust domain may have at once.
pub const MAX_ROOTS: usize = 64;

/// The roots in force, and the mesh's own trust domain with its aliases. Cheap to clone.
///
/// A peer is of the mesh's own domain or of an alias of it, and a root vouches for its own domain
/// alone: what it signs for another is refused. An alias without roots of its own has the mesh's.
#[derive(Clone)]
pub struct Trust(Arc<Inner>);

struct Inner {
    domain: Arc<str>,
    aliases: BTreeSet<Arc<str>>,
    roots: BTreeMap<Arc<str>, Roots>,
}

struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    store: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Trust {
    /// Trusts nobody yet.
    pub fn nobody(domain: Arc<str>) -> Self {
        Self(Arc::new(Inner {
            domain,
            aliases: BTreeSet::new(),
            roots: BTreeMap::new(),
        }))
    }

    /// The mesh's own `domain`, its `aliases`, and the roots of each, several at once while they are
    /// being replaced. A root given twice counts once.
    ///
    /// # Errors
    /// Where a root can't be read, or there are too many: trust is all or nothing.
    pub fn new(
        domain: Arc<str>,
        aliases: impl IntoIterator<Item = Arc<str>>,
        roots: impl IntoIterator<Item = (Arc<str>, Vec<CertificateDer<'static>>)>,
    ) -> Result<Self, Error> {
        let mut all = BTreeMap::new();
        for (of, certificates) in roots {
            // None at all: nobody vouches for it any more.
            if let Some(roots) = Roots::new(&of, certificates)? {
                all.insert(of, roots);
            }
        }
        Ok(Self(Arc::new(Inner {
            domain,
            aliases: aliases.into_iter().collect(),
            roots: all,
        })))
    }

    /// The mesh's own trust domain.
    pub fn domain(&self) -> &Arc<str> {
        &self.0.domain
    }

    /// Its other names.
    pub fn aliases(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.aliases.iter()
    }

    /// The roots of each domain that has some.
    pub fn roots(&self) -> impl Iterator<Item = (&Arc<str>, &[CertificateDer<'static>])> {
        let roots = self.0.roots.iter();
        roots.map(|(domain, one)| (domain, &one.certificates[..]))
    }

    /// Whether peers may be of this domain.
    pub fn accepts(&self, domain: &str) -> bool {
        *self.0.domain == *domain || self.0.aliases.contains(domain)
    }

    /// Whether both trust the same.
    pub fn is_same(&self, other: &Self) -> bool {
        let same_roots = || self.roots().eq(other.roots());
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.domain == other.0.domain
                && self.0.aliases == other.0.aliases
                && same_roots())
    }

    /// Whether the peer of an open connection, which has shown `chain` and was verified at `since`, is
    /// trusted. That its certificate has expired since then is no reason to close: that the root which
    /// vouched for it or its trust domain was taken away is.
    ///
    /// # Errors
    /// Why it is not trusted any more.
    pub fn still_trusts(
        &self,
        chain: &[CertificateDer<'_>],
        peer: Peer,
        since: SystemTime,
    ) -> Result<Identity, Refusal> {
        let (leaf, others) = chain.split_first().ok_or(Refusal::Absent)?;
        let since = unix(since).ok_or(Refusal::Absent)?;
        self.verify(peer, leaf, others, since)
    }

    /// Who shows this chain, where a root of its domain vouches for it as `peer` at that time.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn verify(
        &self,
        peer: Peer,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Result<Identity, Refusal> {
        check_bounds(leaf, others)?;
        let identity = Certificate::read(leaf)?.identity;
        if !self.accepts(&identity.trust_domain) {
            return Err(Refusal::TrustDomain(identity));
        }
        let verified = match (self.of(&identity.trust_domain), peer) {
            (None, _) => Err(CertificateError::UnknownIssuer.into()),
            (Some(roots), Peer::Client) => roots
                .clients
                .verify_client_cert(leaf, others, at)
                .map(|_| ()),
            (Some(roots), Peer::Server) => ParsedCertificate::try_from(leaf).and_then(|leaf| {
                let algorithms = provider().signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(
                    &leaf,
                    &roots.store,
                    others,
                    at,
                    algorithms,
                )
            }),
        };
        match verified {
            Ok(()) => Ok(identity),
            Err(source) => Err(Refusal::Chain {
                identity,
                source: match source {
                    // A root of the same name, and with another key, has signed it.
                    rustls::Error::InvalidCertificate(CertificateError::BadSignature) => {
                        CertificateError::UnknownIssuer.into()
                    }
                    source => source,
                },
            }),
        }
    }

    fn of(&self, domain: &str) -> Option<&Roots> {
        let roots = &self.0.roots;
        roots.get(domain).or_else(|| roots.get(&self.0.domain))
    }
}

impl Roots {
    fn new(
        domain: &str,
        mut certificates: Vec<CertificateDer<'static>>,
    ) -> Result<Option<Self>, Error> {
        let wrong = |problem: String| Error::Root {
            domain: domain.to_owned(),
            problem,
        };
        certificates.sort_unstable_by(|one, other| one.as_ref().cmp(other));
        certificates.dedup();
        if certificates.is_empty() {
            return Ok(None);
        }
        if certificates.len() > MAX_ROOTS {
            let count = certificates.len();
            return Err(wrong(format!("{count} roots, at most {MAX_ROOTS}")));
        }
        let mut store = RootCertStore::empty();
        for one in &certificates {
            if one.len() > MAX_CERTIFICATE {
                let size = one.len();
                return Err(wrong(format!("{size} bytes, at most {MAX_CERTIFICATE}")));
            }
            let added = store.add(one.clone());
            added.map_err(|error| wrong(format!("it can't be read: {error}")))?;
        }
        let store = Arc::new(store);
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&store), Arc::clone(provider()));
        Ok(Some(Self {
            certificates,
            clients: clients.build().map_err(|error| wrong(error.to_string()))?,
            store,
        }))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots = self.roots().map(|(domain, roots)| (domain, roots.len()));
        f.debug_struct("Trust")
            .field("domain", &self.0.domain)
            .field("aliases", &self.0.aliases)
            .field("roots", &roots.collect::<Vec<_>>())
            .finish()
    }
}
