//! Distributing stored logs over buckets: completely, resumably, and touching nothing that is not ours.

use super::*;

#[tokio::test]
async fn a_full_database_is_moved_whole_and_goes_on_where_it_was() {
    let mut cluster = Cluster::start(1).await;
    let url = cluster.database_url.clone();
    let users = users_of_all(&cluster);
    let mut pages = Vec::new();
    for user in &users {
        for (n, app) in ["todo", "notes", "todo"].into_iter().enumerate() {
            cluster.pushed(user, app, one(&format!("r{n}"))).await;
        }
        let later = update("todos", "r0", "title", "Eggs", "2024-01-02T10:05:00.000Z");
        cluster.pushed(user, "todo", json!({ "clientId": "phone", "changes": [later] })).await;
    }
    succeeded(&url, &["compact", "--compact-after-ms", "1"]).await;
    let erased = cluster.user();
    cluster.pushed(&erased, "todo", one("gone")).await;
    succeeded(&url, &["erase", "--user", &erased.id, "--yes"]).await;
    for user in &users {
        pages.push(cluster.pulled(user, "todo", "todos", BEGINNING, None).await);
    }
    let counts = async || {
        let mut counts = Vec::new();
        for table in ["sync_heads", "sync_changes", "sync_history", "sync_erased"] {
            counts.push(number(&url, format!("select count(*) from {table}")).await);
        }
        counts
    };
    let before = counts().await;
    assert_eq!(before, [8, 16, 4, 1]);

    let said = failed(&url, &["distribute", "--buckets", "4"]).await;
    assert!(said.contains("replicas or commands are connected") && said.contains("replica-1"), "{said}");
    assert_eq!(number(&url, "select count(*) from sync_layout").await, 0, "nothing was begun");
    cluster.pushed(&users[0], "other", one("still served")).await;
    cluster.nodes[0].process.kill().await;

    let said = distribute(&url).await;
    assert!(said.starts_with("9 logs with 17 changes moved"), "{said}");
    assert_eq!(counts().await, [9, 17, 4, 1]);
    for table in ["sync_heads", "sync_changes", "sync_history", "sync_erased"] {
        assert_eq!(number(&url, format!("select count(*) from {table}_undistributed")).await, 0, "{table}");
    }
    assert!(distribute(&url).await.contains("nothing to do"));
    let refuses = "select count(*) from pg_description where objoid = 'sync_heads'::regclass and description = 'replicas must know migration 11'";
    assert_eq!(number(&url, refuses).await, 1, "replicas that know of no buckets do not start");
    let said = failed(&url, &["distribute", "--buckets", "8"]).await;
    assert!(said.contains("distributed over 4 buckets already"), "{said}");
    assert!(succeeded(&url, &["migrate"]).await.contains("nothing to do"));

    cluster.nodes[0].restart().await;
    for (user, page) in users.iter().zip(&pages) {
        assert_eq!(cluster.pulled(user, "todo", "todos", BEGINNING, None).await, *page, "what it was before");
        let (since, retried) = (until(page).to_owned(), one("r0"));
        cluster.pushed(user, "todo", retried).await;
        cluster.pushed(user, "todo", one("new")).await;
        assert_eq!(ids(&cluster.pulled(user, "todo", "todos", &since, None).await), ["new"], "one log goes on");
    }
}

