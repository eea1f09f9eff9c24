//! `GET /sync/{appId}/pull`, and its cursors, sentence by sentence of docs/protocol.md.

use crate::support::*;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const AT: &str = "2024-01-01T10:05:00.000Z";
/// Before everything that is ever stored, yet not the beginning.
const EARLY: &str = "1970-01-01T00:00:01.000Z";

async fn push(cluster: &Cluster, user: &User, client: &str, changes: &[Value]) -> Value {
    cluster.pushed(user, "todo", json!({ "clientId": client, "since": AT, "changes": changes })).await
}

fn inserts(table: &str, count: usize) -> Vec<Value> {
    (0..count).map(|at| insert(table, &at.to_string(), "Milk", AT)).collect()
}

#[tokio::test]
async fn collection_and_since_must_be_there_and_not_empty() {
    let cluster = shared().await;
    let user = cluster.user();
    for (query, missing) in [
        ("", "collection"),
        ("?since=1970-01-01T00:00:00.000Z", "collection"),
        ("?collection=&since=1970-01-01T00:00:00.000Z", "collection"),
        ("?collection=todos", "since"),
        ("?collection=todos&since=", "since"),
        ("?Collection=todos&since=1970-01-01T00:00:00.000Z", "collection"),
    ] {
        let request = cluster.request(&user, Method::GET, &format!("/sync/todo/pull{query}"));
        let message = Reply::to(request).await.refused(400, "bad_request");
        assert!(message.contains(missing), "{query}: {message}");
    }
}

#[tokio::test]
async fn a_since_that_is_no_time_is_refused() {
    let cluster = shared().await;
    let user = cluster.user();
    for since in ["now", "0", "2024-01-01", "2024-01-01T10:00:00", "2024-01-01 10:00", "2024-02-30T00:00:00Z"] {
        let (status, answer) = cluster.pull(&user, "todo", "todos", since, None).await;
        assert_eq!((status.as_u16(), &answer["error"]), (400, &json!("bad_request")), "{since}: {answer}");
    }
}

#[tokio::test]
async fn a_pull_brings_one_table_in_the_form_of_a_pushs_answer() {
    let cluster = shared().await;
    let user = cluster.user();
    let changes =
        [insert("todos", "a", "Milk", AT), insert("lists", "b", "Shop", AT), update("todos", "a", "n", 1, AT)];
    let pushed = push(cluster, &user, "phone", &changes).await;
    let pulled = cluster.pulled(&user, "todo", "todos", BEGINNING, Some("laptop")).await;
    assert_eq!(crate::support::changes(&pulled), json!([changes[0], changes[2]]));
    let expected = json!({
        "serverChanges": pulled["serverChanges"],
        "conflicts": [],
        "syncedUntil": pushed["syncedUntil"],
        "hasMore": false,
    });
    assert_eq!(pulled, expected);
    assert_eq!(ids(&cluster.pulled(&user, "todo", "Todos", BEGINNING, None).await), [""; 0]);
}

#[tokio::test]
async fn the_device_that_the_header_names_does_not_get_its_own_changes() {
    let cluster = shared().await;
    let user = cluster.user();
    for (client, id) in [("phone", "a"), ("laptop", "b"), ("phone", "c")] {
        push(cluster, &user, client, &[insert("todos", id, "Milk", AT)]).await;
    }
    for (client, expected) in [
        (Some("phone"), vec!["b"]),
        (Some("laptop"), vec!["a", "c"]),
        (Some("tablet"), vec!["a", "b", "c"]),
        (Some(""), vec!["a", "b", "c"]),
        (None, vec!["a", "b", "c"]),
    ] {
        assert_eq!(ids(&cluster.pulled(&user, "todo", "todos", EARLY, client).await), expected, "{client:?}");
        let from_the_beginning = cluster.pulled(&user, "todo", "todos", BEGINNING, client).await;
        assert_eq!(ids(&from_the_beginning), ["a", "b", "c"], "{client:?}");
    }
}

#[tokio::test]
async fn other_users_and_other_apps_are_never_seen() {
    let cluster = shared().await;
    let (user, other) = (cluster.user(), cluster.user());
    push(cluster, &user, "phone", &inserts("todos", 1)).await;
    assert_eq!(ids(&cluster.pulled(&other, "todo", "todos", BEGINNING, None).await), [""; 0]);
    assert_eq!(ids(&cluster.pulled(&user, "notes", "todos", BEGINNING, None).await), [""; 0]);
}

#[tokio::test]
async fn a_page_has_at_most_a_thousand_changes() {
    let cluster = shared().await;
    let user = cluster.user();
    let pushed = push(cluster, &user, "phone", &inserts("todos", 2_500)).await;
    for since in [BEGINNING, EARLY] {
        let pages = cluster.pull_all(&user, "todo", "todos", since, Some("laptop")).await;
        assert_eq!(pages.iter().map(|page| ids(page).len()).collect::<Vec<_>>(), [1_000, 1_000, 500]);
        assert_eq!(ids_of(&pages), (0..2_500).map(|at| at.to_string()).collect::<Vec<_>>());
        assert_eq!(until(&pages[2]), until(&pushed));
    }
}

