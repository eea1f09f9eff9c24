//! Programs behind the wall of `deploy/row_level_security.sql`, which see one user's rows, and replicas that serve them
//! as before.

use crate::least_privilege::{GRANTS, code_of, connect, schemas};
use crate::support::*;
use mana_dev::TemporaryPostgres;
use serde_json::json;
use sqlx::PgConnection;
use std::path::Path;

const AT: &str = "2024-01-01T10:05:00.000Z";
const WALL: &str = include_str!("../../deploy/row_level_security.sql");

async fn count(connection: &mut PgConnection, table: &str) -> i64 {
    let count = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
    sqlx::query_scalar(count).fetch_one(connection).await.unwrap()
}

/// A cluster of replicas running as their own role behind the wall, on a server of its own; returns a connection and
/// the server, too.
async fn walled() -> (Cluster, PgConnection, TemporaryPostgres) {
    let postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let admin = postgres.server().admin_url();
    let mut server = connect(&admin).await;
    sqlx::raw_sql("create role mana_sync_replica login superuser").execute(&mut server).await.unwrap();
    let each = |_: usize, url: &str| {
        let settings = [("DATABASE_URL", as_replica(url)), ("DATABASE_LISTEN_URL", as_replica(url))];
        settings.map(|(name, value)| (name.to_owned(), value)).to_vec()
    };
    let cluster = Cluster::start_each(&admin, 2, each).await;
    let mut owner = connect(&cluster.database_url).await;
    for file in [GRANTS, WALL, GRANTS, WALL] {
        sqlx::raw_sql(file).execute(&mut owner).await.unwrap();
    }
    sqlx::raw_sql("alter role mana_sync_replica nosuperuser; create role program login in role mana_sync_program")
        .execute(&mut server)
        .await
        .unwrap();
    (cluster, server, postgres)
}

#[tokio::test]
async fn behind_the_wall_a_program_sees_and_writes_one_users_rows_and_replicas_serve_as_before() {
    let (cluster, mut server, _postgres) = walled().await;
    let (alice, bob) = (cluster.user_named("alice"), cluster.user_named("bob"));
    let mut socket = live::socket(&cluster, 1, &alice, None, None).await;
    for (user, table) in [(&alice, "todos"), (&bob, "diary"), (&bob, "todos")] {
        let body = json!({ "clientId": "phone", "changes": [insert(table, "1", "Milk", AT)] });
        cluster.pushed(user, "todo", body).await;
    }
    live::woken(&mut socket).await;

    let program = cluster.database_url.replace("postgres://postgres@", "postgres://program@");
    let mut program = connect(&program).await;
    for table in ["sync_changes", "sync_heads", "sync_history", "sync_records('bob', 'todo')"] {
        assert_eq!(count(&mut program, table).await, 0, "{table}: it has not said for whom it works");
    }
    let insert_for = |user: &str, id: &str| {
        format!(
            "insert into sync_changes (app_id, table_name, record_id, user_id, op)
             values ('todo', 'todos', '{id}', '{user}', 'delete')"
        )
    };
    let push =
        "select sync_push_own('todo', 'importer', '[{\"table\":\"todos\",\"id\":\"pushed\",\"op\":\"delete\"}]')";
    for statement in [&*insert_for("alice", "2"), push] {
        assert_eq!(code_of(&mut program, statement).await.as_deref(), Some("42501"), "{statement}");
    }

    sqlx::raw_sql("set mana_sync.user_id = 'alice'").execute(&mut program).await.unwrap();
    assert_eq!(count(&mut program, "sync_changes").await, 1);
    assert_eq!(count(&mut program, "sync_heads").await, 1);
    assert_eq!(count(&mut program, "sync_changes where user_id = 'bob'").await, 0);
    assert_eq!(count(&mut program, "sync_records('bob', 'todo')").await, 0);
    assert_eq!(count(&mut program, "sync_records('alice', 'todo')").await, 1);
    // Where the rows are: with buckets, the main schema has views.
    let mut owner = connect(&cluster.database_url).await;
    let schema = schemas(&mut owner).await.remove(0);
    for statement in [
        &*insert_for("bob", "2"),
        "select sync_push('bob', 'todo', 'importer', '[]')",
        "select sync_erase('bob')",
        &format!("update {schema}.sync_changes set user_id = 'alice'"),
        &format!("update {schema}.sync_heads set head = now()"),
        &format!("alter table {schema}.sync_changes disable row level security"),
    ] {
        assert_eq!(code_of(&mut program, statement).await.as_deref(), Some("42501"), "{statement}");
    }
    for statement in [&*insert_for("alice", "written"), push, "delete from sync_changes where user_id = 'bob'"] {
        assert_eq!(code_of(&mut program, statement).await, None, "{statement}");
    }
    live::woken(&mut socket).await;
    let pulled = cluster.pulled(&alice, "todo", "todos", BEGINNING, None).await;
    assert_eq!(ids(&pulled), ["1", "written", "pushed"]);
    assert_eq!(ids(&cluster.pulled(&bob, "todo", "todos", BEGINNING, None).await), ["1"], "nothing of his went");

    sqlx::raw_sql("begin; set local mana_sync.user_id = 'bob'").execute(&mut program).await.unwrap();
    assert_eq!(count(&mut program, "sync_changes").await, 2);
    sqlx::raw_sql("commit").execute(&mut program).await.unwrap();
    assert_eq!(count(&mut program, "sync_changes").await, 3, "alice's again: it was for one transaction");

    sqlx::raw_sql("create role stranger login").execute(&mut server).await.unwrap();
    for schema in schemas(&mut owner).await {
        let grant =
            format!("grant usage on schema {schema} to stranger; grant select on {schema}.sync_changes to stranger");
        sqlx::raw_sql(sqlx::AssertSqlSafe(grant)).execute(&mut owner).await.unwrap();
    }
    sqlx::raw_sql("grant select on sync_changes to stranger; set role stranger").execute(&mut owner).await.unwrap();
    assert_eq!(count(&mut owner, "sync_changes").await, 0, "a role that nobody named sees nothing");
}

