//! Encodes stored changes as JSON: the answers to pushes and pulls, and the events of streams.

use super::cursor::Cursor;
use super::json::{Quoted, push_quoted};
use super::merge::{FieldWrite, OwnWrites, StoredChange, UnreadableChange, View};
use super::push::{Adjusted, Op};
use std::fmt::Write;
use uuid::Uuid;

/// Approximate size of a page without its changes, in bytes.
pub const ENVELOPE: usize = 128;

/// Changes in log order, and the reader's position after them.
#[derive(Debug)]
pub struct Page {
    /// The changes to apply, in log order.
    pub changes: Vec<StoredChange>,
    /// The reader's own writes to the same records; see [`super::merge`].
    pub own: OwnWrites,
    /// The head of the log when it was read: the position of the newest change, in microseconds.
    pub head: i64,
    /// The reader's next `since`.
    pub until: Cursor,
    /// True if there is more after `until`.
    pub has_more: bool,
    /// The first of the changes as text, if they were encoded while the others were still arriving.
    pub written: WrittenChanges,
    /// Bytes of their text beyond what is stored of them, at most; see [`super::page_bound`].
    pub excess: usize,
}

impl Page {
    /// Approximate size of the page as text, in bytes.
    pub fn size(&self) -> usize {
        ENVELOPE + size_of(&self.changes) + self.excess
    }

    /// Approximate size of the rest of the page, in bytes: without its changes and their text.
    pub fn extra_size(&self) -> usize {
        // All changes are encoded already, and none has to be rewritten for its reader: that text is the answer.
        let is_text = self.written.count() == self.changes.len() && self.own.is_empty();
        let written = if is_text { 0 } else { self.written.size() };
        self.own.size() + written
    }
}

/// Changes as text, as sent to a reader that wrote none of their records.
///
/// Encoding takes about as long as PostgreSQL takes to find the next change: a page whose changes are encoded as they
/// arrive takes little more than the longer of the two.
#[derive(Debug, Default)]
pub struct WrittenChanges {
    /// The beginning of an answer, up to the last of these changes.
    text: String,
    /// The end of each change.
    ends: Vec<usize>,
}

impl WrittenChanges {
    /// Encodes the next change.
    pub fn add(&mut self, change: &StoredChange) -> Result<(), UnreadableChange> {
        self.text.push_str(if self.ends.is_empty() { BEGIN_ANSWER } else { "," });
        write_change(&mut self.text, change, change.view_of_others()?)?;
        self.ends.push(self.text.len());
        Ok(())
    }

    /// Keeps only the first `changes` changes.
    pub fn truncate(&mut self, changes: usize) {
        self.ends.truncate(changes);
        self.text.truncate(self.ends.last().copied().unwrap_or_default());
    }

    /// Returns their size in bytes.
    pub fn size(&self) -> usize {
        self.text.len()
    }

    /// Returns the change at this index, if it was encoded.
    fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let begin = match index.checked_sub(1) {
            None => BEGIN_ANSWER.len(),
            Some(before) => *self.ends.get(before)? + ",".len(),
        };
        self.text.get(begin..end)
    }

    /// Returns their number.
    pub fn count(&self) -> usize {
        self.ends.len()
    }
}

/// The start of an answer to a push or a pull.
const BEGIN_ANSWER: &str = "{\"serverChanges\":[";

/// The parts of an answer besides its page.
#[derive(Debug, Default)]
pub struct Remarks<'a> {
    /// JSON objects; see [`super::conflicts`].
    pub conflicts: &'a [String],
    /// The changes of the push whose stamps were adjusted.
    pub adjusted: &'a [Adjusted],
}

impl Remarks<'_> {
    /// Approximate size as text, in bytes.
    pub fn size(&self) -> usize {
        let names = |adjusted: &Adjusted| {
            let fields: usize = adjusted.fields.iter().map(|field| field.len() + 3).sum();
            96 + adjusted.table.len() + adjusted.id.len() + fields
        };
        self.conflicts.iter().map(String::len).chain(self.adjusted.iter().map(names)).sum()
    }
}

