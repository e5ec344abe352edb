//! What is wrong with a piece of configuration: one message for the log, `aquifer status` and, on
//! Kubernetes, the object's status.

use std::fmt;

use super::{ObjectRef, Position};

/// How much a [`Problem`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object is not in force; its last good version is, where there is one.
    Error,
    /// The object is in force, but a part of it has no effect or not the one expected.
    Warning,
    /// Nothing is wrong, and yet a part of it has no effect here.
    Info,
}

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Problem {
    /// How much it matters.
    pub severity: Severity,
    /// The object; `None` where a file could not be read as objects at all.
    pub object: Option<ObjectRef>,
    /// Where it was written.
    pub position: Option<Position>,
    /// Path of the field, as in `spec.http[0].match[1].uri`; empty where the whole object is meant.
    pub field: String,
    /// What is wrong and what to do about it, in one line.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = &self.position {
            write!(f, "{position}: ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// A [`Problem`] as it is found: who finds it knows the field, and neither the object's name nor
/// the place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// As [`Problem::field`].
    pub field: String,
    /// As [`Problem::message`].
    pub message: String,
}

impl Finding {
    /// The object can't be used as it is.
    pub fn error(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            field: field.into(),
            message: message.into(),
        }
    }

    /// The object can be used, but a part of it does not do what its author expects.
    pub fn warning(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            field: field.into(),
            message: message.into(),
        }
    }

    /// There is no mistake; its author may want to know.
    pub fn info(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Info,
            field: field.into(),
            message: message.into(),
        }
    }

    /// The problem that this is for `object`.
    pub fn of(self, object: &ObjectRef, position: Option<Position>) -> Problem {
        Problem {
            severity: self.severity,
            object: Some(object.clone()),
            position,
            field: self.field,
            message: self.message,
        }
    }
}
