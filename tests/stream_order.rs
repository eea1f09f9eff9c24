//! Streams keep the order of the log, miss nothing and repeat nothing (G2): over pages, over reconnects at any
//! point, and while everybody pushes.

mod support;

use std::collections::BTreeMap;
use support::live::*;
use support::*;
use tokio::sync::OnceCell;

const PAGE: usize = 4;

/// Three replicas whose pages are small.
async fn cluster() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED.get_or_init(|| Cluster::start_with(3, &[("PAGE_MAX_CHANGES", "4")])).await
}

/// The tables of a log's changes, so that every page has runs of several lengths.
const TABLES: &str = "aabacabbbbccaacbabccaab";

/// Fills a log through all replicas, mostly from `laptop`, every third push from `phone`; the records in order,
/// with who wrote them and the cursor after each.
async fn fill(cluster: &Cluster, user: &User, tables: &str) -> Vec<(String, &'static str, String)> {
    let mut log = Vec::new();
    for (n, table) in tables.chars().enumerate() {
        let device = if n % 3 == 2 { "phone" } else { "laptop" };
        let id = format!("{n:03}");
        let cursor = store(cluster, n, user, device, &[(&table.to_string(), &id)]).await;
        log.push((id, device, cursor));
    }
    log
}

fn named(request: reqwest::RequestBuilder, device: Option<&str>) -> reqwest::RequestBuilder {
    match device {
        Some(device) => request.header("X-Client-Id", device),
        None => request,
    }
}

#[tokio::test]
async fn a_stream_is_the_backlog_page_after_page_and_then_live() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    let log = fill(cluster, &user, TABLES).await;
    let expected: Vec<String> = log.iter().map(|(id, ..)| id.clone()).collect();
    let mut stream = Events::open(stream_of(cluster, 1, &user, "collections=a,b,c")).await;
    let events = stream.backlog().await;
    assert_eq!(all_ids(&events), expected);
    for event in &events {
        assert!(event.ids().len() <= PAGE, "{event:?}");
        assert_eq!(event.id, event.until());
        let changes = event.data["changes"].as_array().unwrap();
        assert!(changes.iter().all(|change| change["table"] == event.table()), "{event:?}");
    }
    assert!(events.is_sorted_by(|a, b| a.id < b.id), "ids ascend");
    store(cluster, 2, &user, "phone", &[("b", "live 1")]).await;
    store(cluster, 0, &user, "laptop", &[("a", "live 2"), ("c", "live 3")]).await;
    assert_eq!(stream.until("live 3").await, ["live 1", "live 2", "live 3"]);
}

#[tokio::test]
async fn a_live_push_larger_than_a_page_comes_whole_and_in_order() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    let mut stream =
        Events::open(stream_of(cluster, 1, &user, "collections=t0,t1").header("X-Client-Id", "phone")).await;
    stream.backlog().await;
    let ids: Vec<String> = (0..30).map(|n| format!("{n:03}")).collect();
    let records: Vec<(&str, &str)> =
        ids.iter().enumerate().map(|(n, id)| (["t0", "t1"][n / 3 % 2], id.as_str())).collect();
    store(cluster, 0, &user, "phone", &[("t0", "own")]).await;
    store(cluster, 0, &user, "laptop", &records).await;
    assert_eq!(stream.until("029").await, ids);
}

#[tokio::test]
async fn last_event_id_wins_over_since() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    let log = fill(cluster, &user, "aaaaa").await;
    let since = format!("since={}", log[0].2);
    let mut stream = Events::open(stream_of(cluster, 0, &user, &since).header("Last-Event-ID", &log[3].2)).await;
    assert_eq!(stream.until("004").await, ["004"]);
    let mut stream =
        Events::open(stream_of(cluster, 0, &user, "since=nonsense").header("Last-Event-ID", &log[3].2)).await;
    assert_eq!(stream.until("004").await, ["004"]);
    let mut stream = Events::open(stream_of(cluster, 0, &user, &since).header("Last-Event-ID", "")).await;
    assert_eq!(stream.until("004").await, ["001", "002", "003", "004"], "an empty one says nothing");
    let mut stream = Events::open(stream_of(cluster, 0, &user, &since)).await;
    assert_eq!(stream.until("004").await, ["001", "002", "003", "004"]);
}

