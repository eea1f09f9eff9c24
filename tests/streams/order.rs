//! Streams keep the order of the log page by page, miss nothing and repeat nothing (G2), while everybody pushes. See
//! resume.rs for interrupted streams.

use crate::support::live::*;
use crate::support::*;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::OnceCell;

const PAGE: usize = 4;

/// Three replicas with small pages.
async fn cluster() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED.get_or_init(|| Cluster::start_with(3, &[("PAGE_MAX_CHANGES", "4")])).await
}

/// The tables of a log's changes, chosen so that every page has runs of several lengths.
const TABLES: &str = "aabacabbbbccaacbabccaab";

#[tokio::test]
async fn a_stream_is_the_backlog_page_after_page_and_then_live() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    let log = fill(cluster, &user, TABLES).await;
    let expected: Vec<String> = log.iter().map(|(id, ..)| id.clone()).collect();
    let mut stream = Events::open(stream_of(cluster, 1, &user, "collections=a,b,c")).await;
    let events = stream.backlog().await;
    assert_eq!(ids_by_page(&events), expected);
    let mut log = expected.iter();
    for page in pages(&events) {
        let tables: BTreeSet<&str> = page.iter().map(Delta::table).collect();
        assert_eq!(tables.len(), page.len(), "one event for each table: {page:?}");
        let first = |event: &Delta| event.ids()[0].clone();
        assert!(page.is_sorted_by_key(first), "in the order of their first changes: {page:?}");
        for event in page {
            let changes = event.data["changes"].as_array().unwrap();
            assert!(changes.iter().all(|change| change["table"] == event.table()), "{event:?}");
            assert!(event.ids().is_sorted());
            assert!(event.id.as_deref().is_none_or(|id| id == event.until()));
        }
        let slice: Vec<&String> = log.by_ref().take(PAGE).collect();
        assert_eq!(all_ids(page).iter().collect::<BTreeSet<_>>(), slice.into_iter().collect());
    }
    let ids: Vec<&String> = events.iter().filter_map(|event| event.id.as_ref()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "ids ascend");
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
    let records: Vec<(&str, &str)> = ids.iter().enumerate().map(|(n, id)| (["t0", "t1"][n % 2], id.as_str())).collect();
    store(cluster, 0, &user, "phone", &[("t0", "own")]).await;
    store(cluster, 0, &user, "laptop", &records).await;
    let mut events = Vec::new();
    while all_ids(&events).len() < ids.len() {
        events.extend(stream.page().await);
    }
    assert_eq!(ids_by_page(&events), ids);
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
    fill(cluster, &user, "aabbcc").await;
    for query in ["", "since=", "since=1970-01-01T00:00:00.000Z", "since=1970-01-01T01:00:00%2B01:00"] {
        let mut stream = Events::open(stream_of(cluster, 0, &user, query).header("X-Client-Id", "phone")).await;
        assert_eq!(stream.until("005").await, ["000", "001", "002", "003", "004", "005"], "{query:?}");
    }
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
    assert_eq!(stream.until("other").await, ["other"], "the initial sync is over");
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
    // No buffer holds 10 MB: the server is stopped in the middle of the backlog until the test reads on.
    let mut stream = Events::open(stream_of(cluster, 0, &user, "collections=a,b")).await;
    let mut seen = stream.delta().await.ids();
    for n in 0..6 {
        let id = format!("meanwhile {n}");
        store(cluster, n, &user, "phone", &[(["a", "b"][n % 2], &id)]).await;
        expected.push(id);
    }
    seen.extend(stream.until("meanwhile 5").await);
    let distinct: BTreeSet<&String> = seen.iter().collect();
    assert_eq!((distinct, seen.len()), (expected.iter().collect(), expected.len()), "each once");
}

/// Reads a stream until it has delivered every writer's last record; returns the records by page.
async fn read_all(mut stream: Events, writers: usize, last: &str) -> Vec<Vec<String>> {
    let (mut seen, mut finished) = (Vec::new(), 0);
    let mut before = String::new();
    while finished < writers {
        let page = stream.page().await;
        let id = page.last().and_then(|event| event.id.clone()).expect("a page ends with an id");
        assert!(id >= before, "ids never go back");
        before = id;
        let ids = all_ids(&page);
        finished += ids.iter().filter(|id| id.ends_with(last)).count();
        seen.push(ids);
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
        let mut log = log.iter();
        for page in reader.await.unwrap() {
            let expected: BTreeSet<&String> = log.by_ref().take(page.len()).collect();
            assert_eq!(page.iter().collect::<BTreeSet<_>>(), expected);
        }
        assert_eq!(log.next(), None, "all of it");
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
        for id in device.await.unwrap().concat() {
            by_writer.entry(id[..1].to_owned()).or_default().push(id);
        }
        for other in (0..WRITERS).filter(|other| *other != writer) {
            let expected: Vec<String> = (0..PUSHES).map(|n| format!("{other}/{n:02}")).collect();
            assert_eq!(by_writer.remove(&other.to_string()), Some(expected), "what {writer} saw of {other}");
        }
        assert_eq!(by_writer, BTreeMap::new(), "{writer} saw nothing else");
    }
}
