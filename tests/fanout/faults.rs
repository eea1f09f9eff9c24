//! The fan-out when its connections are cut, or replicas freeze and die: whatever was stored in the meantime arrives
//! within 5 s of the end of the fault, without a restart (G4). Each test has a cluster of its own.

use crate::support::live::*;
use crate::support::*;
use sqlx::{AssertSqlSafe, PgPool};
use std::collections::BTreeSet;
use std::time::Duration;

/// What is promised, on a machine that has time for it.
const FOUND: Duration = Duration::from_secs(5);
/// Replicas that reconcile only when they have a reason to: after their listener was disconnected.
const NO_ROUNDS: (&str, &str) = ("RECONCILE_MS", "3600000");

/// A connection to another database of the server, which stays possible while the cluster's database accepts none.
async fn admin(cluster: &Cluster) -> PgPool {
    let mut url: url::Url = cluster.database_url.parse().unwrap();
    url.set_path("postgres");
    PgPool::connect(url.as_str()).await.unwrap()
}

fn database(cluster: &Cluster) -> String {
    cluster.database_url.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned()
}

async fn let_in(cluster: &Cluster, admin: &PgPool, allow: bool) {
    let sql = format!("alter database {} with allow_connections {allow}", database(cluster));
    sqlx::query(AssertSqlSafe(sql)).execute(admin).await.unwrap();
}

/// Makes every replica's pool open enough connections for what follows, while no new ones are allowed.
async fn fill_pools(cluster: &Cluster, user: &User) {
    let pulls = (0..30).map(|n| {
        let path = format!("/sync/{APP}/pull?collection=x&since={BEGINNING}");
        let request = cluster.request_to(n, user, reqwest::Method::GET, &path);
        async move { assert_eq!(request.send().await.unwrap().status(), 200) }
    });
    futures_util::future::join_all(pulls).await;
}

/// The number of the replicas' connections whose names end like this.
async fn connected(cluster: &Cluster, admin: &PgPool, ending: &str) -> i64 {
    let sql = "select count(*) from pg_stat_activity where datname = $1 and application_name like '%' || $2";
    sqlx::query_scalar(sql).bind(database(cluster)).bind(ending).fetch_one(admin).await.unwrap()
}

/// Cuts these connections.
async fn cut(cluster: &Cluster, admin: &PgPool, ending: &str) {
    let sql = "select pg_terminate_backend(pid) from pg_stat_activity
               where datname = $1 and application_name like '%' || $2";
    sqlx::query(sql).bind(database(cluster)).bind(ending).execute(admin).await.unwrap();
}

/// Cuts them, and keeps them from coming back.
async fn cut_off(cluster: &Cluster, admin: &PgPool, ending: &str) {
    let_in(cluster, admin, false).await;
    cut(cluster, admin, ending).await;
    eventually("they are gone", async || connected(cluster, admin, ending).await == 0).await;
}

#[tokio::test]
async fn what_is_pushed_while_the_listeners_are_cut_off_arrives_when_they_are_back() {
    let cluster = &Cluster::start_with(2, &[NO_ROUNDS]).await;
    let (admin, user) = (&admin(cluster).await, cluster.user());
    let mut sockets = [socket(cluster, 0, &user, None, None).await, socket(cluster, 1, &user, None, None).await];
    let mut stream = Events::open(stream_of(cluster, 1, &user, "collections=meanwhile")).await;
    stream.backlog().await;
    store(cluster, 0, &user, "phone", &[("before", "a")]).await;
    for socket in &mut sockets {
        assert_eq!(woken(socket).await.1, ["before"]);
    }

    fill_pools(cluster, &user).await;
    cut_off(cluster, admin, "listen").await;
    store(cluster, 0, &user, "phone", &[("meanwhile", "b")]).await;
    store(cluster, 1, &user, "phone", &[("meanwhile", "c"), ("too", "d")]).await;
    let_in(cluster, admin, true).await;

    let expected: BTreeSet<String> = ["meanwhile".to_owned(), "too".to_owned()].into();
    let arrives = async {
        for socket in &mut sockets {
            let mut seen = BTreeSet::new();
            while seen != expected {
                seen.extend(woken(socket).await.1);
                assert!(seen.is_subset(&expected), "{seen:?}");
            }
        }
        assert_eq!(stream.until("c").await, ["b", "c"]);
    };
    soon(cluster, FOUND, "in time", arrives).await;
    store(cluster, 0, &user, "phone", &[("after", "e")]).await;
    for socket in &mut sockets {
        woken_until(socket, "after").await;
    }
}

