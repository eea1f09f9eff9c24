use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

const AT: &str = "2024-01-01T10:05:00.000Z";
const NOW: &str = "2024-01-01T12:00:00.000Z";
const SKEW: i64 = 300_000;

fn policy() -> StampPolicy {
    StampPolicy { now: Stamp::parse(NOW).unwrap(), max_ahead: SKEW }
}

fn read(body: &str) -> Result<Push, PushError> {
    read_push(body.as_bytes(), None, policy(), 100)
}

/// Parses a push of one change.
fn read_one(change: &Value) -> Push {
    read(&json!({ "clientId": "c", "changes": [change] }).to_string()).unwrap()
}

fn field(name: &str, value: Value, at: &str) -> Value {
    json!({ "table": "t", "id": "r", "op": "update", "fields": { name: { "value": value, "updatedAt": at } } })
}

fn parsed(json: &str) -> Value {
    serde_json::from_str(json).unwrap()
}

#[test]
fn the_header_names_the_device_and_the_body_if_there_is_none() {
    let body = br#"{"clientId":"body"}"#;
    assert_eq!(read_push(body, Some("header"), policy(), 1).unwrap().client, "header");
    assert_eq!(read_push(body, None, policy(), 1).unwrap().client, "body");
    assert!(matches!(read_push(b"{}", None, policy(), 1), Err(PushError::NoClient)));
    assert!(matches!(read_push(body, Some("h\0"), policy(), 1), Err(PushError::Client(NameProblem::Nul))));
}

#[test]
fn since_and_changes_may_be_missing() {
    for body in [
        r#"{"clientId":"c"}"#,
        r#"{"clientId":"c","since":"","changes":[]}"#,
        r#"{"clientId":"c","since":null,"changes":null}"#,
    ] {
        let push = read(body).unwrap();
        assert_eq!((push.since, push.changes.len()), (Cursor::BEGINNING, 0), "{body}");
    }
}

#[test]
fn each_op_becomes_a_stored_change() {
    let update = &read_one(&field("title", json!({ "a": [1] }), AT)).changes[0];
    assert_eq!((update.op, parsed(update.data.as_ref().unwrap())), (Op::Update, json!({ "title": { "a": [1] } })));
    assert_eq!(parsed(&update.stamps), json!({ "title": AT }));

    let insert = json!({ "table": "t", "id": "r", "op": "insert", "data": { "title": "Milk", "updatedAt": AT } });
    let insert = &read_one(&insert).changes[0];
    assert_eq!(
        (insert.op, parsed(insert.data.as_ref().unwrap())),
        (Op::Insert, json!({ "title": "Milk", "updatedAt": AT }))
    );
    assert_eq!(insert.stamps, "{}");

    let delete = &read_one(&json!({ "table": "t", "id": "r", "op": "delete", "deletedAt": AT })).changes[0];
    assert_eq!((delete.op, &delete.data), (Op::Delete, &None));
    assert_eq!(parsed(&delete.stamps), json!({ "deletedAt": AT }));

    let delete = &read_one(&json!({ "table": "t", "id": "r", "op": "delete" })).changes[0];
    assert_eq!(parsed(&delete.stamps), json!({ "deletedAt": NOW }));
}

#[test]
fn stamps_are_stored_canonically_and_kept_as_claimed_only_where_they_were_adjusted() {
    for spelled in [AT, "2024-01-01T10:05:00Z", "2024-01-01T12:05:00.000+02:00", "2024-01-01T10:05:00.000999Z"] {
        let push = read_one(&field("title", json!(1), spelled));
        assert_eq!(parsed(&push.changes[0].stamps), json!({ "title": AT }), "{spelled}");
        assert_eq!(push.changes[0].claimed_stamps, None, "{spelled}");
    }
    let push = read_one(&field("title", json!(1), "2099-01-01T12:05:00+02:00"));
    let claimed_stamps = push.changes[0].claimed_stamps.as_deref().map_or(Value::Null, parsed);
    assert_eq!(claimed_stamps, json!({ "title": "2099-01-01T10:05:00.000Z" }));
}

