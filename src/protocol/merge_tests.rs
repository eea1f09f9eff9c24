//! A log with the rules of the store, and devices that behave as existing clients do.

use super::*;
use crate::protocol::page::{Page, Remarks, encode_answer};
use crate::protocol::push::{NewChange, Push, StampPolicy, read_push};
use crate::protocol::{Cursor, Stamp};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};

const NOW: i64 = 1_704_103_200_000;
const SKEW: i64 = 300_000;

#[derive(Clone, Debug)]
struct Row {
    client: String,
    change: StoredChange,
    claimed_stamps: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default)]
struct Log {
    rows: Vec<Row>,
    head: i64,
    /// All that was ever stored, as it was stored.
    untrimmed: Vec<Row>,
    /// The rows that were trimmed away and are remembered; and those of them that had the stamp of what won.
    history: HashSet<Uuid>,
    tied: HashSet<Uuid>,
}

/// What a device asks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Pull,
    /// With rows of its own that it is not sent: those of its push.
    Push,
}

impl Log {
    /// Stores what is not there yet; the ids of the changes that their device is not sent in the answer: all, and in the
    /// middle of an initial sync those that are new.
    fn push(&mut self, push: &Push) -> HashSet<Uuid> {
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
            let claimed_stamps =
                claimed_stamps.map_or_else(BTreeMap::new, |stamps| serde_json::from_str(&stamps).unwrap());
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
            self.untrimmed.push(row.clone());
            self.rows.push(row);
        }
        if push.since.is_initial_sync() && push.since.micros() > 0 { added } else { ids.into_iter().collect() }
    }

    /// What the store tells of a device's own writes for a page (`store/own_writes.rs`).
    fn own_writes(&self, reader: &str, page: &[StoredChange], initial: bool, asks: Asks) -> OwnWrites {
        let mut own = OwnWrites::new(initial);
        let Some(first) = page.first().map(|change| change.at) else { return own };
        let reader_holds = self.rows.iter().any(|row| row.client == reader && !row.claimed_stamps.is_empty());
        let concerned = |change: &&StoredChange| {
            !initial || reader_holds || asks == Asks::Push || change.is_own || change.op == Op::Delete
        };
        let records: HashSet<&str> = page.iter().filter(concerned).map(|change| change.record.as_str()).collect();
        let of_records = || self.rows.iter().filter(|row| records.contains(row.change.record.as_str()));
        for row in of_records()
            .filter(|row| row.client == reader && (row.change.at >= first || !row.claimed_stamps.is_empty()))
        {
            for write in row.change.fields().unwrap() {
                let claimed = row.claimed_stamps.get(&*write.name).map(|stamp| Stamp::parse(stamp).unwrap());
                let record = (row.change.table.as_str(), row.change.record.as_str());
                own.add_own(record, &write.name, (write.stamp, row.change.at), claimed, row.change.at);
            }
        }
        let needed: HashSet<String> = own.needs_history().iter().map(|(_, record)| (*record).to_owned()).collect();
        for row in self.rows.iter().filter(|row| row.change.at < first && needed.contains(&row.change.record)) {
            for write in row.change.fields().unwrap() {
                own.add_earlier((&row.change.table, &row.change.record), &write.name, (write.stamp, row.change.at));
            }
        }
        own
    }

    /// The page of `limit` changes at a cursor as a client reads it. `besides`: the rows that it is not sent.
    fn page(&self, reader: &str, since: Cursor, limit: usize, asks: Asks, besides: &HashSet<Uuid>) -> Value {
        let initial = since.is_initial_sync();
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
        let page = Page { changes: rows, own, until, has_more };
        serde_json::from_str(&encode_answer(page, &Remarks::default()).unwrap()).unwrap()
    }

    /// What the rules give: of every field the latest stamp, of equal stamps the one stored later.
    fn fold(&self) -> Records {
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

/// Values by field, by record.
type Records = BTreeMap<String, BTreeMap<String, String>>;

/// What an engine does with what it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    ByStamps,
    /// Merges inserts without looking at stamps.
    InsertsAsTheyCome,
    /// Applies everything as it comes.
    AllAsItComes,
}

