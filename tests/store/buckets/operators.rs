//! Operators find users in any bucket.

use super::*;

#[tokio::test]
async fn operators_find_users_wherever_they_are() {
    let cluster = distributed(1, &[]).await;
    let url = &cluster.database_url;
    let users = users_of_all(&cluster);
    for user in &users {
        cluster.pushed(user, APP, one("a")).await;
        let later = update("todos", "a", "title", "Eggs", "2024-01-02T10:05:00.000Z");
        cluster.pushed(user, APP, json!({ "clientId": "phone", "changes": [later] })).await;
    }
    let usage = succeeded(url, &["usage", "--json"]).await;
    for user in &users {
        assert!(usage.contains(&user.id), "{usage}");
        let of = |command: &'static str| [command, "--user", &user.id].map(str::to_owned);
        let exported = succeeded(url, &of("export").each_ref().map(String::as_str)).await;
        assert!(exported.contains("Eggs"), "{exported}");
        let why = succeeded(
            url,
            &["why", "--user", &user.id, "--app", APP, "--table", "todos", "--record", "a", "--field", "title"],
        )
        .await;
        assert!(why.contains("Eggs") && why.contains("Milk"), "{why}");
    }
    let compacted = succeeded(url, &["compact", "--compact-after-ms", "1"]).await;
    assert!(compacted.starts_with("4 logs: 8 changes examined, 4 trimmed"), "{compacted}");
    let kept = "select (select count(*) from sync_history) + (select count(*) from sync_b01.sync_history)";
    assert_eq!(number(url, kept).await, 5, "each bucket keeps its own");
    let mut socket = socket(&cluster, 0, &users[1], None, None).await;
    succeeded(url, &["erase", "--user", &users[1].id, "--yes"]).await;
    woken(&mut socket).await;
    assert_eq!(cluster.stored(&users[1]).await, 0);
    assert_eq!(cluster.stored(&users[2]).await, 2);
    assert!(!succeeded(url, &["usage", "--json"]).await.contains(&users[1].id));
}

#[tokio::test]
async fn operators_see_users_of_all_buckets_but_of_the_one_that_is_away() {
    const TOKEN: &str = "an-admin-token-for-tests";
    let cluster = distributed(1, &[("ADMIN_PORT", "0"), ("ADMIN_TOKEN", TOKEN)]).await;
    let base = format!("{}/api/v1", cluster.nodes[0].admin_url());
    let ask = async |path: String| -> (StatusCode, Value) {
        let request = cluster.http.get(format!("{base}/{path}")).bearer_auth(TOKEN).timeout(TIMEOUT);
        let reply = request.send().await.unwrap();
        (reply.status(), reply.json().await.unwrap())
    };
    let users = users_of_all(&cluster);
    for user in &users {
        cluster.pushed(user, APP, one("a")).await;
        cluster.pushed(user, "other", one("b")).await;
    }
    let (gone, others) = users.split_first().unwrap();
    let mut holding = PgConnection::connect(&cluster.database_url).await.unwrap();
    let lock =
        format!("begin; lock table {0}.sync_changes, {0}.sync_history in access exclusive mode", schema_of(gone));
    for is_away in [false, true, false] {
        sqlx::raw_sql(AssertSqlSafe(if is_away { lock.clone() } else { "rollback".to_owned() }))
            .execute(&mut holding)
            .await
            .unwrap();
        let of = |user: &User| {
            let record = format!("record?user={}&app={APP}&table=todos&id=a", user.id);
            (format!("user?id={}", user.id), record)
        };
        let (user, record) = of(gone);
        // The request for its user waits meanwhile, and the others do not.
        let (away, _) = tokio::join!(async { (ask(user).await.1, ask(record).await.0) }, async {
            for user in others {
                let (shown, record) = of(user);
                let (shown, record) = (ask(shown).await.1, ask(record).await);
                assert_eq!((&shown["problem"], &shown["usage"]["changes"]), (&Value::Null, &json!(2)), "{shown}");
                let devices = shown["devices"].as_array().unwrap();
                assert_eq!((shown["logs"].as_array().unwrap().len(), devices.len()), (2, 2), "{shown}");
                assert_eq!(record.0, StatusCode::OK);
                assert_eq!(record.1["history"].as_array().unwrap().len(), 1, "{}", record.1);
            }
        });
        let (shown, record) = away;
        assert_eq!(shown["problem"].is_null(), !is_away, "{shown}");
        // The heads of its logs are shown, although their contents cannot be counted.
        assert_eq!(shown["logs"].as_array().unwrap().len(), 2, "{shown}");
        assert_eq!(shown["usage"]["changes"], if is_away { 0 } else { 2 }, "{shown}");
        assert_eq!(record.is_success(), !is_away);
    }
    let (_, state) = ask("cluster".to_owned()).await;
    assert!(state["database"]["bytes"].as_i64().unwrap() > 1 << 20, "{state}");
}

