use super::*;
use proptest::prelude::*;

const AT: &str = "2024-01-01T10:05:00.000Z";
/// 2024-01-02T00:00:00.000001Z
const STORED: i64 = 1_704_153_600_000_001;

fn row<'a>(op: &'a str, data: &'a str, stamps: &'a str) -> OldRow<'a> {
    let given = |json: &'a str| (!json.is_empty()).then_some(json);
    OldRow { op, data: given(data), stamps: given(stamps), created_at: STORED, ..OldRow::default() }
}

#[test]
fn rows_of_every_kind_become_ours() {
    let odd = r#"{"a": "2024-01-01t12:05:00.000999+02:00"}"#;
    let at = format!(r#"{{"a": "{AT}"}}"#);
    let now = r#"{"a": "2024-01-02T00:00:00.000Z"}"#;
    let deleted = format!(r#"{{"deletedAt": "{AT}"}}"#);
    let cases = [
        ("update", r#"{"a": 1}"#, odd, r#"{"a": 1}"#, at.as_str()),
        ("update", "", odd, r#"{"a": null}"#, &at),
        ("update", r#"{"a": 1.50}"#, r#"{"a": ""}"#, r#"{"a": 1.50}"#, now),
        ("update", r#"{"a": "é\n"}"#, r#"{"a": "soon", "b": ""}"#, r#"{"a": "é\n"}"#, now),
        ("update", r#"{"a": 1}"#, "", r#"{"a": 1}"#, now),
        ("update", r#"{"a": 1}"#, r#"{"a": {"at": "2024-01-01T10:05:00Z"}}"#, r#"{"a": 1}"#, &at),
        ("update", "null", "null", "{}", "{}"),
        (
            "insert",
            r#"{"a": 1, "updatedAt": "2024-01-01T10:05:00Z"}"#,
            odd,
            r#"{"a": 1, "updatedAt": "2024-01-01T10:05:00.000Z"}"#,
            "{}",
        ),
        (
            "insert",
            r#"{"createdAt": "2024-01-01T10:05:00Z", "updatedAt": ""}"#,
            "{}",
            r#"{"createdAt": "2024-01-01T10:05:00.000Z", "updatedAt": ""}"#,
            "{}",
        ),
        ("insert", r#"{"a": 1}"#, r#"{"a": ""}"#, r#"{"a": 1}"#, "{}"),
        ("insert", "", "", "{}", "{}"),
        ("delete", r#"{"deletedAt": "2024-01-01T10:05:00Z"}"#, "{}", "", &deleted),
        ("delete", "", r#"{"deletedAt": "2024-01-01T11:05:00+01:00"}"#, "", &deleted),
        ("delete", "", r#"{"deletedAt": ""}"#, "", r#"{"deletedAt": "2024-01-02T00:00:00.000Z"}"#),
        ("delete", "[]", "{}", "", r#"{"deletedAt": "2024-01-02T00:00:00.000Z"}"#),
        ("delete", "true", r#"{"deletedAt": "2024-01-01T11:05:00+01:00"}"#, "", &deleted),
        ("delete", r#""gone""#, r#"["deletedAt"]"#, "", r#"{"deletedAt": "2024-01-02T00:00:00.000Z"}"#),
        ("delete", r#"{"deletedAt": 17}"#, "{}", "", r#"{"deletedAt": "2024-01-02T00:00:00.000Z"}"#),
    ];
    for (op, data, stamps, new_data, new_stamps) in cases {
        let new = convert(&row(op, data, stamps)).unwrap();
        let found = (new.op, new.data.as_deref().unwrap_or(""), new.stamps.as_str());
        assert_eq!(found, (op, new_data, new_stamps), "{op} {data} {stamps}");
    }
}

#[test]
fn an_insert_with_stamps_beside_its_data_keeps_them() {
    let new = convert(&row("insert", r#"{"a": 1, "b": 2}"#, r#"{"a": "2024-01-01T10:05:00Z"}"#)).unwrap();
    let stamps = format!(r#"{{"a": "{AT}", "b": "1970-01-01T00:00:00.000Z"}}"#);
    assert_eq!((new.op, new.stamps), ("update", stamps));
}

#[test]
fn stamps_of_the_future_stay_what_devices_hold() {
    let new = convert(&row("update", r#"{"a": 1}"#, r#"{"a": "2999-01-01T00:00:00Z"}"#)).unwrap();
    assert_eq!(new.stamps, r#"{"a": "2999-01-01T00:00:00.000Z"}"#);
    let new = convert(&row("update", r#"{"a": 1}"#, r#"{"a": "9999-12-31T23:59:59-05:00"}"#)).unwrap();
    assert_eq!(new.stamps, r#"{"a": "9999-12-31T23:59:59.999Z"}"#);
}

#[test]
fn what_no_device_could_read_is_left_behind() {
    for (op, data) in [("move", "{}"), ("update", "[1]"), ("insert", "7"), ("insert", "\"a\"")] {
        assert_eq!(convert(&row(op, data, "{}")), None, "{op} {data}");
    }
}

#[test]
fn members_of_the_newest_form_are_kept_by_their_names_on_the_wire() {
    let old = OldRow {
        schema_version: Some(1),
        actor: Some(r#"{"kind": "ai"}"#),
        origin: Some("a\"b"),
        space: Some("s"),
        ..row("delete", "", "")
    };
    let expected = r#"{"actor": {"kind": "ai"}, "origin": "a\"b", "spaceId": "s", "schemaVersion": 1}"#;
    assert_eq!(convert(&old).unwrap().extra.as_deref(), Some(expected));
    let none = OldRow { actor: Some("null"), ..row("delete", "", "") };
    assert_eq!(convert(&none).unwrap().extra, None);
}

proptest! {
    #[test]
    fn positions_ascend_in_steps_and_no_cursor_of_before_misses_what_came_after(mut times in prop::collection::vec(1_700_000_000_000_000_i64..1_700_000_000_000_400, 1..60)) {
        times.sort_unstable();
        let mut positions = Positions::new();
        let at: Vec<i64> = times.iter().map(|time| positions.next(*time)).collect();
        prop_assert!(at.iter().all(|at| at % Cursor::STEP == 0) && at.windows(2).all(|pair| pair[0] < pair[1]));
        for (index, (time, at)) in times.iter().zip(&at).enumerate() {
            prop_assert!(at >= time && *at <= time + Cursor::STEP * (index as i64 + 1));
        }
        // An old cursor is the time of a row.
        for cursor in &times {
            for (time, at) in times.iter().zip(&at) {
                prop_assert!(time <= cursor || at > cursor);
            }
        }
    }
}
