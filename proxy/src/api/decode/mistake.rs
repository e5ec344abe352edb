//! What is wrong with a value, and where it stands.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use crate::api::value::Value;

/// A place in a document, from the inside out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Path<'p> {
    Root,
    Field(&'p Path<'p>, &'p str),
    Item(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Why a value is refused, and where.
pub(super) struct Error(Box<Refused>);

struct Refused {
    message: String,
    /// Known once it has left the place where it happened.
    field: Option<String>,
}

impl Error {
    #[cold]
    pub(super) fn new(message: String) -> Self {
        Self(Box::new(Refused {
            message,
            field: None,
        }))
    }

    /// The innermost place that it passes counts.
    #[cold]
    pub(super) fn at(mut self, path: &Path<'_>) -> Self {
        self.0.field.get_or_insert_with(|| path.to_string());
        self
    }

    #[cold]
    pub(super) fn of_type(value: &Value, expected: &dyn Expected) -> Self {
        let unexpected = match value {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Unsigned(value) => Unexpected::Unsigned(*value),
            Value::Negative(value) => Unexpected::Signed(*value),
            Value::Float(value) => Unexpected::Float(*value),
            Value::Text(text) => Unexpected::Str(text),
            Value::List(_) => Unexpected::Seq,
            Value::Fields(_) => Unexpected::Map,
        };
        de::Error::invalid_type(unexpected, expected)
    }

    /// The field (empty for the object as a whole), and what is wrong with it.
    pub(super) fn into_parts(self) -> (String, String) {
        let Refused { message, field } = *self.0;
        (field.unwrap_or_default(), message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }
}
