//! Pushes share statements without delaying each other: a batch waits for no lock, each user has a turn, and anything
//! given up is gone at once (G1, G6).

use crate::support::*;
use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use std::cell::Cell;
use std::collections::HashSet;
use std::time::{Duration, Instant};

const AT: &str = "2024-01-01T10:05:00.000Z";
/// Far less than any lock is held here, far more than a push takes.
const SOON: Duration = Duration::from_secs(2);

/// Polling without a pause would keep a processor busy.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

fn body(record: &str) -> Value {
    json!({ "clientId": "phone", "since": live::NO_DELTA, "changes": [insert("todos", record, "Milk", AT)] })
}

/// Pushes for each of these users, one after another, while a lock is held; each must be answered soon.
async fn push_meanwhile(cluster: &Cluster, users: &[User], rounds: usize, round_name: &str) {
    let of_one = async |user: &User| {
        for round in 0..rounds {
            let begun = Instant::now();
            let (status, answer) = cluster.push(user, "todo", body(&format!("{round_name}-{round}"))).await;
            assert_eq!(status, 200, "{answer}");
            assert_soon(cluster, SOON, "it waits for no lock", begun.elapsed()).await;
        }
    };
    join_all(users.iter().map(of_one)).await;
}

#[tokio::test]
async fn a_head_that_somebody_holds_keeps_nobody_elses_pushes() {
    let settings = [("DATABASE_POOL_SIZE", "4"), ("QUEUE_TIMEOUT_MS", "30000")];
    let cluster = Cluster::start_with(1, &settings).await;
    let held = cluster.user();
    let others: Vec<User> = (0..20).map(|_| cluster.user()).collect();
    push_meanwhile(&cluster, &others, 1, "before").await;
    cluster.pushed(&held, "todo", body("first")).await;
    let mut holder = PgConnection::connect(&cluster.database_url).await.unwrap();
    let mut transaction = holder.begin().await.unwrap();
    let lock = sqlx::query("select from sync_heads where user_id = $1 for update").bind(&held.id);
    lock.execute(&mut *transaction).await.unwrap();

    let records: Vec<String> = (0..30).map(|n| format!("held-{n}")).collect();
    let pushing = join_all(records.iter().map(|record| cluster.push(&held, "todo", body(record))));
    let release = async {
        push_meanwhile(&cluster, &others, 10, "meanwhile").await;
        transaction.rollback().await.unwrap();
    };
    let (answers, ()) = join(pushing, release).await;
    for (status, answer) in answers {
        assert_eq!(status, 200, "{answer}");
    }
    assert_eq!(cluster.stored(&held).await, 31);
    for user in &others {
        assert_eq!(cluster.stored(user).await, 11);
    }
}

#[tokio::test]
async fn a_log_that_somebody_is_making_keeps_nobody_elses_pushes() {
    let cluster = Cluster::start_with(1, &[("QUEUE_TIMEOUT_MS", "30000")]).await;
    let new = cluster.user();
    let others: Vec<User> = (0..20).map(|_| cluster.user()).collect();
    let mut maker = PgConnection::connect(&cluster.database_url).await.unwrap();
    let mut transaction = maker.begin().await.unwrap();
    let changes = json!([insert("todos", "by-sql", "Milk", AT)]);
    let push = sqlx::query("select sync_push($1, 'todo', 'svc', $2)").bind(&new.id).bind(&changes);
    push.execute(&mut *transaction).await.unwrap();

    let pushing = cluster.push(&new, "todo", body("by-http"));
    let release = async {
        push_meanwhile(&cluster, &others, 10, "meanwhile").await;
        transaction.commit().await.unwrap();
    };
    let ((status, answer), ()) = join(pushing, release).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(cluster.stored(&new).await, 2);
}

/// The number of sessions waiting for a lock.
pub async fn waiting_for_locks(cluster: &Cluster) -> i64 {
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    sqlx::query_scalar(waiting).fetch_one(&cluster.pool).await.unwrap()
}

