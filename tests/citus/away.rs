//! What operators, programs and the background do while a worker is away: for users of the other workers everything,
//! and for its own users they name it.

use crate::BUCKETS;
use crate::cluster::*;
use crate::operators::{one, run, succeeded};
use crate::silence::signal;
use crate::support::live::*;
use crate::support::*;
use mana_dev::{Postgres, Shutdown, citus};
use nix::sys::signal::Signal;
use reqwest::StatusCode;
use serde_json::{Value, json};

/// The days of the history in all buckets.
const DAYS: &str = "select count(*) from pg_inherits where inhparent::regclass::text like 'sync_b%.sync_history'";

/// A user for each bucket, whose record has a value that lost. The history has its days.
async fn users_with_garbage(cluster: &Cluster) -> Vec<User> {
    let users = users_of_all(cluster, 1);
    for user in &users {
        cluster.pushed(user, APP, one("a")).await;
        write(cluster, user, 2).await;
    }
    let days = 2 * i64::from(BUCKETS);
    eventually("there are days", async || number(&cluster.database_url, DAYS).await >= days).await;
    users
}

/// Writes the record's title again.
async fn write(cluster: &Cluster, user: &User, day: u32) {
    let later = update("todos", "a", "title", format!("Eggs {day}"), &format!("2024-01-{day:02}T10:05:00.000Z"));
    cluster.pushed(user, APP, json!({ "clientId": "phone", "changes": [later] })).await;
}

/// Kills the worker with bucket 0. Returns its port, and for each bucket whether it is away now.
async fn kill_worker(citus: &mut Citus) -> (String, Vec<bool>) {
    let (port, is_gone) = worker_of_first(citus).await;
    server(citus, &port).kill().await.unwrap();
    (port, is_gone)
}

/// The same, but it only does not answer any more.
async fn freeze_worker(citus: &mut Citus) -> (String, Vec<bool>) {
    let (port, is_gone) = worker_of_first(citus).await;
    signal(server(citus, &port), Signal::SIGSTOP);
    (port, is_gone)
}

fn server<'a>(citus: &'a mut Citus, port: &str) -> &'a mut Postgres {
    citus::server_at(&mut citus.servers.workers, port).unwrap()
}

/// The port of the worker with bucket 0, and for each bucket whether it is there, too.
async fn worker_of_first(citus: &Citus) -> (String, Vec<bool>) {
    let port = citus.port_of(0).await;
    let mut is_gone = Vec::new();
    for bucket in 0..usize::from(BUCKETS) {
        is_gone.push(citus.port_of(bucket).await == port);
    }
    assert!(is_gone.contains(&false), "the other worker has buckets as well");
    (port, is_gone)
}

async fn restart_worker(citus: &mut Citus, port: &str) {
    server(citus, port).restart(Shutdown::Immediate).await.unwrap();
}

/// The changes that a bucket's history keeps.
async fn history(url: &str, bucket: usize) -> i64 {
    number(url, format!("select count(*) from sync_b{bucket:02}.sync_history")).await
}

#[tokio::test]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn commands_name_the_worker_that_is_away_or_answer_completely() {
    let mut citus = Citus::start().await;
    distribute(&citus.url, &BUCKETS.to_string()).await;
    let cluster = citus.replicas(1, true).await;
    let users = users_with_garbage(&cluster).await;
    let (port, is_gone) = kill_worker(&mut citus).await;
    let trim = ["compact", "--compact-after-ms", "1"];
    // One bucket after another: an unavailable one does not end it.
    let (success, said) = run(&citus.url, &trim).await;
    assert!(!success && said.contains(&port), "{said}");
    for (bucket, (user, is_gone)) in users.iter().zip(&is_gone).enumerate() {
        if !is_gone {
            assert_eq!(history(&citus.url, bucket).await, 1, "it was trimmed");
            write(&cluster, user, 3).await;
        }
        let why = ["why", "--user", &user.id, "--app", APP, "--table", "todos", "--record", "a"];
        for (command, answer) in [
            (&[&trim[..], &["--user", &user.id]].concat()[..], "1 trimmed"),
            (&why, "Milk"),
            (&["export", "--user", &user.id], "Eggs 3"),
            (&["export", "--user", &user.id, "--log"], "Milk"),
            (&["erase", "--user", &user.id, "--yes"], "4 changes"),
        ] {
            let (success, said) = run(&citus.url, command).await;
            assert_eq!(success, !is_gone, "{command:?}: {said}");
            assert!(said.contains(if *is_gone { &port } else { answer }), "{command:?}: {said}");
        }
    }
    for command in [&["usage"][..], &["usage", "--json"]] {
        let (success, said) = run(&citus.url, command).await;
        assert!(!success && said.contains(&port), "{command:?}: {said}");
    }
    restart_worker(&mut citus, &port).await;
    for (user, is_gone) in users.iter().zip(is_gone) {
        assert_eq!(cluster.stored(user).await, if is_gone { 2 } else { 0 });
    }
    assert!(succeeded(&citus.url, &trim).await.contains("2 trimmed"));
}

/// How many of the next two weeks have a day in all buckets.
async fn days_ahead(url: &str) -> i64 {
    let ahead = format!(
        "select count(*) from (
             select right(c.relname, 8) as day from pg_inherits i join pg_class c on c.oid = i.inhrelid
             where i.inhparent::regclass::text like 'sync_b%.sync_history'
               and right(c.relname, 8) > to_char(now() at time zone 'UTC', 'YYYYMMDD')
             group by 1 having count(*) = {BUCKETS}) as days"
    );
    number(url, ahead).await
}

