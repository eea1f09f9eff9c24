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

/// Returns the status for a token, and true if it is an operator's refusal.
async fn refused(it: &Administered, user: &User, index: usize) -> (u16, bool) {
    let body = json!({ "clientId": "phone", "changes": [] });
    let (status, answer) = it.cluster.push_to(index, user, APP, body).await;
    (status.as_u16(), answer["message"].as_str().unwrap_or_default().contains("refused by an operator"))
}

#[tokio::test]
async fn a_refused_token_is_refused_everywhere_also_by_replicas_that_start_later() {
    let mut it = administered(2, &[]).await;
    it.acquainted().await;
    let user = it.cluster.user();
    let (lost, kept) =
        (with_token_id(&it.cluster, &user, &json!("lost")), with_token_id(&it.cluster, &user, &json!("kept")));
    let numbered = with_token_id(&it.cluster, &user, &json!(7));
    let mut phone = socket(&it.cluster, 0, &lost, None, None).await;
    let mut stream = Events::open(stream_of(&it.cluster, 1, &lost, COLLECTIONS)).await;
    stream.backlog().await;
    let _laptop = socket(&it.cluster, 1, &kept, None, None).await;
    let until = iso(now_millis() + 3_600_000);
    it.act(1, "refused-tokens", json!({ "tokenId": "lost", "until": until })).await;
    let mana_load::wakeups::WakeMessage::Error { code, .. } = phone.next(TIMEOUT).await.unwrap() else {
        panic!("it says why")
    };
    assert_eq!(code, "invalid_token");
    assert_eq!(closed(&mut phone).await, Some(1008));
    while stream.next().await.is_some() {}
    assert_eq!((refused(&it, &lost, 0).await, refused(&it, &lost, 1).await), ((401, true), (401, true)));
    for index in 0..2 {
        for token in [&kept, &numbered] {
            it.cluster.pushed_to(index, token, APP, json!({ "clientId": "laptop", "changes": [] })).await;
        }
        let tokens = it.get(index, "refused-tokens").await;
        assert_eq!(tokens, json!({ "refusedTokens": [{ "tokenId": "lost", "until": until }] }));
    }
    assert_eq!(it.user(0, &user).await["sessionsTotal"], 1);
    it.cluster.nodes[0].process.terminate(TIMEOUT).await.unwrap();
    it.cluster.nodes[0].restart().await;
    assert_eq!(refused(&it, &lost, 0).await, (401, true), "a replica that is ready refuses it");
    // All replicas restart, one of them killed: nobody is there to tell them.
    it.cluster.nodes[1].process.kill().await;
    it.cluster.nodes[0].process.terminate(TIMEOUT).await.unwrap();
    for index in 0..2 {
        it.cluster.nodes[index].restart().await;
        assert_eq!(refused(&it, &lost, index).await, (401, true), "replica {index}");
    }
    it.admin = (0..2).map(|index| admin_url(&it.cluster, index)).collect();
    assert_eq!(it.get(1, "refused-tokens").await["refusedTokens"][0]["tokenId"], "lost");
    // Refusing it again can only extend the refusal; expired refusals are not kept.
    let (sooner, later) = (iso(now_millis() + 60_000), iso(now_millis() + 7_200_000));
    for until in [&later, &sooner] {
        it.act(0, "refused-tokens", json!({ "tokenId": "lost", "until": until })).await;
    }
    sqlx::query("insert into sync_refused_tokens values ('over', now() - interval '1 second')")
        .execute(&it.cluster.pool)
        .await
        .unwrap();
    it.act(1, "refused-tokens", json!({ "tokenId": "another", "until": sooner })).await;
    let kept: Vec<(String, String)> = sqlx::query_as(
        "select token_id, to_char(expires_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') from sync_refused_tokens order by 1",
    )
    .fetch_all(&it.cluster.pool)
    .await
    .unwrap();
    assert_eq!(kept, [("another".to_owned(), sooner), ("lost".to_owned(), later)]);
}

