//! Erasing a person: by command, by function, and the way programs have always done it.

use super::support::live::{socket, woken};
use super::support::*;
use super::{APP, TABLE, at, command, history, said, trim};
use serde_json::json;
use std::time::Duration;

async fn fill(cluster: &Cluster, user: &User) -> String {
    let mut cursor = String::new();
    for value in 0..4 {
        let changes =
            json!([update(TABLE, "a", "title", value, &at(value)), update(TABLE, "b", "title", value, &at(value))]);
        let answer =
            cluster.pushed(user, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": changes })).await;
        cursor = until(&answer).to_owned();
    }
    trim(cluster, user, Duration::ZERO, 30).await;
    assert!(history(cluster, user).await > 0);
    cursor
}

async fn left(cluster: &Cluster, user: &User) -> i64 {
    let count = "select (select count(*) from sync_changes where user_id = $1) + (select count(*) from sync_heads where user_id = $1)
                      + (select count(*) from sync_history where log_id = sync_log_id($1, $2))";
    sqlx::query_scalar(count).bind(&user.id).bind(APP).fetch_one(&cluster.pool).await.unwrap()
}

#[tokio::test]
async fn nothing_is_left_devices_are_told_and_old_cursors_are_served() {
    let cluster = shared().await;
    let (user, other) = (cluster.user(), cluster.user());
    let cursor = fill(cluster, &user).await;
    fill(cluster, &other).await;
    let mut device = socket(cluster, 1, &user, None, Some("laptop")).await;
    // The change stored shortly before it connected.
    assert_eq!(woken(&mut device).await, (APP.to_owned(), vec![TABLE.to_owned()]));
    let refused = command(cluster, &["erase", "--user", &user.id], &[]).await;
    assert!(!refused.status.success() && left(cluster, &user).await > 0);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--yes"), "{refused:?}");
    let text = said(cluster, &["erase", "--user", &user.id, "--yes"], &[]).await;
    assert!(text.contains("8 changes"), "{text}");
    assert_eq!(left(cluster, &user).await, 0);
    assert_eq!(woken(&mut device).await, (APP.to_owned(), vec![TABLE.to_owned()]));
    assert!(left(cluster, &other).await > 4, "nobody else is concerned");
    // A returning device: with its old cursor, it gets everything stored from now on.
    let empty = cluster.pulled(&user, APP, TABLE, &cursor, Some("laptop")).await;
    assert_eq!(ids(&empty), [""; 0]);
    let changes = json!([update(TABLE, "c", "title", 1, &at(9))]);
    let answer = cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": cursor, "changes": changes })).await;
    assert_eq!((ids(&answer).len(), &answer["hasMore"]), (0, &json!(false)));
    for since in [cursor.as_str(), until(&empty), BEGINNING] {
        let pages = cluster.pull_all(&user, APP, TABLE, since, Some("laptop")).await;
        assert_eq!(ids_of(&pages), ["c"], "since {since}");
    }
    let again = said(cluster, &["erase", "--user", "nobody-at-all", "--yes"], &[]).await;
    assert!(again.contains("0 changes"), "{again}");
}

/// From published tables, PostgreSQL deletes only rows that have a replica identity.
#[tokio::test]
async fn people_are_erased_where_all_tables_are_published() {
    let cluster = Cluster::start(1).await;
    let (user, other) = (cluster.user(), cluster.user());
    fill(&cluster, &user).await;
    fill(&cluster, &other).await;
    // Including a partition from an earlier version: rows can be deleted from it once a replica has maintained the
    // partitions.
    let before = "
        do $$
        declare
            day date := (now() at time zone 'UTC')::date - 1;
        begin
            execute format('create table sync_history_%s partition of sync_history for values from (%L) to (%L)', to_char(day, 'YYYYMMDD'),
                           day::timestamp at time zone 'UTC', (day + 1)::timestamp at time zone 'UTC');
        end
        $$;
        select sync_history_days(30);
        create publication everything for all tables";
    sqlx::raw_sql(before).execute(&cluster.pool).await.unwrap();
    said(&cluster, &["erase", "--user", &user.id, "--yes"], &[]).await;
    assert_eq!(left(&cluster, &user).await, 0);
    sqlx::query("delete from sync_changes where user_id = $1").bind(&other.id).execute(&cluster.pool).await.unwrap();
    assert_eq!(history(&cluster, &other).await, 0);
}

#[tokio::test]
async fn what_was_trimmed_goes_with_rows_that_programs_delete() {
    let cluster = shared().await;
    let user = cluster.user();
    fill(cluster, &user).await;
    let before = history(cluster, &user).await;
    let one = "delete from sync_changes where user_id = $1 and record_id = 'a'";
    sqlx::query(one).bind(&user.id).execute(&cluster.pool).await.unwrap();
    assert_eq!(history(cluster, &user).await, before / 2, "that of the other record stays");
    let counted = "select stored_changes from sync_heads where user_id = $1";
    let counted = async || sqlx::query_scalar::<_, i64>(counted).bind(&user.id).fetch_one(&cluster.pool).await.unwrap();
    assert_eq!(counted().await, cluster.stored(&user).await);
    sqlx::query("delete from sync_changes where user_id = $1").bind(&user.id).execute(&cluster.pool).await.unwrap();
    assert_eq!((history(cluster, &user).await, counted().await), (0, 0));
}

/// Concurrent pushes, trimming and erasing finish in some order, without a deadlock.
#[tokio::test]
async fn erasing_amid_pushes_and_trimmings_leaves_what_came_after() {
    let cluster = shared().await;
    let user = cluster.user();
    fill(cluster, &user).await;
    let pushes = async {
        for value in 0..40_i64 {
            let changes = json!([update(TABLE, "a", "title", value, &at(100 + value))]);
            cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": changes })).await;
        }
    };
    let trims = async {
        for _ in 0..10 {
            trim(cluster, &user, Duration::ZERO, 30).await;
        }
    };
    let erasing = async {
        for _ in 0..5 {
            sqlx::query("select sync_erase($1)").bind(&user.id).execute(&cluster.pool).await.unwrap();
        }
    };
    tokio::join!(pushes, trims, erasing);
    let changes = json!([update(TABLE, "a", "title", "last", &at(1_000))]);
    cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": changes })).await;
    let pages = cluster.pull_all(&user, APP, TABLE, BEGINNING, None).await;
    let last = pages.last().unwrap()["serverChanges"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["fields"]["title"]["value"], "last");
    let counted = "select h.stored_changes - (select count(*) from sync_changes c where c.log_id = h.log_id) from sync_heads h where h.user_id = $1";
    trim(cluster, &user, Duration::ZERO, 30).await;
    assert_eq!(sqlx::query_scalar::<_, i64>(counted).bind(&user.id).fetch_one(&cluster.pool).await.unwrap(), 0);
}

/// True if a session waits for a lock in this database.
async fn waiting(cluster: &Cluster) -> bool {
    let waiting =
        "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')";
    sqlx::query_scalar(waiting).fetch_one(&cluster.pool).await.unwrap()
}

/// A program erases a user whose log is being trimmed at that moment: the history does not get the trimmed values.
#[tokio::test]
async fn what_a_program_deletes_while_it_is_trimmed_is_not_kept() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    for value in 0..4 {
        let changes = json!([update(TABLE, "a", "title", value, &at(value))]);
        cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": changes })).await;
    }
    let mut program = cluster.pool.begin().await.unwrap();
    let delete = "delete from sync_changes where user_id = $1";
    sqlx::query(delete).bind(&user.id).execute(&mut *program).await.unwrap();
    let trimming = trim(&cluster, &user, Duration::ZERO, 30);
    let committing = async {
        eventually("trimming waits for the program", async || waiting(&cluster).await).await;
        program.commit().await.unwrap();
    };
    let (done, ()) = tokio::join!(trimming, committing);
    assert_eq!((done.trimmed.rows, done.failed), (0, 0), "{done:?}");
    assert_eq!((history(&cluster, &user).await, cluster.stored(&user).await), (0, 0));
}

