//! The schema changes under a running replica: requests are answered 503, not 500, nobody is disconnected, and readiness
//! says why, until it is changed back or a replica that knows it is started.

use crate::support::live::*;
use crate::support::*;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

const AT: &str = "2024-01-01T10:05:00.000Z";

fn one(id: &str) -> Value {
    json!({ "clientId": "phone", "changes": [insert("todos", id, "Milk", AT)] })
}

/// Changes a table, in each bucket.
async fn change(cluster: &Cluster, table: &str, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(on_each(table, statement))).execute(&cluster.pool).await.unwrap();
}

async fn readiness(cluster: &Cluster) -> String {
    cluster.get("/health/ready").await.text
}

/// The requests with which a client begins, and goes on.
fn requests(cluster: &Cluster, user: &User) -> [(&'static str, reqwest::RequestBuilder); 3] {
    let get = |path: String| cluster.request(user, Method::GET, &path);
    let push = cluster.request(user, Method::POST, &format!("/sync/{APP}")).header("Content-Type", "application/json");
    [
        ("push", push.body(one("meanwhile").to_string())),
        ("push with a delta", {
            let push = cluster.request(user, Method::POST, &format!("/sync/{APP}"));
            let body = json!({ "clientId": "tablet", "since": BEGINNING, "changes": [] });
            push.header("Content-Type", "application/json").body(body.to_string())
        }),
        ("pull", get(format!("/sync/{APP}/pull?collection=todos&since={BEGINNING}"))),
    ]
}

#[tokio::test]
async fn a_schema_that_changes_under_a_replica_costs_503_until_it_is_changed_back() {
    let cluster = Cluster::start_with(1, &[("READY_GRACE_MS", "0"), ("RECONCILE_MS", "200")]).await;
    for (n, (table, break_it, mend_it, refused, reason)) in [
        // Undefined columns, of either table.
        (
            "sync_changes",
            "alter table %1$s rename data to mine",
            "alter table %1$s rename mine to data",
            &["push", "push with a delta", "pull"][..],
            "sync_changes.data",
        ),
        (
            "sync_heads",
            "alter table %1$s rename head to mine",
            "alter table %1$s rename mine to head",
            &["push", "push with a delta", "pull"],
            "sync_heads.head",
        ),
        // Of another type: undefined operators, and values that do not fit.
        (
            "sync_changes",
            "alter table %1$s rename client_id to mine; alter table %1$s alter mine drop not null, add client_id bytea",
            "alter table %1$s drop client_id; alter table %1$s rename mine to client_id",
            &["push", "push with a delta", "pull"],
            "",
        ),
        // Null where there was never null.
        (
            "sync_changes",
            "alter table %1$s rename record_id to mine; alter table %1$s alter mine drop not null, add record_id text",
            "delete from %1$s where mine is null; alter table %1$s drop record_id;
             alter table %1$s rename mine to record_id",
            &["push with a delta", "pull"],
            "",
        ),
        // A value that this version does not write.
        (
            "sync_changes",
            "alter table %1$s add mine text not null default ''1''; alter table %1$s alter mine drop default",
            "alter table %1$s drop mine",
            &["push"],
            "",
        ),
        // No such table.
        (
            "sync_heads",
            "alter table %1$s rename to elsewhere",
            "",
            &["push", "push with a delta", "pull"],
            "sync_heads",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let user = cluster.user();
        cluster.pushed(&user, APP, one("before")).await;
        let mut stream = Events::open(stream_of(&cluster, 0, &user, "collections=todos")).await;
        stream.backlog().await;
        let mut socket = socket(&cluster, 0, &user, None, None).await;
        change(&cluster, table, &break_it.replace("''", "'")).await;
        for _ in 0..2 {
            for (name, request) in requests(&cluster, &user) {
                if refused.contains(&name) {
                    let reply = Reply::to(request).await;
                    reply.refused(503, "unavailable");
                    assert!(reply.header("retry-after").is_some(), "{reply:?}");
                }
            }
        }
        // A stream that is opened now waits, too.
        let mut late = Events::open(stream_of(&cluster, 0, &user, "collections=todos")).await;
        if !reason.is_empty() {
            eventually("readiness says why", async || readiness(&cluster).await.contains(reason)).await;
        }
        if reason == "sync_changes.data" {
            // The reconciler wakes the stream, which cannot read.
            let stalled = "update %1$s set head = head + interval '20 microseconds'";
            change(&cluster, "sync_heads", stalled).await;
            woken(&mut socket).await;
        }
        match mend_it {
            "" => change(&cluster, "elsewhere", "alter table %1$s rename to sync_heads").await,
            mend_it => change(&cluster, table, mend_it).await,
        }
        eventually(&format!("they are served again: {n}"), async || {
            cluster.push(&user, APP, one("after")).await.0 == StatusCode::OK
        })
        .await;
        for stream in [&mut stream, &mut late] {
            assert_eq!(stream.until("after").await.last().unwrap(), "after", "it was not closed");
        }
        woken(&mut socket).await;
        eventually("it is ready", async || cluster.get("/health/ready").await.status.is_success()).await;
    }
    let log = cluster.nodes[0].log();
    assert!(log.contains("SQLSTATE 42703") && !log.contains("a request failed"), "{log}");
}

/// As CONTRIBUTING.md asks of a migration that takes something away.
#[tokio::test]
async fn a_replica_stops_once_the_schema_is_for_newer_ones() {
    let cluster = Cluster::start_with(1, &[("READY_GRACE_MS", "0"), ("DRAIN_DELAY_MS", "0")]).await;
    let user = cluster.user();
    let mut socket = socket(&cluster, 0, &user, None, None).await;
    let newer = "do $$ begin
        execute format('comment on %s sync_heads is %L',
            case (select relkind from pg_class where oid = 'sync_heads'::regclass) when 'v' then 'view' else 'table' end,
            'replicas must know migration 99');
        end $$";
    sqlx::raw_sql(newer).execute(&cluster.pool).await.unwrap();
    let status = tokio::time::timeout(TIMEOUT, cluster.nodes[0].process.ended()).await.expect("it must stop");
    assert!(!status.success());
    let log = cluster.nodes[0].log();
    assert!(log.contains("know migration 99") && log.contains("start a newer version"), "{log}");
    assert_eq!(closed(&mut socket).await, Some(1012), "it is told to connect elsewhere");
}
