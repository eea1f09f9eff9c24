//! Sockets that reconnect: they are told once what was stored shortly before (G4), however many come at once.

use crate::support::live::*;
use crate::support::*;
use mana_load::wakeups::{WakeMessage, Wakeups};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::OnceCell;

const LOOKUPS: &str = "mana_sync_recent_lookups_total";

/// Three replicas that announce the last half minute: a busy machine takes less to open a socket after a push.
async fn short() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED.get_or_init(|| Cluster::start_with(3, &[("ANNOUNCE_RECENT_MS", "30000")])).await
}

/// The first message to a new socket: an app, and its tables in order.
async fn told(
    cluster: &Cluster,
    index: usize,
    user: &User,
    app: Option<&str>,
    device: Option<&str>,
) -> (String, Vec<String>) {
    woken(&mut socket(cluster, index, user, app, device).await).await
}

/// Opens a socket, which must be notified only of what is stored from then on.
async fn nothing_told(cluster: &Cluster, index: usize, user: &User, app: Option<&str>, device: Option<&str>) {
    let mut socket = socket(cluster, index, user, app, device).await;
    let marker = format!("marker {}", uuid::Uuid::new_v4());
    let into = app.unwrap_or("markers");
    store_in(cluster, index + 1, user, into, "marking device", &[(&marker, "m")]).await;
    // Wake-ups wait for a session's first message, or are merged with it.
    assert_eq!(woken(&mut socket).await, (into.to_owned(), vec![marker]));
    age(cluster, user, into, 1000.0).await;
}

