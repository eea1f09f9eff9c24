//! From a commit on one replica to the devices on all: by notifications alone if nothing fails, and by the reconcilers
//! if a notification was lost (G4). See faults.rs for connections and replicas that die.

use crate::support::live::*;
use crate::support::silent::store_silently;
use crate::support::*;
use mana_load::wakeups::Wakeups;
use mana_sync::protocol::Log;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::OnceCell;

/// Maximum time to find anything lost.
const FOUND: Duration = Duration::from_secs(5);

/// Three replicas that do not reconcile: what arrives was notified.
async fn notified_only() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED.get_or_init(|| Cluster::start_with(3, &[("RECONCILE_MS", "3600000")])).await
}

/// A socket on each replica.
async fn sockets(cluster: &Cluster, user: &User) -> Vec<Wakeups> {
    let mut sockets = Vec::new();
    for index in 0..cluster.nodes.len() {
        sockets.push(socket(cluster, index, user, None, None).await);
    }
    sockets
}

#[tokio::test]
async fn a_push_with_thousands_of_tables_of_a_user_with_a_long_id_wakes_with_all_of_them() {
    let cluster = notified_only().await;
    let user = cluster.user_named(&format!("{}{}", cluster.user().id, "ü".repeat(100)));
    let neighbour = cluster.user_named(&format!("{}!", user.id));
    let mut sockets = sockets(cluster, &user).await;
    let mut other = socket(cluster, 1, &neighbour, None, None).await;
    let mut stream = Events::open(stream_of(cluster, 2, &user, "collections=table%202999")).await;
    stream.backlog().await;
    let tables: Vec<String> = (0..3_000).map(|n| format!("table {n}")).collect();
    let records: Vec<(&str, &str)> = tables.iter().map(|table| (table.as_str(), "a")).collect();
    store(cluster, 0, &user, "phone", &records).await;
    let expected: BTreeSet<String> = tables.iter().cloned().collect();
    for socket in &mut sockets {
        let mut seen = BTreeSet::new();
        while seen.len() < expected.len() {
            seen.extend(woken(socket).await.1);
        }
        assert_eq!(seen, expected);
    }
    assert_eq!(stream.until("a").await, ["a"]);
    store(cluster, 0, &neighbour, "phone", &[("own", "a")]).await;
    assert_eq!(woken(&mut other).await.1, ["own"], "nobody else was woken");
    for index in 0..3 {
        assert_eq!(metric(cluster, index, "mana_sync_publish_failures_total").await, 0.0);
    }
}

#[tokio::test]
async fn names_that_grow_when_they_are_written_down_wake_too() {
    let (cluster, user) = (notified_only().await, notified_only().await.user());
    let mut sockets = sockets(cluster, &user).await;
    let names = ["\u{1}".repeat(255), "\"\\".repeat(127), "👩".repeat(63), "\n".repeat(255)];
    let device = "d".repeat(255);
    for name in &names {
        store(cluster, 1, &user, &device, &[(name, "a")]).await;
        for socket in &mut sockets {
            assert_eq!(woken(socket).await.1, std::slice::from_ref(name));
        }
    }
}

#[tokio::test]
async fn pushes_of_many_users_at_once_wake_each_of_them_by_notifications_alone() {
    const USERS: usize = 100;
    let cluster = notified_only().await;
    let mut members = Vec::new();
    for n in 0..USERS {
        let user = cluster.user();
        members.push((socket(cluster, n, &user, None, None).await, user));
    }
    let devices = members.into_iter().enumerate().map(|(n, (mut socket, user))| async move {
        let table = format!("table {n} {}", "x".repeat(200));
        let records: Vec<(&str, &str)> = vec![(&table, "a"), ("shared name", "a")];
        store(cluster, n + 1, &user, "phone", &records).await;
        assert_eq!(woken(&mut socket).await.1, ["shared name".to_owned(), table]);
    });
    futures_util::future::join_all(devices).await;
}

#[tokio::test]
async fn whatever_is_pushed_after_auth_ok_wakes_though_the_socket_has_only_just_come() {
    let cluster = notified_only().await;
    for n in 0..30 {
        let user = cluster.user();
        if n % 2 == 0 {
            store(cluster, n, &user, "phone", &[("before", "a")]).await;
        }
        let mut socket = socket(cluster, n, &user, None, None).await;
        store(cluster, n + 1, &user, "phone", &[("after", "b")]).await;
        woken_until(&mut socket, "after").await;
    }
}

