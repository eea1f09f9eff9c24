//! The output of commands, and its destination: a terminal that interprets escape sequences, a full disk, a closed
//! pipe.

use super::support::*;
use super::{APP, NOW, TABLE, at, command, said};
use mana_sync::config::{CompactionConfig, DatabaseConfig, Secret};
use mana_sync::store::compaction::Compactor;
use serde_json::{Value, json};
use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

/// Control sequences for a terminal: clear the screen, start a line, write from right to left.
const ORDERS: &str = "\u{1b}[2J\r\n\u{7f}\u{9b}2J\u{202e}";

/// Stores three changes of a field, with control sequences in every name and value; the last one wins.
async fn store_orders(cluster: &Cluster, user: &User) {
    for value in 0..3 {
        let change = update(ORDERS, ORDERS, ORDERS, format!("{value}{ORDERS}"), &at(value));
        let changes = sqlx::query("select sync_push($1, $2, $2, $3)").bind(&user.id).bind(ORDERS).bind(json!([change]));
        changes.execute(&cluster.pool).await.unwrap();
    }
}

/// Runs a command with this standard output. Returns its status and its standard error.
async fn complaint(cluster: &Cluster, words: &[&str], output: impl Into<Stdio>) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
    command.args(words).env("DATABASE_URL", &cluster.database_url).stdin(Stdio::null()).stdout(output);
    let done = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap().wait_with_output().await.unwrap();
    (done.status.code(), String::from_utf8(done.stderr).unwrap())
}

#[tokio::test]
async fn nothing_that_users_store_gives_orders_to_a_terminal() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    store_orders(&cluster, &user).await;
    let why = ["why", "--user", &user.id, "--app", ORDERS, "--table", ORDERS, "--record", ORDERS];
    for trims in [false, true] {
        if trims {
            said(&cluster, &["compact"], NOW).await;
        }
        let export = ["export", "--user", &user.id];
        for words in [
            &why[..],
            &[&why[..], &["--json"]].concat(),
            &["usage"],
            &["usage", "--json"],
            &export,
            &[&export[..], &["--log"]].concat(),
        ] {
            let text = said(&cluster, words, &[]).await;
            let orders: Vec<char> =
                text.chars().filter(|c| *c != '\n' && ORDERS.contains(*c) && !"[2J".contains(*c)).collect();
            assert!(orders.is_empty(), "{words:?}: {text:?}");
            // JSON contains the same text, in lines of its own.
            for line in text.lines().filter(|line| line.starts_with('{')) {
                let line: Value = serde_json::from_str(line).unwrap();
                assert_eq!(line["app"], ORDERS, "{words:?}");
            }
        }
        let text = said(&cluster, &why, &[]).await;
        let lines = text.lines().count();
        assert_eq!(lines, 6, "a name begins no line: {text}");
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_a_reader_that_has_had_enough_is_none() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    store_orders(&cluster, &user).await;
    for words in [
        &["why", "--user", &user.id, "--app", ORDERS, "--table", ORDERS, "--record", ORDERS][..],
        &["usage"],
        &["export", "--user", &user.id],
        &["compact"],
        &["migrate"],
        &["erase", "--user", &user.id, "--yes"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (to_nobody, to_full_disk) = (writer, File::options().write(true).open("/dev/full").unwrap());
        let (status, said) = complaint(&cluster, words, to_nobody).await;
        assert_eq!((status, &*said), (Some(0), ""), "{words:?}");
        let (status, said) = complaint(&cluster, words, to_full_disk).await;
        assert_eq!(status, Some(1), "{words:?}: {said}");
        assert!(said.contains("cannot write the output") && !said.contains("panicked"), "{words:?}: {said}");
    }
    assert_eq!(cluster.stored(&user).await, 0, "what a command does it does all the same");
}

/// Programs read the standard output: a command's log is not part of it.
#[tokio::test]
async fn what_goes_wrong_on_the_way_is_not_mixed_with_results() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    store_orders(&cluster, &user).await;
    let break_it = "update sync_changes set data = '[1]' where user_id = $1";
    sqlx::query(break_it).bind(&user.id).execute(&cluster.pool).await.unwrap();
    let output = command(&cluster, &["compact"], NOW).await;
    let (said, log) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(log.contains("a log cannot be trimmed") && !log.contains('\u{1b}'), "{log:?}");
}