/// Neither the rows left in the previous server's table nor those left by the distribution survive an erasure.
#[tokio::test]
async fn whoever_is_erased_is_erased_in_the_main_schema_as_well() {
    let url = create_database().await;
    succeeded(&url, &["migrate"]).await;
    let change = json!([insert("todos", "a", "Milk", AT)]).to_string();
    let store = |user: &str, app: &str| format!("select sync_push('{user}', '{app}', 'phone', '{change}');");
    let all: String = ["alice", "bob"].map(|user| store(user, "todo") + &store(user, "lost")).concat();
    let before = "create table sync_changes_before (user_id text, data jsonb);
        insert into sync_changes_before values ('alice', '{}'), ('bob', '{}')";
    let trimmed = "select sync_history_days(1);
        insert into sync_history select now(), log_id, table_name, record_id, id, created_at, client_id, op, data, '{}', null
        from sync_changes where app_id = 'lost'";
    sql(&url, format!("{all} {before}; {trimmed}; delete from sync_heads where app_id = 'lost'")).await;
    let said = distribute(&url).await;
    assert!(said.contains("4 rows belong to no log"), "{said}");
    let left = async |user: &str| {
        let key = format!("log_id in (sync_log_id('{user}', 'todo'), sync_log_id('{user}', 'lost'))");
        let count = |table: &str, which: &str| format!("(select count(*) from {table} where {which})");
        let of_user = format!("user_id = '{user}'");
        let counts = [
            count("sync_changes", &of_user),
            count("sync_changes_undistributed", &of_user),
            count("sync_history_undistributed", &key),
            count("sync_changes_before", &of_user),
        ];
        number(&url, format!("select {}", counts.join(" + "))).await
    };
    assert_eq!((left("alice").await, left("bob").await), (4, 4));
    let audit = "create function audit() returns trigger language plpgsql as $$ begin return new; end $$";
    sql(&url, audit).await;
    for table in ["sync_changes_undistributed", "sync_history_undistributed", "sync_changes_before"] {
        let trigger = format!("create trigger audit before delete on {table} for each row execute function audit()");
        sql(&url, trigger).await;
        let refused = failed(&url, &["erase", "--user", "alice", "--yes"]).await;
        assert!(refused.contains(&format!("a trigger or rule on {table} keeps rows")), "{refused}");
        assert_eq!(left("alice").await, 4);
        sql(&url, format!("drop trigger audit on {table}")).await;
    }
    let said = succeeded(&url, &["erase", "--user", "alice", "--yes"]).await;
    assert!(said.starts_with("4 changes of alice"), "{said}");
    assert_eq!((left("alice").await, left("bob").await), (0, 4));
    // What a program deletes through the view, and a trigger keeps, is not reported as deleted.
    let keep = "create trigger audit before delete on %1$s for each row execute function public.audit()";
    sql(&url, on_each("sync_changes", keep)).await;
    let delete = "with gone as (delete from sync_changes where user_id = 'bob' returning 1) select count(*) from gone";
    assert_eq!(number(&url, delete).await, 0);
    sql(&url, on_each("sync_changes", "drop trigger audit on %1$s")).await;
    assert_eq!(number(&url, "select sync_erase('bob')").await, 4);
    assert_eq!((left("alice").await, left("bob").await), (0, 0));
}