/// Encodes the answer to a push or a pull.
pub fn encode_answer(mut page: Page, remarks: &Remarks<'_>) -> Result<String, UnreadableChange> {
    let size = page.size();
    let Page { changes, own, written, .. } = &mut page;
    let mut out = match written.count() == changes.len() && !changes.iter().any(|change| own.concern(change)) {
        true if !changes.is_empty() => std::mem::take(&mut written.text),
        _ => {
            let mut out = String::with_capacity(size + remarks.size());
            out.push_str(BEGIN_ANSWER);
            write_changes(&mut out, changes, written, own)?;
            out
        }
    };
    let conflicts = remarks.conflicts.join(",");
    // Writing to a String cannot fail, here and below.
    let _ =
        write!(out, "],\"conflicts\":[{conflicts}],\"syncedUntil\":\"{}\",\"hasMore\":{}", page.until, page.has_more);
    if !remarks.adjusted.is_empty() {
        let adjusted = serde_json::to_string(remarks.adjusted).unwrap_or_else(|_| "[]".to_owned());
        let _ = write!(out, ",\"adjusted\":{adjusted}");
    }
    out.push('}');
    Ok(out)
}

/// An event of a stream, without its changes.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The app of its changes, if the stream is for several apps.
    pub app: Option<&'a str>,
    /// The table of all its changes.
    pub table: &'a str,
    /// The cursor after this page.
    pub until: Cursor,
    /// True if there is more.
    pub has_more: bool,
    /// The cursor to resume from, if everything up to `until` has been sent with this event.
    pub id: Option<&'a str>,
}

/// Encodes one event of a stream.
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
    let _ = write!(out, "\"table\":{},\"changes\":[", Quoted(table));
    write_changes(out, changes, &WrittenChanges::default(), own)?;
    let _ = write!(out, "],\"syncedUntil\":\"{until}\",\"hasMore\":{has_more}}}\n\n");
    Ok(())
}

/// Approximate size of changes as text, in bytes.
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

/// Writes changes, some of which may be encoded already.
fn write_changes(
    out: &mut String,
    changes: &[StoredChange],
    written: &WrittenChanges,
    own: &mut OwnWrites,
) -> Result<(), UnreadableChange> {
    let before = out.len();
    for (index, change) in changes.iter().enumerate() {
        let comma = if out.len() > before { "," } else { "" };
        if let Some(text) = written.get(index).filter(|_| !own.concern(change)) {
            out.push_str(comma);
            out.push_str(text);
            continue;
        }
        let view = own.view(change)?;
        if view != View::Nothing {
            out.push_str(comma);
            write_change(out, change, view)?;
        }
    }
    Ok(())
}

fn write_change(out: &mut String, change: &StoredChange, view: View<'_>) -> Result<(), UnreadableChange> {
    let op = if matches!(view, View::Fields(_)) { Op::Update } else { change.op };
    out.push_str("{\"eventId\":\"");
    out.push_str(change.id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
    out.push_str("\",\"table\":");
    push_quoted(out, &change.table);
    out.push_str(",\"id\":");
    push_quoted(out, &change.record);
    out.push_str(",\"op\":\"");
    out.push_str(op.name());
    out.push('"');
    match (view, change.op) {
        (View::Whole, Op::Insert) => {
            out.push_str(",\"data\":");
            out.push_str(change.data.as_deref().unwrap_or("{}"));
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

/// Returns the members of a JSON object as they stand between its braces; none if there are none.
fn members_of(object: &str) -> Option<&str> {
    let members = object.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    (!members.is_empty()).then_some(members)
}

/// Writes fields with their values. Clients of different generations look for the stamp under different names.
fn write_fields(out: &mut String, writes: &[FieldWrite<'_>]) {
    out.push_str(",\"fields\":{");
    for (index, write) in writes.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        let stamp = write.stamp.encode();
        // Digits and punctuation are always valid UTF-8.
        let stamp = std::str::from_utf8(&stamp).unwrap_or_default();
        push_quoted(out, &write.name);
        for part in [":{\"value\":", &write.value, ",\"at\":\"", stamp, "\",\"updatedAt\":\"", stamp, "\"}"] {
            out.push_str(part);
        }
    }
    out.push('}');
}