#[tokio::test]
async fn listeners_that_are_cut_again_and_again_miss_nothing() {
    let cluster = &Cluster::start_with(2, &[NO_ROUNDS]).await;
    let (admin, user) = (&admin(cluster).await, cluster.user());
    let mut socket = socket(cluster, 1, &user, None, None).await;
    for n in 0..10 {
        cut(cluster, admin, "listen").await;
        let table = format!("table {n}");
        store(cluster, 0, &user, "phone", &[(&table, "a")]).await;
        let seen = soon(cluster, FOUND, "in time", woken_until(&mut socket, &table)).await;
        assert!(seen.len() <= 2, "{seen:?}");
    }
}

#[tokio::test]
async fn a_publisher_whose_connection_was_cut_sends_what_it_has_on_a_new_one() {
    let cluster = &Cluster::start_with(2, &[NO_ROUNDS]).await;
    let (admin, user) = (&admin(cluster).await, cluster.user());
    let mut socket = socket(cluster, 1, &user, None, None).await;
    store(cluster, 0, &user, "phone", &[("before", "a")]).await;
    assert_eq!(woken(&mut socket).await.1, ["before"]);
    for n in 0..5 {
        cut(cluster, admin, "publish").await;
        let table = format!("table {n}");
        store(cluster, 0, &user, "phone", &[(&table, "a")]).await;
        soon(cluster, FOUND, "in time", woken_until(&mut socket, &table)).await;
    }

    fill_pools(cluster, &user).await;
    cut_off(cluster, admin, "publish").await;
    let tables: Vec<String> = (0..20).map(|n| format!("kept {n}")).collect();
    for table in &tables {
        store(cluster, 0, &user, "phone", &[(table, "b")]).await;
    }
    let failures = async || metric(cluster, 0, "mana_sync_publish_failures_total").await >= 2.0;
    eventually("the publisher cannot publish", failures).await;
    let_in(cluster, admin, true).await;
    let expected: BTreeSet<String> = tables.into_iter().collect();
    let arrives = async {
        let mut seen = BTreeSet::new();
        while !expected.is_subset(&seen) {
            seen.extend(woken(&mut socket).await.1);
        }
    };
    soon(cluster, FOUND, "what piled up is sent", arrives).await;
}

#[tokio::test]
async fn a_replica_that_stops_sends_what_it_could_not_send_before() {
    let settings = [NO_ROUNDS, ("DRAIN_DELAY_MS", "0"), ("DRAIN_WINDOW_MS", "0")];
    let cluster = &Cluster::start_with(2, &settings).await;
    let (admin, user) = (&admin(cluster).await, cluster.user());
    let mut socket = socket(cluster, 1, &user, None, None).await;
    store(cluster, 0, &user, "phone", &[("before", "a")]).await;
    assert_eq!(woken(&mut socket).await.1, ["before"]);
    fill_pools(cluster, &user).await;
    cut_off(cluster, admin, "publish").await;
    store(cluster, 0, &user, "phone", &[("late", "b")]).await;
    let failures = async || metric(cluster, 0, "mana_sync_publish_failures_total").await >= 2.0;
    eventually("the publisher cannot publish", failures).await;
    let process = &cluster.nodes[0].process;
    process.signal(nix::sys::signal::Signal::SIGTERM);
    let accepts = async || cluster.http.get(cluster.url(0)).send().await.is_ok();
    eventually("it no longer accepts", async || !accepts().await).await;
    let_in(cluster, admin, true).await;
    let seen = soon(cluster, FOUND, "in time", woken_until(&mut socket, "late")).await;
    assert!(seen.iter().all(|table| table == "late"), "{seen:?}");
    assert_eq!(soon(cluster, FOUND, "in time", process.ended()).await.code(), Some(0));
}

