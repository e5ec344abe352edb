//! Which fields a message's head has, of those that the engine asks about: one look at each name
//! instead of a search for each question.

use http::HeaderMap;

/// A set of fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(u16);

impl Fields {
    /// What belongs to the hop, or is a control field that a mesh client's proxy removes unread (seen
    /// with istiod's configuration).
    pub(super) const HOP: Self = Self(1);
    pub(super) const UPGRADE: Self = Self(1 << 1);
    pub(super) const TE: Self = Self(1 << 2);
    pub(super) const TRANSFER_ENCODING: Self = Self(1 << 3);
    pub(super) const CONTENT_TYPE: Self = Self(1 << 4);
    pub(super) const FORWARDED_PROTO: Self = Self(1 << 5);
    pub(super) const REQUEST_ID: Self = Self(1 << 6);
    pub(super) const FORWARDED_FOR: Self = Self(1 << 7);
    pub(super) const CLIENT_CERT: Self = Self(1 << 8);

    /// Those of a head.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let fields = headers.keys().map(|name| Self::named(name.as_str()).0);
        Self(fields.fold(0, |all, one| all | one))
    }

    /// What the name stands for.
    fn named(name: &str) -> Self {
        match name {
            "te" => Self(Self::HOP.0 | Self::TE.0),
            "transfer-encoding" => Self(Self::HOP.0 | Self::TRANSFER_ENCODING.0),
            "upgrade" => Self(Self::HOP.0 | Self::UPGRADE.0),
            "content-type" => Self::CONTENT_TYPE,
            "x-forwarded-proto" => Self::FORWARDED_PROTO,
            "x-request-id" => Self::REQUEST_ID,
            "x-forwarded-for" => Self::FORWARDED_FOR,
            "x-forwarded-client-cert" => Self::CLIENT_CERT,
            name if ends_here(name) => Self::HOP,
            _ => Self(0),
        }
    }

    /// Whether one of `others` is there.
    pub(super) fn has(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

/// Whether a request's field ends at this proxy.
pub(super) fn ends_here(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "expect"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "x-envoy-expected-rq-timeout-ms"
            | "x-envoy-force-trace"
            | "x-envoy-hedge-on-per-try-timeout"
            | "x-envoy-internal"
            | "x-envoy-ip-tags"
            | "x-envoy-max-retries"
            | "x-envoy-original-url"
            | "x-envoy-retriable-header-names"
            | "x-envoy-retriable-status-codes"
            | "x-envoy-retry-grpc-on"
            | "x-envoy-retry-on"
            | "x-envoy-upstream-alt-stat-name"
            | "x-envoy-upstream-rq-per-try-timeout-ms"
            | "x-envoy-upstream-rq-timeout-alt-response"
            | "x-envoy-upstream-rq-timeout-ms"
            | "x-envoy-upstream-stream-duration-ms"
    )
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn fields_are_found_by_name() {
        let fields = |names: &[&'static str]| {
            let value = HeaderValue::from_static("x");
            let names = names.iter().map(|name| HeaderName::from_static(name));
            Fields::of(&names.map(|name| (name, value.clone())).collect())
        };
        assert_eq!(fields(&["host", "accept", "x-b3-traceid"]), Fields(0));
        for (name, field) in [
            ("connection", Fields::HOP),
            ("x-envoy-max-retries", Fields::HOP),
            ("upgrade", Fields::UPGRADE),
            ("te", Fields::TE),
            ("transfer-encoding", Fields::TRANSFER_ENCODING),
            ("content-type", Fields::CONTENT_TYPE),
            ("x-forwarded-proto", Fields::FORWARDED_PROTO),
            ("x-request-id", Fields::REQUEST_ID),
            ("x-forwarded-for", Fields::FORWARDED_FOR),
            ("x-forwarded-client-cert", Fields::CLIENT_CERT),
        ] {
            assert!(fields(&["host", name]).has(field), "{name}");
        }
        let hop = ["te", "transfer-encoding", "upgrade"];
        assert!(hop.iter().all(|name| fields(&[name]).has(Fields::HOP)));
        assert!(!fields(&["content-type"]).has(Fields::HOP));
    }
}
