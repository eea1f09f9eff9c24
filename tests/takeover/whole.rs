//! A whole takeover: killed in the middle, run again, and the same records before and after.

use super::fold::{Records, of_old_table, of_the_wire, spelled_alike};
use super::old::{Form, database};
use super::support::*;
use super::{connect, migrate, migrated, value};
use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{Connection, Row};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};

const USERS: u32 = 17;

/// Starts a takeover and kills it as soon as it prints this; false if it never does.
async fn killed_at(url: &str, said: &str) -> bool {
    killed_when(url, |line| line.contains(said)).await
}

/// The same for a line of its output for which this is true.
pub async fn killed_when(url: &str, is_moment: impl Fn(&str) -> bool) -> bool {
    let mut process = migrate(url, &[]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if is_moment(&line) {
            process.kill().await.unwrap();
            return true;
        }
    }
    false
}

/// A cursor as the old server wrote it: nine digits at most, zeros trimmed.
fn spelled_as_before(at: DateTime<Utc>) -> String {
    let text = at.format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    format!("{}Z", text.trim_end_matches('0').trim_end_matches('.'))
}

async fn take_over(form: Form, rows: u32) {
    let url = database(form, rows, USERS).await;
    let (before, count) = {
        let mut connection = connect(&url).await;
        let before = of_old_table(&mut connection, form, "sync_changes").await;
        connection.close().await.unwrap();
        before
    };
    assert_eq!(count, rows as usize);
    let left = "select count(*) from sync_takeover_parts where copied is null";
    for moment in ["Exactly 20000 rows", "rows copied", "rows copied", "continues where it was stopped"] {
        assert!(killed_at(&url, moment).await, "{moment}");
    }
    assert!(value::<i64>(&url, left).await > 0, "it must be killed while it copies");
    assert!(killed_at(&url, "All rows are copied").await);
    assert_eq!(value::<i64>(&url, left).await, 0);
    let said = migrated(&url, &[]).await;
    assert!(said.contains("continues where it was stopped") && said.contains("is sync_changes_before"), "{said}");
    assert!(migrated(&url, &[]).await.contains("nothing to do"));
    let cluster = Cluster::start_over(&url).await;
    compare(&cluster, before, rows).await;
    cursors_go_on(&cluster).await;
    let extra: i64 = value(&url, "select count(*) from sync_changes where extra ->> 'schemaVersion' = '1'").await;
    assert_eq!(extra, if form == Form::Newest { i64::from(rows) } else { 0 });
    if form == Form::Newest {
        let kept = "select count(*) from sync_changes c join sync_changes_before b using (id) where
                    c.extra = jsonb_strip_nulls(jsonb_build_object('actor', b.actor, 'origin', b.origin, 'spaceId', b.space_id, 'schemaVersion', b.schema_version))";
        assert_eq!(value::<i64>(&url, kept).await, i64::from(rows));
    }
    assert!(migrated(&url, &["--drop-old"]).await.contains("has been dropped"));
    assert_eq!(value::<i64>(&url, "select count(*) from sync_changes").await, i64::from(rows));
}

/// Checks that all users' records, as seen by a fresh device, are the same as before, and that each row was sent once.
pub async fn compare_records(cluster: &Cluster, before: Records, rows: u32, users: u32) {
    let (mut after, mut sent) = (Records::new(), 0);
    for user in 0..users {
        let user = cluster.user_named(&format!("user-{user}"));
        for app in ["todo", "notes", "ai"] {
            let (records, count) = of_the_wire(cluster, &user, app).await;
            after.extend(records);
            sent += count;
        }
    }
    assert_eq!(sent, rows as usize);
    let (before, after) = (spelled_alike(before), spelled_alike(after));
    assert_eq!(before.len(), after.len());
    for (key, record) in &before {
        assert_eq!(record, &after[key], "{key:?}");
    }
}

/// Checks that records are the same as before, and that positions, sizes and indexes are as documented.
async fn compare(cluster: &Cluster, before: Records, rows: u32) {
    compare_records(cluster, before, rows, USERS).await;
    let wrong = "
        select count(*) from (
            select c.*, b.id as old, b.created_at as stood, lag(c.created_at) over log as previous, h.head,
                   last_value(c.created_at) over log as last
            from sync_changes c left join sync_changes_before b using (id) left join sync_heads h using (log_id)
            window log as (partition by c.log_id order by c.created_at rows between unbounded preceding and unbounded following)
        ) as c
        where old is null or created_at < stood or created_at > stood + interval '100 microseconds'
           or (extract(epoch from created_at) * 1000000)::int8 % 20 <> 0 or head is distinct from last
           or log_id <> sync_log_id(user_id, app_id)
           or size <> octet_length(coalesce(data::text, '')) + octet_length(field_timestamps::text) + octet_length(coalesce(extra::text, ''))";
    let statement = sqlx::query_scalar::<_, i64>(wrong);
    assert_eq!(statement.fetch_one(&cluster.pool).await.unwrap(), 0);
    let indexes: Vec<String> = sqlx::query_scalar(
        "select indexrelid::regclass::text from pg_index where indrelid = 'sync_changes'::regclass and indisvalid order by 1",
    )
    .fetch_all(&cluster.pool)
    .await
    .unwrap();
    let fresh = Cluster::start(1).await;
    let expected: Vec<String> = sqlx::query_scalar(
        "select indexrelid::regclass::text from pg_index where indrelid = 'sync_changes'::regclass order by 1",
    )
    .fetch_all(&fresh.pool)
    .await
    .unwrap();
    assert_eq!(indexes, expected);
}