#[tokio::test]
async fn a_distribution_that_is_killed_goes_on_where_it_was() {
    let url = create_database().await;
    succeeded(&url, &["migrate"]).await;
    let fill = "select sync_push('user-' || n, 'todo', 'p', jsonb_build_array(jsonb_build_object('table', 'todos', 'id', r::text,
                    'op', 'insert', 'data', jsonb_build_object('title', 'Milk'))))
                from generate_series(1, 300) as n, generate_series(1, 10) as r";
    sql(&url, format!("begin; set local mana_sync.notify = off; {fill}; commit")).await;
    let mut killed = 0;
    for _ in 0..5 {
        let mut child = Command::new(EXE)
            .args(["distribute", "--buckets", "4"])
            .env("DATABASE_URL", &url)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = async || number(&url, "select count(*) from pg_namespace where nspname = 'sync_b03'").await == 1;
        eventually("it has begun", async || begun().await || child.try_wait().unwrap().is_some()).await;
        killed += i32::from(child.try_wait().unwrap().is_none());
        child.kill().await.unwrap();
        let all = "select count(*) from sync_changes";
        assert_eq!(number(&url, all).await, 3000, "at each moment everything is there once");
        eventually("its session has ended", async || {
            number(&url, "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'mana-sync distribute'").await == 0
        })
        .await;
    }
    assert!(killed > 0);
    let state = number(&url, "select count(*) from sync_layout where is_moving").await;
    if state == 1 {
        let said = failed(&url, &["distribute", "--buckets", "8"]).await;
        assert!(said.contains("being distributed over 4 buckets"), "{said}");
        let said = failed(&url, &["erase", "--user", "user-1", "--yes"]).await;
        assert!(said.contains("being distributed"), "{said}");
    }
    distribute(&url).await;
    for (query, expected) in [
        ("select count(*) from sync_changes", 3000),
        ("select count(*) from sync_heads", 300),
        ("select count(*) from sync_changes_undistributed", 0),
        ("select count(*) from sync_layout where not is_moving", 1),
    ] {
        assert_eq!(number(&url, query).await, expected, "{query}");
    }
    for bucket in 0..4 {
        assert!(number(&url, format!("select count(*) from sync_b{bucket:02}.sync_heads")).await > 40);
        let elsewhere = format!(
            "select count(*) from sync_b{bucket:02}.sync_heads where sync_bucket_of(user_id) <> 'sync_b{bucket:02}'"
        );
        assert_eq!(number(&url, elsewhere).await, 0, "SQL knows the same hash");
    }
}