#[tokio::test]
async fn names_in_the_query_may_be_any_text() {
    let cluster = shared().await;
    let user = cluster.user();
    for table in ["to dos", "a&b=c", "ä+ö", "🍎/%", "a,b"] {
        push(cluster, &user, "phone", &[insert(table, "a", "Milk", AT)]).await;
        assert_eq!(ids(&cluster.pulled(&user, "todo", table, BEGINNING, None).await), ["a"], "{table}");
    }
}

#[tokio::test]
async fn with_nothing_to_return_synced_until_is_the_newest_change_of_that_user_and_app() {
    let cluster = shared().await;
    let user = cluster.user();
    push(cluster, &user, "phone", &inserts("todos", 3)).await;
    let newest = push(cluster, &user, "phone", &inserts("lists", 2)).await;
    cluster.pushed(&user, "notes", json!({ "clientId": "phone", "changes": inserts("todos", 1) })).await;
    push(cluster, &cluster.user(), "phone", &inserts("todos", 1)).await;
    for (table, since, client) in [
        ("tags", BEGINNING, Some("laptop")),
        ("todos", until(&newest), Some("laptop")),
        ("todos", EARLY, Some("phone")),
        ("lists", EARLY, Some("phone")),
        ("todos", "2999-01-01T00:00:00.000Z", None),
        ("tags", "9999-12-31T23:59:59.999Z", Some("laptop")),
    ] {
        let pulled = cluster.pulled(&user, "todo", table, since, client).await;
        assert_eq!((ids(&pulled), until(&pulled)), (vec![], until(&newest)), "{table} since {since}");
        assert_eq!(pulled["hasMore"], json!(false));
    }
}

#[tokio::test]
async fn with_no_change_at_all_synced_until_is_the_beginning() {
    let cluster = shared().await;
    let user = cluster.user();
    for since in [BEGINNING, EARLY, "2999-01-01T00:00:00.000Z"] {
        let pulled = cluster.pulled(&user, "todo", "todos", since, Some("phone")).await;
        assert_eq!(until(&pulled), "1970-01-01T00:00:00.000000Z", "{since}");
    }
}

#[tokio::test]
async fn a_cursor_that_a_client_cut_to_milliseconds_only_brings_changes_again() {
    let cluster = shared().await;
    let user = cluster.user();
    let first = push(cluster, &user, "phone", &inserts("todos", 1)).await;
    push(cluster, &user, "phone", &[insert("todos", "next", "Milk", AT)]).await;
    let cut = format!("{}Z", &until(&first)[..23]);
    let pulled = cluster.pulled(&user, "todo", "todos", &cut, Some("laptop")).await;
    assert_eq!(ids(&pulled).last(), Some(&"next"));
}

#[tokio::test]
async fn cursors_are_fixed_width_unique_and_ordered_as_strings_like_the_log_under_concurrent_pushes() {
    const PUSHES: usize = 60;
    let cluster = shared().await;
    let user = cluster.user();
    let push = |at: usize| {
        let (user, changes) =
            (&user, [insert("todos", &at.to_string(), "a", AT), insert("todos", &at.to_string(), "b", AT)]);
        async move {
            let body =
                json!({ "clientId": format!("device-{at}"), "since": "2999-01-01T00:00:00Z", "changes": changes });
            cluster.pushed_to(at, user, "todo", body).await
        }
    };
    let answers = join_all((0..PUSHES).map(push)).await;
    let cursors: BTreeSet<&str> = answers.iter().map(until).collect();
    assert_eq!(cursors.len(), PUSHES, "two pushes share a cursor");
    assert!(cursors.iter().all(|cursor| cursor.len() == 27 && cursor.ends_with('Z')), "{cursors:?}");

    // The log is in cursor order, and the two changes of a push are adjacent.
    let by_cursor: BTreeSet<(&str, usize)> =
        answers.iter().enumerate().map(|(at, answer)| (until(answer), at)).collect();
    let expected: Vec<String> = by_cursor.iter().flat_map(|(_, at)| [at.to_string(), at.to_string()]).collect();
    let log = cluster.pulled(&user, "todo", "todos", EARLY, None).await;
    assert_eq!(ids(&log), expected);
    assert_eq!(Some(&until(&log)), cursors.last());
    // Each cursor leads to what comes after it.
    for (position, (cursor, _)) in by_cursor.iter().enumerate() {
        let rest = cluster.pulled(&user, "todo", "todos", cursor, None).await;
        assert_eq!(ids(&rest), expected[2 * (position + 1)..]);
    }
}

#[tokio::test]
async fn on_a_walk_every_cursor_is_greater_than_the_one_before_also_as_a_string() {
    let cluster = Cluster::start_with(1, &[("PAGE_MAX_CHANGES", "1")]).await;
    let user = cluster.user();
    push(&cluster, &user, "phone", &inserts("todos", 20)).await;
    for (since, client) in [(BEGINNING, None), (BEGINNING, Some("phone")), (EARLY, Some("laptop"))] {
        let pages = cluster.pull_all(&user, "todo", "todos", since, client).await;
        assert_eq!(pages.len(), 20);
        let cursors: Vec<&str> = pages.iter().map(until).collect();
        assert!(cursors.windows(2).all(|pair| pair[0] < pair[1] && pair[0].len() == 27), "{cursors:?}");
        assert!(cursors.iter().all(|cursor| *cursor > BEGINNING));
    }
}
