use super::*;
use crate::protocol::push::{NewChange, Push, StampPolicy, read_push};
use proptest::prelude::*;
use std::collections::BTreeMap;

const NOW: i64 = 1_704_103_200_000;
const SKEW: i64 = 300_000;

/// A log with the rules of the store, and its readers' view of it.
#[derive(Default)]
struct Log(Vec<(String, StoredChange)>);

impl Log {
    fn push(&mut self, client: &str, changes: Vec<NewChange>) {
        for change in changes {
            let at = (self.0.len() as i64 + 1) * 2;
            let NewChange { table, record, op, data, stamps, held } = change;
            self.0.push((client.to_owned(), StoredChange { at, table, record, op, data, stamps, held }));
        }
    }

    /// What a device is sent of the changes after a position: each field with its stamp, as strings.
    fn delta(&self, reader: &str, since: i64) -> Vec<(String, String, String)> {
        let others = |(client, change): &&(String, StoredChange)| client != reader && change.at > since;
        let mut own = OwnWrites::default();
        for (client, change) in &self.0 {
            if client == reader && (change.at > since || change.held.is_some()) {
                own.add_own(change).unwrap();
            }
        }
        for (client, change) in &self.0 {
            if client != reader && change.at <= since {
                own.add_earlier(change).unwrap();
            }
        }
        let mut sent = Vec::new();
        for (_, change) in self.0.iter().filter(others) {
            let writes = match own.view(change).unwrap() {
                View::Whole => change.fields().unwrap(),
                View::Fields(writes) => writes,
                View::Nothing => continue,
            };
            sent.extend(writes.into_iter().map(|w| (w.name.to_string(), w.value.to_string(), w.stamp.to_string())));
        }
        sent
    }

    /// What the rules give: of every field the latest stamp, of equal stamps the one stored later.
    fn fold(&self) -> BTreeMap<String, String> {
        let mut best: BTreeMap<String, (Rank, String)> = BTreeMap::new();
        for (_, change) in &self.0 {
            for write in change.fields().unwrap() {
                let rank = (write.stamp, change.at);
                let entry = best.entry(write.name.to_string()).or_insert((rank, write.value.to_string()));
                if rank >= entry.0 {
                    *entry = (rank, write.value.to_string());
                }
            }
        }
        best.into_iter().map(|(field, (_, value))| (field, value)).collect()
    }
}

/// An existing client: takes a value if its stamp's string is not below the one it holds.
#[derive(Clone, Debug)]
struct Client {
    /// The stamp of its last write: its clock does not go back.
    clock: Stamp,
    fields: BTreeMap<String, (String, String)>,
    since: i64,
}

impl Client {
    fn take(&mut self, field: &str, value: &str, stamp: &str) {
        let held = self.fields.get(field).map_or("", |(_, stamp)| stamp);
        if stamp >= held {
            self.fields.insert(field.to_owned(), (value.to_owned(), stamp.to_owned()));
        }
    }

    fn pull(&mut self, name: &str, log: &Log) {
        for (field, value, stamp) in log.delta(name, self.since) {
            self.take(&field, &value, &stamp);
        }
        self.since = log.0.len() as i64 * 2;
    }

    fn values(&self) -> BTreeMap<String, String> {
        self.fields.iter().map(|(field, (value, _))| (field.clone(), value.clone())).collect()
    }
}

fn read(json: &serde_json::Value, now: i64) -> Push {
    let policy = StampPolicy { now: Stamp::from_millis(now), max_ahead: SKEW };
    read_push(json.to_string().as_bytes(), Some("c"), policy, 100).unwrap()
}

fn update(field: &str, value: u32, stamp: Stamp) -> serde_json::Value {
    serde_json::json!({ "changes": [{ "table": "t", "id": "r", "op": "update",
        "fields": { field: { "value": value, "updatedAt": stamp.to_string() } } }] })
}