#[tokio::test]
async fn no_since_or_an_empty_one_is_from_the_beginning() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    fill(cluster, &user, "abcabc").await;
    for query in ["", "since=", "since=1970-01-01T00:00:00.000Z", "since=1970-01-01T01:00:00%2B01:00"] {
        let mut stream = Events::open(stream_of(cluster, 0, &user, query).header("X-Client-Id", "phone")).await;
        assert_eq!(stream.until("005").await, ["000", "001", "002", "003", "004", "005"], "{query:?}");
    }
}

/// Cuts a stream after each of its events, resumes it there, and compares both parts with what it should bring.
async fn cut_everywhere(user: &User, query: &str, device: Option<&str>, expected: &[String]) {
    let cluster = cluster().await;
    let open = |index, last: Option<&str>| {
        let request = named(stream_of(cluster, index, user, query), device);
        Events::open(match last {
            Some(last) => request.header("Last-Event-ID", last),
            None => request,
        })
    };
    let whole = open(0, None).await.backlog().await;
    assert_eq!(all_ids(&whole), expected, "{query} as {device:?}");
    for cut in 1..whole.len() {
        let (before, after) = whole.split_at(cut);
        let resumed = open(cut, Some(&before[cut - 1].id)).await.backlog().await;
        let both = [all_ids(before), all_ids(&resumed)].concat();
        assert_eq!(both, expected, "{query} as {device:?}, cut after event {cut}, before {:?}", after[0]);
        assert!(resumed.iter().all(|event| event.id > before[cut - 1].id));
    }
    // After the last event there is nothing left; what comes next comes, and once.
    let mut resumed = open(1, Some(&whole[whole.len() - 1].id)).await;
    let marker = format!("{query} {device:?}");
    store(cluster, 2, user, "tablet", &[("b", &marker)]).await;
    assert_eq!(resumed.until(&marker).await, [marker.as_str()], "{query} as {device:?}");
}

#[tokio::test]
async fn a_stream_resumed_after_any_event_brings_the_rest_in_order_and_nothing_twice() {
    let cluster = cluster().await;
    let patterns = [TABLES, "aaaaaaaaaaaab", "abababababab", "ccccbbbbaaaa", "ab"];
    let patterns = patterns.map(|tables| async move {
        let user = cluster.user();
        let log = fill(cluster, &user, tables).await;
        let since = log[log.len() / 3].2.clone();
        let all = |_: &str, _: &str| true;
        let others = |_: &str, device: &str| device != "phone";
        let pick = |keep: &dyn Fn(&str, &str) -> bool, from: &str| -> Vec<String> {
            let kept = log.iter().filter(|(_, device, cursor)| keep(cursor, device) && cursor.as_str() > from);
            kept.map(|(id, ..)| id.clone()).collect()
        };
        let from_since = format!("collections=a,b,c&since={since}");
        cut_everywhere(&user, &from_since, Some("phone"), &pick(&others, &since)).await;
        let user_log: Vec<String> = pick(&all, "");
        let marker = |device: &str| format!("{from_since} {device}");
        let walk = [user_log, vec![marker("Some(\"phone\")")]].concat();
        cut_everywhere(&user, "collections=a,b,c", Some("phone"), &walk).await;
    });
    futures_util::future::join_all(patterns).await;
}

#[tokio::test]
async fn a_walk_from_the_beginning_returns_a_devices_own_changes_on_every_page() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    let mut expected = Vec::new();
    for n in 0..5 * PAGE {
        let id = format!("{n:03}");
        store(cluster, n, &user, "phone", &[("tasks", &id)]).await;
        expected.push(id);
    }
    let mut stream =
        Events::open(stream_of(cluster, 0, &user, "collections=tasks").header("X-Client-Id", "phone")).await;
    assert_eq!(all_ids(&stream.backlog().await), expected);
    store(cluster, 1, &user, "phone", &[("tasks", "own, live")]).await;
    store(cluster, 2, &user, "laptop", &[("tasks", "other")]).await;
    assert_eq!(stream.until("other").await, ["other"], "the walk is over");
}

