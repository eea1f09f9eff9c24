//! The views of replicas, users and records.

use super::*;

#[tokio::test]
async fn any_replica_answers_for_all() {
    let it = administered(3, &[]).await;
    it.acquainted().await;
    let user = it.cluster.user();
    let _first = socket(&it.cluster, 0, &user, None, None).await;
    let _second = socket(&it.cluster, 1, &user, Some(APP), Some("laptop")).await;
    let mut stream = Events::open(stream_of(&it.cluster, 2, &user, COLLECTIONS).header("X-Client-Id", "phone")).await;
    stream.backlog().await;
    store(&it.cluster, 0, &user, "laptop", &[("tasks", "a")]).await;
    stream.until("a").await;
    for asked in 0..3 {
        let cluster = it.get(asked, "cluster").await;
        assert_eq!(names(&cluster["replicas"]), ["replica-1", "replica-2", "replica-3"], "{cluster}");
        assert_eq!((&cluster["silent"], &cluster["problem"]), (&json!([]), &Value::Null));
        let own = &cluster["replicas"][0];
        assert_eq!(own["name"], format!("replica-{}", asked + 1), "the one that was asked comes first");
        assert_eq!(own["answerSeconds"], Value::Null);
        for replica in cluster["replicas"].as_array().unwrap() {
            assert_eq!((&replica["ready"], &replica["listener"]["up"]), (&json!(true), &json!(true)), "{replica}");
            assert!(replica["listener"]["lagSeconds"].as_f64().is_some_and(|lag| lag < 5.0), "{replica}");
            assert_eq!(replica["version"], env!("CARGO_PKG_VERSION"));
            let open = replica["connections"]["websockets"].as_i64().unwrap()
                + replica["connections"]["streams"].as_i64().unwrap();
            assert_eq!(open, 1, "{replica}");
            assert!(replica["process"]["memoryBytes"].as_u64().unwrap() > 1 << 20, "{replica}");
            assert!(replica["startedAt"].as_str().unwrap() < cluster["at"].as_str().unwrap());
        }
        assert!(cluster["replicas"][1]["answerSeconds"].as_f64().unwrap() < 1.0);
        assert!(cluster["database"]["bytes"].as_i64().unwrap() > 1 << 20, "{cluster}");
        eventually("pushes are counted", async || {
            let load = it.get(asked, "load").await;
            let seconds =
                load["replicas"].as_array().unwrap().iter().flat_map(|replica| replica["seconds"].as_array().unwrap());
            seconds.map(|second| second["pushes"].as_f64().unwrap()).sum::<f64>() > 0.0
        })
        .await;
    }
}

