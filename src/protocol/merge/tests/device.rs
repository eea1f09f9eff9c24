//! Models of devices that behave as existing clients do.

use super::*;

/// The way an engine treats what it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    ByStamps,
    /// Merges inserts without comparing stamps.
    InsertsAsTheyCome,
    /// Applies everything without comparing stamps.
    AllAsItComes,
}

/// A stream's state, as its session keeps it (`session/log_reader.rs`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    cursor: Cursor,
    is_in_backlog: bool,
}

/// An existing client.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) engine: Engine,
    /// The stamp of its last write: its clock does not go back.
    pub(super) clock: Stamp,
    /// Value and stamp, by record and field.
    pub(super) records: BTreeMap<String, BTreeMap<String, (String, String)>>,
    pub(super) pending: Vec<Value>,
    pub(super) since: String,
    pub(super) stream: Option<Stream>,
    /// Every change it ever made: an identical one, including its stamp, would be the same change.
    pub(super) made: HashSet<String>,
}

impl Device {
    pub(super) fn new(name: &str, engine: Engine) -> Device {
        let since = Cursor::BEGINNING.to_string();
        Device {
            name: name.into(),
            engine,
            clock: Stamp::EPOCH,
            records: BTreeMap::new(),
            pending: vec![],
            since,
            stream: None,
            made: HashSet::new(),
        }
    }

    pub(super) fn values(&self) -> Records {
        let values = |fields: &BTreeMap<String, (String, String)>| {
            fields.iter().map(|(field, (value, _))| (field.clone(), value.clone())).collect()
        };
        self.records.iter().map(|(record, fields)| (record.clone(), values(fields))).collect()
    }

    /// Applies changes in the order received, as existing clients do.
    pub(super) fn apply(&mut self, changes: &Value) {
        for change in changes.as_array().unwrap() {
            let (record, op) = (change["id"].as_str().unwrap(), change["op"].as_str().unwrap());
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let fields: Vec<(String, String, String)> = match op {
                "insert" => {
                    let data = &change["data"];
                    let stamp = data
                        .get("updatedAt")
                        .or(data.get("createdAt"))
                        .expect("clients would take the time of receipt");
                    data.as_object()
                        .unwrap()
                        .iter()
                        .map(|(field, value)| (field.clone(), value.to_string(), text(stamp)))
                        .collect()
                }
                "update" => change["fields"]
                    .as_object()
                    .unwrap()
                    .iter()
                    .map(|(field, write)| {
                        assert_eq!(write["at"], write["updatedAt"]);
                        (field.clone(), write["value"].to_string(), text(&write["at"]))
                    })
                    .collect(),
                _ => vec![("deletedAt".into(), change["deletedAt"].to_string(), text(&change["deletedAt"]))],
            };
            if op == "delete" && !self.records.contains_key(record) {
                continue;
            }
            let blind = match self.engine {
                Engine::ByStamps => false,
                Engine::InsertsAsTheyCome => op == "insert",
                Engine::AllAsItComes => true,
            };
            let local = self.records.entry(record.to_owned()).or_default();
            for (field, value, stamp) in fields {
                if blind || local.get(&field).is_none_or(|(_, held)| stamp >= *held) {
                    local.insert(field, (value, stamp));
                }
            }
        }
    }

