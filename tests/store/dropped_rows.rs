//! What a trigger of the tables' owner drops is not taken for stored (G1).

use crate::support::*;
use futures_util::future::join_all;
use serde_json::{Value, json};

const AT: &str = "2024-01-01T10:05:00.000Z";

/// As an audit that was meant to run after the insert: it returns null.
const AUDIT: &str = "
create function audit() returns trigger language plpgsql as $$
begin
    return case when new.record_id like 'lost%' then null else new end;
end $$;
do $$
declare
    changes regclass;
begin
    for changes in select oid from pg_class where relname = 'sync_changes' and relkind = 'r' loop
        execute format('create trigger audit before insert on %s for each row execute function public.audit()', changes);
    end loop;
end $$";

fn body(records: &[&str]) -> Value {
    let changes: Vec<Value> = records.iter().map(|record| insert("todos", record, "Milk", AT)).collect();
    json!({ "clientId": "phone", "since": live::NO_DELTA, "changes": changes })
}

async fn execute(cluster: &Cluster, sql: &'static str) {
    sqlx::raw_sql(sql).execute(&cluster.pool).await.unwrap();
}

#[tokio::test]
async fn a_push_whose_rows_a_trigger_drops_is_refused_until_the_trigger_is_gone() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    cluster.pushed(&user, "todo", body(&["first"])).await;
    execute(&cluster, AUDIT).await;

    for records in [&["lost"][..], &["kept", "lost too"], &["lost", "lost too", "kept too"]] {
        let (status, answer) = cluster.push(&user, "todo", body(records)).await;
        assert_eq!((status.as_u16(), &answer["error"]), (503, &json!("unavailable")), "{records:?}: {answer}");
    }
    assert!(cluster.nodes[0].log().contains("a trigger on sync_changes drops rows"), "{}", cluster.nodes[0].log());
    cluster.pushed(&user, "todo", body(&["kept", "kept last"])).await;

    // Others are not refused, in whichever statement their pushes are.
    let others: Vec<User> = (0..40).map(|_| cluster.user()).collect();
    let pushes = others.iter().zip(0..).map(async |(other, n)| {
        let record = if n % 4 == 0 { "lost" } else { "kept" };
        (record, cluster.push(other, "todo", body(&[record])).await.0.as_u16())
    });
    for (record, status) in join_all(pushes).await {
        assert_eq!(status, if record == "lost" { 503 } else { 200 }, "{record}");
    }

    execute(&cluster, "drop function audit() cascade").await;
    let all = ["first", "kept", "kept too", "kept last", "lost", "lost too"];
    cluster.pushed(&user, "todo", body(&all)).await;
    assert_eq!(cluster.stored(&user).await, all.len() as i64, "each once");
}

#[tokio::test]
async fn a_program_is_told_of_what_a_trigger_drops() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    execute(&cluster, AUDIT).await;
    let changes = body(&["kept", "lost"])["changes"].clone();
    let push = sqlx::query("select sync_push($1, 'todo', 'importer', $2)").bind(&user.id).bind(changes);
    let error = push.execute(&cluster.pool).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("09000"), "{error}");
    assert_eq!(cluster.stored(&user).await, 0);
}
