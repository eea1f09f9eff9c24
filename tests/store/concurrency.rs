//! G2: a reader that follows cursors sees every change, in order, without gaps, under any concurrency.

use crate::support::*;
use mana_load::stream::{StreamReader, StreamRequest};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const USERS: usize = 3;
const WRITERS: usize = 12;
/// How long they write: without the lock on the head, a few times as long is enough for readers to miss something.
const WRITING: Duration = Duration::from_secs(5);
/// A reader that receives nothing for this long, once nobody writes, has missed what it lacks.
const STUCK: Duration = Duration::from_secs(20);
/// One that receives the same again and again is not waited for longer than this.
const LONGEST: Duration = Duration::from_secs(120);
const APP: &str = "todo";
const TABLES: [&str; 2] = ["tasks", "lists"];

/// One reader's view: how it read, and the ids of the changes in the order received.
struct Seen {
    reader: &'static str,
    user: usize,
    ids: Vec<String>,
}

struct Run {
    cluster: Cluster,
    users: Vec<User>,
    /// The number of changes of each user, once nobody writes any more, and since when.
    written: std::sync::OnceLock<(Vec<usize>, Instant)>,
    stop_writing: AtomicBool,
}

impl Run {
    /// True if a reader of this user is done: it has seen everything, or nothing arrives any more.
    fn is_over(&self, user: usize, seen: usize, last_progress: Instant) -> bool {
        self.written.get().is_some_and(|(written, since)| {
            seen >= written[user] || last_progress.elapsed() > STUCK || since.elapsed() > LONGEST
        })
    }
}

fn take_ids(changes: &Value, ids: &mut Vec<String>) -> bool {
    let changes = changes.as_array().unwrap();
    ids.extend(changes.iter().map(|change| change["id"].as_str().unwrap().to_owned()));
    !changes.is_empty()
}

/// The table of a record, from its writer's number and its place in the push.
fn table_of(id: &str) -> &'static str {
    let number = |part: Option<&str>| part.and_then(|part| part.parse::<usize>().ok()).unwrap();
    TABLES[(number(id.split('-').nth(1)) + number(id.split('-').nth(3))) % 2]
}

