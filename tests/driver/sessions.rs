//! Sessions that the server ends for reasons of its own, and statements that it no longer accepts: callers notice
//! nothing.

use super::support::*;
use futures_util::future::join_all;
use mana_dev::TemporaryPostgres;
use mana_sync::config::Secret;
use mana_sync::db::{Connector, Pool, PoolConfig, Sql};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

const AT: &str = "2024-01-01T10:05:00.000Z";
/// Concurrent users: as many as the pool may have connections.
const USERS: usize = 20;

/// A push of each user and a pull, all at once; each must succeed.
async fn ask_all(cluster: &Cluster, users: &[User], round: usize) {
    let asked = users.iter().map(async |user| {
        let id = format!("record-{round}");
        let body =
            json!({ "clientId": "phone", "since": live::NO_DELTA, "changes": [insert("todos", &id, "Milk", AT)] });
        let (status, answer) = cluster.push(user, "todo", body).await;
        assert_eq!(status, 200, "round {round}: {answer}");
        let (status, answer) = cluster.pull(user, "todo", "todos", BEGINNING, None).await;
        assert_eq!((status.as_u16(), ids(&answer).len()), (200, round + 1), "{answer}");
    });
    join_all(asked).await;
}

/// The sessions of a replica's pool.
const POOL: &str =
    "datname = current_database() and pid <> pg_backend_pid() and application_name = 'mana-sync replica-1'";

