//! A value as serde reads it. Each kind's fields are asked for through this one type, so that the
//! program has the code of each once: it knows where it stands, for whoever makes a mistake, and
//! collects what nobody asks for.
//!
//! An object's fields have names: serde would also take a list of values in the fields' order, so
//! that `retries: []` would be an object without any.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};

use super::mistake::{Error, Path};
use crate::api::value::{Node, Value};

/// Fields that nobody asked for.
pub(super) type Unread = RefCell<Vec<String>>;

/// A value at its place, to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'de, 'p> {
    value: &'de Value,
    path: &'p Path<'p>,
    /// Where it is told what is not read; `None` where nobody wants to know.
    unread: Option<&'p Unread>,
}

impl<'de, 'p> Cursor<'de, 'p> {
    /// At the root of an object.
    pub(super) fn new(node: &'de Node, unread: Option<&'p Unread>) -> Self {
        Self {
            value: &node.value,
            path: &Path::Root,
            unread,
        }
    }

    fn refuse<T>(self, expected: &dyn Expected) -> Result<T, Error> {
        Err(Error::of_type(self.value, expected))
    }

    fn items(self, items: &'de [Node]) -> Items<'de, 'p> {
        Items {
            items: items.iter().enumerate(),
            whole: self,
        }
    }

    fn fields(self, fields: &'de [(Box<str>, Node)]) -> Fields<'de, 'p> {
        Fields {
            fields: fields.iter(),
            next: None,
            whole: self,
        }
    }

    /// What is in it, to `seed`.
    fn read<T: DeserializeSeed<'de>>(
        self,
        node: &'de Node,
        path: &Path<'_>,
        seed: T,
    ) -> Result<T::Value, Error> {
        let inner = Cursor {
            value: &node.value,
            path,
            unread: self.unread,
        };
        match seed.deserialize(inner) {
            Ok(value) => Ok(value),
            Err(error) => Err(error.at(path)),
        }
    }

    fn note(self) {
        if let Some(unread) = self.unread
            && *self.value != Value::Null
        {
            unread.borrow_mut().push(self.path.to_string());
        }
    }
}

/// The items of a list.
struct Items<'de, 'p> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
    whole: Cursor<'de, 'p>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some((index, node)) = self.items.next() else {
            return Ok(None);
        };
        let path = Path::Item(self.whole.path, index);
        self.whole.read(node, &path, seed).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

/// The fields of a mapping.
struct Fields<'de, 'p> {
    fields: std::slice::Iter<'de, (Box<str>, Node)>,
    next: Option<&'de (Box<str>, Node)>,
    whole: Cursor<'de, 'p>,
}

impl<'de> MapAccess<'de> for Fields<'de, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.next = self.fields.next();
        let Some((name, _)) = self.next else {
            return Ok(None);
        };
        match seed.deserialize(BorrowedStrDeserializer::new(name)) {
            Ok(key) => Ok(Some(key)),
            Err(error) => Err(Error::at(error, &Path::Field(self.whole.path, name))),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some((name, node)) = self.next.take() else {
            return Err(Error::new(
                "a value was asked for before its key".to_owned(),
            ));
        };
        let path = Path::Field(self.whole.path, name);
        self.whole.read(node, &path, seed)
    }
}

/// The name of one of an enumeration's variants, which have nothing inside.
struct Word<'de>(&'de str);

impl<'de> EnumAccess<'de> for Word<'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let variant = seed.deserialize(BorrowedStrDeserializer::new(self.0))?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Word<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Error> {
        Err(de::Error::invalid_type(
            Unexpected::UnitVariant,
            &"newtype variant",
        ))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        Err(de::Error::invalid_type(
            Unexpected::UnitVariant,
            &"tuple variant",
        ))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        Err(de::Error::invalid_type(
            Unexpected::UnitVariant,
            &"struct variant",
        ))
    }
}

/// What an enumeration expects.
struct OneOf(&'static [&'static str]);

impl Expected for OneOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one of {}", self.0.join(", "))
    }
}

macro_rules! numbers {
    ($($name:ident)*) => {$(
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.value {
                Value::Unsigned(number) => visitor.visit_u64(*number),
                Value::Negative(number) => visitor.visit_i64(*number),
                Value::Float(number) => visitor.visit_f64(*number),
                _ => self.refuse(&visitor),
            }
        }
    )*};
}

macro_rules! texts {
    ($($name:ident)*) => {$(
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.value {
                Value::Text(text) => visitor.visit_borrowed_str(text),
                _ => self.refuse(&visitor),
            }
        }
    )*};
}

// Never inlined: a type that many fields have is read by one piece of code.
impl<'de> Deserializer<'de> for Cursor<'de, '_> {
    type Error = Error;

    #[inline(never)]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Unsigned(number) => visitor.visit_u64(*number),
            Value::Negative(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => visitor.visit_seq(self.items(items)),
            Value::Fields(fields) => visitor.visit_map(self.fields(fields)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            _ => self.refuse(&visitor),
        }
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64
    }

    texts! {
        deserialize_char deserialize_str deserialize_string deserialize_identifier
    }

    #[inline(never)]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    #[inline(never)]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let items: &[Node] = match self.value {
            Value::List(items) => items,
            Value::Null => &[],
            _ => return self.refuse(&visitor),
        };
        visitor.visit_seq(self.items(items))
    }

    #[inline(never)]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let fields: &[(Box<str>, Node)] = match self.value {
            Value::Fields(fields) => fields,
            Value::Null => &[],
            _ => return self.refuse(&visitor),
        };
        visitor.visit_map(self.fields(fields))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    #[inline(never)]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::Text(text) => visitor.visit_enum(Word(text)),
            _ => self.refuse(&OneOf(words)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // However large it is, nobody looks into it.
        self.note();
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bytes byte_buf unit unit_struct tuple tuple_struct
    }
}