/// A device stores the first changes of an app while its user is erased: they have a head, and another erasure finds
/// them.
#[tokio::test]
async fn a_log_that_is_made_during_an_erasure_stays_whole() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    let changes = |app: &str| json!([update(TABLE, "a", "title", app, &at(0))]);
    let push = async |app: &str| {
        cluster.pushed(&user, app, json!({ "clientId": "phone", "since": BEGINNING, "changes": changes(app) })).await
    };
    push(APP).await;
    let mut reader = cluster.pool.begin().await.unwrap();
    let hold = "select from sync_changes where user_id = $1 for update";
    sqlx::query(hold).bind(&user.id).execute(&mut *reader).await.unwrap();
    let erasing = sqlx::query_scalar::<_, i64>("select sync_erase($1)").bind(&user.id).fetch_one(&cluster.pool);
    let meanwhile = async {
        eventually("the erasure waits for a row", async || waiting(&cluster).await).await;
        push("notes").await;
        reader.commit().await.unwrap();
    };
    let (erased, ()) = tokio::join!(erasing, meanwhile);
    assert_eq!(erased.unwrap(), 1);
    let pages = cluster.pull_all(&user, "notes", TABLE, BEGINNING, None).await;
    assert_eq!(ids_of(&pages), ["a"], "what was answered 200 is there");
    let text = said(&cluster, &["erase", "--user", &user.id, "--yes"], &[]).await;
    assert!(text.contains("1 change of"), "{text}");
    assert_eq!((left(&cluster, &user).await, cluster.stored(&user).await), (0, 0));
}