#[test]
fn a_stamp_beyond_the_skew_is_lowered_to_it_and_one_at_the_skew_is_not() {
    let latest = Stamp::from_millis(policy().now.millis() + SKEW);
    let at = |ahead: i64| Stamp::from_millis(latest.millis() + ahead).to_string();
    for (ahead, lowered) in [(-1, false), (0, false), (1, true), (i64::from(u32::MAX), true)] {
        let push = read_one(&field("title", json!(1), &at(ahead)));
        assert_eq!(!push.adjusted.is_empty(), lowered, "{ahead}");
        assert_eq!(parsed(&push.changes[0].stamps), json!({ "title": at(ahead.min(0)) }));
        if let Some(adjusted) = push.adjusted.first() {
            let listed =
                json!({ "index": 0, "table": "t", "id": "r", "fields": ["title"], "updatedAt": latest.to_string() });
            assert_eq!(serde_json::to_value(adjusted).unwrap(), listed);
        }
    }
}

#[test]
fn an_inserts_stamp_is_its_updated_at_else_its_created_at() {
    let data = |data: Value| {
        let push = read_one(&json!({ "table": "t", "id": "r", "op": "insert", "data": data }));
        let stored = parsed(push.changes[0].data.as_ref().unwrap());
        (stored, push.adjusted.into_iter().flat_map(|one| one.fields).collect::<Vec<_>>())
    };
    let (late, latest) = ("2025-01-01T00:00:00.000Z", "2024-01-01T12:05:00.000Z");
    for (sent, stored, adjusted) in [
        (
            json!({ "updatedAt": late, "createdAt": late }),
            json!({ "updatedAt": latest, "createdAt": late }),
            vec!["updatedAt"],
        ),
        (
            json!({ "updatedAt": "no", "createdAt": late }),
            json!({ "updatedAt": "no", "createdAt": latest }),
            vec!["createdAt"],
        ),
        (json!({ "createdAt": late }), json!({ "createdAt": latest }), vec!["createdAt"]),
        (json!({ "title": late }), json!({ "title": late }), vec![]),
    ] {
        assert_eq!(data(sent), (stored, adjusted.into_iter().map(str::to_owned).collect()));
    }
}

/// The row ids of a push.
fn ids(push: &Push) -> Vec<uuid::Uuid> {
    push.row_ids("u", "a")
}

#[test]
fn a_change_is_the_same_whenever_and_however_it_is_sent() {
    let late = field("title", json!({ "a": [1, 2] }), "9999-01-01T00:00:00Z");
    let body = json!({ "clientId": "c", "changes": [late] }).to_string();
    let first = read(&body).unwrap();
    let later = StampPolicy { now: Stamp::from_millis(policy().now.millis() + 60_000), ..policy() };
    assert_eq!(ids(&first), ids(&read_push(body.as_bytes(), None, later, 1).unwrap()), "adjusted to another stamp");
    for same in [
        r#"{"clientId":"c","since":"2024-01-01T10:00:00.000Z","schemaVersion":7,"changes":[{"id":"r","table":"t","op":"update",
            "fields":{ "title" : {"at":"9999-01-01T00:00:00.000Z","value":{ "a":[1, 2]}}}}]}"#,
        r#"{"clientId":"c","changes":[{"eventId":"x","table":"t","id":"r","op":"update",
            "fields":{"title":{"updatedAt":"9999-01-01T01:00:00.000999+01:00","value":{"a":[1,2]}}}}]}"#,
    ] {
        assert_eq!(ids(&first), ids(&read(same).unwrap()), "{same}");
    }
}

