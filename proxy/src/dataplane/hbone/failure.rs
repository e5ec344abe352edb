//! Why HBONE came to nothing, on either side.

use std::io;

use crate::dataplane::error::Error;
use crate::tls;
use crate::types::identity::NotAnIdentity;
use crate::types::{Identity, Reason};

/// One variant per cause.
#[derive(Clone, Debug, thiserror::Error)]
pub(in crate::dataplane) enum Failure {
    /// A namespace or an account with a name that no Kubernetes has.
    #[error("the pod has no identity: {0}")]
    Nobody(#[from] NotAnIdentity),
    /// None yet, or none any more.
    #[error("there is no certificate for {0}")]
    NoCertificate(Identity),
    /// The handshake failed, or what the peer said about it afterwards.
    #[error("TLS: {1}")]
    Tls(Reason, String),
    /// The peer breaks HTTP/2.
    #[error("HTTP/2: {0}")]
    Http2(String),
    /// The peer does not go on with the handshake.
    #[error("the handshake took too long")]
    Late,
    /// 401.
    #[error("the destination's policies refuse it")]
    Denied,
    /// Another status than 200.
    #[error("the destination's proxy answered {0}")]
    Status(u16),
    /// The connection ended, or refused the stream, before there was an answer.
    #[error("the connection to the destination's proxy was lost: {0}")]
    Lost(String),
    /// It has sent GOAWAY, and there was no answer for a while.
    #[error("the destination's proxy is leaving, and does not answer")]
    Leaving,
}

impl Failure {
    /// Why TLS has failed, in one line.
    pub(super) fn tls(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(inner) => Self::Tls(tls::word(inner), tls::reason(inner)),
            // rustls takes no more of a message: that is told when it reads, not when it looks.
            None if error.kind() == io::ErrorKind::InvalidData => {
                Self::Tls(Reason::TooLarge, error.to_string())
            }
            None => Self::Tls(Reason::Lost, error.to_string()),
        }
    }

    /// Why there was no answer. TLS 1.3's client learns only now what the server thinks of its
    /// certificate.
    pub(super) fn unanswered(error: &h2::Error) -> Self {
        match error.get_io() {
            Some(io) if io.kind() == io::ErrorKind::InvalidData => Self::tls(io),
            _ => Self::Lost(error.to_string()),
        }
    }

    /// In one word.
    pub(super) fn reason(&self) -> Reason {
        match self {
            // No authority signs for such a one.
            Self::Nobody(_) | Self::NoCertificate(_) => Reason::OwnCertificate,
            Self::Tls(reason, _) => *reason,
            Self::Http2(_) => Reason::Http2,
            Self::Late => Reason::Late,
            Self::Denied => Reason::Policy,
            Self::Status(_) => Reason::Status,
            Self::Lost(_) => Reason::Lost,
            Self::Leaving => Reason::Leaving,
        }
    }
}

impl From<tls::Refusal> for Failure {
    fn from(refusal: tls::Refusal) -> Self {
        Self::Tls(refusal.reason(), refusal.to_string())
    }
}

/// Why a tunnel or the application's connection came to nothing, in one word.
pub(super) fn reason(error: &Error) -> Reason {
    match error {
        Error::Tunnel(failure) => failure.reason(),
        Error::Connect(_) => Reason::Unreachable,
        Error::ConnectTimeout => Reason::Late,
        Error::ConnectionOverflow => Reason::Overflow,
        _ => Reason::Lost,
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        Self::Http2(error.to_string())
    }
}