#[tokio::test]
async fn what_is_pushed_while_the_backlog_is_sent_is_not_lost() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    let at = "2024-01-01T10:00:00.000Z";
    let text = "x".repeat(100_000);
    let mut expected: Vec<String> = Vec::new();
    for push in 0..10 {
        let ids: Vec<String> = (0..10).map(|n| format!("{push}-{n}")).collect();
        let changes: Vec<_> = ids.iter().map(|id| insert(["a", "b"][push % 2], id, &text, at)).collect();
        let body = serde_json::json!({ "clientId": "laptop", "since": NO_DELTA, "changes": changes });
        assert_eq!(cluster.push_to(push, &user, APP, body).await.0, 200);
        expected.extend(ids);
    }
    // 10 MB fit in no buffer on the way: the server is held in the middle of the backlog until we read on.
    let mut stream = Events::open(stream_of(cluster, 0, &user, "collections=a,b")).await;
    let mut seen = stream.delta().await.ids();
    for n in 0..6 {
        let id = format!("meanwhile {n}");
        store(cluster, n, &user, "phone", &[(["a", "b"][n % 2], &id)]).await;
        expected.push(id);
    }
    seen.extend(stream.until("meanwhile 5").await);
    assert_eq!(seen, expected);
}

/// Reads a stream until it has brought every writer's last record; all records in order.
async fn read_all(mut stream: Events, writers: usize, last: &str) -> Vec<String> {
    let (mut seen, mut finished) = (Vec::new(), 0);
    let mut before = String::new();
    while finished < writers {
        let delta = stream.delta().await;
        assert!(delta.id >= before, "ids never go back");
        before.clone_from(&delta.id);
        finished += delta.ids().iter().filter(|id| id.ends_with(last)).count();
        seen.extend(delta.ids());
    }
    seen
}

#[tokio::test]
async fn streams_on_all_replicas_bring_everything_once_in_the_order_of_the_log_while_all_replicas_take_pushes() {
    const WRITERS: usize = 4;
    const PUSHES: usize = 40;
    let (cluster, user) = (cluster().await, cluster().await.user());
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let user = user.clone();
            tokio::spawn(async move {
                for n in 0..PUSHES {
                    let ids = [0, 1].map(|k| format!("{writer}/{n:02}/{k}"));
                    let tables = [["a", "b", "c"][(n + writer) % 3], "a"];
                    let records = [(tables[0], &*ids[0]), (tables[1], &*ids[1])];
                    store(cluster, writer + n, &user, &format!("writer {writer}"), &records).await;
                }
            })
        })
        .collect();
    let last = format!("/{:02}/1", PUSHES - 1);
    let mut readers = Vec::new();
    for index in 0..6 {
        let stream = Events::open(stream_of(cluster, index, &user, ["collections=a,b,c", ""][index % 2])).await;
        let last = last.clone();
        readers.push(tokio::spawn(async move { read_all(stream, WRITERS, &last).await }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let log: Vec<String> =
        sqlx::query_scalar("select record_id from sync_changes where user_id = $1 order by created_at")
            .bind(&user.id)
            .fetch_all(&cluster.pool)
            .await
            .unwrap();
    assert_eq!(log.len(), WRITERS * PUSHES * 2);
    for reader in readers {
        assert_eq!(reader.await.unwrap(), log);
    }
}

#[tokio::test]
async fn a_writers_own_stream_brings_exactly_what_the_others_wrote() {
    const WRITERS: usize = 3;
    const PUSHES: usize = 20;
    let (cluster, user) = (cluster().await, cluster().await.user());
    let since = store(cluster, 0, &user, "nobody", &[("a", "first")]).await;
    let last = format!("/{:02}", PUSHES - 1);
    let devices: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (user, last, since) = (user.clone(), last.clone(), since.clone());
            tokio::spawn(async move {
                let name = format!("writer {writer}");
                let request = stream_of(cluster, writer, &user, &format!("since={since}")).header("X-Client-Id", &name);
                let stream = Events::open(request).await;
                for n in 0..PUSHES {
                    store(cluster, writer + n, &user, &name, &[("a", &format!("{writer}/{n:02}"))]).await;
                }
                read_all(stream, WRITERS - 1, &last).await
            })
        })
        .collect();
    for (writer, device) in devices.into_iter().enumerate() {
        let mut by_writer: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for id in device.await.unwrap() {
            by_writer.entry(id[..1].to_owned()).or_default().push(id);
        }
        for other in (0..WRITERS).filter(|other| *other != writer) {
            let expected: Vec<String> = (0..PUSHES).map(|n| format!("{other}/{n:02}")).collect();
            assert_eq!(by_writer.remove(&other.to_string()), Some(expected), "what {writer} saw of {other}");
        }
        assert_eq!(by_writer, BTreeMap::new(), "{writer} saw nothing else");
    }
}