async fn write(run: Arc<Run>, user: usize, writer: usize) -> usize {
    let mut since = BEGINNING.to_owned();
    let mut written = 0;
    for round in 0.. {
        if run.stop_writing.load(Ordering::Relaxed) {
            break;
        }
        // Large pushes among small ones: they take longest from start to visibility.
        let count = if writer == 0 { 60 } else { 1 + (writer + round) % 4 };
        let changes: Vec<Value> = (0..count)
            .map(|n| {
                let id = format!("{user}-{writer}-{round}-{n}");
                insert(table_of(&id), &id, "t", "2024-01-01T10:00:00.000Z")
            })
            .collect();
        let body = json!({ "clientId": format!("writer-{writer}"), "since": since, "changes": changes });
        let (status, answer) = run.cluster.push_to(writer + round, &run.users[user], APP, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        since = answer["syncedUntil"].as_str().unwrap().to_owned();
        written += changes.len();
    }
    written
}

/// Follows the cursor of empty pushes, each to another replica.
async fn read_by_push(run: Arc<Run>, user: usize) -> Seen {
    let (mut since, mut ids, mut progress) = (BEGINNING.to_owned(), Vec::new(), Instant::now());
    for round in 0.. {
        if run.is_over(user, ids.len(), progress) {
            break;
        }
        let body = json!({ "clientId": "push-reader", "since": since, "changes": [] });
        let (status, answer) = run.cluster.push_to(round, &run.users[user], APP, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        since = answer["syncedUntil"].as_str().unwrap().to_owned();
        if take_ids(&answer["serverChanges"], &mut ids) {
            progress = Instant::now();
        }
    }
    Seen { reader: "push", user, ids }
}

/// Follows a stream; after this many events, gives it up and resumes on another replica.
async fn read_by_stream(run: Arc<Run>, user: usize, reader: &'static str, events: usize) -> Seen {
    let (mut last_id, mut ids, mut progress) = (None, Vec::new(), Instant::now());
    for round in 0.. {
        let asked = StreamRequest {
            base: run.cluster.url(round).to_owned(),
            app: APP.to_owned(),
            token: run.users[user].token.clone(),
            client_id: Some(reader.to_owned()),
            collections: TABLES.map(str::to_owned).to_vec(),
            since: None,
            last_event_id: last_id.clone(),
        };
        let mut stream = StreamReader::open(&run.cluster.http, &asked).await.unwrap();
        // A page that is interrupted is sent again.
        let mut page = Vec::new();
        for _ in 0..events {
            if run.is_over(user, ids.len(), progress) {
                return Seen { reader, user, ids };
            }
            // The timeout only serves to check whether everything has been seen.
            if let Ok(Some((id, delta))) = stream.next_delta(Duration::from_millis(300)).await {
                page.extend(delta.changes.iter().map(|change| change.id.clone()));
                if id.is_some() {
                    // What has no changes, or is a part of a page, is no progress: it comes again after each reconnection.
                    if !page.is_empty() {
                        progress = Instant::now();
                    }
                    ids.append(&mut page);
                    last_id = id;
                }
            }
        }
    }
    unreachable!("a reader ends when it has seen all")
}

/// Follows the cursor of a table by pulls; the order is that of the table.
async fn read_by_pull(run: Arc<Run>, user: usize, table: &'static str) -> Seen {
    let (mut since, mut ids) = (BEGINNING.to_owned(), Vec::new());
    loop {
        let all = run.written.get().is_some();
        let (status, answer) = run.cluster.pull(&run.users[user], APP, table, &since, Some("pull-reader")).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        since = answer["syncedUntil"].as_str().unwrap().to_owned();
        if !take_ids(&answer["serverChanges"], &mut ids) && all {
            return Seen { reader: table, user, ids };
        }
    }
}

async fn stored(run: &Run, user: usize, table: Option<&str>) -> Vec<String> {
    let rows = sqlx::query_scalar(
        "select record_id from sync_changes where user_id = $1 and ($2::text is null or table_name = $2) order by created_at",
    );
    rows.bind(&run.users[user].id).bind(table).fetch_all(&run.cluster.pool).await.unwrap()
}

/// Describes where two lists first differ.
fn first_difference(expected: &[String], seen: &[String]) -> String {
    let at = expected.iter().zip(seen).position(|(a, b)| a != b).unwrap_or(expected.len().min(seen.len()));
    format!(
        "{} stored, {} seen; at {at}: stored {:?}, seen {:?}",
        expected.len(),
        seen.len(),
        expected.get(at),
        seen.get(at)
    )
}

/// Writes and reads with all clients at once. Returns the number of changes per user, or what a reader missed or saw
/// twice.
async fn everybody_at_once(cluster: Cluster, writing: Duration) -> Result<Vec<usize>, String> {
    let users = (0..USERS).map(|_| cluster.user()).collect();
    let run = Arc::new(Run { cluster, users, written: Default::default(), stop_writing: AtomicBool::new(false) });
    let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
    for user in 0..USERS {
        for writer in 0..WRITERS {
            let run = run.clone();
            writers.spawn(async move { (user, write(run, user, writer).await) });
        }
        readers.spawn(read_by_push(run.clone(), user));
        readers.spawn(read_by_stream(run.clone(), user, "stream", usize::MAX));
        readers.spawn(read_by_stream(run.clone(), user, "reconnecting stream", 50));
        for table in TABLES {
            readers.spawn(read_by_pull(run.clone(), user, table));
        }
    }
    tokio::time::sleep(writing).await;
    run.stop_writing.store(true, Ordering::Relaxed);
    let mut written = vec![0; USERS];
    while let Some(writer) = writers.join_next().await {
        let (user, count) = writer.unwrap();
        written[user] += count;
    }
    run.written.set((written.clone(), Instant::now())).unwrap();
    let mut found = Vec::new();
    while let Some(seen) = readers.join_next().await {
        let Seen { reader, user, mut ids } = seen.unwrap();
        let mut expected = stored(&run, user, TABLES.into_iter().find(|table| *table == reader)).await;
        if reader.ends_with("stream") {
            // Within a page, a stream goes table by table.
            expected.sort_by_key(|id| table_of(id));
            ids.sort_by_key(|id| table_of(id));
        }
        if expected != ids {
            found.push(format!("{reader} reader of user {user}: {}", first_difference(&expected, &ids)));
        }
    }
    for (user, written) in written.iter().enumerate() {
        let stored = stored(&run, user, None).await.len();
        if stored != *written {
            found.push(format!("user {user}: {written} changes were acknowledged, {stored} are stored"));
        }
    }
    if found.is_empty() { Ok(written) } else { Err(found.join("\n")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_miss_nothing_and_streams_see_nothing_twice_while_twelve_devices_of_each_user_write() {
    let cluster = Cluster::start(3).await;
    let written = everybody_at_once(cluster, WRITING).await;
    println!("{written:?} changes were written, and all of them seen by {} readers", USERS * 5);
    assert!(written.is_ok(), "{}", written.unwrap_err());
}

/// Checks the test above: without the lock on the head row, cursors become visible out of order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_head_row_readers_miss_changes() {
    const ROUNDS: usize = 6;
    for round in 1..=ROUNDS {
        // Without the index, which would reject the equal cursors that result, reads are slow and wait for each other.
        let cluster = Cluster::start_with(3, &[("MANA_SYNC_FAILPOINT", "no-head-row")]).await;
        sqlx::query("drop index sync_changes_by_log").execute(&cluster.pool).await.unwrap();
        if let Err(missed) = everybody_at_once(cluster, WRITING).await {
            println!("in round {round}:\n{missed}");
            return;
        }
    }
    panic!("nothing was missed in {ROUNDS} rounds");
}
