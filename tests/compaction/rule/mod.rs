//! The rows that stay in the log, one by one.

mod many_rows;
mod noticed;

use super::support::*;
use super::{APP, TABLE, Trimmer, at, history, row, rows, said, trim};
use serde_json::{Value, json};
use std::time::Duration;

async fn push(cluster: &Cluster, user: &User, device: &str, changes: Value) -> Value {
    cluster.pushed(user, APP, json!({ "clientId": device, "since": iso(now_millis()), "changes": changes })).await
}

fn delete(id: &str, millis: i64) -> Value {
    json!({ "table": TABLE, "id": id, "op": "delete", "deletedAt": at(millis) })
}

fn fields(id: &str, fields: &[(&str, i64)]) -> Value {
    let fields: serde_json::Map<String, Value> = fields
        .iter()
        .map(|(name, millis)| ((*name).to_owned(), json!({ "value": millis, "updatedAt": at(*millis) })))
        .collect();
    json!({ "table": TABLE, "id": id, "op": "update", "fields": fields })
}

/// The first row keeps what carries its stamp; all other values stay only if they win; ties go to the later row.
#[tokio::test]
async fn winners_stay_where_they_were_and_the_first_row_with_its_stamp() {
    let cluster = shared().await;
    let user = cluster.user();
    let insert = json!({ "table": TABLE, "id": "a", "op": "insert", "data":
        { "title": "x", "done": false, "createdAt": at(0), "updatedAt": at(0) } });
    push(cluster, &user, "phone", json!([insert])).await;
    push(cluster, &user, "laptop", json!([fields("a", &[("title", 5), ("done", 9), ("note", 5)])])).await;
    push(cluster, &user, "phone", json!([fields("a", &[("title", 5), ("updatedAt", 3)])])).await;
    push(cluster, &user, "laptop", json!([fields("a", &[("note", 4)])])).await;
    push(cluster, &user, "laptop", json!([fields("a", &[("title", 6), ("createdAt", 1)])])).await;
    let heads = "select head, stored_changes from sync_heads where user_id = $1";
    let head: (chrono::DateTime<chrono::Utc>, i64) =
        sqlx::query_as(heads).bind(&user.id).fetch_one(&cluster.pool).await.unwrap();
    assert_eq!(head.1, 5);
    let done = trim(cluster, &user, Duration::ZERO, 30).await;
    assert_eq!((done.trimmed.gone, done.trimmed.rows), (1, 4), "{done:?}");
    let expected = [
        row("a", "insert", &["updatedAt"]),
        row("a", "update", &["done", "note"]),
        row("a", "update", &["updatedAt"]),
        row("a", "update", &["createdAt", "title"]),
    ];
    assert_eq!(rows(cluster, &user).await, expected);
    let after: (chrono::DateTime<chrono::Utc>, i64) =
        sqlx::query_as(heads).bind(&user.id).fetch_one(&cluster.pool).await.unwrap();
    assert_eq!(after, (head.0, 4), "the head stays, and what is stored is counted");
    assert_eq!(history(cluster, &user).await, 4);
    let again = trim(cluster, &user, Duration::ZERO, 30).await;
    assert_eq!(again.trimmed.rows, 0, "what is trimmed stays as it is");
    let sizes = "select bool_and(size between sync_size(data, field_timestamps, extra) and sync_size(data, field_timestamps, extra) + 50) from sync_changes where user_id = $1 and op <> 'insert'";
    assert!(sqlx::query_scalar::<_, bool>(sizes).bind(&user.id).fetch_one(&cluster.pool).await.unwrap());
}

/// A deleted record stays deleted, for a fresh device and for one that knew it, even if edits came after the delete and
/// everything before it has lost.
#[tokio::test]
async fn a_deleted_record_keeps_its_first_row_and_its_delete() {
    let cluster = shared().await;
    let user = cluster.user();
    push(cluster, &user, "phone", json!([fields("a", &[("title", 0)]), fields("b", &[("title", 0)])])).await;
    push(cluster, &user, "phone", json!([delete("a", 5)])).await;
    push(cluster, &user, "laptop", json!([delete("a", 4), fields("a", &[("title", 9)])])).await;
    trim(cluster, &user, Duration::ZERO, 30).await;
    let kept = rows(cluster, &user).await;
    let expected = [
        row("a", "update", &["title"]),
        row("b", "update", &["title"]),
        row("a", "delete", &["deletedAt"]),
        row("a", "update", &["title"]),
    ];
    assert_eq!(kept, expected);
    let pages = cluster.push_all(&user, APP, BEGINNING, "fresh").await;
    assert_eq!(ids_of(&pages), ["a", "b", "a", "a"]);
}

