//! Session defaults of a database or role do not affect what is stored and read.

use crate::support::live::{Events, NO_DELTA, all_ids, metric, stream_of};
use crate::support::*;
use futures_util::future::join_all;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

const AT: &str = "2024-01-01T10:05:00.000Z";
const LATER: &str = "2024-01-01T10:06:00.000Z";

/// A database with these session defaults, without a schema.
async fn database_with(settings: &[&str]) -> String {
    let url = create_database().await;
    let name = url.rsplit_once('/').unwrap().1.to_owned();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    for setting in settings {
        let sql = format!("alter database {name} set {setting}");
        sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
    url
}

/// Runs a command; returns what it prints.
async fn command(url: &str, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
    let done = command.args(arguments).env("DATABASE_URL", url).output().await.unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

async fn works_as_always(settings: &[&str]) {
    works_over(&database_with(settings).await, settings).await;
}

/// Serves, and runs the commands, over this database.
async fn works_over(url: &str, settings: &[&str]) {
    let cluster = Cluster::start_over_with(url, 2, vec![]).await;
    stores_and_reads(&cluster, settings).await;
    for replica in 0..2 {
        assert_eq!(metric(&cluster, replica, "mana_sync_publish_failures_total").await, 0.0, "{settings:?}");
        assert_eq!(metric(&cluster, replica, "mana_sync_listener_connects_total").await, 1.0, "{settings:?}");
    }
    let user = cluster.user();
    let titles = [("laptop", "old", AT), ("phone", "new", LATER)];
    for (client, title, at) in titles {
        let change = update("todos", "a", "title", title, at);
        let body = json!({ "clientId": client, "since": NO_DELTA, "changes": [change] });
        cluster.pushed(&user, "todo", body).await;
    }
    let compacted = command(url, &["compact", "--user", &user.id]).await;
    let why = command(url, &["why", "--user", &user.id, "--app", "todo", "--table", "todos", "--record", "a"]).await;
    assert!(why.contains("old") && why.contains("new") && why.contains("2024-01-01T10:06:00.000Z"), "{compacted}{why}");
    assert!(command(url, &["usage", "--top", "100"]).await.contains(&user.id), "{settings:?}");
    assert!(command(url, &["export", "--user", &user.id]).await.contains("new"), "{settings:?}");
    command(url, &["erase", "--user", &user.id, "--yes"]).await;
    assert_eq!(command(url, &["export", "--user", &user.id]).await, "", "{settings:?}");
}

/// The same after the logs of a database that served have been distributed; if all tests have buckets, before it served.
async fn works_when_distributed(settings: &[&str]) {
    let url = database_with(settings).await;
    let cluster = Cluster::start_over_with(&url, 1, vec![]).await;
    let user = cluster.user();
    let body = json!({ "clientId": "phone", "since": NO_DELTA, "changes": [insert("todos", "a", "x", AT)] });
    cluster.pushed(&user, "todo", body).await;
    drop(cluster);
    let buckets = std::env::var(TEST_BUCKETS).unwrap_or("2".to_owned());
    command(&url, &["distribute", "--buckets", &buckets]).await;
    assert!(command(&url, &["export", "--user", &user.id]).await.contains(r#""x""#), "{settings:?}");
    stores_and_reads(&Cluster::start_over_with(&url, 2, vec![]).await, settings).await;
}

async fn stores_and_reads(cluster: &Cluster, settings: &[&str]) {
    let user = cluster.user();
    // All at once to one log, on both replicas, including large ones.
    let push = |n: usize| {
        let count = if n.is_multiple_of(5) { 300 } else { 1 };
        let changes = (0..count).map(|at| insert("todos", &format!("{n}-{at}"), "x", AT)).collect::<Vec<_>>();
        let body = json!({ "clientId": format!("device{}", n % 4), "since": NO_DELTA, "changes": changes });
        cluster.pushed_to(n % 2, &user, "todo", body)
    };
    join_all((0..40).map(push)).await;
    let pages = cluster.pull_all(&user, "todo", "todos", BEGINNING, Some("fresh")).await;
    assert_eq!(ids_of(&pages).len(), 32 + 8 * 300, "{settings:?}");
    let backlog = Events::open(stream_of(cluster, 1, &user, &format!("since={BEGINNING}"))).await.backlog().await;
    assert_eq!(all_ids(&backlog).len(), 32 + 8 * 300, "{settings:?}");

    // The stamps of inserts are found, and values that lost to a device's own are not sent to it.
    let body = |client: &str, change| json!({ "clientId": client, "since": NO_DELTA, "changes": [change] });
    let user = cluster.user();
    cluster.pushed(&user, "todo", body("laptop", update("todos", "a", "title", "theirs", AT))).await;
    cluster.pushed(&user, "todo", body("phone", insert("todos", "a", "mine", LATER))).await;
    let page = cluster.pulled(&user, "todo", "todos", AT, Some("phone")).await;
    assert_eq!(changes(&page), json!([]), "{settings:?}");
    let page = cluster.pulled(&user, "todo", "todos", AT, Some("tablet")).await;
    assert_eq!(ids(&page), ["a", "a"], "{settings:?}");
}

#[tokio::test]
async fn transactions_that_are_to_be_serializable() {
    works_as_always(&["default_transaction_isolation = 'serializable'"]).await;
    works_as_always(&["default_transaction_isolation = 'repeatable read'"]).await;
}

#[tokio::test]
async fn texts_dates_and_zones_that_are_written_in_other_ways() {
    works_as_always(&[
        "standard_conforming_strings = off",
        "escape_string_warning = off",
        "backslash_quote = off",
        "datestyle = 'German, DMY'",
        "intervalstyle = 'sql_standard'",
        "timezone = 'Pacific/Chatham'",
        "bytea_output = 'escape'",
        "extra_float_digits = -15",
        "transform_null_equals = on",
        "array_nulls = off",
        "client_encoding = 'LATIN1'",
    ])
    .await;
}

#[tokio::test]
async fn planners_that_have_other_ideas() {
    works_as_always(&[
        "enable_indexscan = off",
        "enable_nestloop = off",
        "enable_sort = off",
        "parallel_setup_cost = 0",
        "parallel_tuple_cost = 0",
        "min_parallel_table_scan_size = 0",
        "min_parallel_index_scan_size = 0",
        "max_parallel_workers_per_gather = 4",
        "jit = on",
        "jit_above_cost = 0",
        "from_collapse_limit = 1",
        "join_collapse_limit = 1",
        "work_mem = '64kB'",
        "synchronous_commit = off",
    ])
    .await;
}

#[tokio::test]
async fn names_plans_and_messages_as_only_a_few_want_them() {
    works_as_always(&[
        "quote_all_identifiers = on",
        "default_transaction_deferrable = on",
        "check_function_bodies = off",
        "xmloption = document",
        "client_min_messages = debug1",
        "row_security = off",
        "plan_cache_mode = force_custom_plan",
        "enable_bitmapscan = off",
        "enable_hashagg = off",
        "enable_hashjoin = off",
        "enable_incremental_sort = off",
        "enable_indexonlyscan = off",
        "enable_material = off",
        "enable_memoize = off",
        "enable_mergejoin = off",
        "geqo_threshold = 2",
        "max_stack_depth = '100kB'",
    ])
    .await;
}

#[tokio::test]
async fn plans_that_are_always_parallel() {
    // The name before and since PostgreSQL 16; a database may have settings of extensions, and so of any name with a dot.
    let mut connection = PgConnection::connect(&admin_url().await).await.unwrap();
    let name = "select name from pg_settings where name in ('force_parallel_mode', 'debug_parallel_query')";
    let name: String = sqlx::query_scalar(name).fetch_one(&mut connection).await.unwrap();
    works_as_always(&[&format!("{name} = on")]).await;
}

#[tokio::test]
async fn sessions_that_end_with_their_first_error() {
    works_as_always(&["exit_on_error = on"]).await;
}

#[tokio::test]
async fn no_room_for_temporary_files() {
    let settings = ["temp_file_limit = 0", "work_mem = '64kB'"];
    let url = database_with(&settings).await;
    stores_and_reads(&Cluster::start_over_with(&url, 2, vec![]).await, &settings).await;
    // What sorts everything needs some, and says so.
    let mut usage = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
    let done = usage.arg("usage").env("DATABASE_URL", &url).output().await.unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && said.contains("temp_file_limit is too low for a statement"), "{said}");
}

#[tokio::test]
async fn triggers_that_are_those_of_a_replica() {
    works_as_always(&["session_replication_role = replica"]).await;
}

#[tokio::test]
async fn time_limits_of_milliseconds() {
    works_as_always(&[
        "statement_timeout = 2",
        "lock_timeout = 2",
        "idle_in_transaction_session_timeout = 2",
        "idle_session_timeout = 50",
        "deadlock_timeout = 1",
    ])
    .await;
}

/// The server ends many of their sessions before their first statement.
#[tokio::test]
async fn sessions_that_may_be_idle_for_milliseconds() {
    let url = &database_with(&["idle_session_timeout = 2"]).await;
    for _ in 0..10 {
        command(url, &["migrate"]).await;
    }
}

#[tokio::test]
async fn time_limits_of_milliseconds_while_several_migrate() {
    let url = &database_with(&["statement_timeout = 20", "lock_timeout = 2"]).await;
    join_all((0..3).map(|_| command(url, &["migrate"]))).await;
}

#[tokio::test]
async fn logs_that_are_distributed_under_other_defaults() {
    works_when_distributed(&["quote_all_identifiers = on", "datestyle = 'German, DMY'", "bytea_output = 'escape'"])
        .await;
    works_when_distributed(&["exit_on_error = on", "statement_timeout = 2", "lock_timeout = 2"]).await;
    works_when_distributed(&["default_transaction_isolation = 'serializable'", "session_replication_role = replica"])
        .await;
}

/// PostgreSQL does not let a partitioned table name the default tablespace, even if that changes nothing.
#[tokio::test]
async fn a_tablespace_that_is_the_default_anyway() {
    works_as_always(&["default_tablespace = 'pg_default'", "temp_tablespaces = 'pg_default'"]).await;
    works_when_distributed(&["default_tablespace = 'pg_default'"]).await;
}

#[tokio::test]
async fn a_server_that_tells_everything_and_shows_nothing() {
    works_as_always(&[
        "client_min_messages = debug5",
        "log_min_messages = debug5",
        "log_statement = 'all'",
        "debug_print_plan = on",
        "track_activities = off",
        "default_toast_compression = 'pglz'",
        "max_parallel_workers = 0",
        "gin_fuzzy_search_limit = 1",
        "lo_compat_privileges = on",
        "update_process_title = off",
    ])
    .await;
}

/// Creates a database with these options.
async fn database_as(name: &str, options: &str) -> String {
    let admin = admin_url().await;
    let mut connection = PgConnection::connect(&admin).await.unwrap();
    let quoted = name.replace('"', "\"\"");
    let sql = format!("create database \"{quoted}\" template template0 {options}");
    sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let mut url: url::Url = admin.parse().unwrap();
    url.set_path(&name.replace('%', "%25"));
    url.to_string()
}

#[tokio::test]
async fn texts_that_are_sorted_and_compared_in_other_ways() {
    let unique = || uuid::Uuid::new_v4().simple().to_string();
    let mut connection = PgConnection::connect(&admin_url().await).await.unwrap();
    // PostgreSQL may be built without ICU.
    let has_icu = "select exists (select from pg_collation where collname = 'tr-x-icu')";
    let has_icu: bool = sqlx::query_scalar(has_icu).fetch_one(&mut connection).await.unwrap();
    let locales: &[&str] = if has_icu { &["tr-TR", "und-u-ks-level1-ka-shifted-kn-true-kf-upper"] } else { &[] };
    for locale in locales {
        let options = format!("encoding 'UTF8' locale 'C' locale_provider icu icu_locale '{locale}'");
        works_over(&database_as(&format!("t_{}", unique()), &options).await, &[*locale]).await;
    }
    works_over(&database_as(&format!("t_{}", unique()), "encoding 'UTF8' locale 'C'").await, &["C"]).await;
}

#[tokio::test]
async fn databases_and_roles_of_any_name() {
    let name = format!(r#"Datenbank "Ü" 100% 'a' {}"#, uuid::Uuid::new_v4().simple());
    let url = database_as(&name, "encoding 'UTF8'").await;
    works_over(&url, &[&name]).await;
    works_over(&url, &["again"]).await;
}

/// A schema of that name, such as the role's, is made for something else.
#[tokio::test]
async fn another_schema_comes_first_in_the_search_path() {
    let url = database_with(&[]).await;
    let name = url.rsplit_once('/').unwrap().1.to_owned();
    let cluster = Cluster::start_over_with(&url, 1, vec![]).await;
    let user = cluster.user();
    let body = json!({ "clientId": "phone", "since": NO_DELTA, "changes": [insert("todos", "a", "x", AT)] });
    cluster.pushed(&user, "todo", body).await;
    drop(cluster);
    // An application that also keeps its migrations with sqlx.
    let other = format!(
        "create schema other; create table other._sqlx_migrations (version bigint primary key, description text not null,
             installed_on timestamptz not null default now(), success boolean not null, checksum bytea not null,
             execution_time bigint not null);
         insert into other._sqlx_migrations values (1, 'theirs', now(), true, 'x', 1);
         alter database {name} set search_path = other, public"
    );
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(other)).execute(&mut connection).await.unwrap();
    command(&url, &["migrate"]).await;
    works_over(&url, &["search_path"]).await;
    assert!(command(&url, &["export", "--user", &user.id]).await.contains(r#""x""#));
    let made =
        "select count(*) from pg_class where relnamespace = 'other'::regnamespace and relkind in ('r', 'v', 'p')";
    let made: i64 = sqlx::query_scalar(made).fetch_one(&mut connection).await.unwrap();
    assert_eq!(made, 1, "nothing is made in it");
}
