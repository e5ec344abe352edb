//! Header fields that are nobody's to write but the proxy's.

use http::HeaderName;

/// Whether it frames a message or belongs to one hop; or is the host, by which the request was routed.
pub fn is_fixed(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "expect"
            | "host"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}
