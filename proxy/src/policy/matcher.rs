//! Whether a request meets the conditions of a VirtualService's match block.
//!
//! Compiled once; asked once per request and block. Regular expressions are full matches with
//! RE2's syntax and linear time. Does not know where requests come from.

use http::{HeaderMap, Method};

/// The parts of a request that conditions look at, normalised by whoever parsed it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `:method`.
    pub method: &'a Method,
    /// The path without the query.
    pub path: &'a str,
    /// The query without its `?`.
    pub query: Option<&'a str>,
    /// As the client sent it, with a port where it sent one.
    pub authority: &'a str,
    /// Header fields, names in lower case.
    pub headers: &'a HeaderMap,
}

/// One match block: every condition must hold.
#[derive(Clone, Debug, Default)]
pub struct Match {}

impl Match {
    /// Whether every condition holds.
    pub fn matches(&self, _request: &Request<'_>) -> bool {
        let _ = self;
        true
    }
}
