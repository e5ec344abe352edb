//! What a request is hashed by for consistent hashing, and how.
//!
//! Pure: it reads a request's head and addresses, and says which cookie is to be set. Which
//! endpoint a hash means is the balancer's business.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

/// A DestinationRule's `consistentHash` key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// `httpHeaderName`.
    Header(HeaderName),
    /// `httpCookie`.
    Cookie(Cookie),
    /// `useSourceIp: true`.
    SourceAddress,
    /// `httpQueryParameterName`: case matters.
    QueryParameter(Arc<str>),
}

/// The cookie that holds the hash key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// `name`.
    pub name: Arc<str>,
    /// `path`, empty where absent.
    pub path: Arc<str>,
    /// `ttl`: where given, a request without the cookie gets one that lasts so long; zero makes
    /// it a cookie of the browser's session. Where absent no cookie is made.
    pub ttl: Option<Duration>,
    /// `attributes` of the cookie that is made, name and value, in order.
    pub attributes: Vec<(Arc<str>, Arc<str>)>,
}
