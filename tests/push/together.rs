//! Pushes that arrive at once and share statements: each is stored and answered as if it had arrived alone.

use super::AT;
use super::support::*;
use futures_util::future::join_all;
use serde_json::json;
use std::collections::BTreeSet;

const USERS: usize = 20;
const DEVICES: usize = 6;

/// Each push is sent twice at once, so that batches contain the same push twice, are refused, and are retried push by
/// push.
#[tokio::test]
async fn pushes_of_many_users_at_once_some_of_them_twice_are_each_stored_once() {
    let cluster = shared().await;
    let users: Vec<User> = (0..USERS).map(|_| cluster.user()).collect();
    let pushes = users.iter().flat_map(|user| (0..DEVICES).map(move |device| (user, device)));
    let sent = pushes.flat_map(|(user, device)| [(user, device); 2]).map(async |(user, device)| {
        let changes: Vec<_> = (0..=device).map(|n| insert("todos", &format!("{device}-{n}"), "Milk", AT)).collect();
        let body = json!({ "clientId": format!("device-{device}"), "since": live::NO_DELTA, "changes": changes });
        let answer = cluster.pushed(user, "todo", body).await;
        answer["syncedUntil"].as_str().unwrap().to_owned()
    });
    let cursors = join_all(sent).await;
    let expected = DEVICES * (DEVICES + 1) / 2;
    for (user, cursors) in users.iter().zip(cursors.chunks(DEVICES * 2)) {
        assert_eq!(cluster.stored(user).await, expected as i64);
        let pulled = cluster.pulled(user, "todo", "todos", BEGINNING, None).await;
        let records: BTreeSet<String> = ids(&pulled).into_iter().map(str::to_owned).collect();
        assert_eq!(records.len(), expected, "each change has a place of its own in the log");
        let head = pulled["syncedUntil"].as_str().unwrap();
        assert_eq!(cursors.iter().max().unwrap(), head, "nobody's cursor is past the log");
    }
}

#[tokio::test]
async fn one_users_devices_that_push_at_once_are_all_told_of() {
    let cluster = shared().await;
    let user = cluster.user();
    let mut listening = live::socket(cluster, 1, &user, Some("todo"), None).await;
    let sent = (0..40).map(async |device| {
        let change = insert(&format!("table-{device}"), "a", "Milk", AT);
        let body = json!({ "clientId": format!("device-{device}"), "since": live::NO_DELTA, "changes": [change] });
        cluster.pushed(&user, "todo", body).await
    });
    join_all(sent).await;
    let mut told = BTreeSet::new();
    while told.len() < 40 {
        told.extend(live::woken(&mut listening).await.1);
    }
}