async fn count(pool: &PgPool) -> i64 {
    let count = AssertSqlSafe(format!("select count(*) from pg_stat_activity where {POOL}"));
    sqlx::query_scalar(count).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn sessions_that_were_idle_for_too_long_are_replaced() {
    let settings = [("idle_session_timeout".to_owned(), "1s".to_owned())];
    let postgres = TemporaryPostgres::start(Path::new(".dev"), settings.into()).await.unwrap();
    let cluster = Cluster::start_on(&postgres.server().admin_url(), 1, &[]).await;
    let users: Vec<User> = (0..USERS).map(|_| cluster.user()).collect();
    for round in 0..3 {
        ask_all(&cluster, &users, round).await;
        eventually("the pool's sessions have ended", async || count(&cluster.pool).await <= 1).await;
    }
    // A listener is idle while there are no notifications.
    assert_eq!(live::metric(&cluster, 0, "mana_sync_listener_connects_total").await, 1.0);
}

#[tokio::test]
async fn sessions_that_an_administrator_ends_are_replaced() {
    let cluster = Cluster::start(1).await;
    let users: Vec<User> = (0..USERS).map(|_| cluster.user()).collect();
    ask_all(&cluster, &users, 0).await;
    for round in 1..6 {
        // Some of them in the middle of a statement.
        let end = format!("select count(pg_terminate_backend(pid)) from pg_stat_activity where {POOL}");
        // If all have just been ended, there are none until the first push has connected.
        let ending = eventually("sessions are ended", async || {
            sqlx::query_scalar::<_, i64>(AssertSqlSafe(end.clone())).fetch_one(&cluster.pool).await.unwrap() > 0
        });
        tokio::join!(ask_all(&cluster, &users, round), ending);
    }
    let failed = live::metric(&cluster, 0, "mana_sync_pushes_total{outcome=\"failed\"}").await;
    assert_eq!(failed, 0.0);
}

#[tokio::test]
async fn statements_are_prepared_anew_where_what_they_read_has_another_form() {
    let cluster = Cluster::start(1).await;
    let users: Vec<User> = (0..USERS).map(|_| cluster.user()).collect();
    ask_all(&cluster, &users, 0).await;
    for (round, alter) in [
        "alter table sync_changes alter table_name type varchar(255)",
        "alter table sync_changes alter client_id type varchar(255), alter op type varchar(10)",
        "alter table sync_heads alter app_id type varchar(255)",
        "alter table sync_changes alter size type bigint",
        "alter table sync_changes add column later int default 5; alter table sync_changes drop column later",
        "alter table sync_changes alter table_name type text",
    ]
    .into_iter()
    .enumerate()
    {
        sqlx::raw_sql(alter).execute(&cluster.pool).await.unwrap();
        ask_all(&cluster, &users, round + 1).await;
    }
    // Wake-ups still work, too.
    let mut socket = live::socket(&cluster, 0, &users[0], None, None).await;
    live::store(&cluster, 0, &users[0], "tablet", &[("todos", "last")]).await;
    live::woken(&mut socket).await;
}

/// Citus raises this error when it loses a worker. Its own sessions survive, without what they cached about the worker.
#[tokio::test]
async fn a_server_that_lost_another_one_is_asked_again_on_the_same_session() {
    let cluster = Cluster::start_with(1, &[("DATABASE_POOL_SIZE", "1"), ("READY_GRACE_MS", "0")]).await;
    let user = cluster.user();
    let body = |id| json!({ "clientId": "phone", "changes": [insert("todos", id, "Milk", AT)] });
    cluster.pushed(&user, "todo", body("before")).await;
    let pids = format!("select array_agg(pid order by pid) from pg_stat_activity where {POOL}");
    let sessions = async || {
        let pids = AssertSqlSafe(pids.clone());
        sqlx::query_scalar::<_, Vec<i32>>(pids).fetch_one(&cluster.pool).await.unwrap()
    };
    let before = sessions().await;
    let lose = "
        create sequence attempts;
        create function lose() returns trigger language plpgsql as $$
        begin
            if nextval('attempts') <= 1 or new.record_id = 'lost' then
                raise exception using errcode = '08006', message = 'connection to the remote node failed';
            end if;
            return new;
        end $$;
        create trigger lose before insert on sync_changes for each row execute function lose()";
    sqlx::raw_sql(lose).execute(&cluster.pool).await.unwrap();
    cluster.pushed(&user, "todo", body("after")).await;
    let (status, answer) = cluster.push(&user, "todo", body("lost")).await;
    assert_eq!(status, 503, "{answer}");
    assert_eq!(cluster.get("/health/ready").await.status, 200);
    assert_eq!(sessions().await, before, "it is no reason to connect anew");
    let page = cluster.pulled(&user, "todo", "todos", BEGINNING, None).await;
    assert_eq!(ids(&page), ["before", "after"]);
}

/// A pooler that lost its state may give one server session to two replicas, whose statements have the same names.
#[tokio::test]
async fn a_session_on_which_somebody_else_prepared_statements_is_replaced() {
    let cluster = Cluster::start_with(1, &[("DATABASE_POOL_SIZE", "1"), ("READY_GRACE_MS", "0")]).await;
    let user = cluster.user();
    let body = |id| json!({ "clientId": "phone", "changes": [insert("todos", id, "Milk", AT)] });
    cluster.pushed(&user, "todo", body("before")).await;
    let sessions = async || {
        let pids = AssertSqlSafe(format!("select array_agg(pid order by pid) from pg_stat_activity where {POOL}"));
        sqlx::query_scalar::<_, Vec<i32>>(pids).fetch_one(&cluster.pool).await.unwrap()
    };
    let before = sessions().await;
    let taken = "
        create sequence attempts;
        create function taken() returns trigger language plpgsql as $$
        begin
            if nextval('attempts') <= 1 or new.record_id = 'lost' then
                raise exception using errcode = '42P05', message = 'prepared statement \"s0\" already exists';
            end if;
            return new;
        end $$;
        create trigger taken before insert on sync_changes for each row execute function taken()";
    sqlx::raw_sql(taken).execute(&cluster.pool).await.unwrap();
    cluster.pushed(&user, "todo", body("after")).await;
    assert_ne!(sessions().await, before, "another session has other statements");
    let (status, answer) = cluster.push(&user, "todo", body("lost")).await;
    assert_eq!(status, 503, "{answer}");
}

/// Where each statement is a transaction, the server may time out in the middle of one: here after `begin`, because the
/// network holds back the rest.
#[tokio::test]
async fn a_transaction_that_was_idle_for_too_long_is_done_once_more() {
    static ONE: Sql = Sql { text: "select 1", types: &[] };
    let settings = [("idle_in_transaction_session_timeout".to_owned(), "100ms".to_owned())];
    let postgres = TemporaryPostgres::start(Path::new(".dev"), settings.into()).await.unwrap();
    let port = postgres.server().port();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = listener.local_addr().unwrap().port();
    let held_back = Arc::new(AtomicUsize::new(0));
    let counted = held_back.clone();
    let network = tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(hold_back_once(client, server, counted.clone()));
        }
    });
    let second = Duration::from_secs(5);
    let config =
        PoolConfig { size: 1, acquire_timeout: second, statement_timeout: second, settings: vec![], prepare: false };
    let url = format!("postgres://postgres@127.0.0.1:{through}/postgres?sslmode=disable");
    let pool = Pool::new(Connector::new(&Secret::from(&*url), "test").unwrap(), config);
    for _ in 0..3 {
        assert_eq!(pool.query(&ONE, &[]).await.unwrap()[0].get::<_, i32>(0), 1);
    }
    assert_eq!(held_back.load(Ordering::Relaxed), 1);
    let log = std::fs::read_to_string(postgres.server().log_path()).unwrap();
    assert!(log.contains("idle-in-transaction timeout"), "{log}");
    network.abort();
}

