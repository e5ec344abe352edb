//! `x-forwarded-client-cert`: what the application is told about the identities of both ends.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use crate::types::Identity;

const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// The element of one hop, as Istio's inbound listeners have it made, but for the certificate's hash.
#[cfg_attr(not(test), expect(dead_code, reason = "plain text proves no identity"))]
pub(in crate::dataplane) fn element(own: &Identity, peer: &Identity) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("By={own};Subject=\"\";URI={peer}")).ok()
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
        let element = element(&own, &peer).expect("a value");
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
