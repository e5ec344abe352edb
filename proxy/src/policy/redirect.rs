//! Redirects: the `Location` that takes the place of a request.

use http::{HeaderValue, StatusCode};

use super::rewrite::Matched;
use super::target::{self, split_port};

/// A redirect. What is absent is taken from the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// `scheme`.
    pub scheme: Option<Scheme>,
    /// `authority`: host, and port where it has one.
    pub authority: Option<Box<str>>,
    /// `port` or `derivePort`.
    pub port: Port,
    /// `uri` or `prefixRewrite`.
    pub path: Path,
}

/// A scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

/// The port of the location.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Port {
    /// Not configured.
    #[default]
    Kept,
    /// `FROM_PROTOCOL_DEFAULT`: none is written.
    ProtocolDefault,
    /// `FROM_REQUEST_PORT`: the one that the client dialled.
    Request,
    /// `port`.
    Fixed(u16),
}

/// The path of the location.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Path {
    /// The request's.
    #[default]
    Kept,
    /// `uri`: in the place of the path, and of the query where it has one itself.
    Whole(Box<str>),
    /// `prefixRewrite`: in the place of the prefix that matched.
    Prefix(Box<str>),
}

/// What a redirect takes from the request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The connection's.
    pub scheme: Scheme,
    /// As the client sent it, with a port where it sent one.
    pub authority: &'a str,
    /// Without the query.
    pub path: &'a str,
    /// Without its `?`.
    pub query: Option<&'a str>,
    /// The port that the client dialled.
    pub port: u16,
    /// What the rule's match block matched of the path.
    pub matched: Matched,
}

impl Redirect {
    /// Leads to where the request went. Envoy gives a direct response of status 201 or 3xx this
    /// location (seen, 1.40); the rule's response operations may set another.
    pub const ITSELF: Self = Self {
        status: StatusCode::MOVED_PERMANENTLY,
        scheme: None,
        authority: None,
        port: Port::Kept,
        path: Path::Kept,
    };

    /// Where the client is sent, as Envoy composes it (`utility.cc`, `newUri`, under the port that
    /// Istio gives it). Always a valid header value: what a URI can't hold is percent-encoded.
    pub fn location(&self, request: &Request<'_>) -> HeaderValue {
        let scheme = self.scheme.unwrap_or(request.scheme);
        let port = match self.port {
            Port::Kept | Port::ProtocolDefault => None,
            Port::Request => Some(request.port),
            Port::Fixed(port) => Some(port),
        };
        // Istio configures no port where it is the scheme's, so Envoy keeps the request's: a
        // redirect from `web:8080` to port 80 leads to `http://web:8080`.
        let port = port.filter(|port| *port != scheme.default_port());
        let authority = match &self.authority {
            Some(authority) if port.is_some() => split_port(authority).0,
            Some(authority) => authority,
            None => kept_authority(request, scheme, port.is_some()),
        };
        let mut text = Vec::with_capacity(64 + request.path.len());
        text.extend_from_slice(scheme.as_str().as_bytes());
        text.extend_from_slice(b"://");
        target::encode(authority.as_bytes(), target::AUTHORITY, &mut text);
        if let Some(port) = port {
            text.extend_from_slice(format!(":{port}").as_bytes());
        }
        self.write_path(request, &mut text);
        // Whatever a URI may hold, a header may.
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("/"))
    }

    fn write_path(&self, request: &Request<'_>, text: &mut Vec<u8>) {
        let (new, rest) = match &self.path {
            Path::Kept => ("", request.path.as_bytes()),
            Path::Whole(path) => (&**path, &[][..]),
            Path::Prefix(prefix) => (&**prefix, request.matched.rest(request.path.as_bytes())),
        };
        if new.bytes().chain(rest.iter().copied()).next() != Some(b'/') {
            text.push(b'/');
        }
        target::encode(new.as_bytes(), target::LOCATION, text);
        target::encode(rest, target::PATH, text);
        let brings_query = matches!(&self.path, Path::Whole(path) if path.contains('?'));
        if let Some(query) = request.query.filter(|_| !brings_query) {
            text.push(b'?');
            target::encode(query.as_bytes(), target::QUERY, text);
        }
    }
}

/// The request's authority, without its port where that is replaced or was the old scheme's own.
fn kept_authority<'a>(request: &Request<'a>, scheme: Scheme, has_port: bool) -> &'a str {
    let (host, port) = split_port(request.authority);
    let was_default = scheme != request.scheme
        && port.is_some_and(|port| port.parse() == Ok(request.scheme.default_port()));
    if has_port || was_default {
        host
    } else {
        request.authority
    }
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

#[cfg(test)]
mod tests;
