//! A value of a document with everything in it, and the line of each part.
//!
//! Knows neither how it was written nor what it means.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A value, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where the value begins; for a field of a mapping, where its name stands. From 1.
    pub line: u32,
    /// What it says.
    pub value: Value,
}

/// What a document may say.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number from 0.
    Unsigned(u64),
    /// A whole number below 0.
    Negative(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(Box<str>),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping: no two fields of one name, in the order in which they were written.
    Fields(Vec<(Box<str>, Node)>),
}

impl Node {
    /// The field of this name, where it is a mapping that has one.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Value::Fields(fields) = &self.value else {
            return None;
        };
        let found = fields.iter().find(|(field, _)| &**field == name);
        found.map(|(_, node)| node)
    }

    /// The text, where it is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        u64::try_from(number).map_or(Self::Negative(number), Self::Unsigned)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

/// Whatever a field holds: that it is there is all that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anything;

impl<'de> Deserialize<'de> for Anything {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

macro_rules! taken {
    ($($method:ident($value:ty))*) => {$(
        fn $method<E>(self, _: $value) -> Result<Self, E> {
            Ok(self)
        }
    )*};
}

impl<'de> Visitor<'de> for Anything {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    taken! {
        visit_bool(bool) visit_u64(u64) visit_i64(i64) visit_f64(f64) visit_str(&str)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self, A::Error> {
        while fields.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}
