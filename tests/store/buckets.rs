//! Logs that are distributed over buckets: everything works as without, and a bucket that is away costs its users something
//! and nobody else.

use crate::support::live::*;
use crate::support::*;
use mana_sync::protocol::UserKey;
use mana_sync::store::Layout;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::process::{Output, Stdio};
use tokio::process::Command;

const EXE: &str = env!("CARGO_BIN_EXE_mana-sync");
const AT: &str = "2024-01-01T10:05:00.000Z";
const BUCKETS: u16 = 4;

async fn run(url: &str, arguments: &[&str]) -> Output {
    Command::new(EXE).args(arguments).env("DATABASE_URL", url).output().await.unwrap()
}

/// Runs a command that must succeed; what it wrote.
async fn succeeded(url: &str, arguments: &[&str]) -> String {
    let done = run(url, arguments).await;
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Runs a command that must fail; what it said.
async fn failed(url: &str, arguments: &[&str]) -> String {
    let done = run(url, arguments).await;
    assert!(!done.status.success(), "{arguments:?}");
    String::from_utf8(done.stderr).unwrap()
}

async fn sql(url: &str, statement: impl Into<String>) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let statement = statement.into();
    let done = sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut connection).await;
    done.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

async fn number(url: &str, query: impl Into<String>) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(query.into())).fetch_one(&mut connection).await.unwrap()
}

async fn distribute(url: &str) -> String {
    succeeded(url, &["distribute", "--buckets", &BUCKETS.to_string()]).await
}

/// A cluster over a database of its own that is distributed.
async fn distributed(replicas: u16, settings: &[(&str, &str)]) -> Cluster {
    let url = create_database().await;
    distribute(&url).await;
    let settings: Vec<(String, String)> =
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Cluster::start_over_with(&url, replicas, settings).await
}

fn schema_of(user: &User) -> String {
    let layout = Layout::over(BUCKETS).unwrap();
    layout.schema(layout.bucket_of(UserKey::of(&user.id))).unwrap()
}

/// A user of each bucket, in the buckets' order.
fn users_of_all(cluster: &Cluster) -> Vec<User> {
    let layout = Layout::over(BUCKETS).unwrap();
    let of = |schema: String| loop {
        let user = cluster.user();
        if schema_of(&user) == schema {
            return user;
        }
    };
    layout.schemas().into_iter().map(of).collect()
}

fn one(id: &str) -> Value {
    json!({ "clientId": "phone", "changes": [insert("todos", id, "Milk", AT)] })
}

#[tokio::test]
async fn each_user_is_in_one_bucket_and_everything_works_as_without() {
    let cluster = distributed(2, &[("RECONCILE_MS", "3600000")]).await;
    for user in users_of_all(&cluster) {
        let mut socket = socket(&cluster, 1, &user, None, None).await;
        let mut stream = Events::open(stream_of(&cluster, 1, &user, "collections=todos")).await;
        stream.backlog().await;
        cluster.pushed(&user, APP, one("a")).await;
        assert_eq!(woken(&mut socket).await, (APP.to_owned(), vec!["todos".to_owned()]));
        assert_eq!(stream.until("a").await, ["a"]);
        cluster.pushed(&user, APP, one("a")).await;
        assert_eq!(ids(&cluster.pulled(&user, APP, "todos", BEGINNING, None).await), ["a"], "stored once");
        let stored = format!("select count(*) from {}.sync_changes where user_id = '{}'", schema_of(&user), user.id);
        assert_eq!(number(&cluster.database_url, stored).await, 1);
        assert_eq!(cluster.stored(&user).await, 1, "the view has all");
    }
    assert_eq!(number(&cluster.database_url, "select count(*) from sync_changes_undistributed").await, 0);
}

