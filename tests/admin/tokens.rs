//! Tokens that operators refuse, and accept again.

use super::*;

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
        assert_eq!(tokens["refusedTokens"], json!([{ "tokenId": "lost", "until": until }]));
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
    it.admin = it.cluster.nodes.iter().map(Node::admin_url).collect();
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
async fn a_token_that_was_refused_by_mistake_is_accepted_again_everywhere_and_stays_so() {
    let mut it = administered(2, &[]).await;
    it.acquainted().await;
    let user = it.cluster.user();
    // Whatever characters an issuer puts into an id.
    let id = "a mistake: ü&+%00/";
    let mistaken = with_token_id(&it.cluster, &user, &json!(id));
    it.act(0, "refused-tokens", json!({ "tokenId": id })).await;
    it.act(0, "refused-tokens", json!({ "tokenId": "lost" })).await;
    assert_eq!((refused(&it, &mistaken, 0).await, refused(&it, &mistaken, 1).await), ((401, true), (401, true)));
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("tokenId", id).finish();
    let path = format!("refused-tokens?{query}");
    let accept =
        async |index: usize| Reply::to(it.request(index, Method::DELETE, &path)).await.json()["outcomes"].clone();
    for (index, said) in [(1, "accepted again"), (0, "was not refused")] {
        let outcomes = accept(index).await;
        let all = outcomes.as_array().unwrap().iter();
        assert_eq!(
            all.filter(|outcome| outcome["done"] == true && outcome["message"] == said).count(),
            2,
            "{outcomes}"
        );
    }
    it.cluster.nodes[1].process.terminate(TIMEOUT).await.unwrap();
    it.cluster.nodes[1].restart().await;
    it.admin[1] = it.cluster.nodes[1].admin_url();
    for index in 0..2 {
        assert_eq!(refused(&it, &mistaken, index).await.0, 200, "replica {index}");
        let tokens = it.get(index, "refused-tokens").await;
        let ids: Vec<_> = tokens["refusedTokens"].as_array().unwrap().iter().map(|token| &token["tokenId"]).collect();
        assert_eq!(ids, ["lost"], "others stay refused");
    }
    let nameless = Reply::to(it.request(0, Method::DELETE, "refused-tokens")).await;
    nameless.refused(400, "bad_request");
}

#[tokio::test]
async fn a_replica_that_cannot_read_which_tokens_are_refused_is_not_ready_and_says_why() {
    let it = administered(1, &[]).await;
    let url = url::Url::parse(&it.cluster.database_url).unwrap();
    let role = format!("unaware_{}", url.path().trim_start_matches('/'));
    let execute = async |statement: String| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&it.cluster.pool).await.unwrap();
    };
    // The lock waits for a replica that adds a day to the history, as in deploy/grants.sql.
    let rights = format!(
        "begin; lock table only sync_history in share update exclusive mode;
         grant all on all tables in schema public to {role}; commit"
    );
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

/// Stored, it would take the place of another when replicas read them again.
#[tokio::test]
async fn one_that_is_too_many_is_not_stored() {
    let it = administered(1, &[]).await;
    let many = "insert into sync_refused_tokens select 'many-' || n, now() + interval '1 day' from generate_series(1, 10000) n";
    sqlx::query(many).execute(&it.cluster.pool).await.unwrap();
    let message = it.post(0, "refused-tokens", json!({ "tokenId": "one-too-many" })).await.refused(409, "not_done");
    assert!(message.contains("the maximum of 10000 tokens"), "{message}");
    let later = iso(now_millis() + 172_800_000);
    it.act(0, "refused-tokens", json!({ "tokenId": "many-7", "until": later })).await;
    let stored = "select count(*) filter (where token_id = 'one-too-many'), count(*) filter (where expires_at > now() + \
                  interval '36 hours'), count(*) from sync_refused_tokens";
    let counts: (i64, i64, i64) = sqlx::query_as(stored).fetch_one(&it.cluster.pool).await.unwrap();
    assert_eq!(counts, (0, 1, 10_000), "one that is refused already is refused for longer");
}