#[tokio::test]
async fn pushes_of_a_replica_that_dies_as_it_answers_are_found_by_the_others() {
    let cluster = &Cluster::start(3).await;
    let user = cluster.user();
    let mut sockets = [socket(cluster, 1, &user, None, None).await, socket(cluster, 2, &user, None, None).await];
    let pushes = (0..8).map(|n| {
        let user = &user;
        async move { store(cluster, 0, user, "phone", &[(&format!("table {n}"), "a")]).await }
    });
    futures_util::future::join_all(pushes).await;
    cluster.nodes[0].process.kill().await;
    let expected: BTreeSet<String> = (0..8).map(|n| format!("table {n}")).collect();
    let arrives = async {
        for socket in &mut sockets {
            let mut seen = BTreeSet::new();
            while seen != expected {
                seen.extend(woken(socket).await.1);
            }
        }
    };
    soon(cluster, FOUND, "in time", arrives).await;
}

#[tokio::test]
async fn a_replica_that_was_frozen_catches_up() {
    let cluster = &Cluster::start(2).await;
    let user = cluster.user();
    let mut socket = socket(cluster, 1, &user, None, None).await;
    let mut stream = Events::open(stream_of(cluster, 1, &user, "collections=tasks")).await;
    stream.backlog().await;
    cluster.nodes[1].process.pause();
    let ids: Vec<String> = (0..30).map(|n| format!("{n:02}")).collect();
    for id in &ids {
        store(cluster, 0, &user, "phone", &[("tasks", id)]).await;
    }
    store(cluster, 0, &user, "phone", &[("last", "a")]).await;
    cluster.nodes[1].process.resume();
    let arrives = async {
        woken_until(&mut socket, "last").await;
        assert_eq!(stream.until("29").await, ids);
    };
    soon(cluster, FOUND, "in time", arrives).await;
}

/// Replicas that publish nothing: everything is left to the reconcilers.
const NOTHING_SENT: (&str, &str) = ("PUBLISH_QUEUE", "0");

#[tokio::test]
async fn what_nobody_published_is_announced_part_by_part_however_much_it_is() {
    let cluster = &Cluster::start_with(1, &[NOTHING_SENT, ("RECONCILE_MS", "300")]).await;
    let user = cluster.user();
    let mut sockets = Vec::new();
    for (app, device) in [(None, None), (Some(APP), None), (Some(APP), Some("laptop"))] {
        sockets.push(socket(cluster, 0, &user, app, device).await);
    }
    // First more changes in a few tables than one statement reads; then more tables than one message names.
    let mut expected = BTreeSet::from(["a", "b", "c"].map(str::to_owned));
    for round in 0..5 {
        let ids: Vec<String> = (0..5_000).map(|n| format!("{round} {n}")).collect();
        let table = ["a", "b", "c"][round.min(2)];
        let records: Vec<(&str, &str)> = ids.iter().map(|id| (table, id.as_str())).collect();
        store(cluster, 0, &user, "phone", &records).await;
    }
    let tables: Vec<String> = (0..4_000).map(|n| format!("{n:0>32}")).collect();
    let records: Vec<(&str, &str)> = tables.iter().map(|table| (table.as_str(), "a")).collect();
    store(cluster, 0, &user, "phone", &records).await;
    store(cluster, 0, &user, "phone", &[("last", "a")]).await;
    expected.extend(tables.into_iter().chain(["last".to_owned()]));
    for socket in &mut sockets {
        let mut seen = BTreeSet::new();
        while !expected.is_subset(&seen) {
            let (_, tables) = woken(socket).await;
            assert!(tables.iter().map(String::len).sum::<usize>() <= 300 << 10, "{} at once", tables.len());
            seen.extend(tables);
        }
        assert_eq!(seen, expected);
    }
}

