//! Who signs certificates, as the driver sees it.

use std::time::Duration;

use futures_util::future::BoxFuture;
use rustls::pki_types::CertificateDer;

use crate::tls::{self, Request};
use crate::types::Identity;

/// What an authority has signed.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The workload's certificate first, then the authorities between it and a root.
    pub chain: Vec<CertificateDer<'static>>,
    /// All roots of the mesh's trust domain now: they replace those in force. During a change of
    /// roots that is the old one and the new one. Never empty.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Why there is no certificate.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// What it is asked with is not here.
    #[error("the authority can't be asked: {0}")]
    Unasked(String),
    /// It does not answer.
    #[error("the authority can't be reached: {0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("the authority has not answered for {0:?}")]
    Silent(Duration),
    /// It said no.
    #[error("the authority refuses: {0}")]
    Refused(String),
    /// It answered what is no answer.
    #[error("the authority's answer can't be used: {0}")]
    Nonsense(String),
    /// What it signed, or what it was sent, can't be used.
    #[error(transparent)]
    Unusable(#[from] tls::Error),
}

impl Failure {
    /// A word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unasked(_) => "unasked",
            Self::Unreachable(_) => "unreachable",
            Self::Silent(_) => "silent",
            Self::Refused(_) => "refused",
            Self::Nonsense(_) => "nonsense",
            Self::Unusable(_) => "unusable",
        }
    }
}

/// What an authority's files have come to say while the proxy runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// All roots of the mesh's trust domain now, as an answer would name them.
    Roots(Vec<CertificateDer<'static>>),
    /// Its roots are others, and it is to be asked what those of the mesh are. These are trusted no
    /// more meanwhile, nor afterwards, whatever it names: they were taken away here.
    Others {
        /// All that have been taken away and have not come back.
        withdrawn: Vec<CertificateDer<'static>>,
    },
}

/// Who signs certificates. An implementation need not bound its time: the driver gives up by itself,
/// by dropping the future.
pub trait Authority: Send + Sync + 'static {
    /// Has a key signed for an identity.
    fn sign<'a>(
        &'a self,
        identity: &'a Identity,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Signed, Failure>>;

    /// Looks at its files; says what there is to say since it was last asked. It may block.
    fn look(&self) -> Option<News> {
        None
    }

    /// What people are told it is, as `https://istiod.istio-system.svc:15012`.
    fn name(&self) -> String;
}
