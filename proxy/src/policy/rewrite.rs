//! Rewriting a request's path.
//!
//! Gives a request target that is valid whatever comes in; keeping the original in
//! `x-envoy-original-path` is the engine's part. Prefixes are cut as bytes and slashes are not
//! merged, so `/v2` rewritten to `/` makes `//x` of `/v2/x` (Envoy).

use bytes::Bytes;
use http::HeaderValue;
use http::uri::PathAndQuery;
use regex::bytes::Regex;

use super::pattern::{self, Pattern, PatternError};
use super::target;

/// What becomes of the path and the authority.
#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    /// `uri` or `uriRegexRewrite`.
    pub path: Option<PathRewrite>,
    /// `authority`: takes the place of what header operations set.
    pub authority: Option<HeaderValue>,
}

/// What becomes of the path. The query is kept.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// `uri`: in the place of the prefix that matched, or of the whole path where no prefix did.
    Matched(Box<str>),
    /// `uriRegexRewrite`: in the place of every match.
    Regex(Substitution),
}

/// Replaces every match of an expression, anywhere in the path without the query (RE2's
/// `GlobalReplace`).
#[derive(Clone, Debug)]
pub struct Substitution {
    regex: Regex,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Box<[u8]>),
    /// `\0` is the whole match.
    Group(usize),
}

/// Why a substitution is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubstitutionError {
    /// The expression.
    #[error("match: {0}")]
    Match(#[from] PatternError),
    /// No expression: it would match between all characters.
    #[error("match: the regular expression is missing")]
    Empty,
    /// A backslash before something else than a digit or a backslash.
    #[error("rewrite: a backslash stands before a digit (the group) or another backslash")]
    Backslash,
    /// No such group.
    #[error("rewrite: \\{group} names a group, but match has only {groups}")]
    Group {
        /// As it was written.
        group: usize,
        /// Groups of the expression.
        groups: usize,
    },
}

/// A text that is no authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host, or a host and a port")]
pub struct AuthorityError(String);

/// Reads a rewrite's `authority`.
///
/// # Errors
/// It is none.
pub fn authority(text: &str) -> Result<HeaderValue, AuthorityError> {
    if !target::is_authority(text.as_bytes()) {
        return Err(AuthorityError(text.to_owned()));
    }
    HeaderValue::try_from(text).map_err(|_| AuthorityError(text.to_owned()))
}

/// The path would be longer than a request target can be (65,534 bytes), or is so long and has so
/// many matches that replacing them would take too much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path is too long to be rewritten, or would become so")]
pub struct TooLong;

/// Bytes that may be searched for the matches of one path. One search is linear, but each match
/// begins another that may read the path to its end: 3,000 bytes of nothing but matches are within
/// the bound.
const MOST_SEARCHED: usize = 8 << 20;

/// What the rule's match block matched of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matched {
    /// So many bytes at its beginning.
    Prefix(usize),
    /// All of it.
    Whole,
}

impl Matched {
    /// By the `uri` condition of the block that matched; a block without one matches the prefix `/`
    /// (Istio).
    pub fn by(condition: Option<&Pattern>) -> Self {
        match condition {
            None => Self::Prefix(1),
            Some(Pattern::Prefix(text, _)) => Self::Prefix(text.len()),
            Some(Pattern::Exact(..) | Pattern::Regex(..)) => Self::Whole,
        }
    }

    /// What of `path` was not matched.
    pub(super) fn rest(self, path: &[u8]) -> &[u8] {
        match self {
            Self::Prefix(len) => path.get(len..).unwrap_or_default(),
            Self::Whole => &[],
        }
    }
}

impl PathRewrite {
    /// The new target for a request of `path` and `query` (without its `?`). `None` where nothing
    /// is left of the path, or where `uri` is empty: then it stays as it is (Envoy).
    ///
    /// Bytes that a path must not hold are percent-encoded, and a path that does not begin with a
    /// slash gets one: where Envoy would send a malformed target, this one is sound.
    ///
    /// # Errors
    /// The new target is too long.
    pub fn apply(
        &self,
        path: &str,
        query: Option<&str>,
        matched: Matched,
    ) -> Result<Option<PathAndQuery>, TooLong> {
        let mut new = Vec::with_capacity(path.len() + 16);
        match self {
            Self::Matched(with) if with.is_empty() => return Ok(None),
            Self::Matched(with) => {
                new.extend_from_slice(with.as_bytes());
                new.extend_from_slice(matched.rest(path.as_bytes()));
            }
            Self::Regex(substitution) => substitution.apply(path.as_bytes(), &mut new)?,
        }
        if new.is_empty() {
            return Ok(None);
        }
        let mut text = Vec::with_capacity(new.len() + query.map_or(0, str::len) + 2);
        if new.first() != Some(&b'/') {
            text.push(b'/');
        }
        target::encode(&new, target::PATH, &mut text);
        if let Some(query) = query {
            text.push(b'?');
            target::encode(query.as_bytes(), target::QUERY, &mut text);
        }
        // The one reason that is left: every byte is allowed, and there is a slash.
        PathAndQuery::from_maybe_shared(Bytes::from(text))
            .map(Some)
            .map_err(|_| TooLong)
    }
}

impl Substitution {
    /// Compiles `uriRegexRewrite`.
    ///
    /// # Errors
    /// The expression is not RE2's, or the replacement does not fit it.
    pub fn new(expression: &str, replacement: &str) -> Result<Self, SubstitutionError> {
        if expression.is_empty() {
            return Err(SubstitutionError::Empty);
        }
        let regex = pattern::search(expression)?;
        let groups = regex.captures_len() - 1;
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut bytes = replacement.bytes();
        while let Some(byte) = bytes.next() {
            if byte != b'\\' {
                literal.push(byte);
                continue;
            }
            match bytes.next() {
                Some(b'\\') => literal.push(b'\\'),
                Some(digit) if digit.is_ascii_digit() => {
                    let group = usize::from(digit - b'0');
                    if group > groups {
                        return Err(SubstitutionError::Group { group, groups });
                    }
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
                    }
                    pieces.push(Piece::Group(group));
                }
                _ => return Err(SubstitutionError::Backslash),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.into()));
        }
        Ok(Self { regex, pieces })
    }

    /// Writes `path` with every match replaced. Stops where the result is too long for a target (a
    /// replacement can multiply what a client sends) or where the search takes too long.
    fn apply(&self, path: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
        let mut end = 0;
        let mut budget = MOST_SEARCHED;
        for captures in self.regex.captures_iter(path) {
            let Some(whole) = captures.get(0) else {
                continue;
            };
            budget = budget.checked_sub(path.len() - end).ok_or(TooLong)?;
            out.extend_from_slice(&path[end..whole.start()]);
            for piece in &self.pieces {
                match piece {
                    Piece::Literal(text) => out.extend_from_slice(text),
                    Piece::Group(group) => {
                        let text = captures.get(*group).map(|found| found.as_bytes());
                        out.extend_from_slice(text.unwrap_or_default());
                    }
                }
                if out.len() > target::LONGEST {
                    return Err(TooLong);
                }
            }
            end = whole.end();
        }
        out.extend_from_slice(&path[end..]);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
