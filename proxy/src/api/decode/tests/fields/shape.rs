//! Every field that a resource has, found by letting serde ask for all of them: no list that could be
//! incomplete.

use std::cell::RefCell;

use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The paths of all fields of `T`, which stands at `root`. An item of a list is `[]`, the value of a
/// mapping's key `.*`.
pub(super) fn fields<'de, T: Deserialize<'de>>(root: &str) -> Vec<String> {
    let found = RefCell::default();
    let asked = T::deserialize(Asked {
        path: root.to_owned(),
        found: &found,
    });
    assert!(asked.is_ok(), "{:?}", asked.err());
    found.into_inner()
}

/// What stands at a path: whatever serde asks for, with all of its fields and one item.
struct Asked<'a> {
    path: String,
    found: &'a RefCell<Vec<String>>,
}

impl Asked<'_> {
    fn inner(&self, more: &str) -> Self {
        let path = format!("{}{more}", self.path);
        self.found.borrow_mut().push(path.clone());
        Self {
            path,
            found: self.found,
        }
    }
}

/// The fields of a struct, or the one key of a mapping.
struct Keys<'a> {
    whole: Asked<'a>,
    keys: std::vec::IntoIter<(&'static str, String)>,
    next: String,
}

impl<'de> MapAccess<'de> for Keys<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((key, path)) = self.keys.next() else {
            return Ok(None);
        };
        self.next = path;
        let key: StrDeserializer<'_, Error> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(self.whole.inner(&self.next))
    }
}

/// The one item of a list.
struct Item<'a>(Option<Asked<'a>>);

impl<'de> SeqAccess<'de> for Item<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.0.take().map(|one| seed.deserialize(one)).transpose()
    }
}

macro_rules! scalars {
    ($($method:ident => $visit:ident($($value:expr)?);)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit($($value)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Error;

    scalars! {
        deserialize_any => visit_unit();
        deserialize_bool => visit_bool(true);
        deserialize_i32 => visit_i32(1);
        deserialize_i64 => visit_i64(1);
        deserialize_u16 => visit_u16(1);
        deserialize_u32 => visit_u32(1);
        deserialize_u64 => visit_u64(1);
        deserialize_f64 => visit_f64(1.0);
        deserialize_str => visit_str("1s");
        deserialize_string => visit_str("1s");
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Item(Some(self.inner("[]"))))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Keys {
            whole: self,
            keys: vec![("a", ".*".to_owned())].into_iter(),
            next: String::new(),
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        // Names with an underscore are the second names of fields that have another one.
        let own = fields.iter().filter(|name| !name.contains('_'));
        let keys: Vec<_> = own.map(|name| (*name, format!(".{name}"))).collect();
        visitor.visit_map(Keys {
            whole: self,
            keys: keys.into_iter(),
            next: String::new(),
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(variants[0].into_deserializer())
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i128 u8 u128 f32 char bytes byte_buf unit unit_struct newtype_struct tuple tuple_struct
        identifier ignored_any
    }
}