#[tokio::test]
async fn what_no_notification_told_of_is_found_in_every_bucket() {
    let cluster = distributed(1, &[]).await;
    let users = users_of_all(&cluster);
    let mut sockets = Vec::new();
    for user in &users {
        sockets.push(socket(&cluster, 0, user, None, None).await);
    }
    for user in &users {
        // As programs do, which notify nobody.
        let statement = "insert into sync_changes (app_id, table_name, record_id, user_id, op, data)
                         values ($1, 'silent', 'a', $2, 'insert', '{}') returning log_id::text";
        let log: String =
            sqlx::query_scalar(statement).bind(APP).bind(&user.id).fetch_one(&cluster.pool).await.unwrap();
        assert!(!log.is_empty(), "the row is shown as it is stored");
    }
    for socket in &mut sockets {
        assert_eq!(woken(socket).await.1, ["silent"]);
    }
}

#[tokio::test]
async fn a_bucket_that_is_away_costs_its_users_503_and_nobody_else_anything() {
    let cluster = distributed(1, &[("READY_GRACE_MS", "0"), ("RECONCILE_MS", "200")]).await;
    let users = users_of_all(&cluster);
    for user in &users {
        cluster.pushed(user, APP, one("before")).await;
    }
    let (gone, others) = users.split_first().unwrap();
    let schema = schema_of(gone);
    let away = [
        (format!("alter schema {schema} rename to elsewhere"), format!("alter schema elsewhere rename to {schema}")),
        (
            format!("alter table {schema}.sync_heads rename to elsewhere"),
            format!("alter table {schema}.elsewhere rename to sync_heads"),
        ),
    ];
    for (n, (break_it, mend_it)) in away.into_iter().enumerate() {
        let mut socket = socket(&cluster, 0, &others[0], None, None).await;
        sql(&cluster.database_url, break_it).await;
        for reply in [
            cluster.push_raw(gone, APP, one(&format!("lost {n}")).to_string()).await,
            Reply::to(cluster.request(
                gone,
                reqwest::Method::GET,
                &format!("/sync/{APP}/pull?collection=todos&since={BEGINNING}"),
            ))
            .await,
        ] {
            reply.refused(503, "unavailable");
            assert!(reply.header("retry-after").is_some(), "{reply:?}");
        }
        for user in others {
            cluster.pushed(user, APP, one(&format!("meanwhile {n}"))).await;
            assert!(!ids(&cluster.pulled(user, APP, "todos", BEGINNING, None).await).is_empty());
        }
        woken(&mut socket).await;
        // The reconciler of the others goes on.
        let silent = format!(
            "select {}.sync_push('{}', '{APP}', 'p', '[{}]')",
            schema_of(&others[1]),
            others[1].id,
            insert("silent", &format!("s{n}"), "T", AT)
        );
        let mut second = crate::support::live::socket(&cluster, 0, &others[1], None, None).await;
        sql(&cluster.database_url, format!("begin; set local mana_sync.notify = off; {silent}; commit")).await;
        woken_until(&mut second, "silent").await;
        assert_eq!(cluster.get("/health/ready").await.status, StatusCode::OK);
        sql(&cluster.database_url, mend_it).await;
        eventually("its users are served again", async || {
            cluster.push(gone, APP, one(&format!("after {n}"))).await.0 == StatusCode::OK
        })
        .await;
    }
}

#[tokio::test]
async fn a_role_that_is_locked_out_of_a_bucket_costs_its_users_503() {
    let cluster = {
        let url = create_database().await;
        distribute(&url).await;
        let name = url.rsplit('/').next().unwrap();
        let role = format!("replica_{name}");
        let all = |schema: &str| {
            format!("grant all on schema {schema} to {role}; grant all on all tables in schema {schema} to {role};")
        };
        let grants: String = ["public", "sync_b00", "sync_b01", "sync_b02", "sync_b03"].map(all).concat();
        sql(&url, format!("create role {role} login; {grants}")).await;
        let theirs = url.replace("postgres://postgres@", &format!("postgres://{role}@"));
        let settings = vec![("DATABASE_URL".to_owned(), theirs), ("COMPACT_AFTER_MS".to_owned(), "0".to_owned())];
        Cluster::start_over_with(&url, 1, settings).await
    };
    let users = users_of_all(&cluster);
    let role = format!("replica_{}", cluster.database_url.rsplit('/').next().unwrap());
    sql(&cluster.database_url, format!("revoke usage on schema sync_b02 from {role}")).await;
    for (bucket, user) in users.iter().enumerate() {
        let (status, answer) = cluster.push(user, APP, one("a")).await;
        let expected = if bucket == 2 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        assert_eq!(status, expected, "{answer}");
    }
    sql(&cluster.database_url, format!("grant usage on schema sync_b02 to {role}")).await;
    eventually("they are served again", async || cluster.push(&users[2], APP, one("b")).await.0 == StatusCode::OK)
        .await;
}

