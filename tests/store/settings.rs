//! Session defaults of a database or role do not affect what is stored and read.

use crate::support::live::{Events, NO_DELTA, all_ids, stream_of};
use crate::support::*;
use futures_util::future::join_all;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

const AT: &str = "2024-01-01T10:05:00.000Z";
const LATER: &str = "2024-01-01T10:06:00.000Z";

/// A cluster over a database with these session defaults.
async fn start(settings: &[&str]) -> Cluster {
    let url = create_database().await;
    let name = url.rsplit_once('/').unwrap().1.to_owned();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    for setting in settings {
        let sql = format!("alter database {name} set {setting}");
        sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
    Cluster::start_over_with(&url, 2, vec![]).await
}

async fn works_as_always(settings: &[&str]) {
    let cluster = start(settings).await;
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
    let backlog = Events::open(stream_of(&cluster, 1, &user, &format!("since={BEGINNING}"))).await.backlog().await;
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
    works_as_always(&["temp_file_limit = 0", "work_mem = '64kB'"]).await;
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
