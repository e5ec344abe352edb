//! CORS: which origins may call, and what a browser is told about it.

use http::HeaderValue;

use super::pattern::Pattern;

/// `corsPolicy` of a rule.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `allowOrigins`; the exact pattern `*` is any origin.
    pub origins: Vec<Pattern>,
    /// `allowMethods`.
    pub methods: List,
    /// `allowHeaders`.
    pub headers: List,
    /// `exposeHeaders`, joined.
    pub expose: Option<HeaderValue>,
    /// `maxAge`, in seconds.
    pub max_age: Option<u64>,
    /// `allowCredentials`.
    pub credentials: bool,
    /// `unmatchedPreflights`.
    pub unmatched: Unmatched,
}

/// What a preflight is told to be allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum List {
    /// Nothing is said.
    #[default]
    Absent,
    /// `*`: whatever is asked for.
    Asked,
    /// Joined by commas.
    Listed(HeaderValue),
}

/// What becomes of a preflight from an origin that is not allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmatched {
    /// The upstream answers it.
    #[default]
    Forward,
    /// The proxy answers it, and allows nothing.
    Ignore,
}
