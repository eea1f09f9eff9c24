//! What a trigger of the tables' owner drops is not taken for stored (G1).

use crate::support::*;
use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use std::time::{Duration, Instant};

const AT: &str = "2024-01-01T10:05:00.000Z";

/// As an audit that was meant to run after the insert: it returns null.
const AUDIT: &str = "
create function audit() returns trigger language plpgsql as $$
begin
    return case when new.record_id like 'lost%' then null else new end;
end $$";

fn body(records: &[&str]) -> Value {
    let changes: Vec<Value> = records.iter().map(|record| insert("todos", record, "Milk", AT)).collect();
    json!({ "clientId": "phone", "since": live::NO_DELTA, "changes": changes })
}

async fn execute(cluster: &Cluster, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&cluster.pool).await.unwrap();
}

#[tokio::test]
async fn a_push_whose_rows_a_trigger_drops_is_refused_until_the_trigger_is_gone() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    cluster.pushed(&user, "todo", body(&["first"])).await;
    execute(&cluster, AUDIT).await;
    let put = "create trigger audit before insert on %1$s for each row execute function public.audit()";
    execute(&cluster, &on_each("sync_changes", put)).await;

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

/// As a guard that was meant for programs: nobody's head changes.
const GUARD: &str = "
create function guard() returns trigger language plpgsql as $$
begin
    return case when new.user_id like 'guarded%' then null else new end;
end $$";

#[tokio::test]
async fn a_trigger_that_drops_heads_is_named_at_once() {
    // A push to a locked log would wait this long.
    let cluster = Cluster::start_with(1, &[("QUEUE_TIMEOUT_MS", "60000")]).await;
    let (user, other) = (cluster.user_named("guarded"), cluster.user());
    for event in ["insert", "update"] {
        execute(&cluster, GUARD).await;
        let put = format!("create trigger guard before {event} on %1$s for each row execute function public.guard()");
        execute(&cluster, &on_each("sync_heads", &put)).await;
        // Alone and beside others.
        for others in [0, 20] {
            let begun = Instant::now();
            let refused = cluster.push(&user, "todo", body(&[event]));
            let stored = join_all((0..others).map(|n| {
                let changes = json!([insert("todos", &format!("{event} {n}"), "Milk", AT)]);
                cluster.push(
                    &other,
                    "todo",
                    json!({ "clientId": "phone", "since": live::NO_DELTA, "changes": changes }),
                )
            }));
            let ((status, answer), stored) = tokio::join!(refused, stored);
            assert_eq!((status.as_u16(), &answer["error"]), (503, &json!("unavailable")), "{event}: {answer}");
            assert!(stored.iter().all(|(status, _)| status.as_u16() == 200), "{event}: {stored:?}");
            assert_soon(&cluster, Duration::from_secs(20), event, begun.elapsed()).await;
        }
        execute(&cluster, "drop function guard() cascade").await;
        cluster.pushed(&user, "todo", body(&[event])).await;
    }
    assert!(cluster.nodes[0].log().contains("a trigger on sync_heads drops rows"), "{}", cluster.nodes[0].log());
    assert_eq!(cluster.stored(&user).await, 2);
}

#[tokio::test]
async fn a_program_is_told_of_what_a_trigger_drops() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    execute(&cluster, AUDIT).await;
    let put = "create trigger audit before insert on %1$s for each row execute function public.audit()";
    execute(&cluster, &on_each("sync_changes", put)).await;
    let changes = body(&["kept", "lost"])["changes"].clone();
    let push = sqlx::query("select sync_push($1, 'todo', 'importer', $2)").bind(&user.id).bind(changes);
    let error = push.execute(&cluster.pool).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("09000"), "{error}");
    assert_eq!(cluster.stored(&user).await, 0);
}