#[test]
fn a_device_is_not_sent_the_value_that_lost_a_tie_to_its_own() {
    let stamp = Stamp::from_millis(NOW);
    let mut log = Log::default();
    log.push("b", read(&update("f", 1, stamp), NOW).changes);
    log.push("a", read(&update("f", 2, stamp), NOW).changes);
    log.push("c", read(&update("f", 3, stamp), NOW).changes);
    let values = |reader| log.delta(reader, 0).into_iter().map(|(_, value, _)| value).collect::<Vec<_>>();
    assert_eq!(values("a"), ["3"], "1 lost to its own 2; 3 won against it");
    assert_eq!(values("b"), ["2", "3"]);
    assert_eq!(values("c"), [""; 0]);
    assert_eq!(values("d"), ["1", "2", "3"]);
}

#[test]
fn an_insert_that_lost_in_part_goes_out_as_an_update_of_the_rest() {
    let at = "2024-01-01T10:00:00.000Z";
    let insert = serde_json::json!({ "changes": [{ "table": "t", "id": "r", "op": "insert",
        "data": { "title": "x", "notes": [1, {"a": null}], "updatedAt": at } }] });
    let mut log = Log::default();
    log.push("b", read(&insert, NOW).changes);
    log.push("a", read(&update("title", 2, Stamp::parse(at).unwrap()), NOW).changes);
    let mut own = OwnWrites::default();
    own.add_own(&log.0[1].1).unwrap();
    let View::Fields(writes) = own.view(&log.0[0].1).unwrap() else { panic!("not in part") };
    let names: Vec<_> = writes.iter().map(|write| (&*write.name, &*write.value)).collect();
    assert_eq!(names, [("notes", r#"[1,{"a":null}]"#), ("updatedAt", r#""2024-01-01T10:00:00.000Z""#)]);
}

/// One device does something.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Writes a field at the cluster's time plus this, in milliseconds, and its own clock's error; then pushes.
    Write {
        device: usize,
        field: usize,
        ahead: i64,
    },
    Pull {
        device: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0usize..4, 0usize..2, 0i64..3).prop_map(|(device, field, ahead)| Step::Write { device, field, ahead });
    let pull = (0usize..4).prop_map(|device| Step::Pull { device });
    prop::collection::vec(prop_oneof![3 => write, 2 => pull], 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Tied and skewed stamps, any interleaving of writes and pulls: all devices end with what the rules give.
    /// The clocks of devices are wrong by a constant, some by more than is allowed.
    #[test]
    fn existing_clients_converge_on_what_the_rules_give(steps in steps(), skews in prop::array::uniform4(prop::sample::select(vec![0, 0, -7_200_000, 60_000, 3_600_000]))) {
        let fields = ["f", "g"];
        let mut devices: Vec<(String, Client)> = (0..4).map(|n| (format!("d{n}"), Client { clock: Stamp::EARLIEST, fields: BTreeMap::new(), since: 0 })).collect();
        let mut log = Log::default();
        for (tick, step) in steps.iter().enumerate() {
            // Time goes on slowly, so that stamps tie across devices; a device's own clock never goes back.
            let now = NOW + tick as i64 / 8 * 3;
            match *step {
                Step::Pull { device } => {
                    let (name, client) = &mut devices[device];
                    client.pull(name, &log);
                }
                Step::Write { device, field, ahead } => {
                    let (name, client) = &mut devices[device];
                    let stamp = Stamp::from_millis(now + ahead + skews[device]).max(client.clock);
                    client.clock = stamp;
                    let before = client.fields.get(fields[field]).map_or(i64::MIN, |(_, held)| Stamp::parse(held).unwrap().millis());
                    // An edit that is older than what the device holds does not show, and is pushed all the same.
                    if stamp.millis() >= before {
                        client.take(fields[field], &tick.to_string(), &stamp.to_string());
                    }
                    log.push(name, read(&update(fields[field], tick as u32, stamp), now).changes);
                    client.pull(name, &log);
                }
            }
        }
        let expected = log.fold();
        for (name, client) in &mut devices {
            client.pull(name, &log);
            prop_assert_eq!(&client.values(), &expected, "{} with clocks {:?}", name, skews);
        }
    }
}
