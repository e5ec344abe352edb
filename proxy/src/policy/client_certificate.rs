//! `x-forwarded-client-cert` at a request's destination: what becomes of what was there, and of what is
//! known of the caller.
//!
//! Pure. The modes are Envoy's (`forward_client_cert_details`), by which Istio's MeshConfig chooses
//! one (`defaultConfig.proxyHeaders.forwardedClientCert`).

use http::{HeaderMap, HeaderName, HeaderValue};

/// The field.
pub const NAME: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// What is told of callers' certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    Sanitize,
    /// What callers with a proved identity say.
    ForwardOnly,
    /// The same, and who they are at its end (Istio's default).
    AppendForward,
    /// Who they are, and nothing else. The default here: a caller whose own proxy relays its bytes
    /// unread could have written anything before it.
    #[default]
    SanitizeSet,
    /// What all callers say.
    AlwaysForwardOnly,
}

impl Mode {
    /// Makes of the header fields what the application is told. `element`: who calls; `None` where
    /// nobody has proved anything, and then nobody is believed who says so.
    pub fn apply(self, headers: &mut HeaderMap, element: Option<&HeaderValue>) {
        let told = match (self, element) {
            (Self::AlwaysForwardOnly, _) | (Self::ForwardOnly, Some(_)) => return,
            (Self::Sanitize, _) | (_, None) => None,
            (Self::SanitizeSet, Some(element)) => Some(element.clone()),
            (Self::AppendForward, Some(element)) => {
                let before = headers.get_all(NAME).iter();
                let all: Vec<&[u8]> = before.chain([element]).map(HeaderValue::as_bytes).collect();
                HeaderValue::from_bytes(&all.join(&b","[..])).ok()
            }
        };
        match told {
            Some(told) => drop(headers.insert(NAME, told)),
            None => drop(headers.remove(NAME)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callers_say_counts_as_far_as_the_mode_says() {
        use Mode::{AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet};
        let (said, two): (&[&str], &[&str]) = (&["URI=me"], &["a", "b"]);
        for (mode, before, plain, proved) in [
            (Sanitize, said, "", ""),
            (ForwardOnly, said, "", "URI=me"),
            (ForwardOnly, two, "", "a|b"),
            (ForwardOnly, &[], "", ""),
            (AppendForward, said, "", "URI=me,URI=it"),
            (AppendForward, two, "", "a,b,URI=it"),
            (AppendForward, &[], "", "URI=it"),
            (SanitizeSet, said, "", "URI=it"),
            (SanitizeSet, two, "", "URI=it"),
            (SanitizeSet, &[], "", "URI=it"),
            (AlwaysForwardOnly, said, "URI=me", "URI=me"),
            (AlwaysForwardOnly, &[], "", ""),
        ] {
            let it = HeaderValue::from_static("URI=it");
            for (element, expected) in [(None, plain), (Some(&it), proved)] {
                let mut headers = HeaderMap::new();
                for value in before {
                    headers.append(NAME, HeaderValue::from_str(value).expect("a value"));
                }
                mode.apply(&mut headers, element);
                let found = headers.get_all(NAME).iter();
                let found: Vec<&str> = found.filter_map(|one| one.to_str().ok()).collect();
                assert_eq!(found.join("|"), expected, "{mode:?} {before:?} {element:?}");
            }
        }
    }
}
