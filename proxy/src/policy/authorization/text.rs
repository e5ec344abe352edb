//! The forms of a text in a policy: exact, prefix, suffix, present.

use std::fmt;

/// What a text must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// `abc`.
    Exact(Box<str>),
    /// `abc*`.
    Prefix(Box<str>),
    /// `*abc`.
    Suffix(Box<str>),
    /// `*`: present and not empty.
    Present,
}

/// How letters are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// `A` is not `a`.
    Sensitive,
    /// ASCII letters match in either case.
    Ignored,
}

impl Text {
    /// Reads a value. A `*` elsewhere than at an end is nothing special (Istio).
    pub(super) fn new(value: &str) -> Self {
        if value == "*" {
            Self::Present
        } else if let Some(suffix) = value.strip_prefix('*') {
            Self::Suffix(suffix.into())
        } else if let Some(prefix) = value.strip_suffix('*') {
            Self::Prefix(prefix.into())
        } else {
            Self::Exact(value.into())
        }
    }

    /// Reads a value that begins with `*`.
    pub(super) fn new_suffix(value: &str) -> Self {
        match value.strip_prefix('*').unwrap_or(value) {
            "" => Self::Present,
            suffix => Self::Suffix(suffix.into()),
        }
    }

    /// Whether `value` is like that.
    pub(super) fn is(&self, value: &[u8], case: Case) -> bool {
        let same = |one: &[u8], other: &str| match case {
            Case::Sensitive => one == other.as_bytes(),
            Case::Ignored => one.eq_ignore_ascii_case(other.as_bytes()),
        };
        match self {
            Self::Exact(text) => same(value, text),
            Self::Prefix(text) => value
                .get(..text.len())
                .is_some_and(|start| same(start, text)),
            Self::Suffix(text) => value
                .len()
                .checked_sub(text.len())
                .is_some_and(|at| same(&value[at..], text)),
            Self::Present => !value.is_empty(),
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Present => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_count_at_the_ends_alone() {
        for (form, value, expected) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("abc", "Abc", false),
            ("abc*", "abc", true),
            ("abc*", "abcd", true),
            ("abc*", "ab", false),
            ("*abc", "abc", true),
            ("*abc", "xabc", true),
            ("*abc", "abcx", false),
            ("*abc", "bc", false),
            ("*", "x", true),
            ("*", "", false),
            ("a*c", "abc", false),
            ("a*c", "a*c", true),
            ("*b*", "ab*", true),
            ("*b*", "abc", false),
        ] {
            let text = Text::new(form);
            assert_eq!(
                text.is(value.as_bytes(), Case::Sensitive),
                expected,
                "{form} on {value:?}"
            );
            assert_eq!(text.to_string(), form);
            let (upper, any) = (value.to_ascii_uppercase(), Case::Ignored);
            if expected {
                assert!(text.is(upper.as_bytes(), any), "{form} on {upper:?}");
            }
        }
    }
}
