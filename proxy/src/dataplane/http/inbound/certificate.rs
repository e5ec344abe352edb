//! `x-forwarded-client-cert`: what the application is told about the identities of both ends.

use std::fmt::Write as _;

use http::HeaderValue;

use crate::tls;
use crate::types::Identity;

/// The element of one hop, as Istio's inbound listeners have it made (Envoy's `SUBJECT` and `URI`
/// details). `leaf` is the certificate that the caller has shown, in DER; `None` where the kernel
/// vouches for it instead. A subject is not told: who somebody is, the URI alone says.
pub(in crate::dataplane) fn element(
    own: &Identity,
    peer: &Identity,
    leaf: Option<&[u8]>,
) -> Option<HeaderValue> {
    let mut text = format!("By={own};");
    if let Some(leaf) = leaf {
        text.push_str("Hash=");
        for byte in tls::digest(leaf) {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push(';');
    }
    let _ = write!(text, "Subject=\"\";URI={peer}");
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_named() {
        let own: Identity = "spiffe://cluster.local/ns/a/sa/b"
            .parse()
            .expect("an identity");
        let peer = "spiffe://cluster.local/ns/c/sa/d"
            .parse()
            .expect("an identity");
        let hashed = element(&own, &peer, Some(b"abc")).expect("a value");
        assert_eq!(
            hashed,
            "By=spiffe://cluster.local/ns/a/sa/b;\
             Hash=ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad;\
             Subject=\"\";URI=spiffe://cluster.local/ns/c/sa/d"
        );
        let element = element(&own, &peer, None).expect("a value");
        assert_eq!(
            element,
            "By=spiffe://cluster.local/ns/a/sa/b;Subject=\"\";URI=spiffe://cluster.local/ns/c/sa/d"
        );
    }
}
