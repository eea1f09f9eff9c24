//! The plans of the store's own statements.

use crate::statements::reads;
use crate::support::*;
use serde_json::Value;
use sqlx::Row;

/// Returns the plan of one of the store's statements, as its connections plan it: once, whatever its parameters are.
async fn generic_plan(cluster: &Cluster, sql: &mana_sync::db::Sql) -> Value {
    let mut transaction = cluster.pool.begin().await.unwrap();
    for (setting, value) in mana_sync::store::PLANS {
        let set = sqlx::AssertSqlSafe(format!("set local {setting} = {value}"));
        sqlx::raw_sql(set).execute(&mut *transaction).await.unwrap();
    }
    let types: Vec<&str> = sql.types.iter().map(|kind| kind.name()).collect();
    let list = |items: &[&str]| if items.is_empty() { String::new() } else { format!("({})", items.join(", ")) };
    let nulls = list(&vec!["null"; types.len()]);
    let prepare = format!("prepare explained {} as {}", list(&types), sql.text);
    sqlx::raw_sql(sqlx::AssertSqlSafe(prepare)).execute(&mut *transaction).await.unwrap();
    let explain = sqlx::AssertSqlSafe(format!("explain (format json) execute explained {nulls}"));
    let plan = sqlx::raw_sql(explain).fetch_one(&mut *transaction).await.unwrap();
    sqlx::raw_sql("deallocate explained").execute(&mut *transaction).await.unwrap();
    plan.get(0)
}

/// They are planned once per connection, regardless of what is stored later.
#[tokio::test]
async fn the_stores_own_statements_read_by_indexes_alone() {
    let cluster = shared().await;
    for (name, sql) in mana_sync::store::statements() {
        let mut found = Vec::new();
        reads(&generic_plan(cluster, sql).await, &mut found);
        let tables = found.iter().filter(|node| node.starts_with("Index") || node.starts_with("Bitmap"));
        // Trimmed changes are in partitions, of which there are none yet. Doubts are about settings.
        assert!(tables.count() > 0 || ["trimmed", "doubts"].contains(&name), "{name} reads no table? {found:?}");
        assert!(!found.iter().any(|node| node.starts_with("Seq Scan")), "{name}: {found:?}");
    }
}

/// Collects the scans of logs that look for a record among all of their rows.
fn searches(plan: &Value, found: &mut Vec<String>) {
    match plan {
        Value::Array(parts) => parts.iter().for_each(|part| searches(part, found)),
        Value::Object(node) => {
            let of = |name: &str| node.get(name).and_then(Value::as_str).unwrap_or("");
            if of("Index Name") == "sync_changes_by_log" && of("Filter").contains("record_id") {
                found.push(of("Filter").to_owned());
            }
            node.values().for_each(|part| searches(part, found));
        }
        _ => {}
    }
}

/// Adds changes of many logs, of which one is long.
async fn fill(cluster: &Cluster, rows: usize, long: usize) {
    let fill = format!(
        "set session_replication_role = replica;
         insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at,
                                   log_id, size)
         select gen_random_uuid(), 'todo', 'tasks', 'record ' || n, 'user ' || log, 'update', '{{}}', '{{}}', 'device ' || n % 3,
                clock_timestamp() + n * interval '1 microsecond', md5(log::text)::uuid, 4
         from (select greatest(n - {long}, 0) / 2 as log, n from generate_series(1, {rows}) n) rows;
         reset session_replication_role"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(fill)).execute(&cluster.pool).await.unwrap();
}

/// PostgreSQL's statistics are of the table as a whole. If most logs are short, they suggest that reading a part of a
/// log is as good as reading a record; and then each record of a page would be looked for in the whole of a long one.
#[tokio::test]
async fn a_record_is_never_looked_for_in_its_log_however_short_most_logs_are() {
    let cluster = Cluster::start(1).await;
    fill(&cluster, 22_000, 20_000).await;
    sqlx::raw_sql("analyze sync_changes").execute(&cluster.pool).await.unwrap();
    for (name, sql) in mana_sync::store::statements() {
        let mut found = Vec::new();
        searches(&generic_plan(&cluster, sql).await, &mut found);
        assert!(found.is_empty(), "{name}: {found:?}");
    }
}

/// Without statistics, PostgreSQL takes all logs and records for equally short. What is planned then may be used until
/// the table is analyzed, however much is stored meanwhile.
#[tokio::test]
async fn a_record_is_never_looked_for_in_its_log_before_the_table_is_analyzed() {
    let cluster = Cluster::start(1).await;
    let unseen = "alter table sync_changes set (autovacuum_enabled = off)";
    sqlx::raw_sql(unseen).execute(&cluster.pool).await.unwrap();
    for rows in [500, 5_000, 15_000] {
        fill(&cluster, rows, rows * 9 / 10).await;
        for (name, sql) in mana_sync::store::statements() {
            let (plan, mut found) = (generic_plan(&cluster, sql).await, Vec::new());
            searches(&plan, &mut found);
            assert!(found.is_empty(), "{rows}, {name}: {found:?}");
            let mut read = Vec::new();
            reads(&plan, &mut read);
            let reads_log = read.iter().any(|node| node.contains("sync_changes_by_log"));
            assert!(name != "own writes" || !reads_log, "{rows}, {name}: {read:?}");
        }
    }
}
