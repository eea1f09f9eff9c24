//! A model of the log with the rules of the store.

use super::*;

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) client: String,
    pub(super) change: StoredChange,
    pub(super) claimed_stamps: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    pub(super) rows: Vec<Row>,
    pub(super) head: i64,
    /// Everything that was ever stored, as it was stored.
    pub(super) untrimmed: Vec<Row>,
    /// The trimmed rows that are remembered.
    pub(super) history: HashSet<Uuid>,
}

/// The kind of request a device makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    Pull,
    /// With rows of its own that it is not sent back: those of its push.
    Push,
}

impl Log {
    /// Stores what is not there yet. Returns the ids of the changes that the answer does not send back: all of them, or
    /// in the middle of an initial sync only the new ones.
    pub(super) fn push(&mut self, push: &Push) -> HashSet<Uuid> {
        let ids = push.row_ids("u", "a");
        let mut added = HashSet::new();
        for (change, id) in push.changes.iter().zip(&ids) {
            if self.history.contains(id) || self.rows.iter().any(|row| row.change.id == *id) {
                continue;
            }
            added.insert(*id);
            self.head += Cursor::STEP;
            let at = self.head;
            let NewChange { table, record, op, data, stamps, claimed_stamps, extra, .. } = change.clone();
            let claimed_stamps = claimed_stamps.map_or_else(BTreeMap::new, |claimed| {
                // As the database does: an insert's is the same for all of its members.
                let Ok(claimed) = serde_json::from_str::<String>(&claimed) else {
                    return serde_json::from_str(&claimed).unwrap();
                };
                let members: BTreeMap<String, Value> = serde_json::from_str(data.as_deref().unwrap()).unwrap();
                members.into_keys().map(|member| (member, claimed.clone())).collect()
            });
            let change = StoredChange {
                id: *id,
                at,
                table,
                record,
                op,
                data,
                stamps,
                extra,
                is_own: false,
                rows_trimmed: false,
            };
            let row = Row { client: push.client.clone(), change, claimed_stamps };
            // A change stored again because it had been forgotten counts once.
            if !self.untrimmed.iter().any(|row| row.change.id == *id) {
                self.untrimmed.push(row.clone());
            }
            self.rows.push(row);
        }
        if push.since.is_initial_sync() && push.since.micros() > 0 { added } else { ids.into_iter().collect() }
    }

    /// Returns what the store reports about a device's own writes for a page (`store/own_writes.rs`).
    pub(super) fn own_writes(&self, reader: &str, page: &[StoredChange], initial: bool, asks: Asks) -> OwnWrites {
        let mut own = OwnWrites::new(initial);
        let Some(first) = page.first().map(|change| change.at) else { return own };
        let reader_holds = self.rows.iter().any(|row| row.client == reader && !row.claimed_stamps.is_empty());
        let concerned = |change: &&StoredChange| {
            !initial || reader_holds || asks == Asks::Push || change.is_own || change.op == Op::Delete
        };
        let mut records: HashMap<&str, HashSet<String>> = HashMap::new();
        for change in page.iter().filter(concerned) {
            let names = change.field_names().unwrap().into_iter().map(String::from);
            records.entry(change.record.as_str()).or_default().extend(names);
        }
        let of_records = || self.rows.iter().filter(|row| records.contains_key(row.change.record.as_str()));
        for row in of_records()
            .filter(|row| row.client == reader && (row.change.at >= first || !row.claimed_stamps.is_empty()))
        {
            let record = (row.change.table.as_str(), row.change.record.as_str());
            own.add_record(record, row.change.at);
            // Only for the fields on the page.
            let is_on_page = |write: &FieldWrite<'_>| records[record.1].contains(&*write.name);
            for write in row.change.fields().unwrap().into_iter().filter(is_on_page) {
                let claimed = row.claimed_stamps.get(&*write.name).map(|stamp| Stamp::parse(stamp).unwrap());
                own.add_own(record, &write.name, (write.stamp, row.change.at), claimed);
            }
        }
        for row in self.rows.iter().filter(|row| row.change.at < first) {
            for write in row.change.fields().unwrap() {
                own.add_earlier((&row.change.table, &row.change.record), &write.name, (write.stamp, row.change.at));
            }
        }
        own
    }

    /// Returns the page of `limit` changes at a cursor as a client reads it, without the rows in `besides`.
    pub(super) fn page(&self, reader: &str, since: Cursor, limit: usize, asks: Asks, besides: &HashSet<Uuid>) -> Value {
        self.page_on(since.is_initial_sync(), reader, since, limit, asks, besides)
    }

    /// The same for a reader that is in an initial sync or not, independent of its cursor.
    pub(super) fn page_on(
        &self,
        initial: bool,
        reader: &str,
        since: Cursor,
        limit: usize,
        asks: Asks,
        besides: &HashSet<Uuid>,
    ) -> Value {
        let wanted = |row: &&Row| row.change.at > since.micros() && (initial || row.client != reader);
        let mut rows: Vec<StoredChange> = self
            .rows
            .iter()
            .filter(wanted)
            .take(limit + 1)
            .map(|row| StoredChange { is_own: row.client == reader, ..row.change.clone() })
            .collect();
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let until = match rows.last() {
            Some(last) if has_more => Cursor::after(last.at).on_initial_sync(initial),
            _ => Cursor::after(self.head),
        };
        rows.retain(|change| !besides.contains(&change.id));
        let own = self.own_writes(reader, &rows, initial, asks).going_on(since.micros() > 0);
        let written = WrittenChanges::default();
        let page = Page { changes: rows, own, head: self.head, until, has_more, written, excess: 0 };
        serde_json::from_str(&encode_answer(page, &Remarks::default()).unwrap()).unwrap()
    }

    /// Returns the result of the rules: for each field the latest stamp, and of equal stamps the one stored later.
    pub(super) fn fold(&self) -> Records {
        let mut best: BTreeMap<(String, String), (Rank, String)> = BTreeMap::new();
        for row in &self.untrimmed {
            for write in row.change.fields().unwrap() {
                let rank = (write.stamp, row.change.at);
                let key = (row.change.record.clone(), write.name.to_string());
                let entry = best.entry(key).or_insert((rank, write.value.to_string()));
                if rank >= entry.0 {
                    *entry = (rank, write.value.to_string());
                }
            }
        }
        let mut records = Records::new();
        for ((record, field), (_, value)) in best {
            records.entry(record).or_default().insert(field, value);
        }
        records
    }
}

/// Values, by record and field.
pub(super) type Records = BTreeMap<String, BTreeMap<String, String>>;