#[tokio::test]
async fn operators_find_users_wherever_they_are() {
    let cluster = distributed(1, &[]).await;
    let url = &cluster.database_url;
    let users = users_of_all(&cluster);
    for user in &users {
        cluster.pushed(user, APP, one("a")).await;
        let later = update("todos", "a", "title", "Eggs", "2024-01-02T10:05:00.000Z");
        cluster.pushed(user, APP, json!({ "clientId": "phone", "changes": [later] })).await;
    }
    let usage = succeeded(url, &["usage", "--json"]).await;
    for user in &users {
        assert!(usage.contains(&user.id), "{usage}");
        let of = |command: &'static str| [command, "--user", &user.id].map(str::to_owned);
        let exported = succeeded(url, &of("export").each_ref().map(String::as_str)).await;
        assert!(exported.contains("Eggs"), "{exported}");
        let why = succeeded(
            url,
            &["why", "--user", &user.id, "--app", APP, "--table", "todos", "--record", "a", "--field", "title"],
        )
        .await;
        assert!(why.contains("Eggs") && why.contains("Milk"), "{why}");
    }
    let compacted = succeeded(url, &["compact", "--compact-after-ms", "1"]).await;
    assert!(compacted.starts_with("4 logs: 8 changes looked at, 4 trimmed"), "{compacted}");
    let kept = "select (select count(*) from sync_history) + (select count(*) from sync_b01.sync_history)";
    assert_eq!(number(url, kept).await, 5, "each bucket keeps its own");
    let mut socket = socket(&cluster, 0, &users[1], None, None).await;
    succeeded(url, &["erase", "--user", &users[1].id, "--yes"]).await;
    woken(&mut socket).await;
    assert_eq!(cluster.stored(&users[1]).await, 0);
    assert_eq!(cluster.stored(&users[2]).await, 2);
    assert!(!succeeded(url, &["usage", "--json"]).await.contains(&users[1].id));
}

