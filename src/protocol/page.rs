//! Stored changes as JSON: the answer of a push and a pull, and the events of a stream.

use super::cursor::Cursor;
use super::json::Quoted;
use super::merge::{FieldWrite, OwnWrites, StoredChange, UnreadableChange, View};
use super::push::{Adjusted, Op};
use std::fmt::Write;

/// Changes in the order of the log, and where that leaves the reader.
#[derive(Debug)]
pub struct Page {
    /// What to apply, in the order of the log.
    pub changes: Vec<StoredChange>,
    /// What the reader itself wrote to the same records; see [`super::merge`].
    pub own: OwnWrites,
    /// The reader's next `since`.
    pub until: Cursor,
    /// Whether there is more after `until`.
    pub has_more: bool,
}

impl Page {
    /// What it takes as text, about, in bytes.
    pub fn size(&self) -> usize {
        128 + size_of(&self.changes)
    }
}

/// What an answer says beside its page.
#[derive(Debug, Default)]
pub struct Remarks<'a> {
    /// JSON objects; see [`super::conflicts`].
    pub conflicts: &'a [String],
    /// Stamps of the push that were ahead of the clock.
    pub adjusted: &'a [Adjusted],
}

impl Remarks<'_> {
    /// What they take as text, about, in bytes.
    pub fn size(&self) -> usize {
        let names = |adjusted: &Adjusted| {
            let fields: usize = adjusted.fields.iter().map(|field| field.len() + 3).sum();
            96 + adjusted.table.len() + adjusted.id.len() + fields
        };
        self.conflicts.iter().map(String::len).chain(self.adjusted.iter().map(names)).sum()
    }
}

/// The answer to a push or a pull.
pub fn encode_answer(mut page: Page, remarks: &Remarks<'_>) -> Result<String, UnreadableChange> {
    let mut out = String::with_capacity(page.size() + remarks.size());
    out.push_str("{\"serverChanges\":");
    write_changes(&mut out, &page.changes, &mut page.own)?;
    let conflicts = remarks.conflicts.join(",");
    // Writing to a String cannot fail, here and below.
    let _ =
        write!(out, ",\"conflicts\":[{conflicts}],\"syncedUntil\":\"{}\",\"hasMore\":{}", page.until, page.has_more);
    if !remarks.adjusted.is_empty() {
        let adjusted = serde_json::to_string(remarks.adjusted).unwrap_or_else(|_| "[]".to_owned());
        let _ = write!(out, ",\"adjusted\":{adjusted}");
    }
    out.push('}');
    Ok(out)
}

/// What an event of a stream says beside its changes.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The app that its changes belong to, where the stream is one of several.
    pub app: Option<&'a str>,
    /// The table of all its changes.
    pub table: &'a str,
    /// The cursor after this page.
    pub until: Cursor,
    /// Whether there is more.
    pub has_more: bool,
    /// Where to resume from, if everything up to `until` has been sent with it.
    pub id: Option<&'a str>,
}

/// Writes one event of a stream.
pub fn encode_event(
    out: &mut String,
    event: Event<'_>,
    changes: &[StoredChange],
    own: &mut OwnWrites,
) -> Result<(), UnreadableChange> {
    let Event { app, table, until, has_more, id } = event;
    if let Some(id) = id {
        let _ = writeln!(out, "id: {id}");
    }
    out.push_str("event: changes\ndata: {");
    if let Some(app) = app {
        let _ = write!(out, "\"appId\":{},", Quoted(app));
    }
    let _ = write!(out, "\"table\":{},\"changes\":", Quoted(table));
    write_changes(out, changes, own)?;
    let _ = write!(out, ",\"syncedUntil\":\"{until}\",\"hasMore\":{has_more}}}\n\n");
    Ok(())
}

/// What changes take as text, about, in bytes.
pub fn size_of(changes: &[StoredChange]) -> usize {
    changes.iter().map(size_hint).sum()
}

fn size_hint(change: &StoredChange) -> usize {
    let length = |json: &Option<String>| json.as_ref().map_or(0, String::len);
    128 + change.table.len()
        + change.record.len()
        + length(&change.data)
        + 2 * change.stamps.len()
        + length(&change.extra)
}

fn write_changes(out: &mut String, changes: &[StoredChange], own: &mut OwnWrites) -> Result<(), UnreadableChange> {
    out.push('[');
    let before = out.len();
    for change in changes {
        let view = own.view(change)?;
        if view == View::Nothing {
            continue;
        }
        if out.len() > before {
            out.push(',');
        }
        write_change(out, change, view)?;
    }
    out.push(']');
    Ok(())
}

fn write_change(out: &mut String, change: &StoredChange, view: View<'_>) -> Result<(), UnreadableChange> {
    let op = if matches!(view, View::Fields(_)) { Op::Update } else { change.op };
    let (table, record, id) = (Quoted(&change.table), Quoted(&change.record), change.id);
    let _ = write!(out, "{{\"eventId\":\"{id}\",\"table\":{table},\"id\":{record},\"op\":\"{}\"", op.name());
    match (view, change.op) {
        (View::Whole, Op::Insert) => {
            let _ = write!(out, ",\"data\":{}", change.data.as_deref().unwrap_or("{}"));
        }
        (View::Whole, Op::Delete) => {
            for write in change.fields()? {
                let _ = write!(out, ",\"deletedAt\":{}", write.value);
            }
        }
        (View::Whole, Op::Update) => write_fields(out, &change.fields()?),
        (View::Fields(writes), _) => write_fields(out, &writes),
        (View::Nothing, _) => {}
    }
    if let Some(members) = change.extra.as_deref().and_then(members_of) {
        out.push(',');
        out.push_str(members);
    }
    out.push('}');
    Ok(())
}

/// The members of a JSON object as they stand between its braces; none if there are none.
fn members_of(object: &str) -> Option<&str> {
    let members = object.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    (!members.is_empty()).then_some(members)
}

/// Fields with their values. Clients of different generations look for the stamp under different names.
fn write_fields(out: &mut String, writes: &[FieldWrite<'_>]) {
    out.push_str(",\"fields\":{");
    for (index, write) in writes.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let (name, value, stamp) = (Quoted(&write.name), &write.value, write.stamp);
        let _ = write!(out, "{comma}{name}:{{\"value\":{value},\"at\":\"{stamp}\",\"updatedAt\":\"{stamp}\"}}");
    }
    out.push('}');
}