#[tokio::test]
async fn locked_logs_of_several_users_keep_no_retry_no_large_push_and_no_delete_of_others() {
    let settings = [("DATABASE_POOL_SIZE", "8"), ("QUEUE_TIMEOUT_MS", "30000")];
    let cluster = Cluster::start_with(1, &settings).await;
    let (held, others): (Vec<User>, Vec<User>) =
        ((0..5).map(|_| cluster.user()).collect(), (0..4).map(|_| cluster.user()).collect());
    let apps = ["todo", "notes"];
    let mut holder = PgConnection::connect(&cluster.database_url).await.unwrap();
    for (user, app) in held.iter().flat_map(|user| apps.map(|app| (user, app))) {
        cluster.pushed(user, app, body("first")).await;
    }
    // Like a program that inserts into each of them in one transaction.
    let mut transaction = holder.begin().await.unwrap();
    let ids: Vec<&str> = held.iter().map(|user| user.id.as_str()).collect();
    let lock = sqlx::query("select from sync_heads where user_id = any($1) for update").bind(ids);
    lock.execute(&mut *transaction).await.unwrap();

    let large = "x".repeat(100_000);
    let logs = held.iter().flat_map(|user| apps.map(|app| (user, app)));
    let pushing = join_all(logs.map(async |(user, app)| {
        let change = insert("todos", "large", &large, AT);
        let large = json!({ "clientId": "phone", "since": live::NO_DELTA, "changes": [change] });
        join_all([cluster.push(user, app, body("small")), cluster.push(user, app, large)]).await
    }));
    let of_one = async |user: &User| {
        let mut at_once = 0;
        for round in 0..5 {
            let large = insert("todos", &format!("large-{round}"), &large, AT);
            let delete = json!({ "table": "todos", "id": format!("gone-{round}"), "op": "delete" });
            let small = insert("todos", &format!("small-{round}"), "Milk", AT);
            // The first one is sent again at the end: it then goes alone, as part of it is already stored.
            for change in [&small, &large, &delete, &small] {
                let body = json!({ "clientId": "phone", "since": live::NO_DELTA, "changes": [change] });
                let begun = Instant::now();
                let (status, answer) = cluster.push(user, "todo", body).await;
                assert_eq!(status, 200, "{answer}");
                assert_soon(&cluster, SOON, "it waits for no lock", begun.elapsed()).await;
            }
            at_once = at_once.max(waiting_for_locks(&cluster).await);
        }
        at_once
    };
    let release = async {
        let waiting = join_all(others.iter().map(of_one)).await;
        transaction.rollback().await.unwrap();
        waiting.into_iter().max()
    };
    let (answers, waiting) = join(pushing, release).await;
    println!("{waiting:?} sessions waited at once for a lock");
    for (status, answer) in answers.into_iter().flatten() {
        assert_eq!(status, 200, "{answer}");
    }
    for user in &held {
        assert_eq!(cluster.stored(user).await, 6);
    }
    for user in &others {
        assert_eq!(cluster.stored(user).await, 15);
    }
}