#[test]
fn changes_without_a_stamp_are_the_same_within_one_since_only() {
    let of = |since: &str, change: &Value| {
        ids(&read(&json!({ "clientId": "c", "since": since, "changes": [change] }).to_string()).unwrap())
    };
    for change in [
        json!({ "table": "t", "id": "r", "op": "delete" }),
        json!({ "table": "t", "id": "r", "op": "insert", "data": { "title": "Milk", "updatedAt": "soon" } }),
    ] {
        assert_eq!(of(AT, &change), of(AT, &change));
        assert_ne!(of(AT, &change), of(NOW, &change));
    }
}

#[test]
fn what_the_protocol_does_not_name_is_kept_and_event_ids_are_not() {
    let change = json!({ "table": "t", "id": "r", "op": "delete", "deletedAt": AT, "eventId": "mine", "origin": "user",
        "actor": { "kind": "agent", "n": null } });
    let push = |change: &Value, version: Value| {
        read(&json!({ "clientId": "c", "schemaVersion": version, "changes": [change] }).to_string())
    };
    let extra = |push: &Push| push.changes[0].extra.as_deref().map(parsed);
    let kept = json!({ "origin": "user", "actor": { "kind": "agent", "n": null } });
    assert_eq!(extra(&push(&change, Value::Null).unwrap()), Some(kept.clone()));
    let mut versioned = kept;
    versioned["schemaVersion"] = json!(3);
    assert_eq!(extra(&push(&change, json!(3)).unwrap()), Some(versioned.clone()));
    let own = json!({ "table": "t", "id": "r", "op": "update", "fields": {}, "schemaVersion": 2 });
    assert_eq!(extra(&push(&own, json!(3)).unwrap()), Some(json!({ "schemaVersion": 2 })));
    assert_eq!(extra(&read_one(&field("f", json!(1), AT))), None);
    // Of equal names the last counts, whichever value is greater.
    for (twice, kept) in
        [(r#""z":1,"origin":"user","origin":"agent""#, "agent"), (r#""origin":"agent","origin":"user","z":1"#, "user")]
    {
        let of = |members: &str| {
            read(&format!(
                r#"{{"clientId":"c","changes":[{{"table":"t","id":"r","op":"delete","deletedAt":"{AT}",{members}}}]}}"#
            ))
            .unwrap()
        };
        let (twice, once) = (of(twice), of(&format!(r#""origin":"{kept}","z":1"#)));
        assert_eq!(extra(&twice), Some(json!({ "z": 1, "origin": kept })));
        assert_eq!(
            (ids(&twice), &twice.changes[0].extra),
            (ids(&once), &once.changes[0].extra),
            "they are the same change"
        );
    }
    for version in [json!({}), json!([1]), json!("x".repeat(100))] {
        assert!(matches!(push(&change, version), Err(PushError::SchemaVersion)));
    }
}

#[test]
fn of_a_field_that_is_named_twice_only_the_last_one_is_read() {
    const LATE: &str = "2999-01-01T00:00:00.000Z";
    let of = |fields: &[(i64, &str)]| {
        let fields: Vec<String> =
            fields.iter().map(|(value, at)| format!(r#""f":{{"value":{value},"updatedAt":"{at}"}}"#)).collect();
        let change = format!(r#"{{"table":"t","id":"r","op":"update","fields":{{{}}}}}"#, fields.join(","));
        read(&format!(r#"{{"clientId":"c","changes":[{change}]}}"#)).unwrap()
    };
    for (twice, once) in
        [([(1, LATE), (2, AT)], (2, AT)), ([(1, LATE), (2, LATE)], (2, LATE)), ([(1, ""), (2, AT)], (2, AT))]
    {
        let (twice, once) = (of(&twice), of(&[once]));
        assert_eq!((&twice.changes, &twice.adjusted), (&once.changes, &once.adjusted), "it is held, and listed, once");
    }
}

#[test]
fn what_a_change_has_beside_its_members_is_bounded() {
    let with = |length: usize| {
        let change = json!({ "table": "t", "id": "r", "op": "delete", "x": "y".repeat(length) });
        read(&json!({ "clientId": "c", "changes": [change] }).to_string())
    };
    let around = r#"{"x":""}"#.len();
    assert_eq!(with(MAX_EXTRA - around).unwrap().changes[0].extra.as_ref().unwrap().len(), MAX_EXTRA);
    let told = with(MAX_EXTRA - around + 1).unwrap_err().to_string();
    assert!(told.starts_with("changes[0]: its members beside"), "{told}");
}

#[test]
fn a_push_with_too_many_fields_or_tables_or_with_long_names_is_refused() {
    let fields = |count: usize| (0..count).map(|n| (format!("f{n}"), json!({ "value": n, "at": AT })));
    let update = |fields: serde_json::Map<String, Value>| {
        read(
            &json!({ "clientId": "c", "changes": [{ "table": "t", "id": "r", "op": "update", "fields": fields }] })
                .to_string(),
        )
    };
    let insert = |data: serde_json::Map<String, Value>| {
        read(
            &json!({ "clientId": "c", "changes": [{ "table": "t", "id": "r", "op": "insert", "data": data }] })
                .to_string(),
        )
    };
    assert!(update(fields(MAX_FIELDS).collect()).is_ok() && insert(fields(MAX_FIELDS).collect()).is_ok());
    assert!(update(fields(MAX_FIELDS + 1).collect()).is_err() && insert(fields(MAX_FIELDS + 1).collect()).is_err());
    let named = |length: usize| [("n".repeat(length), json!({ "value": 1, "at": AT }))].into_iter().collect();
    assert!(update(named(MAX_FIELD)).is_ok() && insert(named(MAX_FIELD)).is_ok());
    assert!(update(named(MAX_FIELD + 1)).is_err() && insert(named(MAX_FIELD + 1)).is_err());
    let tables = |count: usize| {
        let changes: Vec<Value> =
            (0..count).map(|n| json!({ "table": format!("t{n}"), "id": "r", "op": "delete" })).collect();
        read_push(json!({ "clientId": "c", "changes": changes }).to_string().as_bytes(), None, policy(), 10_000)
    };
    assert!(tables(MAX_TABLES).is_ok());
    assert!(matches!(tables(MAX_TABLES + 1), Err(PushError::TooManyTables { got: 5001 })));
    let long: Vec<Value> =
        (0..600).map(|n| json!({ "table": format!("{n}{}", "t".repeat(240)), "id": "r", "op": "delete" })).collect();
    let long = read_push(json!({ "clientId": "c", "changes": long }).to_string().as_bytes(), None, policy(), 1_000);
    assert!(matches!(long, Err(PushError::TableNames { .. })));
}

#[test]
fn a_stamp_whose_year_overflows_is_adjusted_whatever_the_operation() {
    let spelled = "9999-12-31T23:59:59.999-01:00";
    for change in [
        field("title", json!(1), spelled),
        json!({ "table": "t", "id": "r", "op": "insert", "data": { "title": 1, "updatedAt": spelled } }),
        json!({ "table": "t", "id": "r", "op": "insert", "data": { "title": 1, "createdAt": spelled } }),
        json!({ "table": "t", "id": "r", "op": "delete", "deletedAt": spelled }),
    ] {
        let push = read_one(&change);
        assert_eq!((push.adjusted.len(), push.adjusted[0].updated_at), (1, policy().latest()), "{change}");
    }
}

#[test]
fn a_change_of_many_late_fields_is_told_of_once() {
    let fields: serde_json::Map<String, Value> =
        (0..50).map(|n| (format!("f{n}"), json!({ "value": 1, "at": "2099-01-01T00:00:00Z" }))).collect();
    let push = read_one(&json!({ "table": "t", "id": "r", "op": "update", "fields": fields }));
    assert_eq!((push.adjusted.len(), push.adjusted[0].fields.len()), (1, 50));
}

#[test]
fn a_problem_names_its_change() {
    for (change, problem) in [
        (json!({ "id": "r", "op": "delete" }), "changes[1]: table is missing or empty"),
        (json!({ "table": "t", "op": "delete" }), "changes[1]: id is missing or empty"),
        (json!({ "table": "t", "id": "r" }), "changes[1]: op is missing; it must be insert, update or delete"),
        (json!({ "table": "t", "id": "r", "op": "x" }), "changes[1]: op must be insert, update or delete, not \"x\""),
        (field("f", json!(1), "x"), "changes[1]: updatedAt of field \"f\" is not an RFC 3339 date and time such as"),
        (
            json!({ "table": "t", "id": "r", "op": "delete", "deletedAt": 1 }),
            "changes[1]: deletedAt is not an RFC 3339",
        ),
    ] {
        let good = field("title", json!(1), AT);
        let told =
            read(&json!({ "clientId": "c", "changes": [good, change, good] }).to_string()).unwrap_err().to_string();
        assert!(told.starts_with(problem), "{told}");
    }
}

#[test]
fn no_body_of_the_allowed_size_is_too_large_to_be_read_back_unless_it_is_full_of_exponents() {
    let size = |value: &str| {
        let body =
            format!(r#"{{"clientId":"c","changes":[{{"table":"t","id":"r","op":"insert","data":{{"v":{value}}}}}]}}"#);
        read(&body).map(|push| push.changes[0].size as f64 / body.len() as f64)
    };
    for densest in ["1", "[]", "{\"\":1}", "\"\""] {
        let grows = size(&format!("[{}]", vec![densest; 20_000].join(","))).unwrap();
        assert!(grows * (10 << 20) as f64 <= MAX_WRITTEN as f64, "{densest} grows {grows} times");
    }
    let problem = size(&format!("[{}]", vec!["1e40"; 370_000].join(","))).unwrap_err().to_string();
    assert!(problem.contains("numbers written out"), "{problem}");
}

#[test]
fn a_push_of_too_many_changes_is_refused() {
    let body = json!({ "clientId": "c", "changes": vec![field("f", json!(1), AT); 101] }).to_string();
    assert!(matches!(read(&body), Err(PushError::TooMany { got: 101, max: 100 })));
    let body = body.replacen(']', ",[],7,{\"op\":1}]", 1);
    assert!(matches!(read(&body), Err(PushError::TooMany { got: 104, max: 100 })), "those beyond are only counted");
}

#[test]
fn objects_are_not_read_from_lists() {
    for body in [
        r#"["c","",[]]"#.to_owned(),
        r#"{"clientId":"c","changes":[["t","r","delete",null,null,null]]}"#.to_owned(),
        format!(
            r#"{{"clientId":"c","changes":[{{"table":"t","id":"r","op":"update","fields":{{"f":[1,"{AT}",null]}}}}]}}"#
        ),
    ] {
        assert!(read(&body).is_err(), "{body}");
    }
}

#[test]
fn texts_that_run_together_are_still_two_pushes() {
    let of = |changes: Value| {
        let push = read(&json!({ "clientId": "c", "changes": changes }).to_string()).unwrap();
        ids(&push)
    };
    let two =
        json!([{ "table": "t", "id": "r", "op": "update", "fields": {} }, { "table": "1", "id": AT, "op": "delete" }]);
    assert!(!of(two).contains(&of(json!([field("delete", json!(1), AT)]))[0]));
}

proptest! {
    #[test]
    fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_push(&bytes, Some("c"), policy(), 10);
    }

    #[test]
    fn any_names_and_texts_come_through(table in "[^\0]{1,20}", id in "[^\0]{1,20}", name in "[^\0]{0,20}", text in "[^\0]{0,40}") {
        let change = json!({ "table": table, "id": id, "op": "update", "fields": { &name: { "value": text, "updatedAt": AT } } });
        let push = read_one(&change);
        let stored = &push.changes[0];
        prop_assert_eq!((&stored.table, &stored.record), (&table, &id));
        prop_assert_eq!(parsed(stored.data.as_ref().unwrap()), json!({ name: text }));
    }
}
