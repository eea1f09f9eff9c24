//! Migrations of a database whose logs are distributed.

use super::*;

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

/// Running this version's command again would not help.
#[tokio::test]
async fn what_an_earlier_version_distributes_that_version_has_to_finish() {
    let url = create_database().await;
    distribute(&url).await;
    sql(&url, "update sync_layout set is_moving = true").await;
    lack_a_migration(&url).await;
    let buckets = BUCKETS.to_string();
    for command in [&["migrate"][..], &["distribute", "--buckets", &buckets]] {
        let said = failed(&url, command).await;
        assert!(said.contains("an earlier version is distributing the logs"), "{said}");
    }
}

/// As after a restore next to another copy: the empty schema with the previous name stands for that copy.
#[tokio::test]
async fn after_a_migration_a_schema_that_was_renamed_works_as_before() {
    for is_distributed in [false, true] {
        let url = create_database().await;
        succeeded(&url, &["migrate"]).await;
        if is_distributed {
            distribute(&url).await;
        }
        sql(&url, "alter schema public rename to \"Copy\"; create schema public").await;
        let url = format!("{url}?options=-csearch_path%3D%22Copy%22");
        succeeded(&url, &["migrate"]).await;
        for statement in [
            "select sync_push('u', 'a', 'c', '[{\"table\":\"t\",\"id\":\"r\",\"op\":\"insert\",\"data\":{}}]')",
            "insert into sync_changes (user_id, app_id, table_name, record_id, op, data) values ('u', 'a', 't', 's', 'insert', '{}')",
            "delete from sync_changes where record_id = 's'",
        ] {
            sql(&url, statement).await;
        }
        succeeded(&url, &["compact", "--compact-after-ms", "1"]).await;
        assert_eq!(number(&url, "select count(*) from sync_records('u', 'a')").await, 1);
        assert!(succeeded(&url, &["erase", "--user", "u", "--yes"]).await.contains("1 change"));
        let elsewhere = "
            select count(*) from pg_proc p
            where p.pronamespace = quote_ident(current_schema())::regnamespace
              and exists (select from unnest(p.proconfig) as setting
                          where setting like 'search_path=%' and setting <> 'search_path=\"Copy\", pg_temp')";
        assert_eq!(number(&url, elsewhere).await, 0, "every function with a search path looks there");
    }
}

/// Removes everywhere what the newest migration with a new column added.
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
    // As if it had been killed while the tables had the names of the views.
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

/// A migration notes on the table of heads which replicas it requires; replicas look at the relation with that name,
/// the view.
#[tokio::test]
async fn replicas_that_a_migration_leaves_behind_are_refused_where_logs_are_distributed_too() {
    let url = create_database().await;
    distribute(&url).await;
    let needed = "select substring(obj_description('sync_heads'::regclass) from '\\d+')::int8";
    assert_eq!(number(&url, needed).await, 11);
    lack_a_migration(&url).await;
    sql(&url, "comment on table sync_heads_undistributed is 'replicas must know migration 99'").await;
    succeeded(&url, &["migrate"]).await;
    assert_eq!(number(&url, needed).await, 99);
    let said = failed(&url, &["usage"]).await;
    assert!(said.contains("start a newer version"), "{said}");
}