#[tokio::test]
async fn a_push_to_a_locked_log_holds_no_connection_and_is_told_so_when_its_time_is_over() {
    // Long enough that most of it are the longer pauses, also on a slow machine.
    let settings = [("DATABASE_POOL_SIZE", "4"), ("QUEUE_TIMEOUT_MS", "4000")];
    let cluster = Cluster::start_with(1, &settings).await;
    let user = cluster.user();
    cluster.pushed(&user, "todo", body("first")).await;
    let mut holder = PgConnection::connect(&cluster.database_url).await.unwrap();
    let mut transaction = holder.begin().await.unwrap();
    let lock = sqlx::query("select from sync_heads where user_id = $1 for update").bind(&user.id);
    lock.execute(&mut *transaction).await.unwrap();
    let large = insert("todos", "large", &"x".repeat(100_000), AT);
    let delete = json!({ "table": "todos", "id": "gone", "op": "delete" });
    for change in [insert("todos", "small", "Milk", AT), large, delete] {
        let push = json!({ "clientId": "phone", "since": live::NO_DELTA, "changes": [change] });
        let begun = Instant::now();
        let pushing = async { (cluster.push(&user, "todo", push).await, begun.elapsed()) };
        let looking = async {
            let (mut looks, mut waits) = (0, 0);
            while begun.elapsed() < Duration::from_millis(3_500) {
                looks += 1;
                waits += i64::from(waiting_for_locks(&cluster).await > 0);
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
            (looks, waits)
        };
        let (((status, answer), took), (looks, waits)) = join(pushing, looking).await;
        assert_eq!((status.as_u16(), answer["error"].as_str()), (503, Some("busy")), "{answer}");
        assert_soon(&cluster, Duration::from_secs(8), "a refusal", took).await;
        assert!(waits * 2 < looks, "a connection waited for a lock in {waits} of {looks} looks");
    }
    transaction.rollback().await.unwrap();
    cluster.pushed(&user, "todo", body("later")).await;
    assert_eq!(cluster.stored(&user).await, 2);
}

#[tokio::test]
async fn logs_that_programs_are_making_fail_no_batch() {
    // Without a limit on apps, there is no earlier check whether a log exists.
    let settings = [("DATABASE_POOL_SIZE", "4"), ("QUEUE_TIMEOUT_MS", "30000"), ("MAX_USER_APPS", "0")];
    let cluster = Cluster::start_with(1, &settings).await;
    let new: Vec<User> = (0..6).map(|_| cluster.user()).collect();
    let others: Vec<User> = (0..20).map(|_| cluster.user()).collect();
    let mut maker = PgConnection::connect(&cluster.database_url).await.unwrap();
    let mut transaction = maker.begin().await.unwrap();
    for user in &new {
        let changes = json!([insert("todos", "by-sql", "Milk", AT)]);
        let push = sqlx::query("select sync_push($1, 'todo', 'svc', $2)").bind(&user.id).bind(&changes);
        push.execute(&mut *transaction).await.unwrap();
    }
    let pushing = join_all(new.iter().map(|user| cluster.push(user, "todo", body("by-http"))));
    let release = async {
        push_meanwhile(&cluster, &others, 10, "meanwhile").await;
        transaction.commit().await.unwrap();
    };
    let (answers, ()) = join(pushing, release).await;
    for (status, answer) in answers {
        assert_eq!(status, 200, "{answer}");
    }
    for user in &new {
        assert_eq!(cluster.stored(user).await, 2);
    }
}

#[tokio::test]
async fn many_waiting_pushes_of_one_user_cost_another_no_more_than_a_turn() {
    const MANY: usize = 600;
    /// Pushes in a batch, at most.
    const BATCH: usize = 64;
    // Three statements at once store pushes.
    let settings = [("QUEUE_TIMEOUT_MS", "60000"), ("DATABASE_POOL_SIZE", "4")];
    let cluster = Cluster::start_with(1, &settings).await;
    let (noisy, other, third, fourth) = (cluster.user(), cluster.user(), cluster.user(), cluster.user());
    for user in [&noisy, &other, &third, &fourth] {
        cluster.pushed(user, "todo", body("first")).await;
    }
    // Nothing is stored until all of them are waiting.
    let mut holder = PgConnection::connect(&cluster.database_url).await.unwrap();
    let mut transaction = holder.begin().await.unwrap();
    sqlx::query("lock table sync_changes in exclusive mode").execute(&mut *transaction).await.unwrap();
    let (noise_may_begin, quiet_may_begin) = (tokio::sync::Notify::new(), tokio::sync::Notify::new());
    let waiting = async || live::metric(&cluster, 0, "mana_sync_push_queue").await;

    let running = join_all([&noisy, &third, &fourth].map(|user| cluster.pushed(user, "todo", body("noise-000"))));
    let noise = async {
        noise_may_begin.notified().await;
        join_all((1..MANY).map(async |n| cluster.pushed(&noisy, "todo", body(&format!("noise-{n:03}"))).await)).await
    };
    let quiet = async {
        quiet_may_begin.notified().await;
        cluster.pushed(&other, "todo", body("quiet-000")).await
    };
    let release = async {
        let locked = "select count(*) from pg_stat_activity
                      where datname = current_database() and wait_event_type = 'Lock'";
        eventually("all statements wait for the lock", async || {
            sqlx::query_scalar::<_, i64>(locked).fetch_one(&cluster.pool).await.unwrap() == 3
        })
        .await;
        noise_may_begin.notify_one();
        eventually("all of one user's wait", async || waiting().await == (MANY - 1) as f64).await;
        quiet_may_begin.notify_one();
        eventually("the other's waits behind them", async || waiting().await == MANY as f64).await;
        transaction.rollback().await.unwrap();
    };
    tokio::join!(running, noise, quiet, release);
    // In the order of storing: the order of answers depends on the client, which is busy with six hundred.
    let later = "select count(*) from sync_changes where user_id = $1 and created_at > (
                     select max(created_at) from sync_changes where user_id = $2)";
    let query = sqlx::query_scalar(later).bind(&noisy.id).bind(&other.id);
    let overtaken: i64 = query.fetch_one(&cluster.pool).await.unwrap();
    // All but the one that had been sent to the database, and a batch in which the other user's push may be last.
    assert!(overtaken >= (MANY - 1 - BATCH) as i64, "it was stored before {overtaken} of {MANY} that came before it");
    assert_eq!(cluster.stored(&noisy).await, MANY as i64 + 1);
}

