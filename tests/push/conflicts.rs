//! `conflicts`: the pushed values that lose to one on the answer's page.

use super::AT;
use super::support::*;
use serde_json::{Value, json};

const LATER: &str = "2024-01-01T11:00:00.000Z";
const EARLIER: &str = "2024-01-01T09:00:00.000Z";

async fn push(cluster: &Cluster, user: &User, client: &str, since: &str, changes: Value) -> Value {
    cluster.pushed(user, "todo", json!({ "clientId": client, "since": since, "changes": changes })).await
}

#[tokio::test]
async fn a_push_is_told_which_of_its_values_lost_and_to_what() {
    let cluster = shared().await;
    let user = cluster.user();
    let theirs = json!([
        update("todos", "a", "title", "theirs", LATER),
        update("todos", "a", "note", "theirs", EARLIER),
        insert("todos", "b", "theirs", LATER),
        json!({ "table": "todos", "id": "c", "op": "delete", "deletedAt": LATER }),
        update("todos", "tie", "title", "theirs", AT),
        update("other", "a", "title", "theirs", LATER),
    ]);
    push(cluster, &user, "laptop", AT, theirs).await;
    let mine = json!([
        update("todos", "a", "title", "mine", EARLIER),
        update(
            "todos",
            "a",
            "title",
            {
                let value = json!({ "x": [1] });
                value
            },
            AT
        ),
        update("todos", "a", "note", "mine", AT),
        update("todos", "b", "title", "mine", AT),
        update("todos", "c", "deletedAt", Value::Null, AT),
        update("todos", "tie", "title", "mine", AT),
    ]);
    let answer = push(cluster, &user, "phone", "", mine.clone()).await;
    let conflict = |id: &str, field: &str, client: Value, server: Value| {
        json!({ "table": "todos", "id": id, "field": field, "clientValue": client, "clientTimestamp": AT,
            "serverValue": server, "serverTimestamp": LATER })
    };
    let expected = json!([
        conflict("a", "title", json!({ "x": [1] }), json!("theirs")),
        conflict("b", "title", json!("mine"), json!("theirs")),
        conflict("c", "deletedAt", Value::Null, json!(LATER)),
    ]);
    assert_eq!(answer["conflicts"], expected);
    let retried = push(cluster, &user, "phone", "", mine).await;
    assert_eq!(retried["conflicts"], expected, "sent again");
}

#[tokio::test]
async fn what_is_not_on_the_page_and_what_the_device_wrote_itself_is_no_conflict() {
    let cluster = shared().await;
    let user = cluster.user();
    let first = push(cluster, &user, "laptop", AT, json!([update("todos", "a", "title", "theirs", LATER)])).await;
    let own =
        push(cluster, &user, "phone", until(&first), json!([update("todos", "b", "title", "later", LATER)])).await;
    for since in [until(&first), until(&own), ""] {
        let answer = push(cluster, &user, "phone", since, json!([update("todos", "b", "title", "mine", AT)])).await;
        assert_eq!(answer["conflicts"], json!([]), "{since}");
    }
    let answer = push(cluster, &user, "phone", until(&own), json!([update("todos", "a", "title", "mine", AT)])).await;
    assert_eq!((&answer["conflicts"], &answer["serverChanges"]), (&json!([]), &json!([])));
}

#[tokio::test]
async fn an_answer_stays_in_proportion_to_its_push() {
    let cluster = shared().await;
    let user = cluster.user();
    let long = "x".repeat(3 << 20);
    push(cluster, &user, "laptop", AT, json!([update("todos", "a", "title", long.as_str(), LATER)])).await;
    let answer = push(cluster, &user, "phone", "", json!([update("todos", "a", "title", 1, AT)])).await;
    assert_eq!(answer["conflicts"], json!([]), "twice the page would not be in proportion to a push of some bytes");
    assert_eq!(ids(&answer), ["a"]);
}
