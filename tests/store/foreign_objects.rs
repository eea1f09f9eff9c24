//! What others have put on the tables and fails is not the client's fault: a client that is told that a change cannot be
//! stored gives it up (G1).

use crate::support::*;
use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

const AT: &str = "2024-01-01T10:05:00.000Z";

async fn on_changes(cluster: &Cluster, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(on_each("sync_changes", statement))).execute(&cluster.pool).await.unwrap();
}

fn body(record: &str, title: &str) -> Value {
    json!({ "clientId": "phone", "since": live::NO_DELTA, "changes": [insert("todos", record, title, AT)] })
}

#[tokio::test]
async fn a_change_that_somebody_elses_object_fails_on_is_not_given_up() {
    let cluster = Cluster::start(1).await;
    let raise = "create function fails() returns trigger language plpgsql as $$
        begin
            perform (new.data ->> 'title')::int;
            return new;
        end $$";
    sqlx::raw_sql(raise).execute(&cluster.pool).await.unwrap();
    let user = cluster.user();
    for (n, (put, take_away)) in [
        (
            "create trigger fails before insert on %1$s for each row execute function public.fails()",
            "drop trigger fails on %1$s",
        ),
        (
            "alter table %1$s add mine int generated always as ((data ->> 'title')::int) stored",
            "alter table %1$s drop mine",
        ),
        (
            "alter table %1$s add constraint mine check ((data ->> 'title')::int > 0)",
            "alter table %1$s drop constraint mine",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        // It must not fail on what is stored already.
        on_changes(&cluster, "truncate %1$s").await;
        on_changes(&cluster, put).await;
        let refused = body(&format!("refused {n}"), "Milk");
        // Alone, and beside those of others.
        for others in [0, 20] {
            let others: Vec<User> = (0..others).map(|_| cluster.user()).collect();
            let stored = join_all(others.iter().map(|other| cluster.push(other, "todo", body("stored", "12"))));
            let ((status, answer), stored) = tokio::join!(cluster.push(&user, "todo", refused.clone()), stored);
            assert_eq!((status.as_u16(), &answer["error"]), (500, &json!("internal")), "{put}: {answer}");
            assert!(stored.iter().all(|(status, _)| status.as_u16() == 200), "{put}: {stored:?}");
        }
        on_changes(&cluster, take_away).await;
        cluster.pushed(&user, "todo", refused).await;
    }
    let log = cluster.nodes[0].log();
    assert!(log.contains("the database refused a statement") && log.contains("SQLSTATE 22P02"), "{log}");
}