#[tokio::test]
async fn a_replica_waits_for_the_end_of_a_distribution_and_leaves_one_that_it_does_not_know() {
    let mut cluster = Cluster::start_with(1, &[("READY_GRACE_MS", "0"), ("DRAIN_DELAY_MS", "0")]).await;
    let user = cluster.user();
    cluster.pushed(&user, APP, one("a")).await;
    sql(&cluster.database_url, "insert into sync_layout (buckets, is_moving) values (4, true)").await;
    let status = tokio::time::timeout(TIMEOUT, cluster.nodes[0].process.ended()).await.expect("it must stop");
    assert!(!status.success());
    assert!(cluster.nodes[0].log().contains("the logs are being distributed"), "{}", cluster.nodes[0].log());
    cluster.nodes[0].respawn();
    eventually("it waits", async || cluster.nodes[0].log().contains("let `mana-sync distribute` finish")).await;
    distribute(&cluster.database_url).await;
    cluster.nodes[0].process.wait_ready(TIMEOUT).await.unwrap();
    assert_eq!(ids(&cluster.pulled(&user, APP, "todos", BEGINNING, None).await), ["a"]);
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone() {
    let url = create_database().await;
    succeeded(&url, &["migrate"]).await;
    sql(&url, "create schema sync_b02").await;
    let said = failed(&url, &["distribute", "--buckets", "4"]).await;
    assert!(said.contains("the schema sync_b02 exists and is not ours"), "{said}");
    sql(&url, "drop schema sync_b02; create view mine as select user_id from sync_changes").await;
    let said = failed(&url, &["distribute", "--buckets", "4"]).await;
    assert!(said.contains("mine"), "{said}");
    sql(&url, "drop view mine").await;
    let audit = "create function audit() returns trigger language plpgsql as 'begin return null; end'";
    for (name, make, undo) in [
        (
            "materialized",
            "create materialized view materialized as select * from sync_heads",
            "drop materialized view materialized",
        ),
        (
            "trigger audits on sync_changes",
            "create trigger audits after insert on sync_changes for each row execute function audit()",
            "drop trigger audits on sync_changes",
        ),
        (
            "trigger sync_changes_mine on sync_history",
            "create trigger sync_changes_mine after insert on sync_history for each row execute function audit()",
            "drop trigger sync_changes_mine on sync_history",
        ),
        (
            "rule elsewhere on sync_heads",
            "create rule elsewhere as on update to sync_heads do also nothing",
            "drop rule elsewhere on sync_heads",
        ),
        ("publication cdc of sync_changes", "create publication cdc for table sync_changes", "drop publication cdc"),
        (
            "publication everything of sync_heads",
            "create publication everything for all tables",
            "drop publication everything",
        ),
        (
            "policy tenants on sync_changes",
            "create policy tenants on sync_changes using (true)",
            "drop policy tenants on sync_changes",
        ),
        (
            "foreign key mine_change_fkey of mine",
            "create table mine (change uuid references sync_changes (id))",
            "drop table mine",
        ),
    ] {
        sql(&url, format!("drop function if exists audit() cascade; {audit}; {make}")).await;
        let said = failed(&url, &["distribute", "--buckets", "4"]).await;
        assert!(said.contains(name), "{name}: {said}");
        assert_eq!(number(&url, "select count(*) from sync_layout").await, 0, "nothing was begun");
        sql(&url, undo).await;
    }
    for count in ["0", "1", "65", "65536", "-4", "4.0", ""] {
        failed(&url, &["distribute", "--buckets", count]).await;
    }
    assert_eq!(number(&url, "select count(*) from sync_layout").await, 0);
    distribute(&url).await;
}

/// No replica could start on a half-distributed database, so all rights are checked first.
#[tokio::test]
async fn a_role_that_could_not_do_all_of_it_does_nothing() {
    let url = create_database().await;
    let database = url.rsplit('/').next().unwrap();
    let role = format!("owner_of_{database}");
    let theirs = url.replace("postgres://postgres@", &format!("postgres://{role}@"));
    sql(&url, format!("create role {role} login; grant create on schema public to {role}")).await;
    succeeded(&theirs, &["migrate"]).await;
    for (change, missing) in [
        ("select".to_owned(), format!("CREATE on database {database}")),
        (
            format!(
                "grant create on database {database} to {role}; revoke create on schema public from {role}, public"
            ),
            "permission denied for schema public".to_owned(),
        ),
        (
            format!("grant create on schema public to {role}; alter table sync_heads owner to postgres"),
            "to be the owner of sync_heads".to_owned(),
        ),
    ] {
        sql(&url, change).await;
        let said = failed(&theirs, &["distribute", "--buckets", "4"]).await;
        assert!(said.contains(&missing), "{said}");
        assert_eq!(number(&url, "select count(*) from sync_layout").await, 0);
    }
    sql(&url, format!("alter table sync_heads owner to {role}")).await;
    distribute(&theirs).await;
}

#[tokio::test]
async fn a_schema_of_a_newer_version_is_not_distributed_by_this_one() {
    let url = create_database().await;
    succeeded(&url, &["migrate"]).await;
    sql(&url, "comment on table sync_heads is 'replicas must know migration 99'").await;
    let said = failed(&url, &["distribute", "--buckets", "4"]).await;
    assert!(said.contains("start a newer version"), "{said}");
    assert_eq!(number(&url, "select count(*) from sync_layout").await, 0);
}

/// As by two operators, who may not even agree on the number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_that_are_started_at_once_one_distributes() {
    for counts in [["4", "4", "4"], ["4", "8", "16"]] {
        let url = create_database().await;
        succeeded(&url, &["migrate"]).await;
        let fill = "select sync_push('user-' || n, 'todo', 'p', '[{\"table\": \"t\", \"id\": \"a\", \"op\": \"insert\", \"data\": {}}]')
                    from generate_series(1, 200) as n";
        sql(&url, format!("begin; set local mana_sync.notify = off; {fill}; commit")).await;
        let all = counts.map(|count| {
            let url = url.clone();
            async move { run(&url, &["distribute", "--buckets", count]).await }
        });
        let done = futures_util::future::join_all(all).await;
        let distributed: Vec<&str> = counts
            .into_iter()
            .zip(&done)
            .filter(|(_, done)| String::from_utf8_lossy(&done.stdout).contains("200 logs with 200 changes moved"))
            .map(|(count, _)| count)
            .collect();
        let [distributed] = distributed[..] else { panic!("one of them distributes: {done:?}") };
        for (count, done) in counts.into_iter().zip(&done) {
            let said = String::from_utf8_lossy(if done.status.success() { &done.stdout } else { &done.stderr });
            let is_known =
                ["200 logs", "nothing to do", "another session is already distributing", "already, which cannot"]
                    .iter()
                    .any(|known| said.contains(known));
            assert!(is_known && (done.status.success() || count != distributed || said.contains("another")), "{said}");
        }
        assert_eq!(
            number(&url, "select buckets::int8 from sync_layout where not is_moving").await.to_string(),
            distributed
        );
        assert_eq!(number(&url, "select count(*) from sync_changes").await, 200);
        assert_eq!(number(&url, "select count(*) from sync_changes_undistributed").await, 0);
    }
}
