//! When the certificate of a connection's peer expires: longer nobody begins anything by it. What was
//! begun goes on.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;

use crate::clock;
use crate::tls::Facts;

/// How often the wall clock is looked at meanwhile: it may jump.
const LOOK: Duration = Duration::from_secs(3600);

/// The first moment at which it holds no more; `None`: it never held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry(Option<SystemTime>);

impl Expiry {
    /// That of a peer that has shown this certificate.
    pub(super) fn of(leaf: Option<&CertificateDer<'_>>) -> Self {
        let facts = leaf.and_then(|leaf| Facts::of(leaf));
        // The second that it names is the last (RFC 5280, section 4.1.2.5).
        let end = facts.and_then(|facts| facts.not_after.checked_add(Duration::from_secs(1)));
        Self(end)
    }

    /// Whether it has come, by the wall clock.
    pub(super) fn is_over(self) -> bool {
        self.0.is_none_or(|end| clock::wall() >= end)
    }

    /// Resolves when it comes; within [`LOOK`] where the wall clock has jumped.
    pub(super) async fn comes(self) {
        while let Some(end) = self.0
            && let Ok(left) = end.duration_since(clock::wall())
            && !left.is_zero()
        {
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }
}
