//! PostgreSQL's value formats.

use bytes::{BufMut, BytesMut};
use std::error::Error;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

/// Microseconds between 1970 and 2000, PostgreSQL's epoch.
const EPOCH: i64 = 946_684_800_000_000;

/// A timestamptz, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub i64);

impl ToSql for Micros {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(self.0.saturating_sub(EPOCH));
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ, TIMESTAMP);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Micros {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Micros, Box<dyn Error + Sync + Send>> {
        // Infinities map to the ends of the range.
        Ok(Micros(i64::from_be_bytes(raw.try_into()?).saturating_add(EPOCH)))
    }

    accepts!(TIMESTAMPTZ, TIMESTAMP);
}

/// A `jsonb` value as text: PostgreSQL sends it after a version byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonText(pub String);

impl<'a> FromSql<'a> for JsonText {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<JsonText, Box<dyn Error + Sync + Send>> {
        match raw.split_first() {
            Some((1, text)) => Ok(JsonText(std::str::from_utf8(text)?.to_owned())),
            _ => Err("unknown version of the jsonb format".into()),
        }
    }

    accepts!(JSONB);
}