/// A delete before anything else does not make a record known, and clients ignore it: the one they obey stays as well.
#[tokio::test]
async fn a_delete_before_the_record_was_made_does_not_stand_for_it() {
    let cluster = shared().await;
    let user = cluster.user();
    push(cluster, &user, "phone", json!([delete("a", 9)])).await;
    push(cluster, &user, "laptop", json!([fields("a", &[("title", 1)])])).await;
    push(cluster, &user, "laptop", json!([delete("a", 5)])).await;
    push(cluster, &user, "laptop", json!([delete("a", 4), fields("a", &[("title", 7)])])).await;
    trim(cluster, &user, Duration::ZERO, 30).await;
    let expected = [
        row("a", "delete", &["deletedAt"]),
        row("a", "update", &["title"]),
        row("a", "delete", &["deletedAt"]),
        row("a", "update", &["title"]),
    ];
    assert_eq!(rows(cluster, &user).await, expected);
}

/// Devices are distinguished by the stamps they claimed; and a device that was away for less than the horizon gets
/// every change.
#[tokio::test]
async fn claimed_stamps_and_young_rows_stay_whole_and_count() {
    let cluster = shared().await;
    let user = cluster.user();
    let ahead = iso(now_millis() + 3_600_000);
    push(cluster, &user, "phone", json!([fields("a", &[("title", 0), ("note", 0)])])).await;
    push(cluster, &user, "ahead", json!([update(TABLE, "a", "title", "x", &ahead)])).await;
    let later = iso(now_millis() + 290_000);
    push(cluster, &user, "phone", json!([fields("a", &[("note", 3)])])).await;
    trim(cluster, &user, Duration::from_secs(3600), 30).await;
    assert_eq!(rows(cluster, &user).await.len(), 3, "all are young");
    // As if an hour had passed for the first two.
    age_all(cluster, &user).await;
    push(cluster, &user, "laptop", json!([update(TABLE, "a", "note", "y", &later)])).await;
    trim(cluster, &user, Duration::from_secs(3600), 30).await;
    let expected = [row("a", "update", &["note"]), row("a", "update", &["title"]), row("a", "update", &["note"])];
    assert_eq!(rows(cluster, &user).await, expected, "the first row has to keep one field; the third is gone");
}

/// Moves what is stored two hours into the past.
async fn age_all(cluster: &Cluster, user: &User) {
    for table in [
        "update sync_changes set created_at = created_at - interval '2 hours' where user_id = $1",
        "update sync_heads set head = head - interval '2 hours', untrimmed_since = untrimmed_since - interval '2 hours' where user_id = $1",
    ] {
        sqlx::query(table).bind(&user.id).execute(&cluster.pool).await.unwrap();
    }
}

/// An insert keeps the members from which clients and the server derive its stamp, in their original form.
#[tokio::test]
async fn an_insert_goes_out_in_the_same_form() {
    let cluster = shared().await;
    let user = cluster.user();
    let insert = |id: &str, data: Value| json!({ "table": TABLE, "id": id, "op": "insert", "data": data });
    push(
        cluster,
        &user,
        "phone",
        json!([
            insert("odd", json!({ "title": 0, "note": 0, "updatedAt": "soon", "createdAt": at(5) })),
            insert("none", json!({ "title": "long enough", "note": 0 })),
            insert("empty", json!({})),
        ]),
    )
    .await;
    let before = changes(&cluster.push_all(&user, APP, BEGINNING, "fresh").await[0]);
    push(
        cluster,
        &user,
        "laptop",
        json!([
            fields("odd", &[("title", 9), ("updatedAt", 8), ("createdAt", 8)]),
            fields("none", &[("title", 9), ("note", 9)]),
            fields("empty", &[("title", 9)]),
        ]),
    )
    .await;
    trim(cluster, &user, Duration::ZERO, 30).await;
    let kept = rows(cluster, &user).await;
    assert_eq!(
        kept[..3],
        [
            row("odd", "insert", &["createdAt", "note", "updatedAt"]),
            row("none", "insert", &["note"]),
            row("empty", "insert", &[]),
        ]
    );
    let after = changes(&cluster.push_all(&user, APP, BEGINNING, "fresh").await[0]);
    for n in 0..3 {
        assert_eq!(after[n]["op"], before[n]["op"]);
        for (field, write) in after[n]["fields"].as_object().unwrap() {
            assert_eq!(*write, before[n]["fields"][field], "{field}");
        }
    }
}