#[tokio::test]
async fn what_is_not_begun_in_time_leaves_at_once_and_gives_its_memory_back() {
    let cluster = Cluster::start_with(1, &[("QUEUE_TIMEOUT_MS", "2000")]).await;
    let user = cluster.user();
    cluster.pushed(&user, "todo", body("first")).await;
    let mut holder = PgConnection::connect(&cluster.database_url).await.unwrap();
    let mut transaction = holder.begin().await.unwrap();
    let lock = sqlx::query("select from sync_heads where user_id = $1 for update").bind(&user.id);
    lock.execute(&mut *transaction).await.unwrap();

    let filler = "x".repeat(100_000);
    let large = |n: usize| {
        let change = insert("todos", &format!("large-{n}"), &filler, AT);
        json!({ "clientId": "phone", "since": live::NO_DELTA, "changes": [change] })
    };
    let refused = Cell::new(0);
    let pushing = join_all((0..20).map(async |n| {
        let answer = cluster.push(&user, "todo", large(n)).await;
        refused.set(refused.get() + i32::from(answer.0 != 200));
        answer
    }));
    let release = async {
        // All but the one that waits for the lock, each when its own time is over; some come late on a busy machine.
        eventually("they are refused", async || refused.get() >= 19).await;
        // The decoded form of one body is larger than the body.
        let one = 1_000_000.0;
        eventually("they are gone", async || live::metric(&cluster, 0, "mana_sync_push_bytes").await < one).await;
        transaction.rollback().await.unwrap();
    };
    let (answers, ()) = join(pushing, release).await;
    let stored = answers.iter().filter(|(status, _)| *status == 200).count() as i64;
    assert!(answers.iter().all(|(status, answer)| *status == 200 || answer["error"] == "busy"), "{answers:?}");
    assert!(stored <= 1, "{stored}");
    assert_eq!(cluster.stored(&user).await, stored + 1);
    eventually("nothing is held", async || live::metric(&cluster, 0, "mana_sync_push_bytes").await == 0.0).await;
}

#[tokio::test]
async fn a_large_push_is_not_sent_to_the_database_while_its_logs_head_is_locked() {
    let cluster = Cluster::start_with(1, &[("QUEUE_TIMEOUT_MS", "30000")]).await;
    let user = cluster.user();
    // By a program: no session of the replica has run its push statement yet.
    let changes = json!([insert("todos", "by-sql", "Milk", AT)]);
    let push = sqlx::query("select sync_push($1, 'todo', 'svc', $2)").bind(&user.id).bind(&changes);
    push.execute(&cluster.pool).await.unwrap();
    let mut holder = PgConnection::connect(&cluster.database_url).await.unwrap();
    let mut transaction = holder.begin().await.unwrap();
    let lock = sqlx::query("select from sync_heads where user_id = $1 for update").bind(&user.id);
    lock.execute(&mut *transaction).await.unwrap();

    let large = json!({ "clientId": "phone", "since": live::NO_DELTA,
        "changes": [insert("todos", "large", &"x".repeat(300_000), AT)] });
    let pushing = cluster.push(&user, "todo", large);
    let release = async {
        let mut looks = HashSet::new();
        // More than one, with pauses in between.
        while looks.len() < 4 {
            let last = "select query, query_start::text from pg_stat_activity
                        where datname = current_database() and application_name like 'mana-sync %'";
            let last: Vec<(String, Option<String>)> = sqlx::query_as(last).fetch_all(&cluster.pool).await.unwrap();
            let sent = last.iter().find(|(query, _)| query.contains("insert into sync_changes"));
            assert_eq!(sent, None);
            looks.extend(last.into_iter().filter(|(query, _)| query.contains("for update skip locked")));
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        transaction.rollback().await.unwrap();
    };
    let ((status, answer), ()) = join(pushing, release).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(cluster.stored(&user).await, 2);
}
