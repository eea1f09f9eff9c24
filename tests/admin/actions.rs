//! Operators' actions, on all replicas at once.

use super::*;

#[tokio::test]
async fn a_user_or_a_device_is_disconnected_everywhere_and_may_come_back() {
    let it = administered(2, &[]).await;
    it.acquainted().await;
    let (alice, bob) = (it.cluster.user(), it.cluster.user());
    let mut phone = socket(&it.cluster, 0, &alice, None, Some("phone")).await;
    let mut laptop = socket(&it.cluster, 1, &alice, None, Some("laptop")).await;
    let mut stream = Events::open(stream_of(&it.cluster, 1, &alice, COLLECTIONS).header("X-Client-Id", "phone")).await;
    stream.backlog().await;
    let mut other = socket(&it.cluster, 1, &bob, None, Some("phone")).await;
    let outcomes = it.act(1, "disconnect", json!({ "userId": alice.id, "device": "phone" })).await;
    assert_eq!(outcomes.len(), 2);
    assert_eq!(closed(&mut phone).await, Some(1012));
    while stream.next().await.is_some() {}
    assert!(stream.text.ends_with("retry: 1000\n\n"), "{}", stream.text);
    eventually("one session is left", async || it.user(0, &alice).await["sessionsTotal"] == 1).await;
    let mut phone = socket(&it.cluster, 1, &alice, None, Some("phone")).await;
    it.act(0, "disconnect", json!({ "userId": alice.id })).await;
    assert_eq!((closed(&mut phone).await, closed(&mut laptop).await), (Some(1012), Some(1012)));
    store(&it.cluster, 0, &bob, "laptop", &[("tasks", "a")]).await;
    support::live::woken(&mut other).await;
    let log = it.cluster.nodes[0].log();
    assert!(log.contains("operator action requested") && log.contains("\"disconnect_user\""), "{log}");
    assert!(!log.contains(&alice.id) && !log.contains(TOKEN), "logs say neither who a user is nor a secret");
}

#[tokio::test]
async fn who_drains_the_last_replica_is_told_that_nobody_serves() {
    let it = administered(1, &[]).await;
    let outcomes = it.act(0, "drain", json!({ "replica": "replica-1", "drained": true })).await;
    assert!(outcomes[0].1.contains("none serves clients now"), "{outcomes:?}");
}

#[tokio::test]
async fn a_replica_is_drained_and_taken_back() {
    let it = administered(2, &[("DRAIN_WINDOW_MS", "300")]).await;
    it.acquainted().await;
    let user = it.cluster.user();
    let mut leaves = socket(&it.cluster, 1, &user, None, None).await;
    let mut stays = socket(&it.cluster, 0, &user, None, None).await;
    let outcomes = it.act(0, "drain", json!({ "replica": "replica-2", "drained": true })).await;
    assert_eq!(outcomes.len(), 1);
    assert_eq!(closed(&mut leaves).await, Some(1012));
    let ready = async |index: usize| {
        let url = format!("{}/health/ready", it.cluster.url(index));
        Reply::to(it.cluster.http.get(url).timeout(TIMEOUT)).await
    };
    let message = ready(1).await.refused(503, "not_ready");
    assert!(message.contains("an operator has drained"), "{message}");
    assert_eq!(ready(0).await.status, StatusCode::OK);
    let shown = it.get(0, "cluster").await;
    let state = |shown: &Value, name: &str| {
        let all = shown["replicas"].as_array().unwrap();
        let replica = all.iter().find(|replica| replica["name"] == name).unwrap().clone();
        (replica["drained"].as_bool().unwrap(), replica["ready"].as_bool().unwrap())
    };
    assert_eq!((state(&shown, "replica-1"), state(&shown, "replica-2")), ((false, true), (true, false)));
    it.act(0, "drain", json!({ "replica": "replica-2", "drained": false })).await;
    assert_eq!(ready(1).await.status, StatusCode::OK);
    assert_eq!(state(&it.get(1, "cluster").await, "replica-2"), (false, true));
    let mut back = socket(&it.cluster, 1, &user, None, None).await;
    store(&it.cluster, 0, &user, "laptop", &[("tasks", "a")]).await;
    support::live::woken(&mut back).await;
    support::live::woken(&mut stays).await;
}

