//! Devices are woken for programs' writes.

use super::support::live::*;
use super::support::*;
use super::{AT, sql, sync_push};
use serde_json::json;
use tokio::sync::OnceCell;

/// Replicas that do not reconcile: what arrives was notified.
async fn notified_only() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED.get_or_init(|| Cluster::start_with(2, &[("RECONCILE_MS", "3600000")])).await
}

#[tokio::test]
async fn sync_push_wakes_at_once_with_its_tables_but_not_its_own_device() {
    let cluster = notified_only().await;
    let user = cluster.user();
    let mut own = socket(cluster, 0, &user, Some(APP), Some("svc")).await;
    let mut other = socket(cluster, 1, &user, Some(APP), Some("phone")).await;
    let many: Vec<_> = (0..200).map(|n| insert(&format!("a-table-with-a-name-{n}"), "a", "Milk", AT)).collect();
    let few = [insert("tasks", "a", "Milk", AT), insert("lists", "a", "Milk", AT)];
    for (changes, tables) in [(json!(few), 2), (json!(many), 200)] {
        sync_push(cluster, &user, "svc", &changes).await.unwrap();
        let text = changes.to_string();
        // Unsigned notifications are looked up, so the tables of the previous push may be named again.
        let is_new = |table: &String| text.contains(&format!("{table:?}"));
        let mut heard = std::collections::BTreeSet::new();
        while heard.len() < tables {
            heard.extend(woken(&mut other).await.1.into_iter().filter(is_new));
        }
    }
    // Its own device is woken only by what another one writes afterwards.
    sync_push(cluster, &user, "tablet", &json!([insert("tags", "a", "Milk", AT)])).await.unwrap();
    let heard = woken_until(&mut own, "tags").await;
    assert!(!heard.contains(&"tasks".to_owned()) && !heard.contains(&"lists".to_owned()), "{heard:?}");
}

#[tokio::test]
async fn without_its_notification_and_after_plain_inserts_the_reconcilers_find_it() {
    let cluster = shared().await;
    let user = cluster.user();
    let mut phone = socket(cluster, 0, &user, Some(APP), Some("phone")).await;
    let mut stream = Events::open(stream_of(cluster, 1, &user, "collections=tasks,lists")).await;
    stream.backlog().await;
    let insert_of = insert("tasks", "pushed", "Milk", AT).to_string();
    let quiet = format!(
        "begin; set local mana_sync.notify = off; select sync_push('{}', 'todo', 'svc', '[{insert_of}]'); commit",
        user.id
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(quiet)).execute(&cluster.pool).await.unwrap();
    woken_until(&mut phone, "tasks").await;
    stream.until("pushed").await;
    let plain = "insert into sync_changes (app_id, table_name, record_id, user_id, op)";
    sql(cluster, format!("{plain} values ('todo', 'lists', 'plain', '{}', 'delete')", user.id)).await;
    woken_until(&mut phone, "lists").await;
    stream.until("plain").await;
}
