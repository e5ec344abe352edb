//! What a request is hashed by for consistent hashing, and how.
//!
//! Pure: it reads a request's head and addresses, and says which cookie is to be set. Which
//! endpoint a hash means is the balancer's business. The hashes are Envoy's, bit for bit
//! (`hash_policy.cc`; each kind of key was seen to lead to the same endpoint as in Envoy 1.40):
//! proxies of both kinds send a client to the same endpoint.

#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayString;
use http::{HeaderMap, HeaderValue, header};
use twox_hash::XxHash64;

use super::matcher::{Field, Request};

/// A DestinationRule's `consistentHash` key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// `httpHeaderName`; a pseudo-header serves as well, as in Envoy.
    Header(Field),
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
    /// `ttl`: where given, a request without the cookie gets one that lasts so long; less than a
    /// second makes it a cookie of the browser's session. Where absent no cookie is made.
    pub ttl: Option<Duration>,
    /// `attributes` of the cookie that is made, name and value, in order.
    pub attributes: Vec<(Arc<str>, Arc<str>)>,
}

/// The two ends of the client's connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The client.
    pub remote: SocketAddr,
    /// What it dialled.
    pub local: SocketAddr,
}

/// What the keys of a route made of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hashed {
    /// `None` where no key was found in the request: then any endpoint will do.
    pub hash: Option<u64>,
    /// `set-cookie` lines for the response, one for each cookie that was made.
    pub cookies: Vec<HeaderValue>,
}

/// Hashes a request by all keys of its route.
pub fn of_request<'k>(
    keys: impl IntoIterator<Item = &'k Key>,
    request: &Request<'_>,
    ends: Ends,
) -> Hashed {
    let mut hashed = Hashed::default();
    for key in keys {
        let next = match key {
            Key::Header(field) => of_field(field, request),
            Key::Cookie(cookie) => cookie.hash(request.headers, ends, &mut hashed.cookies),
            Key::SourceAddress => Some(of_address(ends.remote.ip())),
            Key::QueryParameter(name) => {
                let value = request.query.and_then(|query| query_value(query, name));
                value.map(|value| xxh64(value.as_bytes(), 0))
            }
        };
        hashed.hash = combine(hashed.hash, next);
    }
    hashed
}

/// xxHash64.
pub(super) fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    XxHash64::oneshot(seed, bytes)
}

/// Rotated, so that a key given twice does not cancel itself out.
fn combine(hash: Option<u64>, next: Option<u64>) -> Option<u64> {
    match (hash, next) {
        (hash, None) => hash,
        (None, next) => next,
        (Some(hash), Some(next)) => Some(hash.rotate_left(1) ^ next),
    }
}

fn of_field(field: &Field, request: &Request<'_>) -> Option<u64> {
    match field {
        Field::Header(name) => {
            let mut values = request.headers.get_all(name).iter();
            let first = values.next()?;
            let Some(second) = values.next() else {
                return Some(xxh64(first.as_bytes(), 0));
            };
            // In whichever order they were sent.
            let mut values: Vec<&[u8]> = [first, second]
                .into_iter()
                .chain(values)
                .map(HeaderValue::as_bytes)
                .collect();
            values.sort_unstable();
            Some(values.into_iter().fold(0, |seed, value| xxh64(value, seed)))
        }
        Field::Method => Some(xxh64(request.method.as_str().as_bytes(), 0)),
        Field::Authority => Some(xxh64(request.authority.as_bytes(), 0)),
        Field::Path => {
            let mut hasher = XxHash64::with_seed(0);
            hasher.write(request.path.as_bytes());
            if let Some(query) = request.query {
                hasher.write(b"?");
                hasher.write(query.as_bytes());
            }
            Some(hasher.finish())
        }
    }
}

/// By its text, without a port.
pub fn of_address(address: IpAddr) -> u64 {
    // The longest is an IPv6 address that ends in an IPv4 one.
    let mut text = ArrayString::<46>::new();
    match write!(text, "{address}") {
        Ok(()) => xxh64(text.as_bytes(), 0),
        Err(_) => xxh64(address.to_string().as_bytes(), 0),
    }
}

/// The first value of a parameter, as it was sent. One without `=` is empty.
fn query_value<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

impl Cookie {
    /// The hash of its value. A cookie that is absent or empty is made, where a lifetime is given,
    /// and the request that caused it goes where the cookie will lead the next ones.
    fn hash(&self, headers: &HeaderMap, ends: Ends, made: &mut Vec<HeaderValue>) -> Option<u64> {
        if let Some(value) = self.find(headers).filter(|value| !value.is_empty()) {
            return Some(xxh64(value, 0));
        }
        let ttl = self.ttl?;
        let value = generated(ends);
        // A name or attribute that no header may hold is refused where configuration is read; it
        // costs the cookie, not the request.
        made.extend(self.set_cookie(&value, ttl));
        Some(xxh64(value.as_bytes(), 0))
    }

    fn find<'h>(&self, headers: &'h HeaderMap) -> Option<&'h [u8]> {
        let lines = headers.get_all(header::COOKIE).iter();
        lines
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
            .find_map(|pair| {
                let start = pair.iter().position(|byte| *byte != b' ')?;
                let pair = &pair[start..];
                let equals = pair.iter().position(|byte| *byte == b'=')?;
                (&pair[..equals] == self.name.as_bytes()).then(|| unquoted(&pair[equals + 1..]))
            })
    }

    /// As Envoy words it (`makeSetCookieValue`).
    fn set_cookie(&self, value: &str, ttl: Duration) -> Option<HeaderValue> {
        let mut text = format!("{}=\"{value}\"", self.name);
        // Writing to a string does not fail.
        if ttl.as_secs() > 0 {
            let _ = write!(text, "; Max-Age={}", ttl.as_secs());
        }
        if !self.path.is_empty() {
            let _ = write!(text, "; Path={}", self.path);
        }
        for (name, value) in &self.attributes {
            let _ = match &**value {
                "" => write!(text, "; {name}"),
                value => write!(text, "; {name}={value}"),
            };
        }
        text.push_str("; HttpOnly");
        HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok()
    }
}

/// The same for all requests of a connection, so that those under way at once agree.
fn generated(ends: Ends) -> String {
    let text = format!("{}{}", ends.remote, ends.local);
    format!("{:016x}", xxh64(text.as_bytes(), 0))
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        value => value,
    }
}
