//! Streams that are interrupted after any of their events: a client that resumes loses nothing (G2), whether it keeps
//! the last event id, one cursor, or a cursor per table.

use crate::support::live::*;
use crate::support::*;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::OnceCell;

/// Three replicas with small pages, whose heartbeats show that there is nothing more to send.
async fn cluster() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    let settings = [("PAGE_MAX_CHANGES", "4"), ("SSE_HEARTBEAT_MS", "300")];
    SHARED.get_or_init(|| Cluster::start_with(3, &settings)).await
}

/// Tables of logs whose pages alternate between them in several ways.
const LOGS: [&str; 6] =
    ["aabacabbbbccaacbabccaab", "aaaaaaaaaaaab", "abababababab", "abcabcabcabcabcabc", "ccccbbbbaaaa", "ab"];

/// A reader of the tables a, b and c.
struct Reader<'a> {
    cluster: &'static Cluster,
    user: &'a User,
    device: Option<&'a str>,
    /// Its starting cursor.
    since: &'a str,
    /// The ids that it must get.
    expected: Vec<String>,
}

impl Reader<'_> {
    /// Opens the stream from a cursor, or after an event.
    async fn open(&self, since: &str, last_event: Option<&str>) -> Events {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("collections", "a,b,c")
            .append_pair("since", since)
            .finish();
        let mut request = stream_of(self.cluster, 1, self.user, &query);
        if let Some(device) = self.device {
            request = request.header("X-Client-Id", device);
        }
        if let Some(id) = last_event {
            request = request.header("Last-Event-ID", id);
        }
        Events::open(request).await
    }

    /// Everything that pulls of a table return after a cursor.
    async fn pull_all(&self, table: &str, since: &str) -> Vec<String> {
        let (mut since, mut seen) = (since.to_owned(), Vec::new());
        loop {
            let (_, answer) = self.cluster.pull(self.user, APP, table, &since, self.device).await;
            seen.extend(ids(&answer).into_iter().map(str::to_owned));
            answer["syncedUntil"].as_str().unwrap().clone_into(&mut since);
            if answer["hasMore"] == false {
                return seen;
            }
        }
    }

    /// Interrupts the stream after each event in turn, and resumes like each kind of client.
    async fn break_everywhere(&self) {
        let whole = self.open(self.since, None).await.backlog().await;
        assert_eq!(ids_by_page(&whole), self.expected, "unbroken");
        for cut in 0..=whole.len() {
            let before = &whole[..cut];
            self.come_back_by_id(before).await;
            self.come_back_with_one_cursor(before).await;
            self.come_back_with_a_cursor_for_each_table(before).await;
        }
    }

    async fn come_back_by_id(&self, before: &[Delta]) {
        let whole_pages = before.iter().rposition(|event| event.id.is_some()).map_or(0, |last| last + 1);
        let kept = &before[..whole_pages];
        let id = kept.last().and_then(|event| event.id.as_deref());
        let resumed = self.open(self.since, id).await.backlog().await;
        let both = [ids_by_page(kept), ids_by_page(&resumed)].concat();
        assert_eq!(both, self.expected, "as {:?}, by id after {} events", self.device, before.len());
    }

    async fn come_back_with_one_cursor(&self, before: &[Delta]) {
        let since = before.last().map_or(self.since, Delta::until);
        let resumed = all_ids(&self.open(since, None).await.backlog().await);
        self.nothing_is_missing(before, &resumed, "one cursor");
        let repeated: BTreeSet<&String> = resumed.iter().filter(|id| all_ids(before).contains(id)).collect();
        let broken = pages(before).last().map(all_ids).unwrap_or_default();
        let broken: BTreeSet<&String> = broken.iter().collect();
        assert!(repeated.is_subset(&broken), "{repeated:?} of whole pages again, after {} events", before.len());
    }

    async fn come_back_with_a_cursor_for_each_table(&self, before: &[Delta]) {
        let mut cursors: BTreeMap<&str, &str> = ["a", "b", "c"].map(|table| (table, self.since)).into();
        for event in before {
            let earlier = cursors.insert(event.table(), event.until()).expect("a table that was asked for");
            assert!(earlier <= event.until(), "a table's cursor never goes back");
        }
        let mut pulled = Vec::new();
        for (table, since) in &cursors {
            pulled.extend(self.pull_all(table, since).await);
        }
        self.nothing_is_missing(before, &pulled, "pulls of each table");
        let smallest = cursors.values().min().expect("three tables");
        let largest = cursors.values().max().expect("three tables");
        for since in [smallest, largest] {
            let resumed = all_ids(&self.open(since, None).await.backlog().await);
            self.nothing_is_missing(before, &resumed, "the smallest or largest cursor");
        }
    }

    fn nothing_is_missing(&self, before: &[Delta], after: &[String], client: &str) {
        let before_ids = all_ids(before);
        let seen: BTreeSet<&String> = before_ids.iter().chain(after).collect();
        let expected: BTreeSet<&String> = self.expected.iter().collect();
        assert_eq!(seen, expected, "as {:?}, with {client} after {} events", self.device, before.len());
    }
}

