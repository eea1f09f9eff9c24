//! Deltas that need more than one page.

use super::AT;
use super::support::live::{Events, all_ids};
use super::support::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tokio::sync::OnceCell;

/// A cluster with pages of three changes.
async fn small_pages() -> &'static Cluster {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    CLUSTER.get_or_init(|| Cluster::start_with(2, &[("PAGE_MAX_CHANGES", "3")])).await
}

fn inserts(table: &str, prefix: &str, count: usize) -> Vec<Value> {
    (0..count).map(|at| insert(table, &format!("{prefix}{at}"), "Milk", AT)).collect()
}

#[tokio::test]
async fn has_more_says_that_synced_until_is_the_cursor_of_the_last_change_returned() {
    let cluster = small_pages().await;
    let user = cluster.user();
    let pushed =
        cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": inserts("todos", "", 7) })).await;
    let positions: Vec<chrono::DateTime<chrono::Utc>> =
        sqlx::query_scalar("select created_at from sync_changes where user_id = $1 order by 1")
            .bind(&user.id)
            .fetch_all(&cluster.pool)
            .await
            .unwrap();
    let cursor = |at: usize| positions[at].format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();

    // Not from the beginning: the cursors of an initial sync may contain more.
    let pages = cluster.push_all(&user, "todo", "1970-01-01T00:00:01Z", "laptop").await;
    assert_eq!(pages.iter().map(ids).collect::<Vec<_>>(), [vec!["0", "1", "2"], vec!["3", "4", "5"], vec!["6"]]);
    assert_eq!(pages.iter().map(until).collect::<Vec<_>>(), [&cursor(2), &cursor(5), &cursor(6)]);
    assert_eq!(pages.iter().map(|page| page["hasMore"] == true).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(until(&pages[2]), until(&pushed));
}

#[tokio::test]
async fn a_page_that_is_just_full_has_no_more() {
    let cluster = small_pages().await;
    let user = cluster.user();
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": inserts("todos", "", 3) })).await;
    let page = cluster.pushed(&user, "todo", json!({ "clientId": "laptop" })).await;
    assert_eq!(ids(&page), ["0", "1", "2"]);
    assert_eq!(page["hasMore"], json!(false));
}

#[tokio::test]
async fn a_walk_from_the_beginning_brings_back_the_devices_own_changes_on_every_page() {
    let cluster = small_pages().await;
    let user = cluster.user();
    let mut expected = Vec::new();
    for round in 0..4 {
        for client in ["phone", "laptop"] {
            let prefix = format!("{client}{round}-");
            let changes = inserts("todos", &prefix, 2);
            expected.extend(changes.iter().map(|change| change["id"].as_str().unwrap().to_owned()));
            cluster.pushed(&user, "todo", json!({ "clientId": client, "since": AT, "changes": changes })).await;
        }
    }
    // By pushes, by pulls, and started by a push with changes and continued by pulls.
    assert_eq!(ids_of(&cluster.push_all(&user, "todo", "", "phone").await), expected);
    assert_eq!(ids_of(&cluster.pull_all(&user, "todo", "todos", BEGINNING, Some("phone")).await), expected);
    let body = json!({ "clientId": "phone", "changes": inserts("todos", "new", 2) });
    let first = cluster.pushed(&user, "todo", body).await;
    assert_eq!(first["hasMore"], json!(true));
    let rest = cluster.pull_all(&user, "todo", "todos", until(&first), Some("phone")).await;
    let synced: Vec<&str> = ids(&first).into_iter().chain(ids_of(&rest)).collect();
    assert_eq!(synced[..expected.len()], expected);
    // Once the initial sync has caught up, it is over, and the device's own changes are left out again.
    let body = json!({ "clientId": "phone", "since": AT, "changes": inserts("todos", "later", 1) });
    cluster.pushed(&user, "todo", body).await;
    let after = cluster.pulled(&user, "todo", "todos", until(&rest[rest.len() - 1]), Some("phone")).await;
    assert_eq!(ids(&after), [""; 0]);
}

#[tokio::test]
async fn the_pages_of_a_push_from_the_beginning_never_have_that_pushs_own_changes() {
    let cluster = small_pages().await;
    let user = cluster.user();
    cluster
        .pushed(&user, "todo", json!({ "clientId": "phone", "since": AT, "changes": inserts("todos", "old", 2) }))
        .await;
    let first = json!({ "clientId": "phone", "changes": inserts("todos", "new", 4) });
    for attempt in 0..3 {
        let page = cluster.pushed_to(attempt, &user, "todo", first.clone()).await;
        assert_eq!(ids(&page), ["old0", "old1"]);
        assert_eq!(page["hasMore"], json!(false));
    }
}

#[tokio::test]
async fn the_pages_of_a_push_sent_again_have_what_the_device_stored_among_its_changes_and_after_them() {
    let cluster = small_pages().await;
    for (before, between, after) in [(2, 0, 3), (0, 3, 0), (1, 2, 4)] {
        let user = cluster.user();
        let body = |since: &str, changes: Value| json!({ "clientId": "phone", "since": since, "changes": changes });
        let first = inserts("todos", "first", 3);
        let second = inserts("todos", "second", 2);
        let both: Vec<Value> = first.iter().chain(&second).cloned().collect();
        for changes in [
            inserts("todos", "before", before),
            first.clone(),
            inserts("todos", "between", between),
            second.clone(),
            inserts("todos", "after", after),
        ] {
            cluster.pushed(&user, "todo", body(AT, json!(changes))).await;
        }
        let answer = cluster.pushed(&user, "todo", body("", json!(both))).await;
        let rest = match answer["hasMore"] == json!(true) {
            true => cluster.pull_all(&user, "todo", "todos", until(&answer), Some("phone")).await,
            false => vec![],
        };
        let mut found: Vec<&str> = ids(&answer).into_iter().chain(ids_of(&rest)).collect();
        found.retain(|id| !id.starts_with("first") && !id.starts_with("second"));
        let expected: Vec<String> = [("before", before), ("between", between), ("after", after)]
            .iter()
            .flat_map(|(name, count)| (0..*count).map(move |n| format!("{name}{n}")))
            .collect();
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_page_ends_when_it_has_enough_bytes_and_has_at_least_one_change() {
    let cluster = Cluster::start_with(1, &[("PAGE_MAX_BYTES", "1024")]).await;
    let user = cluster.user();
    let sizes = [10_000, 10, 10, 600, 600, 10, 5_000, 20_000, 1, 1, 1, 1024, 1023];
    let title = |at: usize| "x".repeat(sizes[at]);
    let changes: Vec<Value> = (0..sizes.len()).map(|at| insert("todos", &at.to_string(), &title(at), AT)).collect();
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": changes })).await;
    for pages in [
        cluster.push_all(&user, "todo", "", "laptop").await,
        cluster.pull_all(&user, "todo", "todos", BEGINNING, Some("laptop")).await,
    ] {
        assert_eq!(ids_of(&pages), (0..sizes.len()).map(|at| at.to_string()).collect::<Vec<_>>());
        for page in &pages {
            let sizes: Vec<usize> = ids(page).iter().map(|id| sizes[id.parse::<usize>().unwrap()]).collect();
            assert!(!sizes.is_empty(), "{pages:?}");
            let before_last: usize = sizes[..sizes.len() - 1].iter().sum();
            assert!(before_last < 1024, "{sizes:?}");
            assert!(sizes.len() == 1 || sizes.iter().sum::<usize>() <= 1024, "{sizes:?}");
        }
    }
    let stream = cluster.request(&user, reqwest::Method::GET, "/sync/todo/stream");
    let events = Events::open(stream).await.backlog().await;
    assert_eq!(all_ids(&events), (0..sizes.len()).map(|at| at.to_string()).collect::<Vec<_>>());
}

/// An insert with this many numbers with exponents, which are written out when they are read back.
fn exponents(id: &str, count: usize) -> String {
    let numbers = vec!["1e40"; count].join(",");
    let change = format!(r#"{{"table":"todos","id":"{id}","op":"insert","data":{{"v":[{numbers}]}}}}"#);
    format!(r#"{{"clientId":"phone","since":"{AT}","changes":[{change}]}}"#)
}

#[tokio::test]
async fn a_change_that_would_be_too_large_to_be_read_back_is_refused_and_a_large_one_is_read() {
    let cluster = shared().await;
    let user = cluster.user();
    // Less than 2 MB each as pushed.
    let message = cluster.push_raw(&user, "todo", exponents("a", 370_000)).await.refused(400, "bad_request");
    assert!(message.contains("changes[0]") && message.contains("numbers written out"), "{message}");
    assert_eq!(cluster.stored(&user).await, 0);
    for id in ["a", "b"] {
        assert_eq!(cluster.push_raw(&user, "todo", exponents(id, 360_000)).await.status, 200);
    }
    let pages = cluster.pull_all(&user, "todo", "todos", BEGINNING, Some("laptop")).await;
    assert_eq!(pages.iter().map(ids).collect::<Vec<_>>(), [["a"], ["b"]], "each is a page by itself");
}

#[tokio::test]
async fn a_client_that_ignores_has_more_and_stores_synced_until_for_every_table_loses_nothing() {
    let cluster = shared().await;
    let user = cluster.user();
    let tables = ["todos", "lists", "tags"];
    for batch in 0..3 {
        let changes: Vec<Value> =
            (0..2_000).map(|at| insert(tables[at % 3], &format!("{batch}-{at}"), "Milk", AT)).collect();
        cluster.pushed(&user, "todo", json!({ "clientId": "phone", "since": AT, "changes": changes })).await;
    }
    let body = json!({ "clientId": "old", "changes": [insert("todos", "own", "Milk", AT)] });
    let push = cluster.pushed(&user, "todo", body).await;
    assert_eq!(ids(&push).len(), 1_000);
    let mut seen = ids(&push).into_iter().map(str::to_owned).collect::<Vec<_>>();
    for table in tables {
        let pages = cluster.pull_all(&user, "todo", table, until(&push), Some("old")).await;
        seen.extend(ids_of(&pages).into_iter().map(str::to_owned));
    }
    seen.retain(|id| id != "own");
    assert_eq!(seen.len(), 6_000);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 6_000);
}

#[tokio::test]
async fn a_push_of_ten_thousand_changes_is_stored_whole_and_in_order() {
    let cluster = shared().await;
    let user = cluster.user();
    let changes = inserts("todos", "", 10_000);
    let expected: Vec<String> = (0..10_000).map(|at| at.to_string()).collect();
    let body = json!({ "clientId": "phone", "changes": changes });
    let first = cluster.pushed(&user, "todo", body.clone()).await;
    assert_eq!(cluster.pushed_to(1, &user, "todo", body).await, first);
    let pages = cluster.push_all(&user, "todo", "", "laptop").await;
    assert_eq!(pages.len(), 10);
    assert_eq!(ids_of(&pages), expected);
    assert_eq!(until(&pages[9]), until(&first));
    assert_eq!(cluster.stored(&user).await, 10_000);
}