#[tokio::test]
async fn operators_see_users_of_all_buckets_but_of_the_one_that_is_away() {
    const TOKEN: &str = "an-admin-token-for-tests";
    let cluster = distributed(1, &[("ADMIN_PORT", "0"), ("ADMIN_TOKEN", TOKEN)]).await;
    let log = cluster.nodes[0].log();
    let line = log.lines().rev().find(|line| line.contains("the admin port is open")).expect("it has one");
    let line: Value = serde_json::from_str(line).unwrap();
    let base = format!("http://{}/api/v1", line["address"].as_str().unwrap());
    let ask = async |path: String| -> (StatusCode, Value) {
        let request = cluster.http.get(format!("{base}/{path}")).bearer_auth(TOKEN).timeout(TIMEOUT);
        let reply = request.send().await.unwrap();
        (reply.status(), reply.json().await.unwrap())
    };
    let users = users_of_all(&cluster);
    for user in &users {
        cluster.pushed(user, APP, one("a")).await;
        cluster.pushed(user, "other", one("b")).await;
    }
    let (gone, others) = users.split_first().unwrap();
    let mut holding = PgConnection::connect(&cluster.database_url).await.unwrap();
    let lock =
        format!("begin; lock table {0}.sync_changes, {0}.sync_history in access exclusive mode", schema_of(gone));
    for is_away in [false, true, false] {
        sqlx::raw_sql(AssertSqlSafe(if is_away { lock.clone() } else { "rollback".to_owned() }))
            .execute(&mut holding)
            .await
            .unwrap();
        let of = |user: &User| {
            let record = format!("record?user={}&app={APP}&table=todos&id=a", user.id);
            (format!("user?id={}", user.id), record)
        };
        let (user, record) = of(gone);
        // It waits meanwhile, and nobody waits with it.
        let (away, _) = tokio::join!(async { (ask(user).await.1, ask(record).await.0) }, async {
            for user in others {
                let (shown, record) = of(user);
                let (shown, record) = (ask(shown).await.1, ask(record).await);
                assert_eq!((&shown["problem"], &shown["usage"]["changes"]), (&Value::Null, &json!(2)), "{shown}");
                let devices = shown["devices"].as_array().unwrap();
                assert_eq!((shown["logs"].as_array().unwrap().len(), devices.len()), (2, 2), "{shown}");
                assert_eq!(record.0, StatusCode::OK);
                assert_eq!(record.1["history"].as_array().unwrap().len(), 1, "{}", record.1);
            }
        });
        let (shown, record) = away;
        assert_eq!(shown["problem"].is_null(), !is_away, "{shown}");
        // The heads of its logs are there, though nobody can count what is in them.
        assert_eq!(shown["logs"].as_array().unwrap().len(), 2, "{shown}");
        assert_eq!(shown["usage"]["changes"], if is_away { 0 } else { 2 }, "{shown}");
        assert_eq!(record.is_success(), !is_away);
    }
    let (_, state) = ask("cluster".to_owned()).await;
    assert!(state["database"]["bytes"].as_i64().unwrap() > 1 << 20, "{state}");
}

#[tokio::test]
async fn programs_write_read_and_erase_where_they_always_did() {
    let cluster = distributed(1, &[]).await;
    for user in users_of_all(&cluster) {
        let mut socket = socket(&cluster, 0, &user, None, None).await;
        let cursor: String = sqlx::query_scalar("select sync_push($1, 'todo', 'importer', $2)")
            .bind(&user.id)
            .bind(json!([insert("todos", "pushed", "Milk", AT)]))
            .fetch_one(&cluster.pool)
            .await
            .unwrap();
        assert_eq!(cursor.len(), 27);
        woken(&mut socket).await;
        sql(&cluster.database_url, program_insert(&user)).await;
        let page = cluster.pulled(&user, "todo", "todos", BEGINNING, None).await;
        assert_eq!(ids(&page), ["pushed", "plain"]);
        assert_eq!(page["serverChanges"][1]["actor"]["kind"], "ai");
        let records = format!("select count(*) from sync_records('{}', 'todo')", user.id);
        assert_eq!(number(&cluster.database_url, records).await, 2);
        let usage = format!("select changes from sync_usage('{}')", user.id);
        assert_eq!(number(&cluster.database_url, usage).await, 2);
        sql(
            &cluster.database_url,
            format!("delete from sync_changes where user_id = '{}' and record_id = 'plain'", user.id),
        )
        .await;
        assert_eq!(cluster.stored(&user).await, 1);
        assert_eq!(number(&cluster.database_url, format!("select sync_erase('{}')", user.id)).await, 1);
        assert_eq!(cluster.stored(&user).await, 0);
    }
    let refused =
        sqlx::query("insert into sync_changes (app_id, op) values ('todo', 'insert')").execute(&cluster.pool).await;
    let code = refused.unwrap_err().as_database_error().unwrap().code().unwrap().into_owned();
    assert_eq!(code, "22023", "a row of nobody is refused as it was");
}

