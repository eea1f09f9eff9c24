//! A page of the log as events of a stream.
//!
//! It goes out as one event for each of its tables, in the order of their first changes. Some clients keep one cursor
//! for the whole stream, others one for each table, and both may break off between two events. So nobody is given a
//! cursor past a change that has not been sent (G2):
//!
//! * The last event of a page carries the page's cursor, as `id` and as `syncedUntil`.
//! * Every other event has no `id`, so whoever resumes by `Last-Event-ID` starts after the page before. Its
//!   `syncedUntil` is the last position before the first change that is still to be sent, of whichever table. That
//!   may be before the last changes of its own table, where tables alternate: a client that comes back with it gets
//!   those again, on another stream or by a pull, and loses nothing.
//! * After the backlog, the requested tables that were left behind in this way are told where they stand, by an event
//!   without changes, and so are those of which there was nothing to send.
//! * On an initial sync every cursor carries that it is one, until the backlog has been sent.

use crate::protocol::Cursor;
use crate::protocol::merge::{OwnWrites, StoredChange};
use crate::protocol::page::{Event, encode_event};
use std::collections::{BTreeSet, HashMap};

/// Puts the changes of each table together, the tables in the order of their first changes. For each table, the
/// position up to which every table's changes have been sent, once it and those before it have.
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
        // Stable: changes of one record stay in the order of the log, which merging relies on.
        changes.sort_by_cached_key(|change| order.get(&change.table).copied());
    }
    complete
}

/// Writes an event without changes for each table, together a page of their own.
pub(super) fn tell(out: &mut String, tables: &BTreeSet<String>, until: Cursor, id: &str, app: Option<&str>) {
    for (index, table) in tables.iter().enumerate() {
        let id = (index + 1 == tables.len()).then_some(id);
        let event = Event { app, table, until, has_more: false, id };
        // There is no change that could not be read back.
        let _ = encode_event(out, event, &[], &mut OwnWrites::default());
    }
}
