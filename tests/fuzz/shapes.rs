//! Generators of client input: mostly valid, sometimes wrong in one place.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// A name: ordinary, odd, or at a limit.
pub fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[a-z]{1,8}",
        1 => "\\PC{0,12}",
        1 => Just("x".repeat(255)),
        1 => Just("x".repeat(256)),
        1 => Just("\u{0}".to_owned()),
        1 => Just(String::new()),
    ]
}

/// A timestamp: ordinary, spelled oddly, out of range, or invalid.
pub fn stamp() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (0i64..4_000_000_000).prop_map(|seconds| {
            chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default().to_rfc3339()
        }),
        1 => prop::sample::select(vec![
            "9999-12-31T23:59:59.999-01:00", "0000-01-01T00:00:00Z", "2024-02-30T00:00:00Z", "2024-01-01t10:00:00z",
            "2024-06-30T23:59:60Z", "2024-01-01T10:00:00.1234567890123Z", "2024-01-01 10:00:00Z", "1970-01-01T00:00:00.000Z",
            "-0001-01-01T00:00:00Z", "2024-01-01T24:00:00Z", "2024-01-01T10:00:00+24:00", "",
        ]).prop_map(str::to_owned),
        1 => "\\PC{0,30}",
    ]
}

/// A value: any JSON, a few levels deep, with extreme numbers.
pub fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,16}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("\\PC{0,6}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn fields() -> impl Strategy<Value = Value> {
    let field = (value(), stamp(), prop::sample::select(vec!["updatedAt", "at", "time"]))
        .prop_map(|(value, stamp, member)| json!({ "value": value, member: stamp }));
    let field = prop_oneof![9 => field, 1 => value()];
    prop::collection::btree_map(name(), field, 0..5).prop_map(|fields| Value::Object(fields.into_iter().collect()))
}

/// A change; any of its members may be missing or of another type, and there may be one more.
pub fn change() -> impl Strategy<Value = Value> {
    let op = prop::sample::select(vec!["insert", "update", "delete", "upsert", ""]);
    let extra = prop::option::weighted(0.2, (name(), value()));
    let spoilt = prop::option::weighted(
        0.1,
        (prop::sample::select(vec!["table", "id", "op", "data", "fields", "deletedAt"]), prop::option::of(value())),
    );
    (op, name(), name(), value(), fields(), stamp(), (extra, spoilt)).prop_map(
        |(op, table, id, data, fields, deleted_at, (extra, spoilt))| {
            let mut change = Map::new();
            change.insert("op".into(), op.into());
            change.insert("table".into(), table.into());
            change.insert("id".into(), id.into());
            match op {
                "insert" => change.insert("data".into(), data),
                "update" => change.insert("fields".into(), fields),
                _ => change.insert("deletedAt".into(), deleted_at.into()),
            };
            change.extend(extra);
            if let Some((member, instead)) = spoilt {
                match instead {
                    Some(value) => drop(change.insert(member.into(), value)),
                    None => drop(change.remove(member)),
                }
            }
            Value::Object(change)
        },
    )
}

/// A push body.
pub fn push() -> impl Strategy<Value = Value> {
    let changes = prop_oneof![9 => prop::collection::vec(change(), 0..4).prop_map(Value::from), 1 => value()];
    (name(), stamp(), changes, prop::option::weighted(0.2, value())).prop_map(|(client, since, changes, version)| {
        let mut push = json!({ "clientId": client, "since": since, "changes": changes });
        if let Some(version) = version {
            push["schemaVersion"] = version;
        }
        push
    })
}

/// The same bytes with a few of them changed, removed or doubled.
pub fn broken(text: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 0..4);
    (text, edits).prop_map(|(mut bytes, edits)| {
        for (index, byte, kind) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
        }
        bytes
    })
}