#[tokio::test]
async fn a_full_database_is_moved_whole_and_goes_on_where_it_was() {
    let mut cluster = Cluster::start(1).await;
    let url = cluster.database_url.clone();
    let users = users_of_all(&cluster);
    let mut pages = Vec::new();
    for user in &users {
        for (n, app) in ["todo", "notes", "todo"].into_iter().enumerate() {
            cluster.pushed(user, app, one(&format!("r{n}"))).await;
        }
        let later = update("todos", "r0", "title", "Eggs", "2024-01-02T10:05:00.000Z");
        cluster.pushed(user, "todo", json!({ "clientId": "phone", "changes": [later] })).await;
    }
    succeeded(&url, &["compact", "--compact-after-ms", "1"]).await;
    let erased = cluster.user();
    cluster.pushed(&erased, "todo", one("gone")).await;
    succeeded(&url, &["erase", "--user", &erased.id, "--yes"]).await;
    for user in &users {
        pages.push(cluster.pulled(user, "todo", "todos", BEGINNING, None).await);
    }
    let counts = async || {
        let mut counts = Vec::new();
        for table in ["sync_heads", "sync_changes", "sync_history", "sync_erased"] {
            counts.push(number(&url, format!("select count(*) from {table}")).await);
        }
        counts
    };
    let before = counts().await;
    assert_eq!(before, [8, 16, 4, 1]);

    let said = failed(&url, &["distribute", "--buckets", "4"]).await;
    assert!(said.contains("replicas or commands are connected") && said.contains("replica-1"), "{said}");
    assert_eq!(number(&url, "select count(*) from sync_layout").await, 0, "nothing was begun");
    cluster.pushed(&users[0], "other", one("still served")).await;
    cluster.nodes[0].process.kill().await;

    let said = distribute(&url).await;
    assert!(said.starts_with("9 logs with 17 changes moved"), "{said}");
    assert_eq!(counts().await, [9, 17, 4, 1]);
    for table in ["sync_heads", "sync_changes", "sync_history", "sync_erased"] {
        assert_eq!(number(&url, format!("select count(*) from {table}_undistributed")).await, 0, "{table}");
    }
    assert!(distribute(&url).await.contains("nothing to do"));
    let refuses = "select count(*) from pg_description where objoid = 'sync_heads'::regclass and description = 'replicas must know migration 11'";
    assert_eq!(number(&url, refuses).await, 1, "replicas that know of no buckets do not start");
    let said = failed(&url, &["distribute", "--buckets", "8"]).await;
    assert!(said.contains("distributed over 4 buckets already"), "{said}");
    assert!(succeeded(&url, &["migrate"]).await.contains("nothing to do"));

    cluster.nodes[0].restart().await;
    for (user, page) in users.iter().zip(&pages) {
        assert_eq!(cluster.pulled(user, "todo", "todos", BEGINNING, None).await, *page, "what it was before");
        let (since, retried) = (until(page).to_owned(), one("r0"));
        cluster.pushed(user, "todo", retried).await;
        cluster.pushed(user, "todo", one("new")).await;
        assert_eq!(ids(&cluster.pulled(user, "todo", "todos", &since, None).await), ["new"], "one log goes on");
    }
}

