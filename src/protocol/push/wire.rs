//! Parses the body of a push as sent.

use super::unnamed::UnnamedMembers;
use super::{MAX_EXTRA, MAX_FIELD, MAX_FIELDS};
use crate::protocol::stamp::Stamp;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// A string, borrowed from the body if nothing in it is escaped.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::protocol) struct Text<'a>(pub(in crate::protocol) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Str;
        impl<'de> Visitor<'de> for Str {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Str).map(Text)
    }
}

/// The members of an insert's data: those that may carry its stamp, their number, and the length of the longest name.
#[derive(Debug, Default)]
pub(in crate::protocol) struct InsertMembers<'a> {
    updated_at: Option<&'a RawValue>,
    created_at: Option<&'a RawValue>,
    pub(in crate::protocol) count: usize,
    pub(in crate::protocol) longest_name: usize,
}

/// The member that carries an insert's stamp.
#[derive(Debug)]
pub(in crate::protocol) struct Carrier<'a> {
    pub(in crate::protocol) name: &'static str,
    pub(in crate::protocol) spelled: Cow<'a, str>,
    pub(in crate::protocol) stamp: Stamp,
    /// True if every existing client takes the stamp from this member: it is the first of the two that has a value.
    pub(in crate::protocol) is_first: bool,
}

impl<'a> InsertMembers<'a> {
    /// Returns `updatedAt` if it is a stamp, or else `createdAt` if that is one.
    pub(in crate::protocol) fn carrier(&self) -> Option<Carrier<'a>> {
        let present = |raw: Option<&'a RawValue>| raw.filter(|raw| raw.get() != "null");
        let (updated_at, created_at) = (present(self.updated_at), present(self.created_at));
        let read = |name, raw: &'a RawValue, is_first| {
            let Text(spelled) = serde_json::from_str(raw.get()).ok()?;
            let stamp = Stamp::parse(&spelled).ok()?;
            Some(Carrier { name, spelled, stamp, is_first })
        };
        let first = updated_at.and_then(|raw| read("updatedAt", raw, true));
        first.or_else(|| read("createdAt", created_at?, updated_at.is_none()))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for InsertMembers<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = InsertMembers<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = InsertMembers::default();
                while let Some(Text(name)) = map.next_key()? {
                    members.count += 1;
                    members.longest_name = members.longest_name.max(name.len());
                    match &*name {
                        // Of equal names the last counts, as in JSON.parse and in jsonb.
                        "updatedAt" => members.updated_at = Some(map.next_value()?),
                        "createdAt" => members.created_at = Some(map.next_value()?),
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Map)
    }
}

pub(super) struct Body<'a> {
    pub(super) client_id: Option<Text<'a>>,
    pub(super) since: Option<Text<'a>>,
    pub(super) changes: Changes<'a>,
    pub(super) schema_version: Option<&'a RawValue>,
}

/// Parses a body, keeping up to `max_changes` changes; any others are only counted.
#[derive(Clone, Copy)]
pub(super) struct BodyReader {
    pub(super) max_changes: usize,
}

impl BodyReader {
    pub(super) fn read(self, body: &[u8]) -> Result<Body<'_>, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let body = deserializer.deserialize_map(self)?;
        deserializer.end()?;
        Ok(body)
    }
}

impl<'de> Visitor<'de> for BodyReader {
    type Value = Body<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut client_id, mut since, mut changes, mut schema_version) = (None, None, None, None);
        while let Some(Text(name)) = map.next_key()? {
            match &*name {
                "clientId" => set(&mut client_id, "clientId", map.next_value_seed(Named::new("clientId"))?)?,
                "since" => set(&mut since, "since", map.next_value_seed(Named::new("since"))?)?,
                "changes" => set(&mut changes, "changes", map.next_value_seed(ChangesReader(self.max_changes))?)?,
                "schemaVersion" => set(&mut schema_version, "schemaVersion", map.next_value::<Option<_>>()?)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Body {
            client_id: client_id.flatten(),
            since: since.flatten(),
            changes: changes.unwrap_or_default(),
            schema_version: schema_version.flatten(),
        })
    }
}

/// Parses a member, and names it in errors.
struct Named<'n, T>(&'n str, PhantomData<T>);

impl<T> Named<'_, T> {
    fn new(name: &str) -> Named<'_, T> {
        Named(name, PhantomData)
    }
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Named<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::deserialize(deserializer).map_err(|error| named(self.0, &error))
    }
}

