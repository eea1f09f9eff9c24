//! The rule holds for large rows, for records of many rows and for logs of many records.

use super::*;

/// Large rows are trimmed by the lengths of their values, and in parts; winners are not touched.
#[tokio::test]
async fn large_values_are_trimmed_like_small_ones() {
    let cluster = shared().await;
    let user = cluster.user();
    let long = |n: i64| format!("{n}{}", "x".repeat(300_000));
    let insert = json!({ "table": TABLE, "id": "a", "op": "insert", "data":
        { "text": long(0), "short": "s".repeat(300), "createdAt": at(0), "updatedAt": format!("no stamp {}", long(9)) } });
    push(cluster, &user, "phone", json!([insert])).await;
    push(
        cluster,
        &user,
        "phone",
        json!([{ "table": TABLE, "id": "b", "op": "insert",
        "data": { "long": long(0), "middle": "x".repeat(3_000), "short": "s".repeat(290) } }]),
    )
    .await;
    for n in 1..40_i64 {
        let fields =
            json!({ "text": { "value": long(n), "updatedAt": at(n) }, "short": { "value": n, "updatedAt": at(n) } });
        let small = fields_of_b(n);
        push(cluster, &user, "laptop", json!([{ "table": TABLE, "id": "a", "op": "update", "fields": fields }, small]))
            .await;
    }
    let done = trim(cluster, &user, Duration::ZERO, 30).await;
    assert_eq!(done.failed, 0, "{done:?}");
    let expected = [
        row("a", "insert", &["createdAt", "updatedAt"]),
        row("b", "insert", &["short"]),
        row("a", "update", &["short", "text"]),
        row("b", "update", &["long", "middle", "short"]),
    ];
    assert_eq!(rows(cluster, &user).await, expected);
    let text = "select data ->> 'text' from sync_records($1, $2) where record_id = 'a'";
    let text: String = sqlx::query_scalar(text).bind(&user.id).bind(APP).fetch_one(&cluster.pool).await.unwrap();
    assert_eq!(text, long(39));
}

fn fields_of_b(n: i64) -> Value {
    fields("b", &[("long", n), ("middle", n), ("short", n)])
}

/// A log of many records, each of several rows: more than one piece has, and every record is examined once.
#[tokio::test]
async fn every_record_is_looked_at_once() {
    let cluster = shared().await;
    let user = cluster.user();
    for round in 0..6_i64 {
        let changes: Vec<Value> =
            (0..900).map(|n| fields(&format!("r{n}"), &[("title", round), ("note", -round)])).collect();
        push(cluster, &user, "phone", Value::from(changes)).await;
    }
    let young = trim(cluster, &user, Duration::from_secs(3600), 30).await;
    assert_eq!((young.trimmed.seen, young.trimmed.rows), (0, 0), "nothing is old enough to be read: {young:?}");
    let done = trim(cluster, &user, Duration::ZERO, 30).await;
    assert_eq!((done.trimmed.seen, done.trimmed.gone), (5_400, 900 * 4), "{done:?}");
    assert_eq!(rows(cluster, &user).await.len(), 1_800);
}

/// A record of more rows than are read at once, with every kind of row.
#[tokio::test]
async fn a_record_of_thousands_of_rows_is_trimmed_like_any_other() {
    let cluster = shared().await;
    let user = cluster.user();
    for part in 0..6_i64 {
        let changes: Vec<Value> =
            (0..1_000).map(|n| fields("a", &[(["x", "y", "z"][n as usize % 3], part * 1_000 + n)])).collect();
        push(cluster, &user, "phone", Value::from(changes)).await;
    }
    let done = trim(cluster, &user, Duration::ZERO, 30).await;
    assert_eq!(done.trimmed.gone, 5_996, "{done:?}");
    let expected = [row("a", "update", &["x"]), row("a", "update", &["y"]), row("a", "update", &["z"])];
    let kept = rows(cluster, &user).await;
    assert_eq!(kept[0], row("a", "update", &["x"]), "the first row");
    let mut last = kept[1..].to_vec();
    last.sort();
    assert_eq!(last, expected);
    assert_eq!(history(cluster, &user).await, 5_996);
}