#[tokio::test]
async fn a_distribution_that_is_killed_goes_on_where_it_was() {
    let url = create_database().await;
    succeeded(&url, &["migrate"]).await;
    let fill = "select sync_push('user-' || n, 'todo', 'p', jsonb_build_array(jsonb_build_object('table', 'todos', 'id', r::text,
                    'op', 'insert', 'data', jsonb_build_object('title', 'Milk'))))
                from generate_series(1, 300) as n, generate_series(1, 10) as r";
    sql(&url, format!("begin; set local mana_sync.notify = off; {fill}; commit")).await;
    let mut killed = 0;
    for _ in 0..5 {
        let mut child = Command::new(EXE)
            .args(["distribute", "--buckets", "4"])
            .env("DATABASE_URL", &url)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = async || number(&url, "select count(*) from pg_namespace where nspname = 'sync_b03'").await == 1;
        eventually("it has begun", async || begun().await || child.try_wait().unwrap().is_some()).await;
        killed += i32::from(child.try_wait().unwrap().is_none());
        child.kill().await.unwrap();
        let all = "select count(*) from sync_changes";
        assert_eq!(number(&url, all).await, 3000, "at each moment everything is there once");
        eventually("its session has ended", async || {
            number(&url, "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'mana-sync distribute'").await == 0
        })
        .await;
    }
    assert!(killed > 0);
    let state = number(&url, "select count(*) from sync_layout where is_moving").await;
    if state == 1 {
        let said = failed(&url, &["distribute", "--buckets", "8"]).await;
        assert!(said.contains("being distributed over 4 buckets"), "{said}");
        let said = failed(&url, &["erase", "--user", "user-1", "--yes"]).await;
        assert!(said.contains("being distributed"), "{said}");
    }
    distribute(&url).await;
    for (query, expected) in [
        ("select count(*) from sync_changes", 3000),
        ("select count(*) from sync_heads", 300),
        ("select count(*) from sync_changes_undistributed", 0),
        ("select count(*) from sync_layout where not is_moving", 1),
    ] {
        assert_eq!(number(&url, query).await, expected, "{query}");
    }
    for bucket in 0..4 {
        assert!(number(&url, format!("select count(*) from sync_b{bucket:02}.sync_heads")).await > 40);
        let elsewhere = format!(
            "select count(*) from sync_b{bucket:02}.sync_heads where sync_bucket_of(user_id) <> 'sync_b{bucket:02}'"
        );
        assert_eq!(number(&url, elsewhere).await, 0, "SQL knows the same hash");
    }
}

