//! Writes a page of the log as the events of a stream.
//!
//! A page is sent as one event for each of its tables, in the order of their first changes. Some clients keep one
//! cursor for the whole stream, others one per table, and both may disconnect between two events. So no client is given
//! a cursor past a change that has not been sent (G2):
//!
//! * The last event of a page carries the page's cursor, as `id` and as `syncedUntil`.
//! * Every other event has no `id`, so a client that resumes by `Last-Event-ID` starts after the previous page. Its
//!   `syncedUntil` is the last position before the first change still to be sent, of any table. Where tables alternate,
//!   that may be before the last changes of its own table: a client that resumes from it gets those again, on another
//!   stream or by a pull, and loses nothing.
//! * After the backlog, the requested tables whose cursors were left behind in this way get an event without changes
//!   that brings their cursors up to date, and so do those for which there was nothing to send.
//! * During an initial sync every cursor is marked as such, until the backlog has been sent.

use crate::protocol::Cursor;
use crate::protocol::merge::{OwnWrites, StoredChange};
use crate::protocol::page::{Event, encode_event};
use std::collections::{BTreeSet, HashMap};

/// Groups the changes by table, with the tables in the order of their first changes. Returns for each table the
/// position up to which the changes of all tables have been sent once it and the tables before it have been.
pub(super) fn group_by_table(changes: &mut [StoredChange]) -> Vec<i64> {
    let mut order: HashMap<String, usize> = HashMap::new();
    let mut complete = Vec::new();
    let mut before = None;
    for change in &*changes {
        if !order.contains_key(&change.table) {
            order.insert(change.table.clone(), order.len());
            complete.extend(before);
        }
        before = Some(change.at);
    }
    complete.extend(before);
    if order.len() > 1 {
        // The sort is stable: changes of one record stay in log order, which merging relies on.
        changes.sort_by_cached_key(|change| order.get(&change.table).copied());
    }
    complete
}

/// Writes an event without changes for each table; together they count as a page.
pub(super) fn tell(out: &mut String, tables: &BTreeSet<String>, until: Cursor, id: &str, app: Option<&str>) {
    for (index, table) in tables.iter().enumerate() {
        let id = (index + 1 == tables.len()).then_some(id);
        let event = Event { app, table, until, has_more: false, id };
        // Encoding cannot fail: there are no changes that could be unreadable.
        let _ = encode_event(out, event, &[], &mut OwnWrites::default());
    }
}
