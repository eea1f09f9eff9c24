//! An unavailable bucket costs its users 503s, and nobody else anything.

use super::*;

#[tokio::test]
async fn a_bucket_that_is_away_costs_its_users_503_and_nobody_else_anything() {
    let cluster = distributed(1, &[("READY_GRACE_MS", "0"), ("RECONCILE_MS", "200")]).await;
    let users = users_of_all(&cluster);
    for user in &users {
        cluster.pushed(user, APP, one("before")).await;
    }
    let (gone, others) = users.split_first().unwrap();
    let schema = schema_of(gone);
    let away = [
        (format!("alter schema {schema} rename to elsewhere"), format!("alter schema elsewhere rename to {schema}")),
        (
            format!("alter table {schema}.sync_heads rename to elsewhere"),
            format!("alter table {schema}.elsewhere rename to sync_heads"),
        ),
    ];
    for (n, (break_it, mend_it)) in away.into_iter().enumerate() {
        let mut socket = socket(&cluster, 0, &others[0], None, None).await;
        sql(&cluster.database_url, break_it).await;
        for reply in [
            cluster.push_raw(gone, APP, one(&format!("lost {n}")).to_string()).await,
            Reply::to(cluster.request(
                gone,
                reqwest::Method::GET,
                &format!("/sync/{APP}/pull?collection=todos&since={BEGINNING}"),
            ))
            .await,
        ] {
            reply.refused(503, "unavailable");
            assert!(reply.header("retry-after").is_some(), "{reply:?}");
        }
        for user in others {
            cluster.pushed(user, APP, one(&format!("meanwhile {n}"))).await;
            assert!(!ids(&cluster.pulled(user, APP, "todos", BEGINNING, None).await).is_empty());
        }
        woken(&mut socket).await;
        // The reconciler of the others keeps working.
        let silent = format!(
            "select {}.sync_push('{}', '{APP}', 'p', '[{}]')",
            schema_of(&others[1]),
            others[1].id,
            insert("silent", &format!("s{n}"), "T", AT)
        );
        let mut second = crate::support::live::socket(&cluster, 0, &others[1], None, None).await;
        sql(&cluster.database_url, format!("begin; set local mana_sync.notify = off; {silent}; commit")).await;
        woken_until(&mut second, "silent").await;
        assert_eq!(cluster.get("/health/ready").await.status, StatusCode::OK);
        sql(&cluster.database_url, mend_it).await;
        eventually("its users are served again", async || {
            cluster.push(gone, APP, one(&format!("after {n}"))).await.0 == StatusCode::OK
        })
        .await;
    }
}

#[tokio::test]
async fn a_role_that_is_locked_out_of_a_bucket_costs_its_users_503() {
    let cluster = {
        let url = create_database().await;
        distribute(&url).await;
        let name = url.rsplit('/').next().unwrap();
        let role = format!("replica_{name}");
        let all = |schema: &str| {
            format!("grant all on schema {schema} to {role}; grant all on all tables in schema {schema} to {role};")
        };
        let grants: String = ["public", "sync_b00", "sync_b01", "sync_b02", "sync_b03"].map(all).concat();
        sql(&url, format!("create role {role} login; {grants}")).await;
        let theirs = url.replace("postgres://postgres@", &format!("postgres://{role}@"));
        let settings = vec![("DATABASE_URL".to_owned(), theirs), ("COMPACT_AFTER_MS".to_owned(), "0".to_owned())];
        Cluster::start_over_with(&url, 1, settings).await
    };
    let users = users_of_all(&cluster);
    let role = format!("replica_{}", cluster.database_url.rsplit('/').next().unwrap());
    sql(&cluster.database_url, format!("revoke usage on schema sync_b02 from {role}")).await;
    for (bucket, user) in users.iter().enumerate() {
        let (status, answer) = cluster.push(user, APP, one("a")).await;
        let expected = if bucket == 2 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        assert_eq!(status, expected, "{answer}");
    }
    sql(&cluster.database_url, format!("grant usage on schema sync_b02 to {role}")).await;
    eventually("they are served again", async || cluster.push(&users[2], APP, one("b")).await.0 == StatusCode::OK)
        .await;
}