/// An existing client.
#[derive(Clone, Debug)]
struct Device {
    name: String,
    engine: Engine,
    /// The stamp of its last write: its clock does not go back.
    clock: Stamp,
    /// Value and stamp by field, by record.
    records: BTreeMap<String, BTreeMap<String, (String, String)>>,
    pending: Vec<Value>,
    since: String,
    /// All that it ever changed: the very same again, its stamp included, would be the same change.
    made: HashSet<String>,
}

impl Device {
    fn new(name: &str, engine: Engine) -> Device {
        let since = Cursor::BEGINNING.to_string();
        Device {
            name: name.into(),
            engine,
            clock: Stamp::EPOCH,
            records: BTreeMap::new(),
            pending: vec![],
            since,
            made: HashSet::new(),
        }
    }

    fn values(&self) -> Records {
        let values = |fields: &BTreeMap<String, (String, String)>| {
            fields.iter().map(|(field, (value, _))| (field.clone(), value.clone())).collect()
        };
        self.records.iter().map(|(record, fields)| (record.clone(), values(fields))).collect()
    }

    /// Applies changes in the order received, as CLIENTS.md says.
    fn apply(&mut self, changes: &Value) {
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

    /// Writes fields of a record at a time, unless it holds something later; and makes it a pending change.
    fn write(&mut self, record: &str, op: Op, fields: &[(&str, Value)], time: i64) {
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

    /// An insert without a stamp, of a record that nobody else makes.
    fn write_unstamped(&mut self, record: &str, value: Value) {
        self.pending.push(json!({ "table": "t", "id": record, "op": "insert", "data": { "f": value } }));
        let local = self.records.entry(record.to_owned()).or_default();
        local.insert("f".into(), (value.to_string(), String::new()));
    }

    fn request(&self, now: i64) -> Push {
        let body = json!({ "since": self.since, "changes": self.pending }).to_string();
        let policy = StampPolicy { now: Stamp::from_millis(now), max_ahead: SKEW };
        read_push(body.as_bytes(), Some(&self.name), policy, 1_000).unwrap()
    }

    /// Pushes what is pending; the answer may be lost.
    fn push(&mut self, log: &mut Log, now: i64, limit: usize, lost: bool) {
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

    fn pull(&mut self, log: &Log, limit: usize) -> bool {
        let since = Cursor::parse(&self.since).unwrap();
        let answer = log.page(&self.name, since, limit, Asks::Pull, &HashSet::new());
        self.receive(&answer);
        answer["hasMore"].as_bool().unwrap()
    }

    fn receive(&mut self, answer: &Value) {
        self.apply(&answer["serverChanges"]);
        let until = answer["syncedUntil"].as_str().unwrap();
        assert!(until >= self.since.as_str() || self.since.len() != Cursor::WIDTH, "cursors do not go back");
        self.since = until.to_owned();
    }
}

fn update(field: &str, value: u32, stamp: Stamp) -> Value {
    json!({ "table": "t", "id": "r", "op": "update", "fields": { field: { "value": value, "updatedAt": stamp.to_string() } } })
}

fn read(client: &str, changes: Value) -> Push {
    let policy = StampPolicy { now: Stamp::from_millis(NOW), max_ahead: SKEW };
    read_push(json!({ "changes": changes }).to_string().as_bytes(), Some(client), policy, 100).unwrap()
}

fn values(log: &Log, reader: &str, since: i64) -> Vec<String> {
    let page = log.page(reader, Cursor::after(since), 100, Asks::Pull, &HashSet::new());
    let changes = page["serverChanges"].as_array().unwrap().iter();
    changes
        .flat_map(|change| {
            change["fields"].as_object().unwrap().values().map(|write| write["value"].to_string()).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn a_device_is_not_sent_the_value_that_lost_to_its_own_later_one() {
    let stamp = Stamp::from_millis(NOW);
    let earlier = Stamp::from_millis(NOW - 1);
    let mut log = Log::default();
    for (client, value, stamp) in
        [("x", 0, stamp), ("b", 1, stamp), ("b", 9, earlier), ("a", 2, stamp), ("c", 3, stamp)]
    {
        log.push(&read(client, json!([update("f", value, stamp)])));
    }
    assert_eq!(values(&log, "a", Cursor::STEP), ["3"], "1 and 9 lost to its own 2; 3 won against it");
    assert_eq!(values(&log, "b", Cursor::STEP), ["2", "3"]);
    assert_eq!(values(&log, "c", Cursor::STEP), [""; 0]);
    assert_eq!(values(&log, "d", Cursor::STEP), ["1", "9", "2", "3"]);
}

#[test]
fn an_insert_that_lost_in_part_goes_out_as_an_update_of_the_rest() {
    let at = "2024-01-01T10:00:00.000Z";
    let insert = json!([{ "table": "t", "id": "r", "op": "insert", "data": { "title": "x", "notes": [1, {"a": null}], "updatedAt": at } }]);
    let mut log = Log::default();
    log.push(&read("x", json!([update("other", 1, Stamp::EPOCH)])));
    log.push(&read("b", insert));
    log.push(&read("a", json!([update("title", 2, Stamp::parse(at).unwrap())])));
    let page = log.page("a", Cursor::after(Cursor::STEP), 100, Asks::Pull, &HashSet::new());
    let change = &page["serverChanges"][0];
    assert_eq!(change["op"], "update");
    let stamped = |value: Value| json!({ "value": value, "at": at, "updatedAt": at });
    assert_eq!(change["fields"], json!({ "notes": stamped(json!([1, {"a": null}])), "updatedAt": stamped(json!(at)) }));
}

#[test]
fn an_insert_whose_stamp_clients_would_not_find_goes_out_as_an_update() {
    let at = "2024-01-01T10:00:00.000Z";
    for (data, stamp) in [
        (json!({ "f": 1 }), "1970-01-01T00:00:00.000Z"),
        (json!({ "f": 1, "updatedAt": 7 }), "1970-01-01T00:00:00.000Z"),
        (json!({ "f": 1, "updatedAt": "soon", "createdAt": "" }), "1970-01-01T00:00:00.000Z"),
        (json!({ "f": 1, "updatedAt": "", "createdAt": at }), at),
    ] {
        let mut log = Log::default();
        log.push(&read("b", json!([{ "table": "t", "id": "r", "op": "insert", "data": data }])));
        let page = log.page("a", Cursor::BEGINNING, 100, Asks::Pull, &HashSet::new());
        let change = &page["serverChanges"][0];
        assert_eq!((&change["op"], &change["fields"]["f"]["at"]), (&json!("update"), &json!(stamp)), "{data}");
    }
    for data in [json!({ "f": 1, "updatedAt": at }), json!({ "f": 1, "updatedAt": null, "createdAt": at })] {
        let mut log = Log::default();
        log.push(&read("b", json!([{ "table": "t", "id": "r", "op": "insert", "data": data }])));
        let page = log.page("a", Cursor::BEGINNING, 100, Asks::Pull, &HashSet::new());
        assert_eq!(page["serverChanges"][0]["op"], "insert", "{data}");
    }
}

/// A push is stored, its answer is lost, the user edits on, and the next push still asks from the beginning.
#[test]
fn an_edit_made_after_a_lost_answer_stays_with_every_engine() {
    for engine in [Engine::ByStamps, Engine::InsertsAsTheyCome, Engine::AllAsItComes] {
        for (limit, as_one) in [(100, false), (1, false), (100, true), (1, true)] {
            let (mut log, mut other) = (Log::default(), Device::new("other", Engine::ByStamps));
            other.write("x", Op::Insert, &[("f", json!("theirs"))], NOW);
            other.push(&mut log, NOW, 100, false);
            let mut device = Device::new("a", engine);
            device.write("r", Op::Insert, &[("f", json!("first")), ("g", json!("kept"))], NOW + 1);
            device.push(&mut log, NOW + 1, limit, true);
            device.write("r", Op::Update, &[("f", json!("second"))], NOW + 2);
            if as_one {
                // It merges what is pending for a record.
                device.pending = vec![json!({ "table": "t", "id": "r", "op": "insert",
                    "data": { "f": "second", "g": "kept", "updatedAt": Stamp::from_millis(NOW + 2).to_string() } })];
            }
            device.push(&mut log, NOW + 2, limit, false);
            while device.pull(&log, limit) {}
            assert_eq!(device.values()["r"]["f"], "\"second\"", "{engine:?} {limit} {as_one}");
            assert_eq!(device.values()["r"]["g"], "\"kept\"");
            assert_eq!(device.values().keys().collect::<Vec<_>>(), ["r", "x"]);
        }
    }
}

#[test]
fn a_deleted_record_does_not_rise_again_because_its_insert_was_replaced() {
    for limit in [1, 2, 3, 100] {
        let mut log = Log::default();
        let (mut device, mut other) = (Device::new("a", Engine::ByStamps), Device::new("b", Engine::ByStamps));
        device.write("r", Op::Insert, &[("f", json!(1))], NOW);
        device.push(&mut log, NOW, 100, false);
        while other.pull(&log, 100) {}
        other.write("r", Op::Delete, &[("deletedAt", json!(Stamp::from_millis(NOW + 1).to_string()))], NOW + 1);
        other.push(&mut log, NOW + 1, 100, false);
        device.write("r", Op::Update, &[("f", json!(2)), ("updatedAt", json!("x"))], NOW + 2);
        device.push(&mut log, NOW + 2, 100, false);
        let mut fresh = Device::new("a", Engine::ByStamps);
        while fresh.pull(&log, limit) {}
        assert_eq!(fresh.values(), log.fold(), "pages of {limit}");
    }
}

/// One device does something.
#[derive(Clone, Debug)]
enum Step {
    /// Writes a field, or several, at the cluster's time plus this, in milliseconds, and its own clock's error; and pushes
    /// at once: a device that took in a value with the very stamp of its edit before that is beyond any server.
    Write {
        device: usize,
        record: usize,
        kind: Kind,
        ahead: i64,
        limit: usize,
        lost: bool,
    },
    Push {
        device: usize,
        limit: usize,
        lost: bool,
    },
    Pull {
        device: usize,
        limit: usize,
    },
    /// Loses its database.
    Lose {
        device: usize,
    },
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Insert,
    Unstamped,
    One,
    Two,
    Delete,
    Undelete,
}

const DEVICES: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    let device = || 0..DEVICES;
    let limit = || prop::sample::select(vec![1usize, 2, 3, 100]);
    let kind = prop::sample::select(vec![
        Kind::Insert,
        Kind::Unstamped,
        Kind::One,
        Kind::One,
        Kind::One,
        Kind::Two,
        Kind::Delete,
        Kind::Undelete,
    ]);
    let write = (device(), 0usize..2, kind, 0i64..3, limit(), any::<bool>()).prop_map(
        |(device, record, kind, ahead, limit, lost)| Step::Write { device, record, kind, ahead, limit, lost },
    );
    let push = (device(), limit(), any::<bool>()).prop_map(|(device, limit, lost)| Step::Push { device, limit, lost });
    let pull = (device(), limit()).prop_map(|(device, limit)| Step::Pull { device, limit });
    let lose = device().prop_map(|device| Step::Lose { device });
    prop_oneof![6 => write, 4 => push, 3 => pull, 1 => lose]
}

fn perform(step: &Step, tick: usize, now: i64, skews: &[i64], devices: &mut [Device], log: &mut Log) {
    match *step {
        Step::Pull { device, limit } => drop(devices[device].pull(log, limit)),
        Step::Push { device, limit, lost } => devices[device].push(log, now, limit, lost),
        Step::Lose { device } => {
            let lost = &devices[device];
            devices[device] =
                Device { clock: lost.clock, made: lost.made.clone(), ..Device::new(&lost.name, lost.engine) };
        }
        Step::Write { device, record, kind, ahead, limit, lost } => {
            let time = now + ahead + skews[device];
            write(&mut devices[device], ["r", "s"][record], kind, tick, time);
            devices[device].push(log, now, limit, lost);
        }
    }
}

fn write(device: &mut Device, record: &str, kind: Kind, tick: usize, time: i64) {
    let is_known = device.records.contains_key(record);
    let value = || json!(tick);
    match kind {
        Kind::Unstamped => device.write_unstamped(&format!("{}-{tick}", device.name), value()),
        Kind::Insert | Kind::One | Kind::Two if !is_known => {
            device.write(record, Op::Insert, &[("f", value()), ("g", value())], time);
        }
        Kind::Insert | Kind::One => {
            // One of the device's own unstamped ones now and then, if there is any.
            let own = device.records.keys().find(|key| key.starts_with(&device.name) && tick.is_multiple_of(3));
            let record = own.cloned().unwrap_or(record.to_owned());
            device.write(&record, Op::Update, &[("f", value())], time);
        }
        Kind::Two => device.write(record, Op::Update, &[("f", value()), ("g", value())], time),
        Kind::Delete if is_known => {
            let stamp = json!(Stamp::from_millis(time).max(device.clock).to_string());
            device.write(record, Op::Delete, &[("deletedAt", stamp)], time);
        }
        Kind::Undelete if is_known => device.write(record, Op::Update, &[("deletedAt", Value::Null)], time),
        Kind::Delete | Kind::Undelete => {}
    }
}

/// Without the values of stamp members, which stay as they were on a device whose clock is ahead.
fn without_stamps(mut records: Records) -> Records {
    for fields in records.values_mut() {
        fields.remove("updatedAt");
        fields.entry("deletedAt".into()).and_modify(|at| *at = (at != "null").to_string());
    }
    records
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// Tied and skewed stamps, lost answers, lost databases, pages of any size, any interleaving of writes, pushes and
    /// pulls: all devices end with what the rules give, and so does a fresh one.
    #[test]
    fn existing_clients_converge_on_what_the_rules_give(steps in prop::collection::vec(step(), 1..70), skews in prop::array::uniform4(prop::sample::select(vec![0, 0, -7_200_000, 60_000, 3_600_000]))) {
        let mut devices: Vec<Device> = (0..DEVICES).map(|n| Device::new(&format!("d{n}"), Engine::ByStamps)).collect();
        let mut log = Log::default();
        for (tick, step) in steps.iter().enumerate() {
            // Time goes on slowly, so that stamps tie across devices.
            perform(step, tick, NOW + tick as i64 / 8 * 3, &skews, &mut devices, &mut log);
        }
        for _ in 0..2 {
            for device in &mut devices {
                device.push(&mut log, NOW + 1_000, 2, false);
                while device.pull(&log, 2) {}
            }
        }
        devices.push(Device::new("fresh", Engine::ByStamps));
        while devices[DEVICES].pull(&log, 1) {}
        let expected = without_stamps(log.fold());
        for device in &devices {
            prop_assert_eq!(&without_stamps(device.values()), &expected, "{} with clocks {:?}", device.name, skews);
        }
    }
}

#[path = "trim_model_tests.rs"]
mod trimmed;
