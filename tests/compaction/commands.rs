//! `mana-sync compact`, `why`, `usage` and `export`, with nothing but the database's URL.

use super::support::*;
use super::{APP, NOW, TABLE, at, command, history, rows, said};
use serde_json::{Value, json};

async fn fill(cluster: &Cluster, user: &User) {
    for (device, app, value, millis) in [
        ("phone", APP, "first", 0),
        ("laptop", APP, "second", 5),
        ("phone", APP, "late", 3),
        ("phone", "notes", "n", 0),
    ] {
        let changes =
            json!([update(TABLE, "a", "title", value, &at(millis)), update(TABLE, value, "done", true, &at(millis))]);
        cluster.pushed(user, app, json!({ "clientId": device, "since": BEGINNING, "changes": changes })).await;
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

#[tokio::test]
async fn compact_trims_the_logs_that_are_named_as_far_as_they_are_old_enough() {
    let cluster = shared().await;
    let (user, other) = (cluster.user(), cluster.user());
    fill(cluster, &user).await;
    fill(cluster, &other).await;
    let all = rows(cluster, &user).await;
    said(cluster, &["compact", "--user", &user.id], &[]).await;
    assert_eq!(rows(cluster, &user).await, all, "seven days are not over");
    said(cluster, &["compact", "--user", &user.id, "--app", "notes"], NOW).await;
    assert_eq!(rows(cluster, &user).await, all, "of that app nothing lost");
    let text = said(cluster, &["compact", "--user", &user.id, "--app", APP], NOW).await;
    assert!(text.contains("1 log: 6 changes examined, 1 trimmed, 1 of them removed entirely"), "{text}");
    assert_eq!((rows(cluster, &user).await.len(), history(cluster, &user).await), (all.len() - 1, 1));
    assert_eq!(rows(cluster, &other).await, all);
    let bad = command(cluster, &["compact"], &[("COMPACT_AFTER_MS", "soon")]).await;
    assert_eq!(bad.status.code(), Some(2), "{bad:?}");
    assert!(String::from_utf8_lossy(&bad.stderr).contains("COMPACT_AFTER_MS"), "{bad:?}");
}

#[tokio::test]
async fn why_says_who_won_against_whom_and_who_came_too_late() {
    let cluster = shared().await;
    let user = cluster.user();
    fill(cluster, &user).await;
    let words = ["why", "--user", &user.id, "--app", APP, "--table", TABLE, "--record", "a", "--json"];
    let before: Value = serde_json::from_str(&said(cluster, &words, &[]).await).unwrap();
    let field = &before["fields"][0];
    let shown = |write: &Value| (write["value"].clone(), write["device"].clone(), write["stamp"].clone());
    assert_eq!(field["field"], "title");
    assert_eq!(shown(field), (json!("second"), json!("laptop"), json!(at(5))));
    assert_eq!(shown(&field["wonAgainst"][0]), (json!("first"), json!("phone"), json!(at(0))));
    assert_eq!(shown(&field["cameTooLate"][0]), (json!("late"), json!("phone"), json!(at(3))));
    said(cluster, &["compact", "--user", &user.id], NOW).await;
    let after: Value = serde_json::from_str(&said(cluster, &words, &[]).await).unwrap();
    let mut without = after.clone();
    for list in ["wonAgainst", "cameTooLate"] {
        for write in without["fields"][0][list].as_array_mut().unwrap() {
            write.as_object_mut().unwrap().remove("trimmedAt");
        }
    }
    assert_eq!(without, before, "from both tables as from one");
    assert!(after["fields"][0]["cameTooLate"][0]["trimmedAt"].is_string(), "{after}");
    let text = said(cluster, &words[..words.len() - 1], &[]).await;
    for part in ["title = \"second\"  written", "by laptop", "won against:", "\"first\"", "came too late:", "\"late\""]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    let one = said(cluster, &[&words[..], &["--field", "title"]].concat(), &[]).await;
    assert_eq!(serde_json::from_str::<Value>(&one).unwrap(), after);
    for (name, value, says) in [("--field", "x", "no change has written"), ("--record", "x", "nothing is stored")] {
        let mut words: Vec<&str> = words.to_vec();
        match words.iter().position(|word| *word == name) {
            Some(place) => words[place + 1] = value,
            None => words.extend([name, value]),
        }
        let failed = command(cluster, &words, &[]).await;
        assert_eq!(failed.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&failed.stderr).contains(says), "{failed:?}");
    }
}

/// A record that was written very often: `why` shows the winner and the latest of the writes that lost, from both
/// tables.
#[tokio::test]
async fn why_tells_the_latest_of_a_long_story_and_how_long_it_is() {
    let cluster = shared().await;
    let user = cluster.user();
    let write = async |stamp: i64| {
        let changes = json!([update(TABLE, "a", "title", stamp, &at(stamp))]);
        cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": changes })).await
    };
    for stamp in (0..20).chain([1_000]).chain(100..115) {
        write(stamp).await;
    }
    let words = ["why", "--user", &user.id, "--app", APP, "--table", TABLE, "--record", "a", "--limit", "3"];
    for trims in [false, true] {
        if trims {
            said(cluster, &["compact", "--user", &user.id], NOW).await;
        }
        let json = said(cluster, &[&words[..], &["--json"]].concat(), &[]).await;
        let field = &serde_json::from_str::<Value>(&json).unwrap()["fields"][0];
        let values = |list: &str| -> Vec<i64> {
            field[list].as_array().unwrap().iter().map(|write| write["value"].as_i64().unwrap()).collect()
        };
        assert_eq!(field["value"], 1_000);
        assert_eq!((values("wonAgainst"), &field["wonAgainstMore"]), (vec![19, 18, 17], &json!(17)), "{trims}");
        assert_eq!((values("cameTooLate"), &field["cameTooLateMore"]), (vec![112, 113, 114], &json!(12)), "{trims}");
        let text = said(cluster, &words, &[]).await;
        assert!(text.contains("and 17 more that are not shown") && text.contains("and 12 more"), "{text}");
    }
}

#[tokio::test]
async fn export_hands_out_the_records_or_everything_that_is_stored() {
    let cluster = shared().await;
    let user = cluster.user();
    fill(cluster, &user).await;
    let changes = json!([{ "table": TABLE, "id": "late", "op": "delete", "deletedAt": at(9) }]);
    cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": changes })).await;
    said(cluster, &["compact", "--user", &user.id], NOW).await;
    let records = lines(&said(cluster, &["export", "--user", &user.id], &[]).await);
    let names: Vec<String> = records
        .iter()
        .map(|line| format!("{}/{}/{}", line["app"], line["table"], line["id"]).replace('"', ""))
        .collect();
    let expected =
        ["notes/tasks/a", "notes/tasks/n", "todo/tasks/a", "todo/tasks/first", "todo/tasks/late", "todo/tasks/second"];
    assert_eq!(names, expected);
    assert_eq!(records[2]["data"], json!({ "title": "second" }));
    assert_eq!(records[2]["fieldTimestamps"], json!({ "title": at(5) }));
    let deleted: Vec<bool> = records.iter().map(|line| line["deleted"].as_bool().unwrap()).collect();
    assert_eq!(deleted, [false, false, false, false, true, false]);
    let log = lines(&said(cluster, &["export", "--user", &user.id, "--app", APP, "--log"], &[]).await);
    let kept: Vec<&Value> = log.iter().filter(|line| line.get("trimmedAt").is_none()).collect();
    assert_eq!((kept.len(), log.len()), (6, 7));
    let trimmed = log.iter().find(|line| line.get("trimmedAt").is_some()).unwrap();
    assert_eq!(trimmed["data"], json!({ "title": "late" }));
    assert!(log.iter().all(|line| line["clientId"].is_string() && line["storedAt"].is_string()));
    assert_eq!(said(cluster, &["export", "--user", "nobody-at-all"], &[]).await, "");
}

#[tokio::test]
async fn usage_says_who_stores_how_much_and_how_much_of_it_is_garbage() {
    let cluster = Cluster::start(1).await;
    let (user, other) = (cluster.user(), cluster.user());
    fill(&cluster, &user).await;
    let long = "x".repeat(100_000);
    for n in 0..3 {
        let changes = json!([update(TABLE, "big", "text", long.as_str(), &at(n))]);
        cluster.pushed(&other, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": changes })).await;
    }
    let top = lines(&said(&cluster, &["usage", "--json", "--top", "2"], &[]).await);
    assert_eq!((top.len(), top[0]["user"].as_str()), (2, Some(&*other.id)));
    let number = |line: &Value, name: &str| line[name].as_i64().unwrap();
    assert_eq!((number(&top[0], "changes"), number(&top[0], "records")), (3, 1));
    assert!(number(&top[0], "bytes") > 300_000 && number(&top[0], "garbage") > 200_000, "{}", top[0]);
    assert!(number(&top[0], "garbage") < 202_000, "{}", top[0]);
    said(&cluster, &["compact"], NOW).await;
    let top = lines(&said(&cluster, &["usage", "--json"], &[]).await);
    // The first row keeps its one field.
    assert_eq!((number(&top[0], "changes"), number(&top[0], "trimmedChanges")), (2, 1));
    assert!((99_000..102_000).contains(&number(&top[0], "garbage")), "{}", top[0]);
    let table = said(&cluster, &["usage"], &[]).await;
    assert!(table.lines().next().unwrap().contains("garbage") && table.contains(&other.id), "{table}");
    let by_sql = "select bytes, garbage from sync_usage($1)";
    let (bytes, garbage): (i64, i64) = sqlx::query_as(by_sql).bind(&other.id).fetch_one(&cluster.pool).await.unwrap();
    assert_eq!((bytes, garbage), (number(&top[0], "bytes"), number(&top[0], "garbage")));
}

/// Records that were inserted and never edited do not hide the garbage of others.
#[tokio::test]
async fn garbage_is_counted_beside_inserts_as_well() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    let push = async |changes: Value| {
        cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": changes })).await
    };
    let usage = async || lines(&said(&cluster, &["usage", "--json"], &[]).await)[0]["garbage"].as_i64().unwrap();
    let data = |n: i64| {
        let mut data: serde_json::Map<String, Value> = (0..20).map(|f| (format!("field-{f}"), json!(f))).collect();
        data.insert("updatedAt".into(), json!(at(n)));
        data
    };
    let inserts: Vec<Value> =
        (0..300).map(|n| json!({ "table": TABLE, "id": format!("r{n}"), "op": "insert", "data": data(n) })).collect();
    push(Value::from(inserts)).await;
    push(json!([{ "table": TABLE, "id": "gone", "op": "delete", "deletedAt": at(1) }])).await;
    assert_eq!(usage().await, 0);
    for n in 0..3 {
        push(json!([update(TABLE, "big", "text", "x".repeat(10_000), &at(n))])).await;
    }
    let garbage = usage().await;
    assert!((20_000..20_300).contains(&garbage), "{garbage}");
    // The garbage of an edited insert is the values that lost.
    push(json!([update(TABLE, "r1", "field-1", "y", &at(9_999))])).await;
    let more = usage().await - garbage;
    assert!((8..40).contains(&more), "{more}");
}