#[tokio::test]
async fn the_wall_is_put_up_beside_statements_that_take_their_locks_in_another_order() {
    let postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let url = create_database_on(&postgres.server().admin_url()).await;
    run(&url, &["migrate", "--grant"]).await;
    let (mut owner, mut reader) = (connect(&url).await, connect(&url).await);
    sqlx::raw_sql("begin; select from sync_history").execute(&mut reader).await.unwrap();
    let building = sqlx::raw_sql(WALL).execute(&mut owner);
    let reading = async {
        let waits = "select count(*) > 0 from pg_locks where not granted and relation = 'sync_history'::regclass";
        let mut observer = connect(&url).await;
        eventually("the wall waits for the reader", async || {
            sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut observer).await.unwrap()
        })
        .await;
        for table in ["sync_heads", "sync_changes"] {
            assert_eq!(count(&mut reader, table).await, 0);
        }
        sqlx::raw_sql("commit").execute(&mut reader).await.unwrap();
    };
    let (built, ()) = tokio::join!(building, reading);
    built.unwrap();
}

/// Runs a command on this database, which must succeed.
async fn run(url: &str, arguments: &[&str]) {
    let done = run_raw(url, arguments).await;
    assert!(done.status.success(), "{arguments:?}: {done:?}");
}

async fn run_raw(url: &str, arguments: &[&str]) -> std::process::Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
    command.args(arguments).env("DATABASE_URL", url).kill_on_drop(true).output().await.unwrap()
}

/// Checks that a program sees and writes only one user's rows: there are two of alice and one of bob.
async fn is_held_to_one_user(url: &str) {
    let mut program = connect(&url.replace("postgres://postgres@", "postgres://program@")).await;
    let tables = ["sync_changes", "sync_heads", "sync_history", "sync_records('bob', 'todo')"];
    for table in tables {
        assert_eq!(count(&mut program, table).await, 0, "{table}: it has not said for whom it works");
    }
    let insert_for = |user: &str| {
        format!(
            "insert into sync_changes (app_id, table_name, record_id, user_id, op)
             values ('todo', 'todos', 'written', '{user}', 'delete')"
        )
    };
    assert_eq!(code_of(&mut program, &insert_for("alice")).await.as_deref(), Some("42501"));
    sqlx::raw_sql("delete from sync_changes; set mana_sync.user_id = 'alice'").execute(&mut program).await.unwrap();
    let bucket: String =
        sqlx::query_scalar("select sync_bucket_of('bob') || '.sync_changes'").fetch_one(&mut program).await.unwrap();
    for (table, expected) in [
        ("sync_changes", 2),
        ("sync_heads", 1),
        ("sync_changes where user_id = 'bob'", 0),
        ("sync_records('bob', 'todo')", 0),
        ("sync_records('alice', 'todo')", 2),
        (bucket.as_str(), 0),
    ] {
        let shown = count(&mut program, table).await;
        // Alice may be in Bob's bucket.
        assert!(shown == expected || (table == bucket && shown == 2), "{table}: {shown}");
    }
    for statement in [
        &*insert_for("bob"),
        &insert_for("bob").replace("sync_changes", &bucket),
        "select sync_push('bob', 'todo', 'importer', '[]')",
        "select sync_erase('bob')",
        &format!("update {bucket} set user_id = 'alice'"),
    ] {
        assert_eq!(code_of(&mut program, statement).await.as_deref(), Some("42501"), "{statement}");
    }
    for statement in [
        &*insert_for("alice"),
        "select sync_push_own('todo', 'importer', '[{\"table\":\"todos\",\"id\":\"pushed\",\"op\":\"delete\"}]')",
        "delete from sync_changes where user_id = 'bob'",
    ] {
        assert_eq!(code_of(&mut program, statement).await, None, "{statement}");
    }
    assert_eq!(count(&mut program, "sync_changes").await, 4);
    let deleted = "delete from sync_changes where record_id in ('written', 'pushed', '1')";
    assert_eq!(sqlx::raw_sql(deleted).execute(&mut program).await.unwrap().rows_affected(), 3);
    let mut owner = connect(url).await;
    assert_eq!(count(&mut owner, "sync_changes where user_id = 'bob'").await, 1, "nothing of his went");
    let again =
        "select sync_push('alice', 'todo', 'p', '[{\"table\":\"todos\",\"id\":\"1\",\"op\":\"insert\",\"data\":{}}]')";
    sqlx::raw_sql(again).execute(&mut owner).await.unwrap();
}