/// Adds a member's name to an error.
fn named<E: Error>(name: &str, error: &E) -> E {
    // A name that is too long is refused for that.
    if name.len() > MAX_FIELD { E::custom(error) } else { E::custom(format_args!("{name}: {error}")) }
}

fn updated_at<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Text<'de>>, D::Error> {
    Option::deserialize(deserializer).map_err(|error| named("updatedAt", &error))
}

fn at<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Text<'de>>, D::Error> {
    Option::deserialize(deserializer).map_err(|error| named("at", &error))
}

fn set<T, E: Error>(member: &mut Option<T>, name: &'static str, value: T) -> Result<(), E> {
    if member.replace(value).is_some() { Err(E::duplicate_field(name)) } else { Ok(()) }
}

/// A change as sent. Members not listed here are kept as they came.
#[derive(Default)]
pub(super) struct RawChange<'a> {
    pub(super) table: Option<Text<'a>>,
    pub(super) id: Option<Text<'a>>,
    pub(super) op: Option<Text<'a>>,
    pub(super) data: Option<&'a RawValue>,
    pub(super) fields: Option<&'a RawValue>,
    pub(super) deleted_at: Option<&'a RawValue>,
    /// The other members, as many as may be kept.
    pub(super) extra: UnnamedMembers<'a>,
    /// Minimum size of all of them as the members of an object, in bytes.
    pub(super) extra_bytes: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for RawChange<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = RawChange<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut change = RawChange::default();
                while let Some(Text(name)) = map.next_key()? {
                    match &*name {
                        "table" => change.table = map.next_value_seed(Named::new("table"))?,
                        "id" => change.id = map.next_value_seed(Named::new("id"))?,
                        "op" => change.op = map.next_value_seed(Named::new("op"))?,
                        "data" => change.data = map.next_value()?,
                        "fields" => change.fields = map.next_value()?,
                        "deletedAt" => change.deleted_at = map.next_value()?,
                        // Ours: the row's id.
                        "eventId" => drop(map.next_value::<IgnoredAny>()?),
                        _ => {
                            let value: &RawValue = map.next_value()?;
                            change.extra_bytes += name.len() + value.get().len() + r#""":,"#.len();
                            if change.extra_bytes <= MAX_EXTRA {
                                change.extra.add(name, value);
                            }
                        }
                    }
                }
                Ok(change)
            }
        }
        deserializer.deserialize_map(Map)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawField<'a> {
    #[serde(borrow)]
    pub(super) value: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "updated_at")]
    pub(super) updated_at: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "at")]
    pub(super) at: Option<Text<'a>>,
}

/// The fields of an update, in the order written: as many as a change may write.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) list: Vec<(Cow<'a, str>, RawField<'a>)>,
    /// The number of all fields.
    pub(super) count: usize,
    pub(super) longest_name: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields::default();
                while let Some(Text(name)) = map.next_key()? {
                    fields.count += 1;
                    fields.longest_name = fields.longest_name.max(name.len());
                    if fields.count <= MAX_FIELDS {
                        let Object(field) = map.next_value_seed(Named::new(&name))?;
                        fields.list.push((name, field));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Map)
    }
}

/// The list of changes.
#[derive(Default)]
pub(super) struct Changes<'a> {
    /// The changes that are kept.
    pub(super) list: Vec<RawChange<'a>>,
    /// The number of all changes.
    pub(super) count: usize,
}

/// Keeps up to this many changes; an error in one of them names its index.
struct ChangesReader(usize);

impl<'de> DeserializeSeed<'de> for ChangesReader {
    type Value = Changes<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for ChangesReader {
    type Value = Changes<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of changes")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Changes::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while list.len() < self.0 {
            let Some(change) = seq.next_element_seed(Indexed(list.len()))? else {
                return Ok(Changes { count: list.len(), list });
            };
            list.push(change);
        }
        let mut count = list.len();
        while seq.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Changes { list, count })
    }
}

/// Parses the change at an index, and names the index in errors.
struct Indexed(usize);

impl<'de> DeserializeSeed<'de> for Indexed {
    type Value = RawChange<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        RawChange::deserialize(deserializer)
            .map_err(|error| Error::custom(format_args!("changes[{}]: {error}", self.0)))
    }
}

/// Requires a JSON object: by itself, a struct is also deserialized from an array of its members.
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
                while let Some((Text(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Map(std::marker::PhantomData)).map(Members)
    }
}