#[tokio::test]
async fn whoever_comes_back_after_any_event_loses_nothing_and_by_id_gets_nothing_twice() {
    let cluster = cluster().await;
    let logs = LOGS.map(|tables| async move {
        let user = cluster.user();
        let log = fill(cluster, &user, tables).await;
        let all: Vec<String> = log.iter().map(|(id, ..)| id.clone()).collect();
        let since = log[log.len() / 3].2.as_str();
        let others = log.iter().filter(|(_, device, cursor)| *device != "phone" && cursor.as_str() > since);
        let others: Vec<String> = others.map(|(id, ..)| id.clone()).collect();
        // From the beginning, a device gets its own changes too, wherever it is interrupted.
        let initial = Reader { cluster, user: &user, device: Some("phone"), since: BEGINNING, expected: all.clone() };
        initial.break_everywhere().await;
        Reader { device: None, ..initial }.break_everywhere().await;
        Reader { cluster, user: &user, device: Some("phone"), since, expected: others }.break_everywhere().await;
    });
    futures_util::future::join_all(logs).await;
}

#[tokio::test]
async fn a_stream_resumed_after_its_last_event_brings_what_comes_next_once() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    fill(cluster, &user, "abcab").await;
    let backlog = Events::open(stream_of(cluster, 0, &user, "")).await.backlog().await;
    let id = backlog.last().and_then(|event| event.id.clone()).expect("a page ends with an id");
    let mut resumed = Events::open(stream_of(cluster, 1, &user, "").header("Last-Event-ID", &id)).await;
    store(cluster, 2, &user, "tablet", &[("b", "next"), ("a", "after that")]).await;
    assert_eq!(resumed.until("next").await, ["next", "after that"]);
}

#[tokio::test]
async fn after_the_backlog_the_cursor_of_each_requested_table_is_current() {
    let cluster = cluster().await;
    for tables in LOGS {
        let user = cluster.user();
        let log = fill(cluster, &user, tables).await;
        let newest = store(cluster, 0, &user, "laptop", &[("elsewhere", "x")]).await;
        for since in [BEGINNING, &log[0].2] {
            let reader = Reader { cluster, user: &user, device: Some("tablet"), since, expected: vec![] };
            let mut stream = reader.open(since, None).await;
            let (mut cursors, mut last_id) = (BTreeMap::new(), None);
            loop {
                let event = stream.next().await.expect("the stream must go on");
                if event.event == "heartbeat" {
                    break;
                }
                let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
                let text = |name: &str| data[name].as_str().unwrap().to_owned();
                last_id = event.id;
                cursors.insert(text("table"), text("syncedUntil"));
            }
            assert_eq!(last_id.as_deref(), Some(&*newest), "the last event has an id");
            assert_eq!(cursors.len(), 3, "each table has had an event");
            for (table, since) in cursors {
                assert_eq!(reader.pull_all(&table, &since).await, [""; 0], "{table} of {tables}");
            }
        }
    }
}
