//! The protocol that a Service's port declares.

use std::fmt;

/// What a port carries, from `appProtocol` or the port's name (Istio's protocol selection).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.x to the upstream; the downstream may also speak HTTP/2 with prior knowledge.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// HTTP/2 that carries gRPC.
    Grpc,
    /// Opaque bytes.
    Tcp,
    /// Opaque bytes that begin with a TLS handshake the application terminates.
    Tls,
    /// Not declared: the first bytes decide.
    Auto,
}

impl Protocol {
    /// From a Service port's `appProtocol` and name: the first wins where it is one that we know.
    /// The name counts up to its first `-` (`http-web` is HTTP), as Istio reads it.
    pub fn declared(app_protocol: Option<&str>, name: Option<&str>) -> Self {
        app_protocol
            .and_then(Self::of_app_protocol)
            .or_else(|| name.and_then(|name| Self::of_word(name.split('-').next().unwrap_or(name))))
            .unwrap_or(Self::Auto)
    }

    fn of_app_protocol(value: &str) -> Option<Self> {
        match value.to_ascii_lowercase().as_str() {
            // KEP-3726's standard values.
            "kubernetes.io/h2c" => Some(Self::Http2),
            "kubernetes.io/ws" => Some(Self::Http),
            "kubernetes.io/wss" => Some(Self::Tls),
            word => Self::of_word(word),
        }
    }

    fn of_word(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "http" => Some(Self::Http),
            "http2" | "h2c" => Some(Self::Http2),
            "grpc" | "grpc-web" => Some(Self::Grpc),
            "https" | "tls" => Some(Self::Tls),
            "tcp" | "mongo" | "mysql" | "redis" | "udp" => Some(Self::Tcp),
            _ => None,
        }
    }

    /// Whether requests are looked at, rather than bytes relayed.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Auto => "auto",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_declares_its_protocol() {
        for (app_protocol, name, expected) in [
            (None, Some("http"), Protocol::Http),
            (None, Some("http-web"), Protocol::Http),
            (None, Some("HTTP2-x"), Protocol::Http2),
            (None, Some("grpc-api"), Protocol::Grpc),
            (None, Some("tcp-db"), Protocol::Tcp),
            (None, Some("https"), Protocol::Tls),
            (None, Some("web"), Protocol::Auto),
            (None, Some("httpx"), Protocol::Auto),
            (None, None, Protocol::Auto),
            (Some("http"), Some("tcp"), Protocol::Http),
            (Some("kubernetes.io/h2c"), None, Protocol::Http2),
            (Some("example.com/own"), Some("http"), Protocol::Http),
        ] {
            assert_eq!(
                Protocol::declared(app_protocol, name),
                expected,
                "{app_protocol:?} {name:?}"
            );
        }
    }
}