/// Forwards everything, except what follows the first `begin`: that is held back until the server is gone.
async fn hold_back_once(client: TcpStream, server: TcpStream, held_back: Arc<AtomicUsize>) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let gone = Arc::new(Notify::new());
    let is_gone = gone.clone();
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
        is_gone.notify_one();
    });
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
        let sent = &buffer[..count];
        // A message: its type, its length without the type, its text.
        let begin = sent.windows(6).position(|bytes| bytes == b"begin ");
        let begin = begin.and_then(|at| Some(at + sent[at..].iter().position(|byte| *byte == 0)? + 1));
        let (now, later) = match begin {
            Some(end) if held_back.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() => {
                sent.split_at(end)
            }
            _ => (sent, &[][..]),
        };
        if to_server.write_all(now).await.is_err() {
            return;
        }
        if begin.is_some() && !later.is_empty() {
            gone.notified().await;
            let _ = to_server.write_all(later).await;
        }
    }
}

/// The queue holds 8 GiB before version 17, which made it a setting: `PG_BIN` must point to such a server.
#[tokio::test]
#[ignore = "needs PostgreSQL 17 or newer in PG_BIN"]
async fn a_full_queue_of_notifications_keeps_no_replica_from_being_ready() {
    let settings = [("max_notify_queue_pages".to_owned(), "64".to_owned())];
    let postgres = TemporaryPostgres::start(Path::new(".dev"), settings.into()).await.unwrap();
    let admin = postgres.server().admin_url();
    let mut cluster = Cluster::start_on(&admin, 1, &[("READY_GRACE_MS", "0")]).await;
    // A listener in another database of the server does not advance.
    let stuck = PgPool::connect(&admin).await.unwrap();
    let mut stuck = stuck.acquire().await.unwrap();
    sqlx::raw_sql("listen anything").execute(&mut *stuck).await.unwrap();
    sqlx::raw_sql("begin; select 1").execute(&mut *stuck).await.unwrap();
    let fill = "select pg_notify('anything', repeat('x', 7000) || n) from generate_series(1, 20) n";
    let filling = PgPool::connect(&admin).await.unwrap();
    eventually("the queue is full", async || sqlx::query(fill).execute(&filling).await.is_err()).await;

    cluster.nodes[0].process.kill().await;
    cluster.nodes[0].restart().await;
    assert!(cluster.nodes[0].log().contains("the database accepts no notifications"));
    let user = cluster.user();
    let mut socket = live::socket(&cluster, 0, &user, None, None).await;
    live::store(&cluster, 0, &user, "phone", &[("todos", "a")]).await;
    live::woken(&mut socket).await;
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like '%listen'";
    sqlx::query(cut).execute(&filling).await.unwrap();
    eventually("it listens again", async || {
        live::metric(&cluster, 0, "mana_sync_listener_connects_total").await == 2.0
    })
    .await;
    assert_eq!(cluster.get("/health/ready").await.status, 200);
    // It is not committed: sqlx does not expect the notifications that would come with the answer.
    drop(stuck);
}
