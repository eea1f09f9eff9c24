//! The body of a push as it is written.

use crate::protocol::stamp::Stamp;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The members of an insert that may carry its stamp.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::protocol) struct Carriers<'a> {
    #[serde(borrow)]
    updated_at: Option<&'a RawValue>,
    #[serde(borrow)]
    created_at: Option<&'a RawValue>,
}

impl Carriers<'_> {
    /// Name, spelling and instant of the member that carries the stamp.
    pub(in crate::protocol) fn stamp(&self) -> Option<(&'static str, Cow<'_, str>, Stamp)> {
        [("updatedAt", self.updated_at), ("createdAt", self.created_at)].into_iter().find_map(|(name, raw)| {
            let spelled: Cow<'_, str> = serde_json::from_str(raw?.get()).ok()?;
            let stamp = Stamp::parse(&spelled).ok()?;
            Some((name, spelled, stamp))
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Body<'a> {
    pub(super) client_id: Option<Cow<'a, str>>,
    pub(super) since: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) changes: Option<Changes<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawChange<'a> {
    pub(super) table: Option<Cow<'a, str>>,
    pub(super) id: Option<Cow<'a, str>>,
    pub(super) op: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) fields: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) deleted_at: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawField<'a> {
    #[serde(borrow)]
    pub(super) value: Option<&'a RawValue>,
    pub(super) updated_at: Option<Cow<'a, str>>,
    pub(super) at: Option<Cow<'a, str>>,
}

/// More changes than fit into a body of the allowed size, if each is one.
const MAX_CHANGES: usize = 300_000;

/// The list of changes; an error in one names its index.
#[derive(Default)]
pub(super) struct Changes<'a>(pub(super) Vec<RawChange<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Changes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Vec<RawChange<'de>>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of changes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut changes = Vec::new();
                while let Some(change) = seq.next_element_seed(Indexed(changes.len()))? {
                    changes.push(change);
                    if changes.len() > MAX_CHANGES {
                        return Err(serde::de::Error::custom(format_args!("more than {MAX_CHANGES} changes")));
                    }
                }
                Ok(changes)
            }
        }
        deserializer.deserialize_seq(List).map(Changes)
    }
}

/// Reads the change at an index, and says that index where it fails.
struct Indexed(usize);

impl<'de> DeserializeSeed<'de> for Indexed {
    type Value = RawChange<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Object::deserialize(deserializer)
            .map(|Object(change)| change)
            .map_err(|error| serde::de::Error::custom(format_args!("changes[{}]: {error}", self.0)))
    }
}

/// What must be written as an object: by itself a struct is also read from a list of its members.
pub(in crate::protocol) struct Object<T>(pub(in crate::protocol) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(serde::de::value::MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Map(std::marker::PhantomData)).map(Object)
    }
}

/// The members of an object, in the order written.
pub(in crate::protocol) struct Members<'a, V>(pub(in crate::protocol) Vec<(Cow<'a, str>, V)>);

impl<'de: 'a, 'a, V: Deserialize<'de>> Deserialize<'de> for Members<'a, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<V>(std::marker::PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Map<V> {
            type Value = Vec<(Cow<'de, str>, V)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(map.size_hint().unwrap_or(0));
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Map(std::marker::PhantomData)).map(Members)
    }
}
