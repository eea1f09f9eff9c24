//! Pages when memory is scarce: they reserve it as they arrive, and end early if there is no more.

use crate::support::live::{Events, NO_DELTA, Raw, all_ids, metric, stream_of};
use crate::support::*;
use futures_util::future::join_all;
use serde_json::{Value, json};

const AT: &str = "2024-01-01T10:00:00.000Z";
/// The smallest possible setting; small pages have an eighth of it in addition.
const BUDGET: usize = 12 << 20;
const SMALL: usize = BUDGET / 8;
/// The number of changes in a log, and about how many bytes each has: one page, if there is memory for it.
const CHANGES: usize = 600;
const BYTES: usize = 5_000;

async fn start() -> Cluster {
    // What is not read stays so for as long as the test takes.
    let settings = [("MAX_STREAM_BYTES_IN_FLIGHT", &*BUDGET.to_string()), ("WRITE_TIMEOUT_MS", "600000")];
    Cluster::start_with(1, &settings).await
}

async fn push(cluster: &Cluster, user: &User, client: &str, changes: Vec<Value>) {
    cluster.pushed(user, "todo", json!({ "clientId": client, "since": NO_DELTA, "changes": changes })).await;
}

fn expected() -> Vec<String> {
    (0..CHANGES).map(|n| format!("{n:04}")).collect()
}

/// Stores a laptop's changes; a phone writes other fields of the same records before and after.
async fn fill(cluster: &Cluster, user: &User) {
    let of_phone = |stamp| expected().iter().step_by(3).map(|id| update("t", id, "seen", 1, stamp)).collect();
    push(cluster, user, "phone", of_phone(AT)).await;
    let theirs = |id: &String| update("t", id, "text", "x".repeat(BYTES), AT);
    push(cluster, user, "laptop", expected().iter().map(theirs).collect()).await;
    push(cluster, user, "phone", of_phone("2024-01-02T00:00:00.000Z")).await;
}

#[tokio::test]
async fn a_reader_gets_shorter_pages_while_others_hold_the_memory_that_there_is() {
    let cluster = start().await;
    let (alice, bob) = (cluster.user(), cluster.user());
    push(&cluster, &alice, "a", vec![update("t", "1", "text", "x".repeat(900_000), AT)]).await;
    fill(&cluster, &bob).await;
    let whole = cluster.pulled(&bob, "todo", "t", BEGINNING, Some("tablet")).await;
    assert_eq!((ids(&whole).len(), &whole["hasMore"]), (CHANGES + 2 * CHANGES / 3, &json!(false)), "one page");

    let pull = format!(
        "GET /sync/todo/pull?collection=t&since={BEGINNING} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        alice.token
    );
    let mut unread = Vec::new();
    for _ in 0..8 {
        let mut raw = Raw::connect_narrow(cluster.url(0), 4 << 10).await;
        raw.write(pull.repeat(30).as_bytes()).await;
        unread.push(raw);
    }
    let held = async || metric(&cluster, 0, "mana_sync_stream_bytes").await as usize;
    eventually("others hold nearly all of it", async || held().await > BUDGET - (2 << 20)).await;

    for (reader, of_others) in [("tablet", 2), ("phone", 0)] {
        let pages = cluster.pull_all(&bob, "todo", "t", AT, Some(reader)).await;
        let mut found = ids_of(&pages);
        assert_eq!(found.len(), CHANGES + of_others * CHANGES / 3, "{reader}");
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, expected(), "{reader}");
        assert!(pages.len() > 4, "{reader}: {} pages", pages.len());
        let pages = cluster.push_all(&bob, "todo", AT, reader).await;
        assert_eq!(ids_of(&pages).len(), CHANGES + of_others * CHANGES / 3, "{reader}");
        let request = stream_of(&cluster, 0, &bob, &format!("since={AT}")).header("X-Client-Id", reader);
        let mut backlog = all_ids(&Events::open(request).await.backlog().await);
        assert_eq!(backlog.len(), CHANGES + of_others * CHANGES / 3, "{reader}");
        backlog.sort_unstable();
        backlog.dedup();
        assert_eq!(backlog, expected(), "{reader}");
    }
    assert!(held().await > BUDGET - (3 << 20), "all the while");
    drop(unread);
    eventually("all of it is given back", async || held().await == 0).await;
}

