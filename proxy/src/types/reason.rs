//! Why HBONE came to nothing, in one word of a closed set: the label `reason` of its metrics. The log
//! says it in a sentence, by what found it.

/// Defines the reasons, one a cause, each with its word.
macro_rules! reasons {
    ($($(#[doc = $help:literal])+ $Name:ident = $word:literal),+ $(,)?) => {
        /// One cause.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $help])+ $Name,)+
        }

        impl Reason {
            /// Each of them, in the order of their numbers.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$Name),+];

            /// As metrics have it.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$Name => $word,)+
                }
            }
        }
    };
}

reasons! {
    /// The pod's own certificate is missing or has expired.
    OwnCertificate = "own_certificate",
    /// The peer shows none.
    NoCertificate = "no_certificate",
    /// The peer's certificate, or one above it, holds no more.
    Expired = "expired",
    /// Nor yet.
    NotYetValid = "not_yet_valid",
    /// No root of the trust domain that it names vouches for the peer's certificate.
    UnknownIssuer = "unknown_issuer",
    /// The peer's certificate is not one for this purpose, or by no algorithm that is taken.
    Certificate = "certificate",
    /// The peer has not the key of the certificate that it shows.
    Signature = "signature",
    /// The peer is of a trust domain that is neither ours nor an alias of it.
    TrustDomain = "trust_domain",
    /// The peer's certificate names no workload.
    NoIdentity = "no_identity",
    /// The peer's certificate has several URIs.
    SeveralNames = "several_names",
    /// The peer is of the mesh, and not who was meant.
    UnexpectedIdentity = "unexpected_identity",
    /// There is no version, cipher or protocol (ALPN) that both sides take.
    Incompatible = "incompatible",
    /// It is not TLS, or not the authority of a CONNECT.
    Malformed = "malformed",
    /// Larger than is taken.
    TooLarge = "too_large",
    /// The peer ended the handshake with an alert: it does not take us.
    RefusedByPeer = "refused_by_peer",
    /// It was not done in time.
    Late = "late",
    /// The connection ended before it was of use.
    Lost = "lost",
    /// The peer breaks HTTP/2.
    Http2 = "http2",
    /// Nobody answers at the address.
    Unreachable = "unreachable",
    /// The proxy has no descriptor left.
    Overflow = "overflow",
    /// The destination's policies do not allow it.
    Policy = "policy",
    /// The destination's proxy answered by a status that is neither 200 nor 401.
    Status = "status",
    /// The destination's proxy is leaving, and does not answer.
    Leaving = "leaving",
    /// A request of another method.
    NotConnect = "not_connect",
    /// A CONNECT to another address than the one that was dialled.
    OtherAddress = "other_address",
    /// A CONNECT to a name.
    Name = "name",
    /// A CONNECT to a port of the proxy's own.
    OwnPort = "own_port",
}

impl Reason {
    /// Whether a connection can come to nothing by it.
    pub fn is_of_connections(self) -> bool {
        self.is_of_asking() && !matches!(self, Self::Policy | Self::Status | Self::Leaving)
    }

    /// Whether a stream to another workload can come to nothing by it.
    pub fn is_of_asking(self) -> bool {
        use Reason::{Name, NotConnect, OtherAddress, OwnPort};
        !matches!(self, NotConnect | OtherAddress | Name | OwnPort)
    }

    /// Whether a stream into a local pod can be refused by it.
    pub fn is_of_answering(self) -> bool {
        use Reason::{Late, Malformed, Overflow, Policy, Unreachable};
        !self.is_of_asking() || matches!(self, Late | Malformed | Overflow | Policy | Unreachable)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_has_a_word_of_its_own_a_number_and_a_place_in_the_documentation() {
        let page = include_str!("../../../deploy/hbone.md");
        let mut words = BTreeSet::new();
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            let word = reason.word();
            assert_eq!(reason as usize, number);
            assert!(words.insert(word), "{word} twice");
            assert!(page.contains(&format!("| `{word}` |")), "{word}");
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            assert!(word.bytes().all(plain), "{word}");
            assert!(reason.is_of_asking() || reason.is_of_answering(), "{word}");
        }
    }
}