#[tokio::test]
async fn the_wall_stands_where_logs_are_distributed_before_and_after_it_was_put_up() {
    let postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let admin = postgres.server().admin_url();
    let fill = "
        select sync_push(u, 'todo', 'p', jsonb_build_array(jsonb_build_object('table', 'todos', 'id', r, 'op', 'insert', 'data', '{}'::jsonb)))
        from (values ('alice', '1'), ('alice', '2'), ('bob', '1')) as v (u, r)";
    for walled_first in [true, false] {
        let url = create_database_on(&admin).await;
        run(&url, &["migrate", "--grant"]).await;
        let mut owner = connect(&url).await;
        sqlx::raw_sql(fill).execute(&mut owner).await.unwrap();
        let version: i32 = sqlx::query_scalar("select current_setting('server_version_num')::int")
            .fetch_one(&mut owner)
            .await
            .unwrap();
        if walled_first {
            sqlx::raw_sql(WALL).execute(&mut owner).await.unwrap();
            sqlx::raw_sql("create role program login in role mana_sync_program").execute(&mut owner).await.unwrap();
        }
        let distributed = run_raw(&url, &["distribute", "--buckets", "4"]).await;
        if walled_first && version < 150_000 {
            assert!(String::from_utf8_lossy(&distributed.stderr).contains("row-level security"), "{distributed:?}");
            continue;
        }
        assert!(distributed.status.success(), "{distributed:?}");
        if !walled_first {
            let put_up = sqlx::raw_sql(WALL).execute(&mut owner).await;
            assert_eq!(put_up.is_ok(), version >= 150_000, "{put_up:?}");
            if version < 150_000 {
                continue;
            }
        }
        is_held_to_one_user(&url).await;
        // As if the newest migration had been written today.
        let missing = "delete from _sqlx_migrations where version = 10; drop function sync_in_history(uuid, uuid[])";
        sqlx::raw_sql(missing).execute(&mut owner).await.unwrap();
        run(&url, &["migrate", "--grant"]).await;
        is_held_to_one_user(&url).await;
        for file in [GRANTS, WALL, GRANTS, WALL] {
            sqlx::raw_sql(file).execute(&mut owner).await.unwrap();
        }
        is_held_to_one_user(&url).await;
    }
}

#[tokio::test]
async fn row_level_security_that_would_not_stand_is_refused_and_nothing_is_begun() {
    let postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let url = create_database_on(&postgres.server().admin_url()).await;
    run(&url, &["migrate", "--grant"]).await;
    let mut owner = connect(&url).await;
    for (put_up, take_down) in [
        ("alter table sync_history enable row level security", "alter table sync_history disable row level security"),
        ("alter table sync_changes force row level security", "alter table sync_changes no force row level security"),
        (
            "alter table sync_changes enable row level security; create policy tenants on sync_changes using (user_id = current_user)",
            "alter table sync_changes disable row level security",
        ),
        ("select", "drop policy tenants on sync_changes"),
    ] {
        sqlx::raw_sql(put_up).execute(&mut owner).await.unwrap();
        let refused = run_raw(&url, &["distribute", "--buckets", "4"]).await;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(
            !refused.status.success() && (said.contains("row-level security") || said.contains("policy tenants")),
            "{said}"
        );
        assert_eq!(count(&mut owner, "sync_layout").await, 0, "{put_up}");
        sqlx::raw_sql(take_down).execute(&mut owner).await.unwrap();
    }
    run(&url, &["distribute", "--buckets", "4"]).await;
}
