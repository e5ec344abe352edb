//! `x-forwarded-client-cert`: what the application is told about the identities of both ends.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderValue};

use super::super::headers::CLIENT_CERT as FORWARDED;
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

/// Tells the application who calls. Without a certificate nobody is to be believed who says that
/// there was one (Envoy removes it too); with one it is the last of the list (`APPEND_FORWARD`).
pub(super) fn tell(headers: &mut HeaderMap, element: Option<&HeaderValue>) {
    let Some(element) = element else {
        headers.remove(FORWARDED);
        return;
    };
    let before = headers.get_all(FORWARDED).iter();
    let all: Vec<&[u8]> = before.chain([element]).map(HeaderValue::as_bytes).collect();
    match HeaderValue::from_bytes(&all.join(&b","[..])) {
        Ok(all) => headers.insert(FORWARDED, all),
        Err(_) => headers.remove(FORWARDED),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_element_is_the_callers() {
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
        let told =
            "By=spiffe://cluster.local/ns/a/sa/b;Subject=\"\";URI=spiffe://cluster.local/ns/c/sa/d";
        for (before, element, after) in [
            (&[][..], None, None),
            (&["URI=spiffe://x"], None, None),
            (&[], Some(&element), Some(told.to_owned())),
            (&["a", "b"], Some(&element), Some(format!("a,b,{told}"))),
        ] {
            let mut headers = HeaderMap::new();
            for value in before {
                headers.append(FORWARDED, HeaderValue::from_static(value));
            }
            tell(&mut headers, element);
            let found: Vec<_> = headers.get_all(FORWARDED).iter().collect();
            let expected: Vec<&str> = after.as_deref().into_iter().collect();
            assert_eq!(found, expected, "{before:?}");
        }
    }
}