#[tokio::test]
async fn a_replica_that_cannot_read_which_tokens_are_refused_is_not_ready_and_says_why() {
    let it = administered(1, &[]).await;
    let url = url::Url::parse(&it.cluster.database_url).unwrap();
    let role = format!("unaware_{}", url.path().trim_start_matches('/'));
    let execute = async |statement: String| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&it.cluster.pool).await.unwrap();
    };
    let rights = format!("grant all on all tables in schema public to {role}");
    let trimming = format!("grant execute on all functions in schema public to {role}");
    execute(format!("create role {role} login; {rights}; {trimming}; revoke all on sync_refused_tokens from {role}"))
        .await;
    let mut as_role = url.clone();
    as_role.set_username(&role).unwrap();
    let settings = [("DATABASE_URL", as_role.as_str()), ("ADMIN_PORT", "0"), ("ADMIN_TOKEN", TOKEN)];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let port = mana_dev::free_port().unwrap();
    let own = [("PORT", port.to_string()), ("BIND_ADDRESS", "127.0.0.1".to_owned()), ("JWKS_URL", jwks_url())];
    let own = own.map(|(name, value)| (name.to_owned(), value));
    let log = tempfile::NamedTempFile::new().unwrap();
    let replica = mana_dev::Replica::spawn(mana_dev::ReplicaOptions {
        exe: env!("CARGO_BIN_EXE_mana-sync").into(),
        name: "replica".to_owned(),
        env: settings.into_iter().chain(own).collect(),
        log: Some(log.path().to_path_buf()),
        base_url: format!("http://127.0.0.1:{port}"),
    })
    .unwrap();
    eventually("it says what it lacks", async || {
        let asked = it.cluster.http.get(format!("{}/health/ready", replica.base_url())).timeout(TIMEOUT).send().await;
        let Ok(told) = asked else { return false };
        told.status() == 503 && told.text().await.unwrap().contains("on sync_refused_tokens")
    })
    .await;
    execute(rights).await;
    replica.wait_ready(TIMEOUT).await.unwrap();
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
        for _ in 0..15 {
            let (status, answer) = it.cluster.push_to(index, user, APP, body.clone()).await;
            assert!(status == 200 || status == 429, "{answer}");
            pushed += usize::from(status == 200);
        }
        pushed
    };
    let user = it.cluster.user();
    assert_eq!(burst(0, &user).await, 15, "there is no limit");
    let outcomes = it.act(0, "settings", json!({ "maxUserPushesPerSecond": 1 })).await;
    assert!(
        outcomes.len() == 2 && outcomes[0].1.contains("push 1 times per second and pull without limit"),
        "{outcomes:?}"
    );
    for index in 0..2 {
        let pushed = burst(index, &it.cluster.user()).await;
        assert!((10..15).contains(&pushed), "ten at once, and what has come since: {pushed}");
    }
    let shown = it.get(1, "cluster").await;
    for replica in shown["replicas"].as_array().unwrap() {
        let rates = (&replica["maxUserPushesPerSecond"], &replica["maxUserPullsPerSecond"]);
        assert_eq!(rates, (&json!(1), &json!(0)), "{replica}");
    }
    it.act(1, "settings", json!({ "maxUserPushesPerSecond": 0, "maxUserPullsPerSecond": 7, "replica": "replica-1" }))
        .await;
    assert_eq!(burst(0, &it.cluster.user()).await, 15);
    assert!(burst(1, &it.cluster.user()).await < 15, "the other one goes on as it was told");
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
    it.admin[1] = admin_url(&it.cluster, 1);
    it.acquainted().await;
    sqlx::query("select pg_notify('mana_sync_admin', $1)").bind(&recorded).execute(&it.cluster.pool).await.unwrap();
    // A query after the action is answered after it.
    let shown = it.get(0, "cluster").await;
    let replica = shown["replicas"].as_array().unwrap().iter().find(|replica| replica["name"] == "replica-2").unwrap();
    assert_eq!((&replica["drained"], &replica["ready"]), (&json!(false), &json!(true)), "{shown}");
    let outcomes = it.act(0, "drain", json!({ "replica": "replica-2", "drained": true })).await;
    assert_eq!(outcomes.len(), 1, "said to this process, it is done");
}

#[tokio::test]
async fn a_token_is_refused_for_a_year_where_nobody_says_when_it_expires() {
    let it = administered(1, &[]).await;
    it.act(0, "refused-tokens", json!({ "tokenId": "lost" })).await;
    let tokens = it.get(0, "refused-tokens").await;
    let until = tokens["refusedTokens"][0]["until"].as_str().unwrap();
    assert!(until > iso(now_millis() + 365 * 24 * 3_600_000).as_str(), "{tokens}");
    // A shorter time revokes nothing, and no replica is told that it does.
    let sooner = iso(now_millis() + 3_600_000);
    let outcomes = it.act(0, "refused-tokens", json!({ "tokenId": "lost", "until": sooner })).await;
    assert!(outcomes[0].1.starts_with(&format!("refused until {until}")), "{outcomes:?}");
    assert_eq!(it.get(0, "refused-tokens").await, tokens);
}