    /// Writes fields of a record at a time, unless it holds something later, and adds the write to the pending changes.
    pub(super) fn write(&mut self, record: &str, op: Op, fields: &[(&str, Value)], time: i64) {
        let stamp = Stamp::from_millis(time).max(self.clock);
        let text = stamp.to_string();
        let known = self.records.get(record);
        let shows = |(field, _): &(&str, Value)| {
            let held = known.and_then(|known| known.get(*field));
            held.is_none_or(|(_, held)| held.is_empty() || Stamp::parse(held).unwrap() <= stamp)
        };
        if !fields.iter().all(shows) {
            return;
        }
        self.clock = stamp;
        let change = match op {
            Op::Insert => {
                let mut data: serde_json::Map<String, Value> =
                    fields.iter().map(|(field, value)| ((*field).to_owned(), value.clone())).collect();
                data.insert("updatedAt".into(), json!(text));
                json!({ "table": "t", "id": record, "op": "insert", "data": data })
            }
            Op::Update => {
                let fields: serde_json::Map<String, Value> = fields
                    .iter()
                    .map(|(field, value)| ((*field).to_owned(), json!({ "value": value, "updatedAt": text })))
                    .collect();
                json!({ "table": "t", "id": record, "op": "update", "fields": fields })
            }
            Op::Delete => json!({ "table": "t", "id": record, "op": "delete", "deletedAt": text }),
        };
        if !self.made.insert(change.to_string()) {
            return;
        }
        let local = self.records.entry(record.to_owned()).or_default();
        for (field, value) in fields {
            local.insert((*field).to_owned(), (value.to_string(), text.clone()));
        }
        if op == Op::Insert {
            local.insert("updatedAt".into(), (json!(text).to_string(), text));
        }
        self.pending.push(change);
    }

    /// Adds an insert without a stamp, of a record that nobody else creates.
    pub(super) fn write_unstamped(&mut self, record: &str, value: Value) {
        self.pending.push(json!({ "table": "t", "id": record, "op": "insert", "data": { "f": value } }));
        let local = self.records.entry(record.to_owned()).or_default();
        local.insert("f".into(), (value.to_string(), String::new()));
    }

    pub(super) fn request(&self, now: i64) -> Push {
        let body = json!({ "since": self.since, "changes": self.pending }).to_string();
        let policy = StampPolicy { now: Stamp::from_millis(now), max_ahead: SKEW };
        read_push(body.as_bytes(), Some(&self.name), policy, 1_000).unwrap()
    }

    /// Pushes pending changes; the answer may be lost.
    pub(super) fn push(&mut self, log: &mut Log, now: i64, limit: usize, lost: bool) {
        let push = self.request(now);
        let rows = log.push(&push);
        if lost {
            return;
        }
        let asks = if push.changes.is_empty() { Asks::Pull } else { Asks::Push };
        let answer = log.page(&self.name, push.since, limit, asks, &rows);
        self.pending.clear();
        self.receive(&answer);
    }

    pub(super) fn pull(&mut self, log: &Log, limit: usize) -> bool {
        let since = Cursor::parse(&self.since).unwrap();
        let answer = log.page(&self.name, since, limit, Asks::Pull, &HashSet::new());
        self.receive(&answer);
        answer["hasMore"].as_bool().unwrap()
    }

    /// Reads the next page of its stream, starting at the device's cursor if there is none. True if there is more.
    pub(super) fn read_stream(&mut self, log: &Log, limit: usize) -> bool {
        let begun = Stream { cursor: Cursor::parse(&self.since).unwrap(), is_in_backlog: true };
        let Stream { cursor, is_in_backlog } = self.stream.unwrap_or(begun);
        let initial = cursor.is_initial_sync() && (is_in_backlog || cursor.micros() > 0);
        let page = log.page_on(initial, &self.name, cursor, limit, Asks::Pull, &HashSet::new());
        let has_more = page["hasMore"].as_bool().unwrap();
        let until = Cursor::parse(page["syncedUntil"].as_str().unwrap()).unwrap().on_initial_sync(initial && has_more);
        self.stream = Some(Stream { cursor: until, is_in_backlog: is_in_backlog && has_more });
        self.apply(&page["serverChanges"]);
        let is_told = !page["serverChanges"].as_array().unwrap().is_empty() || is_in_backlog && !has_more;
        if is_told {
            self.since = until.to_string();
        }
        has_more
    }

    pub(super) fn receive(&mut self, answer: &Value) {
        self.apply(&answer["serverChanges"]);
        let until = answer["syncedUntil"].as_str().unwrap();
        assert!(until >= self.since.as_str() || self.since.len() != Cursor::WIDTH, "cursors do not go back");
        self.since = until.to_owned();
    }
}