/// Nor can a new day of the history be made meanwhile: there are some for two weeks, and what is missing is made as soon as
/// it is back.
async fn replicas_trim_while_another_worker_is_away(freezes: bool) {
    let mut citus = Citus::start().await;
    distribute(&citus.url, &BUCKETS.to_string()).await;
    let workers = citus.worker_urls();
    let settings = [("DATABASE_WORKER_URLS", &*workers), ("COMPACT_AFTER_MS", "400")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut cluster = Cluster::start_over_with(&citus.url, 1, settings.into()).await;
    let users = users_with_garbage(&cluster).await;
    for bucket in 0..usize::from(BUCKETS) {
        eventually("it is trimmed", async || history(&citus.url, bucket).await == 1).await;
    }
    // As replicas do within hours.
    for bucket in 0..BUCKETS {
        for _ in 0..8 {
            sql(&citus.url, format!("select sync_b{bucket:02}.sync_history_days(30)")).await;
        }
    }
    assert_eq!(days_ahead(&citus.url).await, 14);
    cluster.nodes[0].process.kill().await;
    // As at midnight: the last day is missing.
    let last = "select to_char((now() at time zone 'UTC')::date + 14, 'YYYYMMDD')";
    let last = text(&citus.url, last).await;
    for bucket in 0..BUCKETS {
        sql(&citus.url, format!("drop table sync_b{bucket:02}.sync_history_{last}")).await;
    }
    let (port, is_gone) = if freezes { freeze_worker(&mut citus).await } else { kill_worker(&mut citus).await };
    cluster.nodes[0].restart().await;
    for (bucket, user) in users.iter().enumerate().filter(|(bucket, _)| !is_gone[*bucket]) {
        write(&cluster, user, 3).await;
        // The bucket of a frozen one is waited for, for a minute, but only once.
        eventually("it is trimmed again", async || history(&citus.url, bucket).await == 2).await;
    }
    assert_eq!(days_ahead(&citus.url).await, 13);
    if freezes {
        signal(server(&mut citus, &port), Signal::SIGCONT)
    } else {
        restart_worker(&mut citus, &port).await
    };
    eventually("there is the last day again", async || days_ahead(&citus.url).await == 14).await;
    for (bucket, user) in users.iter().enumerate().filter(|(bucket, _)| is_gone[*bucket]) {
        eventually("its users are served", async || {
            cluster.push(user, APP, one(&format!("b{bucket}"))).await.0 == StatusCode::OK
        })
        .await;
        write(&cluster, user, 3).await;
        eventually("and trimmed", async || history(&citus.url, bucket).await == 2).await;
    }
    succeeded(&citus.url, &["compact"]).await;
}

#[tokio::test]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn replicas_trim_while_another_worker_is_killed() {
    replicas_trim_while_another_worker_is_away(false).await;
}

#[tokio::test]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn replicas_trim_while_another_worker_is_frozen() {
    replicas_trim_while_another_worker_is_away(true).await;
}

#[tokio::test]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn programs_and_the_admin_port_work_for_users_of_the_other_workers() {
    const TOKEN: &str = "an-admin-token-for-tests";
    let mut citus = Citus::start().await;
    distribute(&citus.url, &BUCKETS.to_string()).await;
    let workers = citus.worker_urls();
    let settings = [("DATABASE_WORKER_URLS", &*workers), ("ADMIN_PORT", "0"), ("ADMIN_TOKEN", TOKEN)];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let cluster = Cluster::start_over_with(&citus.url, 1, settings.into()).await;
    let users = users_with_garbage(&cluster).await;
    let (port, is_gone) = kill_worker(&mut citus).await;
    let base = format!("{}/api/v1", cluster.nodes[0].admin_url());
    let ask = async |path: String| -> (StatusCode, Value) {
        let request = cluster.http.get(format!("{base}/{path}")).bearer_auth(TOKEN).timeout(TIMEOUT);
        let reply = request.send().await.unwrap();
        (reply.status(), reply.json().await.unwrap())
    };
    let (status, state) = ask("cluster".to_owned()).await;
    assert_eq!(status, StatusCode::OK, "{state}");
    assert!(state["database"]["bytes"].as_i64().unwrap() > 1 << 20, "{state}");
    for (user, is_gone) in users.iter().zip(is_gone) {
        let (_, shown) = ask(format!("user?id={}", user.id)).await;
        assert_eq!(shown["problem"].is_null(), !is_gone, "{shown}");
        assert_eq!(shown["usage"]["changes"], if is_gone { 0 } else { 2 }, "{shown}");
        let (status, record) = ask(format!("record?user={}&app={APP}&table=todos&id=a", user.id)).await;
        assert_eq!(status.is_success(), !is_gone, "{record}");
        let pushed = json!([insert("todos", "p", "Milk", crate::AT)]);
        for statement in [
            format!("select sync_push('{}', '{APP}', 'importer', '{pushed}')", user.id),
            program_insert(user),
            format!("select count(*) from sync_records('{}', '{APP}')", user.id),
            format!("select changes from sync_usage('{}')", user.id),
            format!("select sync_erase('{}')", user.id),
        ] {
            let done = sqlx::raw_sql(sqlx::AssertSqlSafe(statement.clone())).execute(&cluster.pool).await;
            match done {
                Ok(_) => assert!(!is_gone, "{statement}"),
                Err(error) => assert!(is_gone && error.to_string().contains(&port), "{statement}: {error}"),
            }
        }
    }
    restart_worker(&mut citus, &port).await;
}