/// Gives a user this many more logs, last written to an hour before the existing one.
async fn give_logs(cluster: &Cluster, user: &User, count: i64) {
    let sql = "
        insert into sync_heads (log_id, user_key, user_id, app_id, head, previous)
        select gen_random_uuid(), user_key, user_id, 'app ' || n, head - interval '1 hour', 'epoch'
        from sync_heads, generate_series(1, $2) n where user_id = $1";
    sqlx::query(sql).bind(&user.id).bind(count).execute(&cluster.pool).await.unwrap();
}

#[tokio::test]
async fn a_user_with_very_many_logs_is_told_what_nobody_published_and_others_are_too() {
    let cluster = &Cluster::start_with(1, &[NOTHING_SENT, ("RECONCILE_MS", "300"), ("MAX_USER_APPS", "0")]).await;
    let (many, few) = (cluster.user(), cluster.user());
    store(cluster, 0, &many, "phone", &[("before", "a")]).await;
    give_logs(cluster, &many, 20_000).await;
    let mut stay = Vec::new();
    for round in ["first", "second"] {
        // Sockets of one app and of all apps, both as the first sockets of their user and as later ones.
        let mut of_one = socket(cluster, 0, &many, Some(APP), None).await;
        let mut of_all = socket(cluster, 0, &many, None, None).await;
        let mut other = socket(cluster, 0, &few, None, None).await;
        store(cluster, 0, &few, "phone", &[("others", round)]).await;
        store_in(cluster, 0, &many, &format!("{round}-app"), "phone", &[("in a new app", "a")]).await;
        store(cluster, 0, &many, "phone", &[("in an old one", round)]).await;
        let arrives = async {
            woken_until(&mut other, "others").await;
            woken_until(&mut of_one, "in an old one").await;
            let mut seen = BTreeSet::new();
            while !["in a new app", "in an old one"].iter().all(|table| seen.contains(*table)) {
                seen.extend(woken(&mut of_all).await.1);
            }
        };
        soon(cluster, FOUND, "in time", arrives).await;
        stay.extend([of_one, of_all, other]);
    }
}

#[tokio::test]
async fn pushes_that_name_very_many_tables_hold_nobody_up_while_nothing_can_be_published() {
    let cluster = &Cluster::start_with(2, &[NO_ROUNDS]).await;
    let (admin, user) = (&admin(cluster).await, cluster.user());
    let mut socket = socket(cluster, 1, &user, None, None).await;
    store(cluster, 0, &user, "phone", &[("before", "a")]).await;
    assert_eq!(woken(&mut socket).await.1, ["before"]);
    fill_pools(cluster, &user).await;
    cut_off(cluster, admin, "publish").await;
    let tables: Vec<String> = (0..5_000).map(|n| format!("table {n}")).collect();
    for n in 0..4 {
        // The same device in the same app: its waiting wake-ups are merged.
        let id = format!("{n}");
        let records: Vec<(&str, &str)> = tables.iter().map(|table| (table.as_str(), id.as_str())).collect();
        store(cluster, 0, &user, "phone", &records).await;
        let others = (0..20).map(|_| async {
            let other = cluster.user();
            soon(cluster, FOUND, "nobody waits", store(cluster, 0, &other, "phone", &[("tasks", "a")])).await
        });
        futures_util::future::join_all(others).await;
    }
    let waiting = metric(cluster, 0, "mana_sync_publish_queue_bytes").await;
    assert!((1.0..100_000.0).contains(&waiting), "{waiting}");
    let_in(cluster, admin, true).await;
    let expected: BTreeSet<String> = tables.into_iter().collect();
    let arrives = async {
        let mut seen = BTreeSet::new();
        while seen != expected {
            seen.extend(woken(&mut socket).await.1);
        }
    };
    soon(cluster, FOUND, "what was too much to send is looked up", arrives).await;
}
