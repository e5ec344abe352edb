//! Who a workload is: its SPIFFE identity, read exactly.
//!
//! Knows no certificate and no trust: that a name is well-formed says nothing about who may bear it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// What every SPIFFE identity begins with.
const SCHEME: &str = "spiffe://";
/// The longest identity there may be, in bytes (SPIFFE-ID, section 2.3).
const LONGEST: usize = 2048;

/// A workload's identity in Istio's form: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
///
/// Two identities are the same where all three parts are, byte for byte. What [`FromStr`] reads,
/// [`Display`](fmt::Display) writes again unchanged, so that comparing identities is comparing the
/// text in the certificate: never a prefix or a suffix of it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Whose authorities may vouch for it, as `cluster.local`.
    pub trust_domain: Arc<str>,
    /// The namespace.
    pub namespace: Arc<str>,
    /// The service account.
    pub service_account: Arc<str>,
}

/// Why a text is no workload's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnIdentity {
    /// Not of the five parts that Istio's identities have.
    #[error("not of the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    Form,
    /// A part is empty or has a character that no identity has (SPIFFE-ID, sections 2.1 and 2.2).
    #[error("its {0} is empty or has characters that no identity has")]
    Part(&'static str),
    /// Longer than any identity may be.
    #[error("longer than {LONGEST} bytes")]
    Long,
}

impl Identity {
    /// The identity of a service account.
    ///
    /// # Errors
    /// Where a part would make another identity of it: `/` in a namespace, say.
    pub fn new(
        trust_domain: &Arc<str>,
        namespace: &Arc<str>,
        service_account: &Arc<str>,
    ) -> Result<Self, NotAnIdentity> {
        let identity = Self {
            trust_domain: Arc::clone(trust_domain),
            namespace: Arc::clone(namespace),
            service_account: Arc::clone(service_account),
        };
        identity.check()?;
        Ok(identity)
    }

    /// As policies write it: without `spiffe://`.
    pub fn principal(&self) -> impl fmt::Display + '_ {
        Principal(self)
    }

    fn check(&self) -> Result<(), NotAnIdentity> {
        if !is_trust_domain(&self.trust_domain) {
            return Err(NotAnIdentity::Part("trust domain"));
        }
        if !is_segment(&self.namespace) {
            return Err(NotAnIdentity::Part("namespace"));
        }
        if !is_segment(&self.service_account) {
            return Err(NotAnIdentity::Part("service account"));
        }
        let parts = self.trust_domain.len() + self.namespace.len() + self.service_account.len();
        if parts + SCHEME.len() + "/ns//sa/".len() > LONGEST {
            return Err(NotAnIdentity::Long);
        }
        Ok(())
    }
}

/// Whether a text can be a trust domain: letters, digits, `.`, `-`, `_`, and `:`, which Google's
/// domain-scoped projects have. Upper case is taken as it is: Istio compares byte by byte.
pub fn is_trust_domain(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':'))
}

/// Whether a text can be one part of an identity's path (SPIFFE-ID, section 2.2).
fn is_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

impl FromStr for Identity {
    type Err = NotAnIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > LONGEST {
            return Err(NotAnIdentity::Long);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(NotAnIdentity::Form)?;
        let mut parts = rest.split('/');
        let mut next = || parts.next().ok_or(NotAnIdentity::Form);
        let (trust_domain, ns, namespace, sa, service_account) =
            (next()?, next()?, next()?, next()?, next()?);
        if ns != "ns" || sa != "sa" || parts.next().is_some() {
            return Err(NotAnIdentity::Form);
        }
        let identity = Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        };
        identity.check()?;
        Ok(identity)
    }
}

struct Principal<'a>(&'a Identity);

impl fmt::Display for Principal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity {
            trust_domain,
            namespace,
            service_account,
        } = self.0;
        write!(f, "{trust_domain}/ns/{namespace}/sa/{service_account}")
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.principal())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Identity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exactly_five_parts_are_an_identity() {
        use NotAnIdentity::{Form, Part};
        for (text, expected) in [
            ("spiffe://cluster.local/ns/shop/sa/web", Ok(())),
            ("spiffe://example.com:proj.svc.id.goog/ns/a/sa/b", Ok(())),
            ("spiffe://td/ns/a/sa/b.c_d-E", Ok(())),
            ("cluster.local/ns/shop/sa/web", Err(Form)),
            ("SPIFFE://td/ns/shop/sa/web", Err(Form)),
            ("https://td/ns/shop/sa/web", Err(Form)),
            ("spiffe:/td/ns/shop/sa/web", Err(Form)),
            ("spiffe://td/ns/shop/sa", Err(Form)),
            ("spiffe://td/ns/shop/sa/web/", Err(Form)),
            ("spiffe://td/ns/shop/sa/web/x", Err(Form)),
            ("spiffe://td//ns/shop/sa/web", Err(Form)),
            ("spiffe://td/sa/shop/ns/web", Err(Form)),
            ("spiffe://td/NS/shop/sa/web", Err(Form)),
            ("spiffe:///ns/shop/sa/web", Err(Part("trust domain"))),
            ("spiffe://a@b/ns/shop/sa/web", Err(Part("trust domain"))),
            ("spiffe://td/ns//sa/web", Err(Part("namespace"))),
            ("spiffe://td/ns/../sa/web", Err(Part("namespace"))),
            ("spiffe://td/ns/a%2fb/sa/web", Err(Part("namespace"))),
            ("spiffe://td/ns/shop/sa/", Err(Part("service account"))),
            ("spiffe://td/ns/shop/sa/web?x", Err(Part("service account"))),
            ("spiffe://td/ns/shop/sa/web#x", Err(Part("service account"))),
            ("spiffe://td/ns/shop/sa/web ", Err(Part("service account"))),
            ("spiffe://td/ns/shop/sa/web\0", Err(Part("service account"))),
            ("spiffe://td/ns/shop/sa/wéb", Err(Part("service account"))),
            (" spiffe://td/ns/shop/sa/web", Err(Form)),
            ("", Err(Form)),
        ] {
            assert_eq!(text.parse::<Identity>().map(|_| ()), expected, "{text:?}");
        }
        let long = format!("spiffe://td/ns/a/sa/{}", "b".repeat(LONGEST));
        assert_eq!(long.parse::<Identity>(), Err(NotAnIdentity::Long));
        let (td, a, long) = ("td".into(), "a".into(), "b".repeat(LONGEST - 19).into());
        assert_eq!(Identity::new(&td, &a, &long), Err(NotAnIdentity::Long));
        let slash = "a/sa/b".into();
        assert!(Identity::new(&td, &slash, &a).is_err(), "another's name");
    }

    #[test]
    fn policies_write_it_without_the_scheme() {
        let identity: Identity = "spiffe://td/ns/shop/sa/web".parse().unwrap();
        assert_eq!(identity.principal().to_string(), "td/ns/shop/sa/web");
        assert_eq!(&*identity.namespace, "shop");
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_unchanged(text in "(spiffe://)?[a-z./@ns]{0,12}/ns/[a-z./%]{0,6}/sa/[a-z./ ]{0,6}") {
            if let Ok(identity) = text.parse::<Identity>() {
                prop_assert_eq!(identity.to_string(), text);
            }
        }
    }
}
