//! Why a certificate was not signed.

use std::sync::Arc;

use super::reviewer::Unreviewed;
use crate::proto::grpc::{Code, Status};
use crate::tls;
use crate::types::Identity;
use crate::types::identity::NotAnIdentity;

/// One variant a reason. What it says goes to who asks, and into the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// No `authorization: Bearer …`.
    #[error("there is no bearer token")]
    NoToken,
    /// The token is nobody's, or not any more.
    #[error(transparent)]
    Caller(#[from] Unreviewed),
    /// It is not said whose certificate is wanted.
    #[error("ImpersonatedIdentity is absent: a node has no identity of its own")]
    Nobody,
    /// What is wanted is no identity.
    #[error("ImpersonatedIdentity {text:?}: {source}")]
    NotAnIdentity {
        /// Its beginning.
        text: String,
        /// What is wrong.
        source: NotAnIdentity,
    },
    /// Another mesh's.
    #[error("{identity} is not of the trust domain {domain}")]
    TrustDomain {
        /// Whose certificate is wanted.
        identity: Identity,
        /// Ours.
        domain: Arc<str>,
    },
    /// The token's row names other namespaces.
    #[error("{node} may not ask for {identity}")]
    Namespace {
        /// Who asks.
        node: Arc<str>,
        /// Whose certificate is wanted.
        identity: Identity,
    },
    /// Nothing of it runs there.
    #[error("no pod of {identity} runs on {node}")]
    Elsewhere {
        /// Who asks.
        node: Arc<str>,
        /// Whose certificate is wanted.
        identity: Identity,
    },
    /// The request to sign has further names.
    #[error("the signing request names {name:?} beside {identity}")]
    Names {
        /// Whose certificate is wanted.
        identity: Identity,
        /// One of the names.
        name: String,
    },
    /// The request to sign can't be used.
    #[error(transparent)]
    Request(tls::Error),
    /// The authority can't sign.
    #[error(transparent)]
    Signing(tls::Error),
}

impl Refusal {
    /// In gRPC's words. Istio's authority answers UNAUTHENTICATED to all that concerns the caller;
    /// clients come again in either case.
    pub fn code(&self) -> Code {
        match self {
            Self::NoToken | Self::Caller(Unreviewed::Unknown | Unreviewed::Expired { .. }) => {
                Code::Unauthenticated
            }
            Self::Caller(Unreviewed::Unavailable(_)) => Code::Unavailable,
            Self::Nobody | Self::NotAnIdentity { .. } | Self::Names { .. } | Self::Request(_) => {
                Code::InvalidArgument
            }
            Self::TrustDomain { .. } | Self::Namespace { .. } | Self::Elsewhere { .. } => {
                Code::PermissionDenied
            }
            Self::Signing(_) => Code::Internal,
        }
    }

    /// A word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::Caller(Unreviewed::Unknown) => "unknown_token",
            Self::Caller(Unreviewed::Expired { .. }) => "expired_token",
            Self::Caller(Unreviewed::Unavailable(_)) => "no_review",
            Self::Nobody => "no_identity",
            Self::NotAnIdentity { .. } => "not_an_identity",
            Self::TrustDomain { .. } => "trust_domain",
            Self::Namespace { .. } => "namespace",
            Self::Elsewhere { .. } => "not_on_node",
            Self::Names { .. } => "other_names",
            Self::Request(_) => "signing_request",
            Self::Signing(_) => "signing",
        }
    }
}

impl From<&Refusal> for Status {
    fn from(refusal: &Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}
