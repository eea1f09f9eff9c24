//! Pages that are read ahead of their readers: every reader gets the same as without.

use crate::support::live::metric;
use crate::support::*;
use serde_json::{Value, json};

const AT: &str = "2024-01-01T10:05:00.000Z";
const LATER: &str = "2024-01-01T10:06:00.000Z";

/// Each test has its own cluster: it counts what the replica has read ahead.
async fn small_pages() -> Cluster {
    Cluster::start_with(2, &[("PAGE_MAX_CHANGES", "3")]).await
}

async fn fill(cluster: &Cluster, user: &User, device: &str, count: usize) {
    let changes: Vec<Value> = (0..count).map(|at| insert("todos", &at.to_string(), "Milk", AT)).collect();
    cluster.pushed(user, "todo", json!({ "clientId": device, "since": AT, "changes": changes })).await;
}

async fn read_ahead(cluster: &Cluster, outcome: &str) -> f64 {
    metric(cluster, 0, &format!("mana_sync_pages_read_ahead_total{{outcome=\"{outcome}\"}}")).await
}

/// Pulls the page after this one.
async fn after(cluster: &Cluster, user: &User, page: &Value, device: &str) -> Value {
    cluster.pulled(user, "todo", "todos", until(page), Some(device)).await
}

/// Pulls a device's first two pages: by then, the third is being read.
async fn two_pages(cluster: &Cluster, user: &User, device: &str) -> Value {
    let first = cluster.pulled(user, "todo", "todos", BEGINNING, Some(device)).await;
    let second = after(cluster, user, &first, device).await;
    assert_eq!((ids(&first), ids(&second)), (vec!["0", "1", "2"], vec!["3", "4", "5"]));
    second
}

#[tokio::test]
async fn a_reader_that_comes_back_for_page_after_page_gets_each_once_and_in_order() {
    let cluster = small_pages().await;
    let user = cluster.user();
    fill(&cluster, &user, "phone", 14).await;
    let expected: Vec<String> = (0..14).map(|at| at.to_string()).collect();
    let pulled = cluster.pull_all(&user, "todo", "todos", BEGINNING, Some("laptop")).await;
    assert_eq!(ids_of(&pulled), expected);
    assert_eq!(read_ahead(&cluster, "used").await, 3.0, "all but the first two");
    let pushed = cluster.push_all(&user, "todo", BEGINNING, "tablet").await;
    assert_eq!(ids_of(&pushed), expected);
    assert_eq!(read_ahead(&cluster, "used").await, 6.0, "as by pushes without changes");
}

#[tokio::test]
async fn what_is_stored_after_the_last_page_was_read_ahead_is_on_it() {
    const USERS: usize = 50;
    let cluster = small_pages().await;
    for _ in 0..USERS {
        let user = cluster.user();
        fill(&cluster, &user, "phone", 8).await;
        let second = two_pages(&cluster, &user, "laptop").await;
        let change = insert("todos", "new", "Milk", AT);
        let body = json!({ "clientId": "phone", "since": AT, "changes": [change] });
        // Through the other replica: this one may not know about it.
        cluster.pushed_to(1, &user, "todo", body).await;
        let third = after(&cluster, &user, &second, "laptop").await;
        assert_eq!((ids(&third), &third["hasMore"]), (vec!["6", "7", "new"], &json!(false)));
        if read_ahead(&cluster, "outdated").await > 0.0 {
            return;
        }
    }
    // A page that is read only once the change is stored has it.
    panic!("no page of {USERS} was read before the change was stored");
}

#[tokio::test]
async fn what_a_device_has_replaced_after_its_page_was_read_ahead_is_not_sent_back() {
    let cluster = small_pages().await;
    let user = cluster.user();
    fill(&cluster, &user, "laptop", 9).await;
    let second = two_pages(&cluster, &user, "laptop").await;
    let change = update("todos", "7", "title", "Bread", LATER);
    let body = json!({ "clientId": "laptop", "since": until(&second), "changes": [change] });
    cluster.pushed_to(1, &user, "todo", body).await;
    let mut titles = vec![];
    let mut page = second;
    while page["hasMore"] == true {
        page = after(&cluster, &user, &page, "laptop").await;
        let of_7 = page["serverChanges"].as_array().unwrap().iter().filter(|change| change["id"] == "7");
        titles.extend(
            of_7.flat_map(|change| [change["data"]["title"].clone(), change["fields"]["title"]["value"].clone()]),
        );
    }
    titles.retain(|title| !title.is_null());
    assert_eq!(titles, [json!("Bread")]);
}

#[tokio::test]
async fn a_page_that_was_read_ahead_is_its_readers_alone() {
    let cluster = small_pages().await;
    let user = cluster.user();
    fill(&cluster, &user, "phone", 9).await;
    let change = insert("lists", "list", "Shop", AT);
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "since": AT, "changes": [change] })).await;
    let second = two_pages(&cluster, &user, "laptop").await;
    let pull = async |table, device| {
        let page = cluster.pulled(&user, "todo", table, until(&second), device).await;
        ids(&page).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(pull("lists", Some("laptop")).await, ["list"]);
    assert_eq!(pull("todos", None).await, ["6", "7", "8"]);
    let other = cluster.user();
    let page = cluster.pulled(&other, "todo", "todos", until(&second), Some("laptop")).await;
    assert_eq!(ids(&page), [""; 0]);
    assert_eq!(read_ahead(&cluster, "used").await, 0.0);
    assert_eq!(pull("todos", Some("laptop")).await, ["6", "7", "8"]);
    assert_eq!(read_ahead(&cluster, "used").await, 1.0);
}

#[tokio::test]
async fn a_page_that_nobody_comes_back_for_is_given_up() {
    let cluster = small_pages().await;
    let user = cluster.user();
    fill(&cluster, &user, "phone", 9).await;
    let second = two_pages(&cluster, &user, "laptop").await;
    eventually("the page is given up", async || read_ahead(&cluster, "unused").await == 1.0).await;
    eventually("nothing is held for it", async || metric(&cluster, 0, "mana_sync_stream_bytes").await == 0.0).await;
    assert_eq!(ids(&after(&cluster, &user, &second, "laptop").await), ["6", "7", "8"], "it may come back later");
}
