//! Replicas trim in the background, several at once, and are killed while they do.

use super::support::live::metric;
use super::support::*;
use super::{APP, TABLE, at, fold, history, rows};
use serde_json::json;
use std::time::Duration;

const SETTINGS: &[(&str, &str)] = &[("COMPACT_AFTER_MS", "400")];

async fn write(cluster: &Cluster, user: &User, from: i64, until: i64) {
    for value in from..until {
        let changes = json!([update(TABLE, &format!("r{}", value % 5), "title", value, &at(value))]);
        let body = json!({ "clientId": format!("device-{}", value % 3), "since": BEGINNING, "changes": changes });
        cluster.pushed_to(value as usize, user, APP, body).await;
    }
}

#[tokio::test]
async fn replicas_share_the_work_and_logs_level_off() {
    let cluster = Cluster::start_with(3, SETTINGS).await;
    let users: Vec<User> = (0..8).map(|_| cluster.user()).collect();
    for round in 0..3 {
        for user in &users {
            write(&cluster, user, round * 20, round * 20 + 20).await;
        }
    }
    for user in &users {
        // The first row and the last of each record.
        eventually("the log is as small as what lives in it", async || rows(&cluster, user).await.len() == 10).await;
        assert_eq!(history(&cluster, user).await, 50);
        let counted = "select stored_changes from sync_heads where user_id = $1 and untrimmed_since is null";
        let counted =
            async || sqlx::query_scalar::<_, i64>(counted).bind(&user.id).fetch_optional(&cluster.pool).await.unwrap();
        eventually("what is stored is counted, and nothing is due", async || counted().await == Some(10)).await;
        assert!(fold::untrimmed(&cluster, user, APP).await == fold::trimmed(&cluster, user, APP).await);
    }
    let mut gone = 0.0;
    for replica in 0..3 {
        gone += metric(&cluster, replica, "mana_sync_compaction_rows_total").await;
        let failed = metric(&cluster, replica, "mana_sync_compactions_total{outcome=\"failed\"}").await;
        assert_eq!(failed, 0.0, "{}", cluster.nodes[replica].log());
    }
    assert_eq!(gone, 8.0 * 50.0, "no row went twice");
    write(&cluster, &users[0], 60, 70).await;
    eventually("it is due again", async || rows(&cluster, &users[0]).await.len() == 10).await;
}

#[tokio::test]
async fn a_kill_at_any_moment_leaves_nothing_half_done() {
    let mut cluster = Cluster::start_with(2, SETTINGS).await;
    let users: Vec<User> = (0..6).map(|_| cluster.user()).collect();
    for round in 0..6_i64 {
        for user in &users {
            write(&cluster, user, round * 10, round * 10 + 10).await;
        }
        let killed = (round % 2) as usize;
        // Whether or not it is in the middle of something.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..300))).await;
        cluster.nodes[killed].process.kill().await;
        for user in &users {
            assert!(fold::untrimmed(&cluster, user, APP).await == fold::trimmed(&cluster, user, APP).await);
        }
        cluster.nodes[killed].restart().await;
    }
    for user in &users {
        eventually("the rest is trimmed", async || rows(&cluster, user).await.len() == 10).await;
        assert_eq!(history(&cluster, user).await, 50);
        assert!(fold::untrimmed(&cluster, user, APP).await == fold::trimmed(&cluster, user, APP).await);
    }
}

/// The history's daily partitions are created before they are needed, and dropped whole when they expire.
#[tokio::test]
async fn the_history_has_its_days() {
    let cluster = Cluster::start(1).await;
    let days = "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'sync_history'::regclass order by 1";
    let days = async || sqlx::query_scalar::<_, String>(days).fetch_all(&cluster.pool).await.unwrap();
    eventually("today and tomorrow", async || days().await.len() == 2).await;
    for old in ["20200101", "20200102"] {
        make_day(&cluster, old).await;
    }
    let see_to =
        async |keep: i32| sqlx::query("select sync_history_days($1)").bind(keep).execute(&cluster.pool).await.unwrap();
    see_to(30).await;
    assert_eq!(days().await.len(), 2, "those of 2020 are gone");
    see_to(0).await;
    assert_eq!(days().await.len(), 0, "0 keeps none");
    see_to(1).await;
    assert_eq!(days().await.len(), 2);
    // A partition that somebody reads is not waited for: pushes would queue behind that lock.
    make_day(&cluster, "20200101").await;
    let mut reader = cluster.pool.begin().await.unwrap();
    sqlx::query("select from sync_history_20200101").execute(&mut *reader).await.unwrap();
    // Each lock would be waited for for a second; a machine that is busy with other things delays not all of these.
    let mut quickest = Duration::MAX;
    for _ in 0..10 {
        let begun = std::time::Instant::now();
        see_to(30).await;
        quickest = quickest.min(begun.elapsed());
        assert_eq!(days().await.len(), 3);
    }
    assert!(quickest < Duration::from_millis(900), "{quickest:?}");
    reader.rollback().await.unwrap();
    see_to(30).await;
    assert_eq!(days().await.len(), 2);
    // If all partitions exist, there is no wait for another session that maintains them.
    let mut other = cluster.pool.begin().await.unwrap();
    sqlx::query("select sync_history_days(30)").execute(&mut *other).await.unwrap();
    make_day(&cluster, "20200102").await;
    see_to(30).await;
    assert_eq!(days().await.len(), 3, "the other one is at it");
}

async fn make_day(cluster: &Cluster, day: &str) {
    let made = format!(
        "create table sync_history_{day} partition of sync_history for values from ('{day} 00:00+00') to ('{day} 24:00+00')"
    );
    sqlx::query(sqlx::AssertSqlSafe(made)).execute(&cluster.pool).await.unwrap();
}

/// A command only trims; how long the history is kept is up to the replicas, including those that do not trim.
#[tokio::test]
async fn replicas_drop_the_history_and_commands_do_not() {
    let mut cluster = Cluster::start_with(1, &[("COMPACT_AFTER_MS", "0"), ("HISTORY_DAYS", "30")]).await;
    let user = cluster.user();
    write(&cluster, &user, 0, 20).await;
    let days = "select count(*) from pg_inherits where inhparent = 'sync_history'::regclass";
    let days = async || sqlx::query_scalar::<_, i64>(days).fetch_one(&cluster.pool).await.unwrap();
    eventually("today and tomorrow", async || days().await == 2).await;
    make_day(&cluster, "20200101").await;
    for kept in ["1", "0"] {
        let settings = [("COMPACT_AFTER_MS", "0"), ("HISTORY_DAYS", kept)];
        super::said(&cluster, &["compact"], &settings).await;
        assert_eq!(days().await, 3, "HISTORY_DAYS={kept} of a command is no replica's");
    }
    cluster.nodes[0].process.kill().await;
    cluster.nodes[0].restart().await;
    let days = "select count(*) from pg_inherits where inhparent = 'sync_history'::regclass";
    let days = async || sqlx::query_scalar::<_, i64>(days).fetch_one(&cluster.pool).await.unwrap();
    eventually("the old day is dropped where trimming is off", async || days().await == 2).await;
}
