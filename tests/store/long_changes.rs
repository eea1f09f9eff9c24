//! Changes of very many or very long fields: their readers pay for the data once, and not for each field.

use crate::support::live::{APP, NO_DELTA};
use crate::support::*;
use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

const AT: &str = "2024-01-01T10:05:00.000Z";
const LATER: &str = "2024-01-02T00:00:00.000Z";
/// Number of fields of a change, each with a long name.
const FIELDS: usize = 4_000;

async fn push(cluster: &Cluster, user: &User, client: &str, changes: Value) -> String {
    until(&cluster.pushed(user, APP, json!({ "clientId": client, "since": NO_DELTA, "changes": changes })).await)
        .to_owned()
}

/// A text of 150 words out of 512, different for each number: it compresses, and takes a while to decompress.
fn words(n: usize) -> String {
    let word = |place| ((n * 150 + place) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55;
    (0..150).map(|place| format!("{:04x}", word(place) * 40_503 % 65_536)).collect()
}

fn members(of: impl Fn(usize) -> Value) -> Map<String, Value> {
    (0..FIELDS).map(|n| (words(n), of(n))).collect()
}

/// An update of all fields of a record.
fn wide(id: &str, at: &str) -> Value {
    json!({ "table": "todos", "id": id, "op": "update", "fields": members(|n| json!({ "value": n, "updatedAt": at })) })
}

/// Stores a record that a phone updated with future stamps, and one that it inserted. A laptop wrote older values to
/// all of their fields before, to those of the first one afterwards as well, and then one more to each. Returns the
/// cursor from which the phone reads.
async fn fill(cluster: &Cluster, user: &User) -> String {
    let first = push(cluster, user, "laptop", json!([insert("todos", "first", "x", AT)])).await;
    for id in ["claimed", "inserted"] {
        push(cluster, user, "laptop", json!([wide(id, AT)])).await;
    }
    push(cluster, user, "phone", json!([wide("claimed", &iso(now_millis() + 3_600_000))])).await;
    let mut data = members(|n| json!(words(n)));
    data.insert("updatedAt".to_owned(), json!(LATER));
    push(cluster, user, "phone", json!([{ "table": "todos", "id": "inserted", "op": "insert", "data": data }])).await;
    push(cluster, user, "laptop", json!([wide("claimed", "2024-01-01T10:06:00.000Z")])).await;
    let more = ["claimed", "inserted", "last"].map(|id| update("todos", id, "more", 1, AT));
    push(cluster, user, "laptop", json!(more)).await;
    first
}

#[tokio::test]
async fn what_a_device_claimed_or_inserted_is_looked_into_once_and_not_for_each_of_its_fields() {
    let settings = [("PAGE_MAX_CHANGES", "2"), ("DATABASE_STATEMENT_TIMEOUT_MS", "4000")];
    let cluster = Cluster::start_with(1, &settings).await;
    let user = cluster.user();
    let first = fill(&cluster, &user).await;
    let pages = cluster.pull_all(&user, APP, "todos", &first, Some("phone")).await;
    assert_eq!(ids_of(&pages), ["claimed", "claimed", "inserted", "last"], "and nothing that the phone has replaced");
    let of_others = cluster.pull_all(&user, APP, "todos", &first, Some("tablet")).await;
    let all = ["claimed", "inserted", "claimed", "inserted", "claimed", "claimed", "inserted", "last"];
    assert_eq!(ids_of(&of_others), all);
    let again = cluster.pull_all(&user, APP, "todos", BEGINNING, Some("phone")).await;
    assert_eq!(ids_of(&again).last(), Some(&"last"), "nor is an initial sync held up");
}

#[tokio::test]
async fn a_program_that_reads_records_or_what_they_take_waits_no_longer_than_for_others() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    fill(&cluster, &user).await;
    let url = cluster.database_url.clone();
    let mut program = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("set statement_timeout = '4s'").execute(&mut program).await.unwrap();
    let records = "select record_id from sync_records($1, 'todo') order by record_id";
    let records: Vec<String> = sqlx::query_scalar(records).bind(&user.id).fetch_all(&mut program).await.unwrap();
    assert_eq!(records, ["claimed", "first", "inserted", "last"]);
    let garbage = "select u.garbage from sync_usage_of(sync_log_id($1, 'todo')) u";
    let garbage: i64 = sqlx::query_scalar(garbage).bind(&user.id).fetch_one(&mut program).await.unwrap();
    // About what the laptop wrote to both records.
    assert!(garbage > 3 * (FIELDS as i64) * 600, "{garbage}");
}