#[tokio::test]
async fn a_replica_waits_for_the_end_of_a_distribution_and_leaves_one_that_it_does_not_know() {
    let mut cluster = Cluster::start_with(1, &[("READY_GRACE_MS", "0"), ("DRAIN_DELAY_MS", "0")]).await;
    let user = cluster.user();
    cluster.pushed(&user, APP, one("a")).await;
    sql(&cluster.database_url, "insert into sync_layout (buckets, is_moving) values (4, true)").await;
    let status = tokio::time::timeout(TIMEOUT, cluster.nodes[0].process.ended()).await.expect("it must stop");
    assert!(!status.success());
    assert!(cluster.nodes[0].log().contains("the logs are being distributed"), "{}", cluster.nodes[0].log());
    cluster.nodes[0].respawn();
    eventually("it waits", async || cluster.nodes[0].log().contains("let `mana-sync distribute` end")).await;
    distribute(&cluster.database_url).await;
    cluster.nodes[0].process.wait_ready(TIMEOUT).await.unwrap();
    assert_eq!(ids(&cluster.pulled(&user, APP, "todos", BEGINNING, None).await), ["a"]);
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone() {
    let url = create_database().await;
    succeeded(&url, &["migrate"]).await;
    sql(&url, "create schema sync_b02").await;
    let said = failed(&url, &["distribute", "--buckets", "4"]).await;
    assert!(said.contains("the schema sync_b02 is there, and none of ours"), "{said}");
    sql(&url, "drop schema sync_b02; create view mine as select user_id from sync_changes").await;
    let said = failed(&url, &["distribute", "--buckets", "4"]).await;
    assert!(said.contains("mine"), "{said}");
    sql(&url, "drop view mine").await;
    let audit = "create function audit() returns trigger language plpgsql as 'begin return null; end'";
    for (name, make, undo) in [
        (
            "materialized",
            "create materialized view materialized as select * from sync_heads",
            "drop materialized view materialized",
        ),
        (
            "trigger audits on sync_changes",
            "create trigger audits after insert on sync_changes for each row execute function audit()",
            "drop trigger audits on sync_changes",
        ),
        (
            "trigger sync_changes_mine on sync_history",
            "create trigger sync_changes_mine after insert on sync_history for each row execute function audit()",
            "drop trigger sync_changes_mine on sync_history",
        ),
        (
            "rule elsewhere on sync_heads",
            "create rule elsewhere as on update to sync_heads do also nothing",
            "drop rule elsewhere on sync_heads",
        ),
        ("publication cdc of sync_changes", "create publication cdc for table sync_changes", "drop publication cdc"),
        (
            "publication everything of sync_heads",
            "create publication everything for all tables",
            "drop publication everything",
        ),
        (
            "policy tenants on sync_changes",
            "create policy tenants on sync_changes using (true)",
            "drop policy tenants on sync_changes",
        ),
        (
            "foreign key mine_change_fkey of mine",
            "create table mine (change uuid references sync_changes (id))",
            "drop table mine",
        ),
    ] {
        sql(&url, format!("drop function if exists audit() cascade; {audit}; {make}")).await;
        let said = failed(&url, &["distribute", "--buckets", "4"]).await;
        assert!(said.contains(name), "{name}: {said}");
        assert_eq!(number(&url, "select count(*) from sync_layout").await, 0, "nothing was begun");
        sql(&url, undo).await;
    }
    for count in ["0", "1", "65"] {
        failed(&url, &["distribute", "--buckets", count]).await;
    }
    assert_eq!(number(&url, "select count(*) from sync_layout").await, 0);
    distribute(&url).await;
}

/// As if a migration of the main schema had been written today.
async fn lack_a_migration(url: &str) {
    sql(url, "delete from _sqlx_migrations where version = 10; drop function sync_in_history(uuid, uuid[])").await;
}

#[tokio::test]
async fn while_the_main_schema_is_migrated_programs_wait_and_never_find_it_empty() {
    let url = create_database().await;
    distribute(&url).await;
    sql(&url, "select sync_push('u', 'a', 'c', '[{\"table\":\"t\",\"id\":\"r\",\"op\":\"insert\",\"data\":{}}]')")
        .await;
    lack_a_migration(&url).await;
    let mut holding = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("begin; lock table _sqlx_migrations in exclusive mode").execute(&mut holding).await.unwrap();
    let mut migrating = Command::new(EXE).arg("migrate").env("DATABASE_URL", &url).kill_on_drop(true).spawn().unwrap();
    let waits = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'mana-sync migrate' and wait_event_type = 'Lock'";
    eventually("it is in the middle", async || number(&url, waits).await == 1).await;
    let mut program = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("set lock_timeout = '200ms'").execute(&mut program).await.unwrap();
    for question in [
        "sync_changes",
        "sync_heads",
        "sync_records('u', 'a')",
        "sync_usage('u')",
        "(select distinct on (record_id) * from sync_changes) as s",
    ] {
        let found: Result<i64, _> =
            sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {question}"))).fetch_one(&mut program).await;
        match found {
            Ok(found) => assert_eq!(found, 1, "{question}"),
            Err(error) => {
                let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
                assert_eq!(code.as_deref(), Some("55P03"), "it waits: {error}");
            }
        }
    }
    migrating.kill().await.unwrap();
    sqlx::raw_sql("rollback").execute(&mut holding).await.unwrap();
    eventually("its session has ended", async || number(&url, waits.split(" and wait").next().unwrap()).await == 0)
        .await;
    assert_eq!(number(&url, "select count(*) from sync_changes").await, 1, "killed, it did nothing");
    assert!(succeeded(&url, &["migrate"]).await.contains("1 applied"));
    assert_eq!(number(&url, "select count(*) from sync_changes").await, 1);
}

#[tokio::test]
async fn a_right_that_was_taken_does_not_come_back_with_a_migration() {
    let url = create_database().await;
    let role = format!("reports_{}", url.rsplit('/').next().unwrap());
    succeeded(&url, &["migrate"]).await;
    sql(&url, format!("create role {role}; grant select on sync_changes, sync_heads to {role}; grant insert (user_id) on sync_changes to {role}")).await;
    distribute(&url).await;
    let may =
        async |what: &str| number(&url, format!("select count(*) where {}", what.replace("ROLE", &role))).await == 1;
    let (reads, reads_heads, writes) = (
        "has_table_privilege('ROLE', 'sync_changes', 'select')",
        "has_table_privilege('ROLE', 'sync_heads', 'select')",
        "has_column_privilege('ROLE', 'sync_changes', 'user_id', 'insert')",
    );
    assert!(may(reads).await && may(reads_heads).await && may(writes).await, "they went with the tables");
    sql(
        &url,
        format!("revoke select on sync_changes from {role}; revoke insert (user_id) on sync_changes from {role}"),
    )
    .await;
    lack_a_migration(&url).await;
    assert!(succeeded(&url, &["migrate"]).await.contains("1 applied"));
    assert!(!may(reads).await && !may(writes).await && may(reads_heads).await);
}

/// Takes away what the newest migration that adds a column added, wherever it did.
async fn undo_trim_horizon(url: &str) {
    let buckets: Vec<String> = (0..BUCKETS).map(|bucket| format!("sync_b{bucket:02}")).collect();
    let parts: Vec<String> = buckets.iter().map(|bucket| format!("select * from {bucket}.sync_heads")).collect();
    let forget = "_sqlx_migrations where version = 16";
    let mut undo = format!(
        "drop view sync_heads; alter table sync_heads_undistributed drop column trim_horizon; delete from {forget}"
    );
    for bucket in buckets {
        undo += &format!("; alter table {bucket}.sync_heads drop column trim_horizon; delete from {bucket}.{forget}");
    }
    sql(url, format!("{undo}; create view sync_heads as {}", parts.join(" union all "))).await;
}

#[tokio::test]
async fn a_column_of_a_later_migration_reaches_tables_and_views() {
    let url = create_database().await;
    distribute(&url).await;
    undo_trim_horizon(&url).await;
    assert!(succeeded(&url, &["migrate"]).await.contains("1 applied"));
    let columns = "select count(*) from pg_attribute a join pg_class c on c.oid = a.attrelid
        where a.attname = 'trim_horizon' and not a.attisdropped and c.relname ~ '^sync_heads(_undistributed)?$'";
    assert_eq!(
        number(&url, columns).await,
        i64::from(BUCKETS) + 2,
        "of the buckets, the main schema, and the view of all"
    );
}

#[tokio::test]
async fn later_migrations_reach_the_main_schema_and_every_bucket() {
    let url = create_database().await;
    distribute(&url).await;
    // As if the newest one had been written today.
    sql(&url, "delete from _sqlx_migrations where version = 10; drop function sync_in_history(uuid, uuid[])").await;
    sql(&url, "delete from sync_b03._sqlx_migrations where version = 10; drop function sync_b03.sync_in_history(uuid, uuid[])").await;
    assert!(succeeded(&url, &["migrate"]).await.contains("1 applied"));
    for schema in ["public", "sync_b03"] {
        let there = format!(
            "select count(*) from pg_proc where proname = 'sync_in_history' and pronamespace = '{schema}'::regnamespace and pronargs = 2"
        );
        assert_eq!(number(&url, there).await, 2, "{schema}");
    }
    // As if it had been killed while the tables had their names.
    for table in ["sync_heads", "sync_changes"] {
        let names = format!(
            "alter view {table} rename to {table}_of_buckets; alter table {table}_undistributed rename to {table}"
        );
        sql(&url, names).await;
    }
    succeeded(&url, &["migrate"]).await;
    let views = "select count(*) from pg_class where relkind = 'v' and relname in ('sync_heads', 'sync_changes', 'sync_history', 'sync_erased')";
    assert_eq!(number(&url, views).await, 4);
    sql(&url, "insert into sync_changes (app_id, table_name, record_id, user_id, op, data) values ('a', 't', 'r', 'u', 'insert', '{}')").await;
    assert_eq!(number(&url, "select count(*) from sync_changes").await, 1);
}
