//! One text pattern of a condition: exact, prefix or regular expression.
//!
//! Regular expressions are RE2's: full match, linear time, ASCII classes. They are compiled by the
//! `regex` crate, whose dialect differs in corners; `re2` translates those.

use std::fmt;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::literal::{ExtractKind, Extractor};

use super::re2;

/// Istio's limit on the length of a regular expression, in characters.
const MAX_REGEX_CHARS: usize = 1024;

/// Bound on a compiled expression. `.{1000}` takes about 30 KiB, nested repetitions multiply.
const MAX_PROGRAM_BYTES: usize = 1 << 20;

/// How letters are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// `A` is not `a`.
    Sensitive,
    /// ASCII letters match in either case.
    Ignored,
}

/// A pattern. Cloning is cheap where it is a regular expression.
#[derive(Clone)]
pub enum Pattern {
    /// The whole value.
    Exact(Box<str>, Case),
    /// Its first bytes.
    Prefix(Box<str>, Case),
    /// The whole value.
    Regex(Arc<Expression>),
}

/// A compiled expression.
pub struct Expression {
    regex: Regex,
    /// As it was written.
    text: Box<str>,
}

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Longer than Istio accepts.
    #[error("the regular expression has {0} characters; at most {MAX_REGEX_CHARS} are allowed")]
    TooLong(usize),
    /// Not RE2.
    #[error("not a valid RE2 regular expression: {0}")]
    Syntax(String),
    /// Its automaton would be too large.
    #[error("the regular expression is too large once its repetitions are expanded")]
    TooLarge,
}

impl Pattern {
    /// Compiles a full-match expression.
    ///
    /// # Errors
    /// Too long, too large, or not valid.
    pub fn regex(expression: &str) -> Result<Self, PatternError> {
        let translated = translate(expression)?;
        // By itself first: an unbalanced `a)(b` must not become valid by being wrapped.
        compile(&translated)?;
        let regex = compile(&format!(r"\A(?:{translated})\z"))?;
        Ok(Self::Regex(Arc::new(Expression {
            regex,
            text: expression.into(),
        })))
    }

    /// Whether `value` matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text, Case::Sensitive) => value == text.as_bytes(),
            Self::Exact(text, Case::Ignored) => value.eq_ignore_ascii_case(text.as_bytes()),
            Self::Prefix(text, Case::Sensitive) => value.starts_with(text.as_bytes()),
            Self::Prefix(text, Case::Ignored) => value
                .get(..text.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes())),
            Self::Regex(one) => one.regex.is_match(value),
        }
    }

    /// A text that every value it matches begins with, case and all; the longest that is known.
    /// `None` where there is none.
    pub fn literal_prefix(&self) -> Option<Vec<u8>> {
        match self {
            Self::Exact(text, Case::Sensitive) | Self::Prefix(text, Case::Sensitive) => {
                Some(text.as_bytes().to_vec())
            }
            Self::Exact(..) | Self::Prefix(..) => None,
            Self::Regex(one) => {
                let regex = &one.regex;
                let mut parser = ParserBuilder::new().utf8(false).nest_limit(200).build();
                let hir = parser.parse(regex.as_str()).ok()?;
                let literals = Extractor::new().kind(ExtractKind::Prefix).extract(&hir);
                let common = literals.longest_common_prefix()?;
                (!common.is_empty()).then(|| common.to_vec())
            }
        }
    }

    /// Whether every path matches.
    pub(super) fn is_any_path(&self) -> bool {
        match self {
            Self::Prefix(text, _) => text.is_empty() || &**text == "/",
            Self::Regex(one) => &*one.text == ".*",
            Self::Exact(..) => false,
        }
    }
}

/// Compiles an expression that may match anywhere.
///
/// # Errors
/// Too long, too large, or not valid.
pub(super) fn search(expression: &str) -> Result<Regex, PatternError> {
    compile(&translate(expression)?)
}

fn translate(expression: &str) -> Result<String, PatternError> {
    let chars = expression.chars().count();
    if chars > MAX_REGEX_CHARS {
        return Err(PatternError::TooLong(chars));
    }
    re2::translate(expression).map_err(PatternError::Syntax)
}

fn compile(expression: &str) -> Result<Regex, PatternError> {
    RegexBuilder::new(expression)
        .size_limit(MAX_PROGRAM_BYTES)
        .dfa_size_limit(MAX_PROGRAM_BYTES)
        .nest_limit(100)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => PatternError::TooLarge,
            // The crate draws the place with a caret over several lines: the last one is the cause.
            error => {
                let text = error.to_string();
                let cause = text.lines().last().unwrap_or_default();
                PatternError::Syntax(cause.trim_start_matches("error: ").to_owned())
            }
        })
}