/// Sends a ping; returns the messages before its pong.
async fn before_pong(socket: &mut Wakeups) -> Vec<WakeMessage> {
    socket.send(r#"{"type":"ping"}"#).await.unwrap();
    let mut came = Vec::new();
    loop {
        match socket.next(TIMEOUT).await.unwrap() {
            WakeMessage::Pong => return came,
            other => came.push(other),
        }
    }
}

#[tokio::test]
async fn what_was_stored_while_a_socket_was_away_is_announced_when_it_is_back() {
    let (cluster, user) = (shared().await, shared().await.user());
    for index in 0..3 {
        drop(socket(cluster, index, &user, None, None).await);
        let table = format!("away {index}");
        store(cluster, index, &user, "phone", &[(&table, "a")]).await;
        let mut back = socket(cluster, index + 1, &user, None, None).await;
        let (app, tables) = woken(&mut back).await;
        assert_eq!(app, APP);
        assert!(tables.contains(&table), "{tables:?}");
    }
}

#[tokio::test]
async fn the_tables_of_all_recent_changes_are_named_in_one_message_for_each_app() {
    let (cluster, user) = (shared().await, shared().await.user());
    for (n, device) in ["phone", "laptop", "phone"].into_iter().enumerate() {
        let tables = [format!("t{n}"), format!("u{n}")];
        store(cluster, n, &user, device, &[(&tables[0], "a"), (&tables[1], "a")]).await;
        store_in(cluster, n, &user, "notes", device, &[("pages", "a")]).await;
    }
    let mut back = socket(cluster, 1, &user, None, None).await;
    let told: BTreeMap<String, Vec<String>> = [woken(&mut back).await, woken(&mut back).await].into();
    let all = ["t0", "t1", "t2", "u0", "u1", "u2"].map(str::to_owned).to_vec();
    assert_eq!(told, [("notes".to_owned(), vec!["pages".to_owned()]), (APP.to_owned(), all)].into());
    assert_eq!(before_pong(&mut back).await, []);
}

#[tokio::test]
async fn the_message_comes_after_auth_ok_and_once() {
    let (cluster, user) = (shared().await, shared().await.user());
    for index in 0..3 {
        store(cluster, index, &user, "phone", &[("tasks", &index.to_string())]).await;
        let mut raw = Raw::member(cluster.url(index + 1), "/ws", &user, 1 << 20).await;
        let told = br#"{"type":"sync-available","appId":"todo","tables":["tasks"]}"#;
        assert_eq!(raw.frame().await, Some((TEXT, told.to_vec())));
        // Neither the change's own notification, however late, nor another `auth` repeats it.
        let auth = serde_json::json!({ "type": "auth", "token": user.token }).to_string();
        raw.send(TEXT, auth.as_bytes()).await;
        assert_eq!(raw.frame().await, Some((TEXT, br#"{"type":"auth-ok"}"#.to_vec())));
        let marker = format!("marker {index}");
        store(cluster, index, &user, "phone", &[(&marker, "a")]).await;
        let next = format!(r#"{{"type":"sync-available","appId":"todo","tables":["{marker}"]}}"#);
        assert_eq!(raw.frame().await, Some((TEXT, next.into_bytes())));
        age(cluster, &user, APP, 100.0).await;
    }
}

#[tokio::test]
async fn each_session_is_told_though_another_of_its_user_is_there() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut first = socket(cluster, 0, &user, None, None).await;
    store(cluster, 1, &user, "phone", &[("tasks", "a")]).await;
    assert_eq!(woken(&mut first).await.1, ["tasks"]);
    for _ in 0..3 {
        let mut next = socket(cluster, 0, &user, None, None).await;
        assert_eq!(woken(&mut next).await.1, ["tasks"]);
    }
    assert_eq!(before_pong(&mut first).await, [], "it is no news for those who were there");
}

#[tokio::test]
async fn a_socket_of_one_app_is_told_of_that_app_alone() {
    let (cluster, user) = (shared().await, shared().await.user());
    store(cluster, 0, &user, "phone", &[("tasks", "a")]).await;
    store_in(cluster, 0, &user, "notes", "phone", &[("pages", "a")]).await;
    for (app, table) in [("notes", "pages"), (APP, "tasks")] {
        let mut back = socket(cluster, 1, &user, Some(app), None).await;
        assert_eq!(woken(&mut back).await, (app.to_owned(), vec![table.to_owned()]));
        assert_eq!(before_pong(&mut back).await, []);
    }
    nothing_told(cluster, 2, &user, Some("elsewhere"), None).await;
    nothing_told(cluster, 2, &cluster.user(), None, None).await;
}

#[tokio::test]
async fn a_device_is_not_told_of_its_own_changes() {
    let (cluster, user) = (shared().await, shared().await.user());
    store(cluster, 0, &user, "phone", &[("own", "a"), ("both", "a")]).await;
    nothing_told(cluster, 1, &user, None, Some("phone")).await;
    assert_eq!(told(cluster, 1, &user, None, Some("tablet")).await.1, ["both", "own"]);
    store(cluster, 2, &user, "laptop", &[("both", "b"), ("other", "b")]).await;
    assert_eq!(told(cluster, 1, &user, Some(APP), Some("phone")).await.1, ["both", "other"]);
    assert_eq!(told(cluster, 1, &user, Some(APP), None).await.1, ["both", "other", "own"], "without a name");
}

#[tokio::test]
async fn what_is_older_than_the_limit_is_not_announced() {
    let (cluster, user) = (short().await, short().await.user());
    store(cluster, 0, &user, "phone", &[("old", "a")]).await;
    store_in(cluster, 0, &user, "notes", "phone", &[("older", "a")]).await;
    age(cluster, &user, APP, 1.0).await;
    age(cluster, &user, "notes", 30.0).await;
    let mut back = socket(cluster, 1, &user, None, None).await;
    let newest = woken(&mut back).await;
    assert_eq!(newest, (APP.to_owned(), vec!["old".to_owned()]));
    assert_eq!(before_pong(&mut back).await, []);
    age(cluster, &user, APP, 30.0).await;
    nothing_told(cluster, 2, &user, None, None).await;
}

#[tokio::test]
async fn of_a_log_with_old_and_new_changes_the_tables_of_the_new_ones_are_named() {
    let (cluster, user) = (short().await, short().await.user());
    store(cluster, 0, &user, "phone", &[("old", "a")]).await;
    age(cluster, &user, APP, 100.0).await;
    store(cluster, 0, &user, "phone", &[("new", "a")]).await;
    let mut back = socket(cluster, 1, &user, None, None).await;
    assert_eq!(woken(&mut back).await.1, ["new"]);
}

#[tokio::test]
async fn where_it_is_switched_off_nothing_is_announced_or_asked() {
    let cluster = &Cluster::start_with(2, &[("ANNOUNCE_RECENT_MS", "0")]).await;
    let user = cluster.user();
    let mut there = socket(cluster, 1, &user, None, None).await;
    store(cluster, 0, &user, "phone", &[("tasks", "a")]).await;
    assert_eq!(woken(&mut there).await.1, ["tasks"]);
    nothing_told(cluster, 1, &user, None, None).await;
    assert_eq!(metric(cluster, 1, LOOKUPS).await, 0.0);
}

#[tokio::test]
async fn a_user_of_thousands_of_apps_is_told_of_the_recent_ones() {
    let (cluster, user) = (short().await, short().await.user());
    store(cluster, 0, &user, "phone", &[("tasks", "a")]).await;
    let sql = "
        insert into sync_heads (log_id, user_key, user_id, app_id, head, previous)
        select gen_random_uuid(), user_key, user_id, 'app ' || n, head - interval '1 hour', 'epoch'
        from sync_heads, generate_series(1, 5000) n where user_id = $1";
    sqlx::query(sql).bind(&user.id).execute(&cluster.pool).await.unwrap();
    let mut back = socket(cluster, 1, &user, None, None).await;
    assert_eq!(woken(&mut back).await, (APP.to_owned(), vec!["tasks".to_owned()]));
}

/// Stores a change in each of this many tables, with names of 60 bytes, and as many per push as it may name.
async fn store_in_tables(cluster: &Cluster, user: &User, count: usize) -> BTreeSet<String> {
    let tables: Vec<String> = (0..count).map(|n| format!("{n:0>60}")).collect();
    for (n, tables) in tables.chunks(2_000).enumerate() {
        let records: Vec<(&str, &str)> = tables.iter().map(|table| (table.as_str(), "a")).collect();
        store(cluster, n, user, "phone", &records).await;
    }
    tables.into_iter().collect()
}

#[tokio::test]
async fn of_very_many_tables_sockets_are_told_in_bounded_messages_and_of_all() {
    let (cluster, user) = (shared().await, shared().await.user());
    let expected = store_in_tables(cluster, &user, 12_000).await;
    store_in(cluster, 0, &user, "notes", "phone", &[("pages", "a")]).await;
    let listen = async |app: Option<&str>| {
        let (mut back, mut seen) = (socket(cluster, 1, &user, app, None).await, BTreeSet::new());
        while !expected.is_subset(&seen) {
            let (_, tables) = woken(&mut back).await;
            assert!(tables.iter().map(String::len).sum::<usize>() <= 64 << 10, "{} at once", tables.len());
            seen.extend(tables);
        }
        seen.len() - expected.len()
    };
    let (all, one, another) = tokio::join!(listen(None), listen(Some(APP)), listen(Some(APP)));
    assert_eq!((all <= 1, one, another), (true, 0, 0));
    let metric = metric(cluster, 1, "mana_sync_stream_bytes").await;
    assert!(metric < 1e6, "{metric}");
}

#[tokio::test]
async fn of_very_many_tables_a_device_is_not_told_of_its_own_and_hears_what_comes_meanwhile() {
    let (cluster, user) = (shared().await, shared().await.user());
    store_in_tables(cluster, &user, 6_000).await;
    store(cluster, 0, &user, "laptop", &[("last", "a")]).await;
    let mut back = socket(cluster, 1, &user, None, Some("phone")).await;
    store(cluster, 2, &user, "laptop", &[("later", "a")]).await;
    let seen: BTreeSet<String> = woken_until(&mut back, "later").await.into_iter().collect();
    let seen = if seen.contains("last") { seen } else { woken_until(&mut back, "last").await.into_iter().collect() };
    assert!(seen.iter().all(|table| matches!(table.as_str(), "last" | "later")), "{} tables", seen.len());
}

#[tokio::test]
async fn changes_of_others_that_come_with_the_socket_are_announced_once_or_twice_and_never_not() {
    let cluster = shared().await;
    for round in 0..20 {
        let user = cluster.user();
        let table = format!("table {round}");
        let records = [(table.as_str(), "a")];
        let (mut back, _) = tokio::join!(
            socket(cluster, round, &user, None, None),
            store(cluster, round + 1, &user, "phone", &records)
        );
        assert_eq!(woken_until(&mut back, &table).await[0], table);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sockets_that_return_at_once_are_all_told_for_few_look_ups() {
    const USERS: usize = 100;
    const EACH: usize = 10;
    let cluster = &Cluster::start(1).await;
    let users: Vec<User> = (0..USERS).map(|_| cluster.user()).collect();
    for (n, user) in users.iter().enumerate() {
        store(cluster, 0, user, "phone", &[(&format!("table {n}"), "a")]).await;
    }
    let before = metric(cluster, 0, LOOKUPS).await;
    let begin = std::time::Instant::now();
    let sockets = (0..USERS * EACH).map(|n| {
        let user = &users[n % USERS];
        async move {
            let mut back = socket(cluster, 0, user, None, None).await;
            assert_eq!(woken(&mut back).await.1, [format!("table {}", n % USERS)]);
            back
        }
    });
    let sockets = futures_util::future::join_all(sockets).await;
    let took = begin.elapsed();
    let lookups = metric(cluster, 0, LOOKUPS).await - before;
    println!("{} sockets were told within {took:?}, by {lookups} look-ups", sockets.len());
    // A lookup waits 20 ms for others, so time alone limits their number.
    assert!(lookups <= took.as_secs_f64() / 0.02 + 1.0, "{lookups} look-ups in {took:?}");
    assert!(lookups <= (USERS * EACH) as f64 / 4.0, "{lookups} look-ups");
}

#[tokio::test]
async fn who_comes_while_the_database_is_away_is_told_when_it_is_back() {
    // Longer than a busy machine takes from storing the change to opening the socket.
    const LIMIT: Duration = Duration::from_secs(12);
    let cluster = &Cluster::start_with(2, &[("ANNOUNCE_RECENT_MS", "12000")]).await;
    let user = cluster.user();
    let mut url: url::Url = cluster.database_url.parse().unwrap();
    let name = url.path().trim_start_matches('/').to_owned();
    url.set_path("postgres");
    let admin = sqlx::PgPool::connect(url.as_str()).await.unwrap();
    let let_in = async |allow: bool| {
        let sql = sqlx::AssertSqlSafe(format!("alter database {name} with allow_connections {allow}"));
        sqlx::query(sql).execute(&admin).await.unwrap();
    };
    // For a user with an open socket, the log positions are known.
    let _there = socket(cluster, 1, &user, None, None).await;
    store(cluster, 0, &user, "phone", &[("tasks", "a")]).await;
    let_in(false).await;
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()";
    sqlx::query(cut).bind(&name).execute(&admin).await.unwrap();
    let came = tokio::time::Instant::now();
    let mut back = socket(cluster, 1, &user, None, None).await;
    assert_eq!(before_pong(&mut back).await, []);
    // By then, the change is too old to be announced to sockets that connect then.
    tokio::time::sleep_until(came + LIMIT).await;
    let_in(true).await;
    assert_eq!(woken(&mut back).await.1, ["tasks"]);
}