/// The reader of an export may pause: the transaction that reads must not end meanwhile. The export is short here, so
/// the test does not wait for a timeout, but checks the setting in the session that reads.
#[tokio::test]
async fn an_export_waits_for_its_reader() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    store_orders(&cluster, &user).await;
    let observed = "
        alter table sync_changes rename to observed;
        create function never_ends() returns bool language plpgsql as $$
        begin
            if current_setting('idle_in_transaction_session_timeout') <> '0' then raise 'it ends'; end if;
            return true;
        end $$;
        create view sync_changes as select * from observed where never_ends()";
    sqlx::raw_sql(observed).execute(&cluster.pool).await.unwrap();
    for words in [&["export", "--user", &user.id][..], &["export", "--user", &user.id, "--log"]] {
        assert!(said(&cluster, words, &[]).await.lines().count() > 0, "{words:?}");
    }
}

#[tokio::test]
async fn a_schema_that_a_command_cannot_work_with_is_refused_and_left_alone() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    store_orders(&cluster, &user).await;
    let newest = "select max(version) from _sqlx_migrations";
    let newest: i64 = sqlx::query_scalar(newest).fetch_one(&cluster.pool).await.unwrap();
    let too_old = format!("lacks migration {newest}");
    let forget = format!("delete from _sqlx_migrations where version = {newest}");
    let too_new = "comment on table sync_heads is 'replicas must know migration 99'".to_owned();
    for (change, expected) in [(too_new, "start a newer version"), (forget, too_old.as_str())] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(change)).execute(&cluster.pool).await.unwrap();
        for words in [
            &["compact"][..],
            &["usage"],
            &["export", "--user", &user.id],
            &["why", "--user", &user.id, "--app", APP, "--table", TABLE, "--record", "a"],
            &["erase", "--user", &user.id, "--yes"],
        ] {
            let output = command(&cluster, words, NOW).await;
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
            assert!(said.contains(expected) && !said.contains("cannot be reached"), "{words:?}: {said}");
        }
        sqlx::query("comment on table sync_heads is null").execute(&cluster.pool).await.unwrap();
    }
    assert_eq!(cluster.stored(&user).await, 3);
}

/// As a replica that keeps no history drops them.
#[tokio::test]
async fn days_that_are_dropped_while_a_command_runs_cost_it_one_log() {
    let url = create_database().await;
    let migrate = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"))
        .arg("migrate")
        .env("DATABASE_URL", &url)
        .stdout(Stdio::null())
        .status();
    assert!(migrate.await.unwrap().success());
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    let database = DatabaseConfig { database_url: Secret::from(&*url), database_listen_url: None };
    let (after, never) = (Duration::ZERO, Duration::ZERO);
    let config = CompactionConfig { compact_after_ms: after, history_days: 30, purge_deleted_after_ms: never };
    let mut compactor = Compactor::of_command(&database, &config).await.unwrap();
    let mut trim = async || {
        let done = compactor.trim_all(None, None, |_| {}).await.unwrap();
        (done.logs, done.failed, done.trimmed.gone)
    };
    let write = async |app: &str| {
        for value in 0..3 {
            let changes = json!([update(TABLE, "a", "title", value, &at(value))]);
            let push = sqlx::query("select sync_push('user', $1, 'phone', $2)").bind(app).bind(changes);
            push.execute(&pool).await.unwrap();
        }
    };
    write("one").await;
    assert_eq!(trim().await, (1, 0, 1));
    sqlx::query("select sync_history_days(0)").execute(&pool).await.unwrap();
    write("two").await;
    write("three").await;
    assert_eq!(trim().await, (3, 1, 1), "the days are made anew for the next one");
    assert_eq!(trim().await, (3, 0, 1));
}
