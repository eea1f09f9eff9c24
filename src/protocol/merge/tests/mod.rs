//! Tests a log with the rules of the store and devices that behave as existing clients do.

mod device;
mod log;
mod random;
mod trimmed;

use super::*;
use crate::protocol::page::{Page, Remarks, WrittenChanges, encode_answer};
use crate::protocol::push::{NewChange, Push, StampPolicy, read_push};
use crate::protocol::{Cursor, Stamp};
use device::{Device, Engine};
use log::{Asks, Log, Records, Row};
use proptest::prelude::*;
use random::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};

const NOW: i64 = 1_704_103_200_000;
const SKEW: i64 = 300_000;

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
                // It merges a record's pending changes.
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