/// A value that lost only because one with the same stamp was stored later stays as long as that one: forgotten and
/// sent again, it would win.
#[tokio::test]
async fn what_lost_a_tie_stays_until_both_have_lost() {
    let cluster = shared().await;
    let user = cluster.user();
    push(cluster, &user, "phone", json!([fields("a", &[("title", 0)])])).await;
    push(cluster, &user, "phone", json!([fields("a", &[("note", 1), ("title", 5)])])).await;
    push(cluster, &user, "laptop", json!([fields("a", &[("note", 2), ("title", 5)])])).await;
    trim(cluster, &user, Duration::ZERO, 0).await;
    let first = row("a", "update", &["title"]);
    let expected = [first.clone(), row("a", "update", &["title"]), row("a", "update", &["note", "title"])];
    assert_eq!(rows(cluster, &user).await, expected);
    push(cluster, &user, "phone", json!([fields("a", &[("title", 6)])])).await;
    trim(cluster, &user, Duration::ZERO, 0).await;
    let expected = [first, row("a", "update", &["note"]), row("a", "update", &["title"])];
    assert_eq!(rows(cluster, &user).await, expected);
}

/// Purging may be off for a while, or for a command: what was deleted in that time is purged afterwards.
#[tokio::test]
async fn deletes_that_were_trimmed_without_purging_are_purged_later() {
    let cluster = shared().await;
    let user = cluster.user();
    let settings = |purge| [("COMPACT_AFTER_MS", "0"), ("PURGE_DELETED_AFTER_MS", purge)];
    push(cluster, &user, "phone", json!([fields("a", &[("title", 0)])])).await;
    said(cluster, &["compact", "--user", &user.id], &settings("1")).await;
    push(cluster, &user, "phone", json!([fields("a", &[("secret", 1)]), delete("a", 5)])).await;
    said(cluster, &["compact", "--user", &user.id], &settings("0")).await;
    assert_eq!(rows(cluster, &user).await.len(), 3);
    said(cluster, &["compact", "--user", &user.id], &settings("1")).await;
    let expected = [row("a", "update", &["title"]), row("a", "delete", &["deletedAt"])];
    assert_eq!(rows(cluster, &user).await, expected);
}

/// Of a record that was deleted long ago, only the delete stays, and what makes the record known to devices.
#[tokio::test]
async fn what_was_deleted_long_ago_is_purged_if_that_is_asked_for() {
    let cluster = shared().await;
    let user = cluster.user();
    let insert = json!({ "table": TABLE, "id": "a", "op": "insert", "data":
        { "title": "secret", "updatedAt": at(0) } });
    push(cluster, &user, "phone", json!([insert, fields("b", &[("title", 0)]), fields("c", &[("title", 0)])])).await;
    push(cluster, &user, "laptop", json!([fields("a", &[("note", 1)]), fields("b", &[("note", 1)])])).await;
    push(cluster, &user, "phone", json!([fields("a", &[("title", 2)]), delete("a", 3), delete("c", 3)])).await;
    push(
        cluster,
        &user,
        "phone",
        json!([
            fields("c", &[("title", 4)]),
            json!({ "table": TABLE, "id": "c", "op": "update",
        "fields": { "deletedAt": { "value": null, "updatedAt": at(5) } } })
        ]),
    )
    .await;
    let settings = |purge| [("COMPACT_AFTER_MS", "0"), ("PURGE_DELETED_AFTER_MS", purge)];
    said(cluster, &["compact", "--user", &user.id], &settings("0")).await;
    let of_a =
        |rows: Vec<(String, String, Vec<String>)>| rows.into_iter().filter(|row| row.0 == "a").collect::<Vec<_>>();
    assert_eq!(of_a(rows(cluster, &user).await).len(), 4, "an undelete brings back everything");
    said(cluster, &["compact", "--user", &user.id], &settings("3600000")).await;
    assert_eq!(of_a(rows(cluster, &user).await).len(), 4, "it was deleted a moment ago");
    said(cluster, &["compact", "--user", &user.id], &settings("1")).await;
    let expected = [
        row("a", "insert", &["updatedAt"]),
        row("b", "update", &["title"]),
        row("c", "update", &["title"]),
        row("b", "update", &["note"]),
        row("a", "delete", &["deletedAt"]),
        row("c", "update", &["title"]),
        row("c", "update", &["deletedAt"]),
    ];
    assert_eq!(rows(cluster, &user).await, expected);
    let fresh = cluster.push_all(&user, APP, BEGINNING, "fresh").await;
    assert_eq!(ids_of(&fresh), ["a", "b", "c", "b", "a", "c", "c"]);
    // An undelete brings back only what it writes.
    let undelete = json!({ "table": TABLE, "id": "a", "op": "update", "fields": { "deletedAt": { "value": null, "updatedAt": at(9) } } });
    push(cluster, &user, "laptop", json!([undelete])).await;
    let records = "select data from sync_records($1, $2) where record_id = 'a'";
    let data: Value = sqlx::query_scalar(records).bind(&user.id).bind(APP).fetch_one(&cluster.pool).await.unwrap();
    assert_eq!(data, json!({ "updatedAt": at(0), "deletedAt": null }));
}