/// A device that followed the log up to an old cursor misses nothing that came after it.
async fn cursors_go_on(cluster: &Cluster) {
    let user = cluster.user_named("user-3");
    let rows = sqlx::query(
        "select created_at, record_id from sync_changes_before where user_id = 'user-3' and app_id = 'todo' order by created_at, ctid",
    )
    .fetch_all(&cluster.pool)
    .await
    .unwrap();
    let times: Vec<DateTime<Utc>> = rows.iter().map(|row| row.get(0)).collect();
    for at in (0..times.len()).step_by(times.len() / 24) {
        let owed = times.iter().filter(|time| **time > times[at]).count();
        let pages = cluster.push_all(&user, "todo", &spelled_as_before(times[at]), "fresh").await;
        let got = ids_of(&pages).len();
        let again = times.iter().filter(|time| (**time - times[at]).num_microseconds() == Some(0)).count();
        assert!(got >= owed && got <= owed + again + 60, "{got} for a reader who is owed {owed}");
        let records: Vec<&str> = rows[times.len() - owed..].iter().map(|row| row.get(1)).collect();
        assert_eq!(ids_of(&pages)[got - owed..], records[..]);
    }
    // An old cursor past everything stored, because it came from a clock, is never mistaken for a database that went
    // back, however many digits it has.
    let after = *times.last().unwrap() + chrono::TimeDelta::milliseconds(1);
    for nanos in [0, 1_000, 123_000, 457_000, 456_789] {
        let since = (after + chrono::TimeDelta::nanoseconds(nanos)).format("%Y-%m-%dT%H:%M:%S%.9f").to_string();
        let since = format!("{}Z", since.trim_end_matches('0').trim_end_matches('.'));
        assert_eq!(ids_of(&cluster.push_all(&user, "todo", &since, "fresh").await), [""; 0], "{since}");
        assert_eq!(ids(&cluster.pulled(&user, "todo", "tasks", &since, None).await), [""; 0], "{since}");
    }
    // The log continues: what is stored now comes after everything.
    let last = spelled_as_before(after);
    let body = json!({ "clientId": "phone", "since": last, "changes": [insert("tasks", "new", "Milk", "2024-05-01T10:05:00.000Z")] });
    assert_eq!(ids(&cluster.pushed(&user, "todo", body).await), [""; 0]);
    assert_eq!(ids_of(&cluster.push_all(&user, "todo", &last, "fresh").await), ["new"]);
    // The same for programs.
    let plain = "insert into sync_changes (app_id, table_name, record_id, user_id, op) values ('todo', 'tasks', 'sql', 'user-3', 'delete')";
    sqlx::query(plain).execute(&cluster.pool).await.unwrap();
    assert_eq!(ids_of(&cluster.push_all(&user, "todo", &last, "fresh").await), ["new", "sql"]);
    sqlx::query("delete from sync_changes where record_id in ('new', 'sql')").execute(&cluster.pool).await.unwrap();
}

#[tokio::test]
async fn the_older_form_is_taken_over_though_killed_at_every_step() {
    take_over(Form::Older, 20_000).await;
}

#[tokio::test]
async fn the_newest_form_is_taken_over_though_killed_at_every_step() {
    take_over(Form::Newest, 20_000).await;
}

/// A killed command may have sent its last commit, which the database may still be executing when the next command
/// starts.
#[tokio::test]
async fn a_part_that_a_killed_command_is_still_committing_is_not_copied_again() {
    const ROWS: u32 = 20_000;
    let url = database(Form::Older, ROWS, USERS).await;
    assert!(killed_at(&url, "rows copied").await);
    // It marks a part as done, with rows that are counted but not copied, to show which command copied them.
    let mut killed = connect(&url).await;
    sqlx::raw_sql("set application_name = 'mana-sync migrate'; begin").execute(&mut killed).await.unwrap();
    let note = "update sync_takeover_parts set copied = 0, left_behind = rows
                where part = (select max(part) from sync_takeover_parts where copied is null) returning rows";
    let part: i64 = sqlx::query_scalar(note).fetch_one(&mut killed).await.unwrap();
    let mut next = migrate(&url, &["--while-connected"]).stdout(Stdio::piped()).spawn().unwrap();
    let waiting = "select exists (select from pg_locks l join pg_stat_activity a using (pid) where not l.granted
                   and a.datname = current_database() and a.query like '%sync_takeover_parts%')";
    eventually("it comes to that part", async || value::<bool>(&url, waiting).await).await;
    sqlx::raw_sql("commit").execute(&mut killed).await.unwrap();
    killed.close().await.unwrap();
    assert!(tokio::time::timeout(TIMEOUT, next.wait()).await.unwrap().unwrap().success());
    assert_eq!(value::<i64>(&url, "select count(*) from sync_changes").await, i64::from(ROWS) - part);
}