/// After a takeover, the previous server's table has the same person's rows.
#[tokio::test]
async fn the_table_of_the_server_before_is_erased_as_well() {
    let cluster = Cluster::start(1).await;
    let (user, other) = (cluster.user(), cluster.user());
    fill(&cluster, &user).await;
    let before = "create table sync_changes_before (id bigint generated always as identity, user_id text, data jsonb)";
    sqlx::query(before).execute(&cluster.pool).await.unwrap();
    for person in [&user, &user, &other] {
        let insert = "insert into sync_changes_before (user_id, data) values ($1, '{}')";
        sqlx::query(insert).bind(&person.id).execute(&cluster.pool).await.unwrap();
    }
    let text = said(&cluster, &["erase", "--user", &user.id, "--yes"], &[]).await;
    assert!(text.contains("10 changes"), "{text}");
    let left = "select array_agg(user_id) from sync_changes_before";
    let left: Vec<String> = sqlx::query_scalar(left).fetch_one(&cluster.pool).await.unwrap();
    assert_eq!(left, std::slice::from_ref(&other.id));
}

/// Positions were given out ahead of the clock, as after a failover to a server whose clock is behind: what is stored
/// after an erasure still comes after every cursor that a device may have.
#[tokio::test]
async fn what_is_stored_after_an_erasure_comes_after_cursors_that_are_ahead_of_the_clock() {
    let cluster = shared().await;
    let user = cluster.user();
    fill(cluster, &user).await;
    let ahead = "update sync_heads set head = head + interval '10 seconds' where user_id = $1";
    sqlx::query(ahead).bind(&user.id).execute(&cluster.pool).await.unwrap();
    let cursor = until(&cluster.pulled(&user, APP, TABLE, BEGINNING, None).await).to_owned();
    sqlx::query("select sync_erase($1)").bind(&user.id).execute(&cluster.pool).await.unwrap();
    assert_eq!(left(cluster, &user).await, 1, "the head stays, alone");
    let push = async |record: &str, stamp: i64| {
        let changes = json!([update(TABLE, record, "title", 1, &at(stamp))]);
        cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": cursor, "changes": changes })).await
    };
    push("c", 20).await;
    let passed = "select clock_timestamp() > $1::timestamptz";
    let has_passed = async || sqlx::query_scalar(passed).bind(&cursor).fetch_one(&cluster.pool).await.unwrap();
    eventually("the clock has passed it", async || has_passed().await).await;
    push("d", 21).await;
    let pages = cluster.pull_all(&user, APP, TABLE, &cursor, Some("laptop")).await;
    assert_eq!(ids_of(&pages), ["c", "d"]);
    sqlx::query("select sync_erase($1)").bind(&user.id).execute(&cluster.pool).await.unwrap();
    assert_eq!(left(cluster, &user).await, 0, "once the clock has passed it");
}

/// The row of a log in sync_heads was deleted: nobody can read the log, but it still belongs to the person.
#[tokio::test]
async fn a_log_without_its_head_is_passed_over_by_trimming_and_erased_with_the_others() {
    let cluster = shared().await;
    let user = cluster.user();
    fill(cluster, &user).await;
    let changes = json!([update(TABLE, "a", "title", 1, &at(1))]);
    cluster.pushed(&user, "notes", json!({ "clientId": "phone", "since": BEGINNING, "changes": changes })).await;
    let lost = "delete from sync_heads where user_id = $1 and app_id = $2";
    sqlx::query(lost).bind(&user.id).bind(APP).execute(&cluster.pool).await.unwrap();
    let stored = left(cluster, &user).await;
    let progress = trim(cluster, &user, Duration::ZERO, 30).await;
    assert_eq!((progress.logs, progress.failed), (1, 0), "{progress:?}");
    assert_eq!(left(cluster, &user).await, stored);
    let text = said(cluster, &["erase", "--user", &user.id, "--yes"], &[]).await;
    assert!(text.contains(&format!("{} changes", stored - 1)), "{text} of {stored}, a head among them");
    assert_eq!(left(cluster, &user).await, 0);
}
