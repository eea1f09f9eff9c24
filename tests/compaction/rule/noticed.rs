//! A defective trimmer is noticed: by the state of a fresh device, by what is stored, or by changes that readers miss.

use super::*;

/// True if the record is alive on a fresh device with an engine that ignores deletes of unknown records.
async fn is_alive_for_a_fresh_device(cluster: &Cluster, user: &User, id: &str) -> bool {
    let mut alive = None;
    for page in cluster.push_all(user, APP, BEGINNING, "fresh").await {
        for change in page["serverChanges"].as_array().unwrap().iter().filter(|change| change["id"] == id) {
            alive = match (change["op"].as_str().unwrap(), alive) {
                ("delete", None) => None,
                ("delete", Some(_)) => Some(false),
                (_, alive) => Some(alive.unwrap_or(true)),
            };
        }
    }
    alive.expect("it was sent")
}

/// The purpose of the first row: if it is trimmed like any other, the deleted record comes back.
#[tokio::test]
async fn without_its_first_row_a_dead_record_would_rise() {
    let cluster = shared().await;
    for (trimmer, rises) in [(Trimmer::Here, false), (Trimmer::Failing("trim-drops-first-row"), true)] {
        let user = cluster.user();
        push(cluster, &user, "phone", json!([fields("a", &[("title", 0)])])).await;
        push(cluster, &user, "phone", json!([delete("a", 5)])).await;
        push(cluster, &user, "laptop", json!([fields("a", &[("title", 9)])])).await;
        trimmer.trim(cluster, &user, Duration::ZERO).await;
        assert_eq!(is_alive_for_a_fresh_device(cluster, &user, "a").await, rises, "{trimmer:?}");
    }
}

/// Of two equal stamps, the later row wins; a trimmer that keeps the first removes the other.
#[tokio::test]
async fn the_wrong_one_of_two_equal_stamps_is_noticed() {
    let cluster = shared().await;
    for (trimmer, expected) in [
        (Trimmer::Here, [row("a", "update", &["note"]), row("a", "update", &["title"])]),
        (
            Trimmer::Failing("trim-takes-first-of-ties"),
            [row("a", "update", &["note", "title"]), row("b", "update", &["note"])],
        ),
    ] {
        let user = cluster.user();
        push(cluster, &user, "phone", json!([fields("a", &[("note", 5), ("title", 5)])])).await;
        push(cluster, &user, "laptop", json!([fields("a", &[("title", 5)])])).await;
        push(cluster, &user, "laptop", json!([fields("b", &[("note", 5)])])).await;
        trimmer.trim(cluster, &user, Duration::ZERO).await;
        assert_eq!(rows(cluster, &user).await[..2], expected, "{trimmer:?}");
    }
}

/// A row that claims a future stamp stays in full; a trimmer that treats it like any other row does not keep it so.
#[tokio::test]
async fn claimed_stamps_that_are_trimmed_are_noticed() {
    let cluster = shared().await;
    let ahead = now_millis() + 86_400_000;
    for (trimmer, stays) in [(Trimmer::Here, true), (Trimmer::Failing("trims-claims"), false)] {
        let user = cluster.user();
        push(cluster, &user, "phone", json!([fields("a", &[("other", 0)])])).await;
        let claimed =
            json!({ "title": { "value": 1, "updatedAt": iso(ahead) }, "note": { "value": 1, "updatedAt": at(0) } });
        push(cluster, &user, "phone", json!([{ "table": TABLE, "id": "a", "op": "update", "fields": claimed }])).await;
        push(cluster, &user, "laptop", json!([fields("a", &[("note", 5)])])).await;
        trimmer.trim(cluster, &user, Duration::ZERO).await;
        let kept = rows(cluster, &user).await;
        assert_eq!(kept.contains(&row("a", "update", &["note", "title"])), stays, "{trimmer:?}: {kept:?}");
    }
}

/// The rest of a row is delivered at its position; if a trimmer moves it, readers whose cursor is in between miss
/// it.
#[tokio::test]
async fn fields_that_are_moved_are_noticed() {
    let cluster = shared().await;
    for (trimmer, arrives) in [(Trimmer::Here, true), (Trimmer::Failing("trim-moves-fields"), false)] {
        let user = cluster.user();
        push(cluster, &user, "phone", json!([fields("a", &[("title", 0)])])).await;
        let since = until(&push(cluster, &user, "phone", json!([fields("b", &[("title", 0)])])).await).to_owned();
        push(cluster, &user, "laptop", json!([fields("a", &[("note", 5), ("title", 5)])])).await;
        push(cluster, &user, "laptop", json!([fields("a", &[("title", 9)])])).await;
        trimmer.trim(cluster, &user, Duration::ZERO).await;
        let pages = cluster.pull_all(&user, APP, TABLE, &since, Some("tablet")).await;
        let all: Vec<Value> = pages.iter().flat_map(|page| changes(page).as_array().unwrap().clone()).collect();
        assert_eq!(all.iter().any(|change| change["fields"].get("note").is_some()), arrives, "{trimmer:?}: {all:?}");
    }
}

/// A record is trimmed entirely or not at all; a trimmer that ends in between leaves it in neither state.
#[tokio::test]
async fn a_record_that_is_trimmed_in_part_is_noticed() {
    let cluster = shared().await;
    for (trimmer, is_whole) in [(Trimmer::Here, true), (Trimmer::Failing("trims-in-two"), false)] {
        let user = cluster.user();
        for value in 0..6 {
            push(cluster, &user, "phone", json!([fields("a", &[("title", value)])])).await;
        }
        let before = rows(cluster, &user).await;
        trimmer.trim(cluster, &user, Duration::ZERO).await;
        let after = rows(cluster, &user).await;
        assert_eq!(after == before || after.len() == 2, is_whole, "{trimmer:?}: {after:?}");
    }
}