#[tokio::test]
async fn a_page_ends_before_a_record_of_which_its_device_wrote_very_many_fields_again_and_again() {
    const EDITS: usize = 300;
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    let first = push(&cluster, &user, "laptop", json!([insert("todos", "first", "x", AT)])).await;
    let ids_in_order: Vec<String> = (0..21).map(|n| format!("{n:02}")).collect();
    let theirs: Vec<Value> = ids_in_order.iter().map(|id| update("todos", id, "title", "theirs", AT)).collect();
    push(&cluster, &user, "laptop", json!(theirs)).await;
    push(&cluster, &user, "laptop", json!([update("todos", "10", "f7", "theirs", AT)])).await;
    let rows = format!(
        "with fields as materialized (
             select jsonb_object_agg('f' || f, f) as data, jsonb_object_agg('f' || f, '{LATER}') as stamps
             from generate_series(1, 4096) f
         ), stored as (
             insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id,
                                       created_at, log_id, size)
             select gen_random_uuid(), h.app_id, 'todos', '10', h.user_id, 'update', f.data, f.stamps, 'phone',
                    h.head + n * interval '20 microseconds', h.log_id, 200000
             from sync_heads h, fields f, generate_series(1, {EDITS}) n where h.user_id = '{user}'
         )
         update sync_heads h set previous = h.head, head = h.head + {EDITS} * interval '20 microseconds' where user_id = '{user}'",
        user = user.id
    );
    sqlx::query(AssertSqlSafe(rows)).execute(&cluster.pool).await.unwrap();
    sqlx::query("vacuum analyze sync_changes").execute(&cluster.pool).await.unwrap();
    // First with nothing after the page, then with more.
    for more in [false, true] {
        if more {
            let many: Vec<Value> =
                (0..1_500).map(|n| update("todos", &format!("x{n}"), "title", "theirs", AT)).collect();
            push(&cluster, &user, "laptop", json!(many)).await;
        }
        let answers = cluster.pull_all(&user, APP, "todos", &first, Some("phone")).await;
        assert_eq!(ids(&answers[0]), ids_in_order[..10], "so much is known soon");
        let all = ids_of(&answers);
        assert_eq!(&all[..21], ids_in_order, "each once, and not what the device has replaced");
        assert_eq!(all.len(), 21 + if more { 1_500 } else { 0 });
    }
}

/// Neither a push nor a program's insert stores such a change, but the owner of the tables can.
#[tokio::test]
async fn a_change_that_no_memory_is_meant_for_costs_its_own_readers_and_nobody_else() {
    let cluster = Cluster::start(1).await;
    let (user, other) = (cluster.user(), cluster.user());
    for user in [&user, &other] {
        push(&cluster, user, "laptop", json!([insert("todos", "first", "x", AT)])).await;
    }
    for (id, bytes, status) in [("long", 40_000_000, 200), ("longer", 70_000_000, 500)] {
        let row = format!(
            "with stored as (
                 insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, client_id, created_at, log_id, size)
                 select gen_random_uuid(), h.app_id, 'todos', '{id}', h.user_id, 'insert',
                        jsonb_build_object('updatedAt', '{AT}', 'text', repeat('x', {bytes})), 'laptop',
                        h.head + interval '20 microseconds', h.log_id, {bytes} + 60
                 from sync_heads h where h.user_id = '{user}'
             )
             update sync_heads h set previous = h.head, head = h.head + interval '20 microseconds' where user_id = '{user}'",
            user = user.id
        );
        sqlx::query(AssertSqlSafe(row)).execute(&cluster.pool).await.unwrap();
        let mut since = BEGINNING.to_owned();
        let answered = loop {
            let (answered, page) = cluster.pull(&user, APP, "todos", &since, Some("phone")).await;
            if answered != 200 || page["hasMore"] != true {
                break answered;
            }
            since = until(&page).to_owned();
        };
        assert_eq!(answered, status, "{id}");
        assert_eq!(ids(&cluster.pulled(&other, APP, "todos", BEGINNING, Some("phone")).await), ["first"]);
    }
    assert!(cluster.nodes[0].log().contains("more than is sent to any device"));
}