#[tokio::test]
async fn garbage_on_the_channel_harms_nothing() {
    let (cluster, user) = (notified_only().await, notified_only().await.user());
    let mut sockets = sockets(cluster, &user).await;
    let key = Log::new(user.id.as_str().into(), APP).user.0;
    let unreadable = "mana_sync_notifications_unreadable_total";
    let before = metric(cluster, 0, unreadable).await;
    let garbage = [
        String::new(),
        "x".repeat(7_999),
        "{}".to_owned(),
        r#"{"v":2,"w":[]}"#.to_owned(),
        r#"{"v":1,"w":[["AAAA","todo",null,["tasks"],[]]]}"#.to_owned(),
        format!(r#"{{"v":1,"w":[["{key}","todo",null,["tasks"],[]]]}}"#),
        "日本語\u{1}".to_owned(),
        "[".repeat(7_000),
    ];
    for payload in &garbage {
        sqlx::query("select pg_notify('mana_sync', $1)").bind(payload).execute(&cluster.pool).await.unwrap();
    }
    store(cluster, 2, &user, "phone", &[("good", "a")]).await;
    for socket in &mut sockets {
        assert_eq!(woken(socket).await.1, ["good"]);
    }
    assert_eq!(metric(cluster, 0, unreadable).await - before, garbage.len() as f64);
}

#[tokio::test]
async fn a_change_that_was_never_notified_wakes_every_replica_in_time() {
    let cluster = shared().await;
    for has_history in [true, false] {
        let user = cluster.user();
        if has_history {
            store(cluster, 0, &user, "phone", &[("before", "a")]).await;
        }
        let mut sockets = sockets(cluster, &user).await;
        let mut streams = Vec::new();
        for index in 0..3 {
            let mut stream = Events::open(stream_of(cluster, index, &user, "collections=lost")).await;
            stream.backlog().await;
            streams.push(stream);
        }
        store_silently(cluster, &user, "lost").await;
        let found = async {
            for socket in &mut sockets {
                // The wake-up for the earlier change may still have been on its way to this replica.
                let tables = woken_until(socket, "lost").await;
                assert!(tables.iter().all(|table| table == "lost" || table == "before"), "{tables:?}");
            }
            for stream in &mut streams {
                assert_eq!(stream.until("silent").await, ["silent"]);
            }
        };
        soon(cluster, FOUND, "a lost notification is found in time", found).await;
    }
}

#[tokio::test]
async fn a_lost_change_is_found_though_a_later_one_was_notified() {
    let (cluster, user) = (shared().await, shared().await.user());
    store(cluster, 0, &user, "phone", &[("before", "a")]).await;
    let mut sockets = sockets(cluster, &user).await;
    let mut stream = Events::open(stream_of(cluster, 1, &user, "collections=lost")).await;
    stream.backlog().await;
    store_silently(cluster, &user, "lost").await;
    store(cluster, 0, &user, "phone", &[("later", "b")]).await;
    let found = async {
        for socket in &mut sockets {
            let tables: BTreeSet<String> = woken_until(socket, "lost").await.into_iter().collect();
            assert!(tables.iter().all(|table| ["before", "later", "lost"].contains(&table.as_str())), "{tables:?}");
        }
        assert_eq!(stream.until("silent").await, ["silent"]);
    };
    soon(cluster, FOUND, "a gap is found in time", found).await;
}

#[tokio::test]
async fn many_lost_changes_among_notified_ones_are_all_found() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut sockets = sockets(cluster, &user).await;
    let mut expected = BTreeSet::new();
    for n in 0..20 {
        let (lost, told) = (format!("lost {n}"), format!("told {n}"));
        store_silently(cluster, &user, &lost).await;
        store(cluster, n, &user, "phone", &[(&told, "a")]).await;
        expected.extend([lost, told]);
    }
    let found = async {
        for socket in &mut sockets {
            let mut seen = BTreeSet::new();
            while seen != expected {
                seen.extend(woken(socket).await.1);
                assert!(seen.is_subset(&expected));
            }
        }
    };
    soon(cluster, FOUND, "every gap is found in time", found).await;
}

#[tokio::test]
async fn a_device_is_not_woken_by_its_own_change_that_was_never_notified() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut phone = socket(cluster, 0, &user, None, Some("phone")).await;
    let mut laptop = socket(cluster, 0, &user, None, Some("laptop")).await;
    store_silently(cluster, &user, "own").await;
    assert_eq!(woken(&mut laptop).await.1, ["own"]);
    store(cluster, 1, &user, "laptop", &[("other", "a")]).await;
    assert_eq!(woken(&mut phone).await.1, ["other"]);
}

#[tokio::test]
async fn what_was_stored_long_before_a_socket_came_does_not_wake_it() {
    let (cluster, user) = (shared().await, shared().await.user());
    store(cluster, 0, &user, "phone", &[("notified", "a")]).await;
    store_silently(cluster, &user, "silent").await;
    age(cluster, &user, APP, 100.0).await;
    let mut socket = socket(cluster, 0, &user, None, None).await;
    store(cluster, 0, &user, "phone", &[("new", "b")]).await;
    store_silently(cluster, &user, "found").await;
    // A round of reconciliation finds a change together with everything missing before it.
    let tables = woken_until(&mut socket, "found").await;
    assert!(!tables.contains(&"silent".to_owned()), "{tables:?}");
}
