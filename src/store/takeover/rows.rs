//! Conversion of the previous server's changes, row by row, as a pure function.

use crate::protocol::json::Quoted;
use crate::protocol::{Cursor, Stamp};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A row of the previous server. JSON is text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OldRow<'a> {
    pub(super) op: &'a str,
    pub(super) data: Option<&'a str>,
    /// Stamps by field: `field_timestamps`, or `field_meta` in the newest form.
    pub(super) stamps: Option<&'a str>,
    /// Microseconds since the epoch.
    pub(super) created_at: i64,
    pub(super) schema_version: Option<i32>,
    pub(super) actor: Option<&'a str>,
    pub(super) origin: Option<&'a str>,
    pub(super) space: Option<&'a str>,
}

/// The same change in our form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NewRow {
    pub(super) op: &'static str,
    pub(super) data: Option<String>,
    pub(super) stamps: String,
    pub(super) extra: Option<String>,
}

impl NewRow {
    /// Returns its size as JSON, as pages count it.
    pub(super) fn size(&self) -> usize {
        let length = |json: &Option<String>| json.as_ref().map_or(0, String::len);
        length(&self.data) + self.stamps.len() + length(&self.extra)
    }
}

/// The members of a JSON object, with their values as written.
type Members<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// Converts one of their rows; `None` if devices could not read it: an unknown operation, or data that is not an object
/// where that matters.
///
/// A field whose stamp is missing, empty or invalid counts as written when the row was stored. An insert has its stamp
/// in its data; without one it counts as written at the beginning of time, unless there are stamps outside its data, in
/// which case it becomes an update with these. A delete's stamp may be in its data. No stamp is checked against the
/// allowed skew: all devices have it already.
pub(super) fn convert(row: &OldRow<'_>) -> Option<NewRow> {
    let stored = Stamp::from_millis(row.created_at.div_euclid(1000));
    let data = match members(row.data) {
        // Anything else in the data of a delete is irrelevant.
        None if row.op == "delete" => Members::new(),
        data => data?,
    };
    let stamps = members(row.stamps).unwrap_or_default();
    let extra = extra(row);
    let stamp_of = |name: &str| stamps.get(name).and_then(|raw| read_stamp(raw));
    match row.op {
        "delete" => {
            let stamp = stamp_of("deletedAt").or_else(|| data.get("deletedAt").and_then(|raw| read_stamp(raw)));
            let stamps = format!("{{\"deletedAt\": \"{}\"}}", stamp.unwrap_or(stored));
            Some(NewRow { op: "delete", data: None, stamps, extra })
        }
        "insert" => match carrier(&data) {
            Some((name, stamp)) => {
                let stamp = format!("\"{stamp}\"");
                let whole = object(
                    data.iter()
                        .map(|(member, raw)| (&**member, if member == name { stamp.as_str() } else { raw.get() })),
                );
                Some(NewRow { op: "insert", data: Some(whole), stamps: "{}".to_owned(), extra })
            }
            None if stamps.values().any(|raw| read_stamp(raw).is_some()) => {
                Some(update(&data, &stamps, Stamp::from_millis(0), extra))
            }
            None => Some(NewRow { op: "insert", data: Some(object(raw(&data))), stamps: "{}".to_owned(), extra }),
        },
        "update" => Some(update(&data, &stamps, stored, extra)),
        _ => None,
    }
}

/// Converts an update: a value and a stamp for each field named by either. `missing` is the stamp of those without one.
fn update(data: &Members<'_>, stamps: &Members<'_>, missing: Stamp, extra: Option<String>) -> NewRow {
    let stamp_of = |name: &str| stamps.get(name).and_then(|raw| read_stamp(raw));
    // A field that has a stamp but no value was written as null.
    let nulls = stamps.keys().filter(|name| !data.contains_key(*name) && stamp_of(name).is_some());
    let fields: Vec<(&str, &str)> = raw(data).chain(nulls.map(|name| (&**name, "null"))).collect();
    let stamps: Vec<(&str, String)> =
        fields.iter().map(|(name, _)| (*name, format!("\"{}\"", stamp_of(name).unwrap_or(missing)))).collect();
    NewRow {
        op: "update",
        data: Some(object(fields.iter().copied())),
        stamps: object(stamps.iter().map(|(name, stamp)| (*name, stamp.as_str()))),
        extra,
    }
}

/// Returns the additional members of a change, by their names on the wire.
fn extra(row: &OldRow<'_>) -> Option<String> {
    let text = |value: Option<&str>| value.map(|value| Quoted(value).to_string());
    let actor = row.actor.filter(|actor| *actor != "null").map(str::to_owned);
    let members = [
        ("actor", actor),
        ("origin", text(row.origin)),
        ("spaceId", text(row.space)),
        ("schemaVersion", row.schema_version.map(|version| version.to_string())),
    ];
    let kept: Vec<(&str, &str)> = members.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    (!kept.is_empty()).then(|| object(kept.into_iter()))
}

/// Returns the members of an object; none if it is missing.
fn members(json: Option<&str>) -> Option<Members<'_>> {
    match json {
        None | Some("null") => Some(Members::new()),
        Some(json) => serde_json::from_str(json).ok(),
    }
}

fn raw<'a>(members: &'a Members<'_>) -> impl Iterator<Item = (&'a str, &'a str)> {
    members.iter().map(|(name, raw)| (&**name, raw.get()))
}

/// Formats an object as `jsonb` does, which makes its length the one that the database computes.
fn object<'a>(members: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::from("{");
    for (index, (name, value)) in members.enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(out, "{comma}{}: {value}", Quoted(name));
    }
    out.push('}');
    out
}

/// Returns the member that carries an insert's stamp, and the stamp.
fn carrier(data: &Members<'_>) -> Option<(&'static str, Stamp)> {
    ["updatedAt", "createdAt"].into_iter().find_map(|name| Some((name, text_stamp(data.get(name)?)?)))
}

/// Reads the stamp in a member: text, or, from clients of the newest generation, an object with `at`.
fn read_stamp(raw: &RawValue) -> Option<Stamp> {
    if !raw.get().starts_with('{') {
        return text_stamp(raw);
    }
    let members: Members<'_> = serde_json::from_str(raw.get()).ok()?;
    text_stamp(members.get("at").or_else(|| members.get("updatedAt"))?)
}

fn text_stamp(raw: &RawValue) -> Option<Stamp> {
    let spelled: Cow<'_, str> = serde_json::from_str(raw.get()).ok()?;
    Stamp::parse(&spelled).ok()
}

/// Assigns the positions of one log, in the order of its rows.
///
/// A row keeps its position, or moves forward by the fewest microseconds that make it valid and later than the one
/// before. A reader that has everything up to an earlier `created_at` therefore still receives exactly what came after
/// it, and perhaps once more what was stored at that very moment.
#[derive(Debug)]
pub(super) struct Positions {
    pub(super) last: i64,
    pub(super) previous: i64,
}

impl Positions {
    pub(super) fn new() -> Positions {
        Positions { last: 0, previous: 0 }
    }

    /// Returns the position of the next row, which was stored at `created_at` (microseconds since the epoch).
    pub(super) fn next(&mut self, created_at: i64) -> i64 {
        self.previous = self.last;
        let ahead = (-created_at).rem_euclid(Cursor::STEP);
        self.last = (created_at + ahead).max(self.last + Cursor::STEP);
        self.last
    }
}

#[cfg(test)]
mod tests;