#[tokio::test]
async fn a_user_is_shown_with_sessions_logs_and_devices() {
    let it = administered(2, &[]).await;
    it.acquainted().await;
    let user = with_token_id(&it.cluster, &it.cluster.user(), &json!("token-7"));
    let mut phone = socket(&it.cluster, 0, &user, Some(APP), Some("phone")).await;
    let mut stream = Events::open(stream_of(&it.cluster, 1, &user, COLLECTIONS).header("X-Client-Id", "tablet")).await;
    stream.backlog().await;
    let head = store(&it.cluster, 0, &user, "laptop", &[("tasks", "a"), ("lists", "b")]).await;
    stream.until("b").await;
    support::live::woken(&mut phone).await;
    it.cluster.pulled(&user, APP, "tasks", &head, Some("phone")).await;
    let shown = it.user(1, &user).await;
    assert_eq!((&shown["userId"], &shown["sessionsTotal"]), (&json!(user.id), &json!(2)), "{shown}");
    assert_eq!(
        shown["logs"],
        json!([{ "app": APP, "head": head, "changes": 2, "bytes": shown["usage"]["bytes"], "tables": 2, "more": false }])
    );
    assert_eq!((&shown["usage"]["apps"], &shown["usage"]["changes"]), (&json!(1), &json!(2)));
    let session = |transport: &str| {
        let all = shown["sessions"].as_array().unwrap();
        all.iter().find(|session| session["transport"] == transport).unwrap_or_else(|| panic!("{shown}")).clone()
    };
    let (socket, stream) = (session("websocket"), session("sse"));
    assert_eq!(
        (&socket["replica"], &socket["device"], &socket["app"]),
        (&json!("replica-1"), &json!("phone"), &json!(APP))
    );
    assert_eq!((&stream["replica"], &stream["device"]), (&json!("replica-2"), &json!("tablet")));
    assert_eq!((&socket["tokenId"], &stream["tokenId"]), (&json!("token-7"), &json!("token-7")));
    assert!(socket["wokenAt"].is_string() && stream["wokenAt"].is_string(), "{shown}");
    assert_eq!((&socket["readUntil"], &stream["readUntil"]), (&Value::Null, &json!(head)));
    let device = |name: &str| {
        let all = shown["devices"].as_array().unwrap();
        all.iter().find(|device| device["device"] == name).unwrap_or_else(|| panic!("{shown}")).clone()
    };
    assert_eq!((&device("laptop")["changes"], &device("laptop")["pushedAt"]), (&json!(2), &json!(head)));
    assert_eq!((&device("phone")["readUntil"], &device("phone")["sessions"]), (&json!(head), &json!(1)));
    assert_eq!((&device("tablet")["readUntil"], &device("tablet")["pushedAt"]), (&json!(head), &Value::Null));

    let nobody = it.user(0, &it.cluster.user()).await;
    assert_eq!((&nobody["sessionsTotal"], &nobody["logs"], &nobody["devices"]), (&json!(0), &json!([]), &json!([])));
}