#[tokio::test]
async fn many_readers_of_large_pages_stay_within_what_there_is_and_all_finish() {
    let cluster = start().await;
    let users: Vec<User> = (0..3).map(|_| cluster.user()).collect();
    for user in &users {
        fill(&cluster, user).await;
    }
    // A reader that finds no memory at all is told to retry, and does.
    let page = async |user: &User, since: &str, reader: &str| {
        let mut page = Value::Null;
        eventually("there is memory", async || {
            let (status, answer) = cluster.pull(user, "todo", "t", since, Some(reader)).await;
            assert!(matches!(status.as_u16(), 200 | 503), "{status}: {answer}");
            page = answer;
            status == 200
        })
        .await;
        page
    };
    let walk = async |user: &User, reader: &str| {
        let (mut since, mut found) = (AT.to_owned(), Vec::new());
        loop {
            let answer = page(user, &since, reader).await;
            found.extend(ids(&answer).into_iter().map(str::to_owned));
            if answer["hasMore"] != true {
                return found;
            }
            since = until(&answer).to_owned();
        }
    };
    let stream = async |user: &User, reader: &str| {
        let request = stream_of(&cluster, 0, user, &format!("since={AT}")).header("X-Client-Id", reader);
        all_ids(&Events::open(request).await.backlog().await)
    };
    let read_all = async |n: usize| {
        let (user, reader) = (&users[n % users.len()], ["phone", "tablet"][n % 2]);
        let found = if n % 4 < 2 { walk(user, reader).await } else { stream(user, reader).await };
        let of_phone = if reader == "tablet" { 2 * CHANGES / 3 } else { 0 };
        assert_eq!(found.len(), CHANGES + of_phone, "{reader}");
    };
    let mut most = 0;
    tokio::select! {
        _ = join_all((0..24).map(read_all)) => {}
        () = async { loop {
            most = most.max(metric(&cluster, 0, "mana_sync_stream_bytes").await as usize);
        } } => {}
    }
    assert!((1..=BUDGET + SMALL).contains(&most), "{most} bytes were reserved");
    let held = async || metric(&cluster, 0, "mana_sync_stream_bytes").await;
    eventually("all of it is given back", async || held().await == 0.0).await;
}

/// Each change is larger than what is read before memory is reserved; after that there is memory for a whole page of
/// several.
#[tokio::test]
async fn large_changes_are_read_several_to_a_page_once_there_is_memory_for_them() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    for n in 0..8 {
        push(
            &cluster,
            &user,
            "laptop",
            vec![update("t", &n.to_string(), "text", "x".repeat(1_100_000 + 100_000 * n), AT)],
        )
        .await;
    }
    let pages = cluster.pull_all(&user, "todo", "t", AT, Some("phone")).await;
    assert_eq!(ids_of(&pages), ["0", "1", "2", "3", "4", "5", "6", "7"]);
    assert!(pages.len() <= 5, "{} pages of 4 MiB", pages.len());
    let request = stream_of(&cluster, 0, &user, &format!("since={AT}")).header("X-Client-Id", "phone");
    assert_eq!(all_ids(&Events::open(request).await.backlog().await).len(), 8);
}

/// Inserts whose stamp existing clients would not find are sent as updates, and so are those of which a device has written
/// something itself: each field then has its stamp, twice.
#[tokio::test]
async fn pages_of_inserts_that_are_sent_as_updates_are_no_longer_than_others() {
    const PAGE: usize = 256 << 10;
    const INSERTS: usize = 8;
    let cluster = Cluster::start_with(1, &[("PAGE_MAX_BYTES", &PAGE.to_string())]).await;
    let fields: serde_json::Map<_, _> = (0..4_000).map(|n| (format!("{n:x}"), json!(1))).collect();
    let insert = |n: usize, stamp: Option<&str>| {
        let mut data = fields.clone();
        data.extend(stamp.map(|stamp| ("updatedAt".to_owned(), json!(stamp))));
        json!({ "table": "t", "id": n.to_string(), "op": "insert", "data": data })
    };
    for stamp in [None, Some(AT)] {
        let user = cluster.user();
        let own = (0..INSERTS).map(|n| update("t", &n.to_string(), "0", 2, "2024-02-01T00:00:00.000Z")).collect();
        push(&cluster, &user, "phone", own).await;
        push(&cluster, &user, "laptop", (0..INSERTS).map(|n| insert(n, stamp)).collect()).await;
        let stream = stream_of(&cluster, 0, &user, &format!("since={BEGINNING}")).header("X-Client-Id", "phone");
        let mut pages = cluster.pull_all(&user, "todo", "t", BEGINNING, Some("tablet")).await;
        pages.extend(cluster.pull_all(&user, "todo", "t", BEGINNING, Some("phone")).await);
        pages.extend(cluster.push_all(&user, "todo", BEGINNING, "phone").await);
        let backlog = all_ids(&Events::open(stream).await.backlog().await);
        let mut found = ids_of(&pages);
        found.extend(backlog.iter().map(String::as_str));
        for page in &pages {
            let length = page.to_string().len();
            assert!(length < 3 * PAGE, "{length} bytes, stamped: {stamp:?}");
        }
        for n in 0..INSERTS {
            let times = found.iter().filter(|id| **id == n.to_string()).count();
            assert_eq!(times, 4 * 2, "each insert and each update, by every way: {found:?}");
        }
    }
}