#[tokio::test]
async fn the_log_is_changed_while_a_replica_runs() {
    let it = administered(2, &[]).await;
    it.acquainted().await;
    it.act(0, "settings", json!({ "log": "info,mana_sync::http=debug", "replica": "replica-2" })).await;
    it.cluster.pushed_to(0, &it.cluster.user(), APP, json!({ "clientId": "a", "changes": [] })).await;
    it.cluster.pushed_to(1, &it.cluster.user(), APP, json!({ "clientId": "a", "changes": [] })).await;
    eventually("it writes more", async || it.cluster.nodes[1].log().contains("\"answered\"")).await;
    assert!(!it.cluster.nodes[0].log().contains("\"answered\""));
    // Libraries log their messages verbatim, with the tokens in them.
    it.act(0, "settings", json!({ "log": "trace", "replica": "replica-2" })).await;
    let user = it.cluster.user();
    let _socket = socket(&it.cluster, 1, &user, None, None).await;
    it.cluster.pushed_to(1, &user, APP, json!({ "clientId": "a", "changes": [] })).await;
    it.act(0, "settings", json!({ "log": "info", "replica": "replica-2" })).await;
    let log = it.cluster.nodes[1].log();
    assert!(log.contains("\"TRACE\"") || log.contains("\"DEBUG\""), "ours is shown");
    assert!(!log.contains(&user.token) && !log.contains("\"tungstenite"), "and others' messages are not");
    for filter in ["", "loud", "info,,", "mana_sync=loud", "info,mana_sync", &"info,".repeat(400)] {
        it.post(0, "settings", json!({ "log": filter })).await.refused(400, "bad_request");
    }
}

#[tokio::test]
async fn the_rates_of_a_user_are_changed_while_replicas_run() {
    let it = administered(2, &[]).await;
    it.acquainted().await;
    let body = json!({ "clientId": "a", "changes": [] });
    // The number of requests of a burst that are let through.
    let burst = async |index: usize, user: &User| {
        let mut pushed = 0;
        for _ in 0..40 {
            let (status, answer) = it.cluster.push_to(index, user, APP, body.clone()).await;
            assert!(status == 200 || status == 429, "{answer}");
            pushed += usize::from(status == 200);
        }
        pushed
    };
    let user = it.cluster.user();
    assert_eq!(burst(0, &user).await, 40, "there is no limit");
    let outcomes = it.act(0, "settings", json!({ "maxUserPushesPerSecond": 1 })).await;
    assert!(
        outcomes.len() == 2 && outcomes[0].1.contains("push 1 times per second and pull without limit"),
        "{outcomes:?}"
    );
    for index in 0..2 {
        let pushed = burst(index, &it.cluster.user()).await;
        assert!((10..40).contains(&pushed), "ten at once, and what has come since: {pushed}");
    }
    let shown = it.get(1, "cluster").await;
    for replica in shown["replicas"].as_array().unwrap() {
        let rates = (&replica["maxUserPushesPerSecond"], &replica["maxUserPullsPerSecond"]);
        assert_eq!(rates, (&json!(1), &json!(0)), "{replica}");
    }
    it.act(1, "settings", json!({ "maxUserPushesPerSecond": 0, "maxUserPullsPerSecond": 7, "replica": "replica-1" }))
        .await;
    assert_eq!(burst(0, &it.cluster.user()).await, 40);
    assert!(burst(1, &it.cluster.user()).await < 40, "the other one goes on as it was told");
    for wrong in [
        json!({ "maxUserPushesPerSecond": -1 }),
        json!({ "maxUserPushesPerSecond": 1.5 }),
        json!({ "maxUserPullsPerSecond": 1_000_001 }),
        json!({ "maxUserPullsPerSecond": 1, "log": "info" }),
        json!({ "replica": "replica-1" }),
    ] {
        it.post(0, "settings", wrong).await.refused(400, "bad_request");
    }
}

#[tokio::test]
async fn what_was_said_to_a_process_is_not_repeated_to_the_next_one_of_its_name() {
    let mut it = administered(2, &[("DRAIN_WINDOW_MS", "300")]).await;
    it.acquainted().await;
    let mut listener = sqlx::postgres::PgListener::connect(&it.cluster.database_url).await.unwrap();
    listener.listen("mana_sync_admin").await.unwrap();
    it.act(0, "drain", json!({ "replica": "replica-2", "drained": true })).await;
    let recorded = tokio::time::timeout(TIMEOUT, listener.recv()).await.unwrap().unwrap().payload().to_owned();
    it.cluster.nodes[1].process.terminate(TIMEOUT).await.unwrap();
    it.cluster.nodes[1].restart().await;
    it.admin[1] = it.cluster.nodes[1].admin_url();
    it.acquainted().await;
    sqlx::query("select pg_notify('mana_sync_admin', $1)").bind(&recorded).execute(&it.cluster.pool).await.unwrap();
    // A query after the action is answered after it.
    let shown = it.get(0, "cluster").await;
    let replica = shown["replicas"].as_array().unwrap().iter().find(|replica| replica["name"] == "replica-2").unwrap();
    assert_eq!((&replica["drained"], &replica["ready"]), (&json!(false), &json!(true)), "{shown}");
    let outcomes = it.act(0, "drain", json!({ "replica": "replica-2", "drained": true })).await;
    assert_eq!(outcomes.len(), 1, "said to this process, it is done");
}
