//! The grants that a program needs, and what it can't do with them.

use super::support::*;
use super::{AT, sql};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Connects as a new role with these grants from docs/sql.md.
async fn as_role(cluster: &Cluster, grants: &[&str]) -> PgConnection {
    let role = format!("svc_{}", uuid::Uuid::new_v4().simple());
    sql(cluster, format!("create role {role}")).await;
    for grant in grants {
        sql(cluster, format!("{grant} to {role}")).await;
    }
    let mut connection = PgConnection::connect(&cluster.database_url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("set role {role}"))).execute(&mut connection).await.unwrap();
    connection
}

async fn run(connection: &mut PgConnection, statement: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.map(|_| ())
}

fn is_denied(result: Result<(), sqlx::Error>) -> bool {
    result.is_err_and(|error| error.as_database_error().and_then(|e| e.code()).as_deref() == Some("42501"))
}

const WRITES: &str = "grant insert (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, field_meta,
                      client_id, schema_version, actor, origin, space_id) on sync_changes";

#[tokio::test]
async fn a_program_that_inserts_needs_no_more_than_the_columns_that_it_names() {
    let cluster = shared().await;
    let user = cluster.user();
    let mut program = as_role(cluster, &[WRITES]).await;
    let insert = |columns: &str, values: &str| {
        format!(
            "insert into sync_changes (app_id, table_name, record_id, user_id, op{columns})
             values ('todo', 'tasks', 'a', '{}', 'delete'{values})",
            user.id
        )
    };
    run(&mut program, insert("", "")).await.unwrap();
    assert_eq!(cluster.stored(&user).await, 1);
    for column in ["created_at", "log_id", "held", "size", "extra"] {
        assert!(is_denied(run(&mut program, insert(&format!(", {column}"), ", null")).await), "{column}");
    }
    for statement in [
        "select * from sync_changes",
        "delete from sync_heads",
        "update sync_changes set op = 'delete'",
        "select sync_push('u', 'todo', 'svc', '[]')",
    ] {
        assert!(is_denied(run(&mut program, statement.to_owned()).await), "{statement}");
    }
}

#[tokio::test]
async fn tables_and_settings_of_the_program_lead_nothing_astray() {
    let cluster = shared().await;
    let user = cluster.user();
    let mut program = as_role(cluster, &[WRITES, "grant execute on function sync_push"]).await;
    let astray = format!(
        "create temp table sync_heads (log_id uuid primary key, user_key uuid, user_id text, app_id text,
                                       head timestamptz, previous timestamptz);
         create temp table sync_changes as select 1 as a;
         set search_path = pg_temp, public;
         select set_config('mana_sync.taken', sync_log_id('{}', 'todo') || ' 9000000000000000', false)",
        user.id
    );
    run(&mut program, astray).await.unwrap();
    let insert = format!(
        "insert into public.sync_changes (app_id, table_name, record_id, user_id, op)
         select 'todo', 'tasks', n::text, '{}', 'delete' from generate_series(1, 3) as n",
        user.id
    );
    run(&mut program, insert).await.unwrap();
    let push = json!([insert_of("pushed")]).to_string();
    run(&mut program, format!("select sync_push('{}', 'todo', 'svc', '{push}')", user.id)).await.unwrap();
    assert_eq!(cluster.stored(&user).await, 4);
    let pages = cluster.pull_all(&user, "todo", "tasks", AT, None).await;
    assert_eq!(ids_of(&pages), ["1", "2", "3", "pushed"]);
    assert!(until(&pages[0]) < "2100", "{}", until(&pages[0]));
}

#[tokio::test]
async fn a_setting_of_the_program_moves_no_log_of_others() {
    let cluster = shared().await;
    let (user, victim) = (cluster.user(), cluster.user());
    let body = json!({ "clientId": "phone", "since": AT, "changes": [insert_of("a")] });
    let before = until(&cluster.pushed(&victim, "todo", body).await).to_owned();
    let mut program = as_role(cluster, &[WRITES, "grant execute on function sync_push"]).await;
    let an_hour_ahead = (now_millis() + 3_540_000) * 1000;
    let [own, others] = [&user, &victim].map(|user| format!("sync_log_id('{}', 'todo')", user.id));
    for (n, setting) in [
        format!("{others} || ' {an_hour_ahead}'"),
        format!("{others} || ' '"),
        format!("{own} || ' ' || {others} || ' '"),
        format!("{own} || ' {an_hour_ahead}'"),
        "'nothing that is a log'".to_owned(),
        "repeat('x', 50000)".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        let set = format!("select set_config('mana_sync.taken', {setting}, false)");
        let insert = |id: &str| {
            format!(
                "insert into sync_changes (app_id, table_name, record_id, user_id, op) values ('todo', 'tasks', '{id}', '{}', 'delete')",
                user.id
            )
        };
        let two = format!("{}, ('todo', 'tasks', 'b{n}', '{}', 'delete')", insert(&format!("a{n}")), user.id);
        run(&mut program, format!("{set}; {two}")).await.unwrap();
        let push = json!([insert_of(&format!("c{n}"))]).to_string();
        run(&mut program, format!("{set}; select sync_push('{}', 'todo', 'svc', '{push}')", user.id)).await.unwrap();
        let answer = cluster.pulled(&victim, "todo", "tasks", AT, None).await;
        assert_eq!((ids(&answer), until(&answer)), (vec!["a"], before.as_str()), "{setting}");
    }
    let pages = cluster.pull_all(&user, "todo", "tasks", AT, None).await;
    let all: Vec<String> = (0..6).flat_map(|n| ["a", "b", "c"].map(|id| format!("{id}{n}"))).collect();
    assert_eq!(ids_of(&pages), all);
    assert!(until(&pages[0]) < iso(now_millis() + 60_000).as_str(), "{}", until(&pages[0]));
}

fn insert_of(id: &str) -> serde_json::Value {
    insert("tasks", id, "Milk", AT)
}

#[tokio::test]
async fn a_program_that_reads_records_needs_select() {
    let cluster = shared().await;
    let mut reader = as_role(cluster, &["grant select on sync_changes"]).await;
    run(&mut reader, "select * from sync_records('nobody', 'todo')".to_owned()).await.unwrap();
    let mut stranger = as_role(cluster, &[WRITES]).await;
    assert!(is_denied(run(&mut stranger, "select * from sync_records('nobody', 'todo')".to_owned()).await));
}