/// As operators write it: `exact /a`, `prefix /a`, `regex /a.*`.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, text, case) = match self {
            Self::Exact(text, case) => ("exact", text, *case),
            Self::Prefix(text, case) => ("prefix", text, *case),
            Self::Regex(one) => ("regex", &one.text, Case::Sensitive),
        };
        write!(f, "{kind} {text}")?;
        match case {
            Case::Sensitive => Ok(()),
            Case::Ignored => f.write_str(" (any case)"),
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_match_the_whole_value_as_re2_does() {
        for (expression, value, expected) in [
            ("us-.*", "us-east", true),
            ("us-.*", "x-us-east", false),
            ("us", "us-east", false),
            (".*beta=true.*", "a=1; beta=true; c", true),
            ("^/health(z)?$", "/healthz", true),
            ("/health(z)?", "/healthzz", false),
            ("a|ab", "ab", true),
            ("a|b", "ab", false),
            ("(?i)abc", "ABC", true),
            (r"\d+", "42", true),
            // Classes are ASCII in RE2.
            (r"\d+", "\u{664}\u{662}", false),
            (r"\w", "é", false),
            (r"\W", "é", true),
            (r"[\d.]+", "1.2", true),
            (r"[^\d]", "x", true),
            (r"\s", "\u{b}", false),
            ("é", "é", true),
            (".", "é", true),
            // In RE2 these stand for themselves inside a class.
            ("[[]", "[", true),
            ("[a[b]+", "a[b", true),
            ("[a&&b]+", "a&b", true),
            ("[a~~b]+", "a~b", true),
            ("[]a]+", "]a", true),
            ("[^]a]", "b", true),
            ("[[:digit:]x]+", "1x", true),
            (r"\Qa.b\E", "a.b", true),
            (r"\Qa.b\E", "axb", false),
            (r"\Qa.b", "a.b", true),
            ("(?P<year>[0-9]{4})", "2026", true),
            (r"\pL+", "é", true),
            (r"\x{e9}", "é", true),
            ("", "", true),
            ("", "a", false),
            (r"a\/b", "a/b", true),
        ] {
            let pattern = Pattern::regex(expression).expect(expression);
            assert_eq!(
                pattern.matches(value.as_bytes()),
                expected,
                "{expression} on {value}"
            );
        }
    }

    #[test]
    fn what_re2_refuses_is_refused() {
        for expression in [
            "(",
            "a)(b",
            "a)|(b",
            "[",
            "*a",
            r"(?=a)",
            r"(?!a)",
            r"(a)\1",
            r"\C",
            "(?x)a # b",
            "a{2000}{2000}",
            r"a\",
        ] {
            assert!(Pattern::regex(expression).is_err(), "{expression}");
        }
        assert_eq!(
            Pattern::regex(&"é".repeat(1025)).map(|_| ()),
            Err(PatternError::TooLong(1025))
        );
        assert!(Pattern::regex(&"é".repeat(1024)).is_ok());
        assert_eq!(
            Pattern::regex("((a{100}){100}){100}").map(|_| ()),
            Err(PatternError::TooLarge)
        );
    }

    /// An engine that tries one way after the other would not come back.
    #[test]
    fn what_explodes_elsewhere_takes_one_pass() {
        let value = "a".repeat(8192) + "!";
        for expression in [
            "(a+)+$",
            "(a|aa)+$",
            "(a*)*b",
            "(.*)*x",
            "(a|a?)+b",
            "(a?){200}a{200}b",
            "^(([a-z])+.)+[A-Z]([a-z])+$",
        ] {
            let pattern = Pattern::regex(expression).expect(expression);
            assert!(!pattern.matches(value.as_bytes()), "{expression}");
        }
    }

    #[test]
    fn expressions_begin_with_what_they_begin_with() {
        for (expression, expected) in [
            ("/users/[0-9]+/orders", "/users/"),
            ("^/users/.*$", "/users/"),
            ("/a(b|c)d", "/a"),
            ("/ab|/ac", "/a"),
            ("/ab?", "/a"),
            ("/a*", "/"),
            (".*", ""),
            ("(/x)?", ""),
            ("(?i)/abc", "/"),
            (r"\Q/a.b\E/.+", "/a.b/"),
            ("", ""),
        ] {
            let pattern = Pattern::regex(expression).expect(expression);
            let prefix = pattern.literal_prefix().unwrap_or_default();
            assert_eq!(String::from_utf8_lossy(&prefix), expected, "{expression}");
        }
    }

    #[test]
    fn case_is_ignored_where_asked() {
        for (pattern, value, expected) in [
            (Pattern::Exact("/Api".into(), Case::Ignored), "/aPI", true),
            (
                Pattern::Exact("/Api".into(), Case::Sensitive),
                "/api",
                false,
            ),
            (Pattern::Prefix("/Api".into(), Case::Ignored), "/apix", true),
            (Pattern::Prefix("/Api".into(), Case::Ignored), "/ap", false),
            // A prefix that ends within a character of the value.
            (Pattern::Prefix("/a".into(), Case::Ignored), "/é", false),
        ] {
            assert_eq!(
                pattern.matches(value.as_bytes()),
                expected,
                "{pattern} on {value}"
            );
        }
    }
}
