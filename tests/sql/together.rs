//! Programs and devices write the same logs at once, and every reader gets each change once.

use super::support::live::*;
use super::support::*;
use super::{AT, sql};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use std::sync::Arc;
use tokio::task::JoinSet;

const EACH: usize = 60;

/// One of four programs: each writes in its own way, sixty rows in total.
async fn program(cluster: Arc<Cluster>, user: User, writer: usize) {
    let id = &user.id;
    let row =
        |n: usize| format!("('todo', 'tasks', 'sql-{writer}-{n}', '{id}', 'insert', '{{\"updatedAt\":\"{AT}\"}}')");
    let plain = "insert into sync_changes (app_id, table_name, record_id, user_id, op, data) values ";
    let mut n = 0;
    while n < EACH {
        let (statement, count) = match writer {
            0 => (format!("{plain}{}", row(n)), 1),
            1 => (format!("{plain}{}, {}, {}", row(n), row(n + 1), row(n + 2)), 3),
            2 => {
                // In the form of the newest previous server, with its row-level security.
                let one = |n: usize| {
                    format!(
                        "insert into sync_changes (app_id, table_name, record_id, user_id, op, data, field_meta, client_id, schema_version, actor, origin)
                         values ('todo', 'tasks', 'sql-2-{n}', '{id}', 'update', '{{\"a\":1}}', '{{\"a\":\"{AT}\"}}', 'runner', 1, '{{}}', 'agent')"
                    )
                };
                let set = format!("select set_config('app.current_user_id', '{id}', true)");
                (format!("begin; {set}; {}; {}; commit", one(n), one(n + 1)), 2)
            }
            _ => {
                let changes = json!([
                    insert("tasks", &format!("sql-3-{n}"), "Milk", AT),
                    insert("tasks", &format!("sql-3-{}", n + 1), "Milk", AT)
                ]);
                (format!("select sync_push('{id}', 'todo', 'svc', '{changes}')"), 2)
            }
        };
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&cluster.pool).await.unwrap();
        n += count;
    }
}

/// A device that writes sixty changes and follows its cursor. Returns the ids of what it was sent.
async fn device(cluster: Arc<Cluster>, user: User, device: usize) -> Vec<String> {
    let mut since = AT.to_owned();
    let mut seen = Vec::new();
    let mut written = 0;
    while seen.len() < 7 * EACH {
        let changes: Vec<Value> = (written..EACH.min(written + 3))
            .map(|n| insert("tasks", &format!("device-{device}-{n}"), "Milk", AT))
            .collect();
        written += changes.len();
        let body = json!({ "clientId": format!("device-{device}"), "since": since, "changes": changes });
        let answer = cluster.pushed_to(device, &user, "todo", body).await;
        seen.extend(ids(&answer).iter().map(|id| (*id).to_owned()));
        since = until(&answer).to_owned();
    }
    seen
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

#[tokio::test]
async fn four_programs_and_four_devices_at_once_and_every_reader_has_each_change_once() {
    let cluster = Arc::new(Cluster::start(3).await);
    let user = cluster.user();
    let mut stream = Events::open(stream_of(&cluster, 2, &user, "collections=tasks")).await;
    stream.backlog().await;
    let mut programs = JoinSet::new();
    let mut devices = JoinSet::new();
    for writer in 0..4 {
        programs.spawn(program(cluster.clone(), user.clone(), writer));
        let device = device(cluster.clone(), user.clone(), writer);
        devices
            .spawn(async move { (writer, tokio::time::timeout(TIMEOUT, device).await.expect("it misses something")) });
    }
    let by_program = |writer: usize| (0..EACH).map(move |n| format!("sql-{writer}-{n}"));
    let by_device = |device: usize| (0..EACH).map(move |n| format!("device-{device}-{n}"));
    while let Some(done) = programs.join_next().await {
        done.unwrap();
    }
    while let Some(done) = devices.join_next().await {
        let (device, seen) = done.unwrap();
        let expected = (0..4).flat_map(by_program).chain((0..4).filter(|other| *other != device).flat_map(by_device));
        assert_eq!(sorted(seen), sorted(expected.collect()), "device {device}");
    }
    let all = sorted((0..4).flat_map(by_program).chain((0..4).flat_map(by_device)).collect());
    let mut streamed = Vec::new();
    while streamed.len() < all.len() {
        streamed.extend(stream.delta().await.ids());
    }
    assert_eq!(sorted(streamed), all);
    let pulled = cluster.pull_all(&user, "todo", "tasks", BEGINNING, None).await;
    assert_eq!(sorted(ids_of(&pulled).into_iter().map(str::to_owned).collect()), all);
    assert_eq!(sql(&cluster, format!("select from sync_changes where user_id = '{}'", user.id)).await.len(), 8 * EACH);
}
