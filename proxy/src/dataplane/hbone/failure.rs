//! Why HBONE came to nothing, on either side.

use std::io;

use crate::types::Identity;
use crate::types::identity::NotAnIdentity;

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
    #[error("TLS: {0}")]
    Tls(String),
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
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        Self::Tls(inner.map_or_else(|| error.to_string(), crate::tls::reason))
    }

    /// Why there was no answer. TLS 1.3's client learns only now what the server thinks of its
    /// certificate.
    pub(super) fn unanswered(error: &h2::Error) -> Self {
        match error.get_io() {
            Some(io) if io.kind() == io::ErrorKind::InvalidData => Self::tls(io),
            _ => Self::Lost(error.to_string()),
        }
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        Self::Http2(error.to_string())
    }
}