#[tokio::test]
async fn of_a_user_with_very_many_changes_only_the_newest_are_counted() {
    const COUNTED: usize = 10_000;
    let it = administered(1, &[]).await;
    let user = it.cluster.user();
    let push = async |app: &str, device: &str, ids: std::ops::Range<usize>| {
        let changes: Vec<Value> = ids.map(|id| insert("tasks", &id.to_string(), "Milk", AT)).collect();
        it.cluster.pushed(&user, app, json!({ "clientId": device, "changes": changes })).await;
    };
    push(APP, "first", 0..1).await;
    for begin in (1..COUNTED).step_by(1_000) {
        push(APP, "laptop", begin..(begin + 1_000).min(COUNTED)).await;
    }
    let counts =
        |shown: &Value| (shown["usage"]["changes"].as_u64().unwrap(), shown["usage"]["more"].as_bool().unwrap());
    // Devices that pushed some of the changes that are counted; of others only their reads are known.
    let devices = |shown: &Value| {
        let all = shown["devices"].as_array().unwrap().iter().filter(|device| device["changes"] != 0);
        all.map(|device| device["device"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let shown = it.user(0, &user).await;
    assert_eq!(counts(&shown), (COUNTED as u64, false), "as many as are counted");
    assert_eq!(devices(&shown), ["laptop", "first"]);
    push(APP, "laptop", COUNTED..COUNTED + 1).await;
    let shown = it.user(0, &user).await;
    assert_eq!(counts(&shown), (COUNTED as u64, true), "{}", shown["logs"]);
    assert_eq!(devices(&shown), ["laptop"], "the oldest change is not looked at");
    // Another app's log takes its share of the counted changes, and is shown in full.
    push("notes", "phone", 0..10).await;
    let shown = it.user(0, &user).await;
    assert_eq!(counts(&shown), (COUNTED as u64 / 2 + 10, true));
    let more: Vec<&Value> = shown["logs"].as_array().unwrap().iter().map(|log| &log["more"]).collect();
    assert_eq!(more, [&json!(false), &json!(true)], "the one that changed last comes first");
    assert_eq!(devices(&shown), ["phone", "laptop"]);
}

#[tokio::test]
async fn a_user_with_many_sessions_is_listed_in_part_and_counted_whole() {
    let it = administered(2, &[("MAX_SESSIONS_PER_USER", "1000")]).await;
    it.acquainted().await;
    let user = it.cluster.user();
    let mut sockets = Vec::new();
    for n in 0..400 {
        sockets.push(socket(&it.cluster, n, &user, Some(APP), Some(&format!("device-{n}"))).await);
    }
    let listed = |shown: &Value| shown["sessions"].as_array().unwrap().len();
    let shown = it.user(0, &user).await;
    assert_eq!((listed(&shown), &shown["sessionsTotal"]), (200, &json!(400)));
    let all = it.get(1, &format!("user?id={}&sessions=2000", user.id)).await;
    assert_eq!((listed(&all), &all["sessionsTotal"]), (400, &json!(400)));
    let none = it.get(1, &format!("user?id={}&sessions=0", user.id)).await;
    assert_eq!((listed(&none), &none["sessionsTotal"]), (0, &json!(400)));
    let outcomes = it.act(0, "disconnect", json!({ "userId": user.id, "device": "device-7" })).await;
    let ended: Vec<&str> = outcomes.iter().map(|(_, message)| message.as_str()).collect();
    assert_eq!(ended, ["0 sessions were ended", "1 session was ended"]);
    it.act(0, "disconnect", json!({ "userId": user.id })).await;
    eventually("all have gone", async || it.user(0, &user).await["sessionsTotal"] == 0).await;
}

#[tokio::test]
async fn a_record_is_explained() {
    let it = administered(1, &[]).await;
    let user = it.cluster.user();
    let push = async |device: &str, change: Value| {
        it.cluster.pushed(&user, APP, json!({ "clientId": device, "changes": [change] })).await;
    };
    push("phone", insert("tasks", "a/b c", "Milk", "2024-01-01T10:00:00.000Z")).await;
    push("laptop", update("tasks", "a/b c", "title", "Eggs", "2024-01-01T10:05:00.000Z")).await;
    push("phone", update("tasks", "a/b c", "title", "Late but older", "2024-01-01T10:04:00.000Z")).await;
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("user", user.id.as_str()), ("app", APP), ("table", "tasks"), ("id", "a/b c")])
        .finish();
    let record = it.get(0, &format!("record?{query}")).await;
    let title = record["fields"].as_array().unwrap().iter().find(|field| field["name"] == "title").unwrap().clone();
    assert_eq!((&title["value"], &title["device"]), (&json!("Eggs"), &json!("laptop")), "{record}");
    let wins: Vec<bool> = record["history"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|change| change["writes"].as_array().unwrap())
        .filter(|write| write["field"] == "title")
        .map(|write| write["wins"].as_bool().unwrap())
        .collect();
    assert_eq!(wins, [false, true, false]);
    let missing = Reply::to(it.request(0, Method::GET, &format!("record?{}x", query))).await;
    missing.refused(404, "not_found");
    for parameter in ["user", "app", "table", "id"] {
        let without = query.replace(&format!("{parameter}="), "other=");
        let message =
            Reply::to(it.request(0, Method::GET, &format!("record?{without}"))).await.refused(400, "bad_request");
        assert!(message.contains(parameter), "{message}");
    }
}

/// Of a record whose changes are very large, only the newest are shown, with a note that there are older ones.
#[tokio::test]
async fn of_a_record_of_large_changes_no_more_is_read_than_is_shown() {
    let it = administered(1, &[]).await;
    let user = it.cluster.user();
    for minute in 1..=4 {
        let value = format!("{minute}{}", "x".repeat(3 << 20));
        let change = update("tasks", "a", "title", value, &format!("2024-01-01T10:0{minute}:00.000Z"));
        it.cluster.pushed(&user, APP, json!({ "clientId": "phone", "changes": [change] })).await;
    }
    let record = it.get(0, &format!("record?user={}&app={APP}&table=tasks&id=a", user.id)).await;
    assert_eq!((record["history"].as_array().unwrap().len(), &record["truncated"]), (2, &json!(true)));
    assert!(record["fields"][0]["value"].as_str().unwrap().starts_with('4'), "the newest is among them");
}
