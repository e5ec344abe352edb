//! Where a token may stand in a request, and how it is taken off.

use std::borrow::Cow;

use http::header::{COOKIE, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};
use percent_encoding::percent_decode_str;

/// Where a token may stand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A header field, after a prefix.
    Header(Name, String),
    /// A parameter of the query.
    Parameter(String),
    /// A cookie.
    Cookie(String),
}

/// A header's name, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(pub(super) HeaderName);

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl Place {
    /// Whatever stands here in the place of a token.
    pub(super) fn tokens(&self, target: &Uri, headers: &HeaderMap) -> Vec<String> {
        match self {
            Self::Header(Name(name), prefix) if prefix.is_empty() => {
                headers.get_all(name).iter().map(text).collect()
            }
            Self::Header(Name(name), prefix) => {
                let lines: Vec<String> = headers.get_all(name).iter().map(text).collect();
                // One field in several lines is one text (Envoy), so that none of them is left out.
                after(&lines.join(","), prefix)
                    .map(ToOwned::to_owned)
                    .into_iter()
                    .collect()
            }
            Self::Parameter(name) => {
                let own = pairs(target).filter(|(key, _)| is_named(key, name));
                own.map(|(_, value)| decoded(value).into_owned()).collect()
            }
            Self::Cookie(name) => {
                let lines: Vec<String> = headers.get_all(COOKIE).iter().map(text).collect();
                let all = lines.iter().flat_map(|line| line.split(';'));
                let own = all.filter_map(|pair| pair.trim().split_once('='));
                own.filter(|(key, _)| key == name)
                    .map(|(_, value)| unquoted(value).to_owned())
                    .collect()
            }
        }
    }

    /// Takes them off, so that the application does not see them. Cookies stay (Envoy).
    pub(super) fn clear(&self, target: &mut Uri, headers: &mut HeaderMap) {
        match self {
            Self::Header(Name(name), _) => drop(headers.remove(name)),
            Self::Parameter(name) => {
                let Some(query) = target.query() else { return };
                let others = query
                    .split('&')
                    .filter(|pair| !is_named(split(pair).0, name));
                let others: Vec<&str> = others.collect();
                let path = target.path();
                let rest = match others.is_empty() {
                    true => path.to_owned(),
                    false => format!("{path}?{}", others.join("&")),
                };
                if let Ok(whole) = PathAndQuery::try_from(rest) {
                    *target = Uri::from(whole);
                }
            }
            Self::Cookie(_) => {}
        }
    }
}

/// What stands in a log in the place of a token.
const CONCEALED: &str = "***";

/// The target without the values of these parameters; `None` where it has none of them.
pub(super) fn concealed(target: &Uri, names: &[&str]) -> Option<Uri> {
    let is_one = |key: &str| names.iter().any(|name| is_named(key, name));
    if !pairs(target).any(|(key, _)| is_one(key)) {
        return None;
    }
    let pairs = target.query()?.split('&').map(|pair| match split(pair).0 {
        key if is_one(key) => format!("{key}={CONCEALED}"),
        _ => pair.to_owned(),
    });
    let query = pairs.collect::<Vec<_>>().join("&");
    let mut parts = target.clone().into_parts();
    // Nothing but letters was taken out and stars put in.
    parts.path_and_query = format!("{}?{query}", target.path()).try_into().ok();
    Some(Uri::from_parts(parts).unwrap_or_default())
}

/// What follows the prefix, wherever that is, from the first letter on that a token can have; all of
/// it where there is none (Envoy).
fn after<'a>(value: &'a str, prefix: &str) -> Option<&'a str> {
    let at = value.find(prefix)? + prefix.len();
    let is_token = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let rest = &value[at..];
    Some(rest.find(is_token).map_or(value, |start| &rest[start..]))
}

/// What is no text is no token, but something stands there.
fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn pairs(target: &Uri) -> impl Iterator<Item = (&str, &str)> {
    target.query().unwrap_or_default().split('&').map(split)
}

fn split(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

fn is_named(key: &str, name: &str) -> bool {
    percent_decode_str(key).eq(name.bytes())
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

fn unquoted(value: &str) -> &str {
    let inner = value
        .strip_prefix('"')
        .and_then(|one| one.strip_suffix('"'));
    inner.unwrap_or(value)
}
