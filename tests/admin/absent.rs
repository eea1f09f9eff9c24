//! Replicas that do not answer, have no admin port, or have lost their database.

use super::*;

#[tokio::test]
async fn a_replica_that_does_not_answer_is_told_of_and_one_that_stops_is_gone() {
    let mut it = administered(3, &[]).await;
    it.acquainted().await;
    it.cluster.nodes[1].process.pause();
    let shown = it.get(0, "cluster").await;
    assert_eq!(names(&shown["replicas"]), ["replica-1", "replica-3"]);
    assert_eq!(names(&shown["silent"]), ["replica-2"]);
    let load = it.get(0, "load").await;
    assert_eq!(
        (names(&load["replicas"]), names(&load["silent"])),
        (names(&shown["replicas"]), names(&shown["silent"]))
    );
    assert_eq!(names(&it.get(0, "refused-tokens").await["silent"]), ["replica-2"]);
    let user = it.cluster.user();
    let reply = it.post(0, "disconnect", json!({ "userId": user.id })).await.json();
    assert_eq!(names(&reply["silent"]), ["replica-2"], "{reply}");
    it.cluster.nodes[1].process.resume();
    it.acquainted().await;
    it.cluster.nodes[2].process.terminate(TIMEOUT).await.unwrap();
    let shown = it.get(0, "cluster").await;
    assert_eq!((names(&shown["replicas"]).len(), &shown["silent"]), (2, &json!([])), "{shown}");
    // Killed, it says no goodbye; restarted under its name, it is the same replica.
    it.cluster.nodes[1].process.kill().await;
    it.cluster.nodes[1].restart().await;
    eventually("it is known again", async || {
        let shown = it.get(0, "cluster").await;
        names(&shown["replicas"]) == ["replica-1", "replica-2"] && shown["silent"] == json!([])
    })
    .await;
}

#[tokio::test]
async fn a_replica_whose_database_is_away_still_answers_for_itself() {
    let mut postgres = mana_dev::TemporaryPostgres::start(std::path::Path::new(".dev"), vec![]).await.unwrap();
    let settings = [("ADMIN_PORT", "0"), ("ADMIN_TOKEN", TOKEN)];
    let cluster = Cluster::start_on(&postgres.server().admin_url(), 2, &settings).await;
    let admin = cluster.nodes.iter().map(Node::admin_url).collect();
    let it = Administered { cluster, admin };
    it.acquainted().await;
    let user = it.cluster.user();
    let _socket = socket(&it.cluster, 0, &user, None, None).await;
    postgres.server_mut().kill().await.unwrap();
    eventually("it says that it is alone", async || {
        let shown = it.get(0, "cluster").await;
        shown["problem"].is_string() && names(&shown["replicas"]) == ["replica-1"] && shown["database"].is_null()
    })
    .await;
    let shown = it.user(0, &user).await;
    assert_eq!(shown["sessionsTotal"], 1);
    assert!(shown["problem"].is_string(), "{shown}");
    let record = Reply::to(it.request(0, Method::GET, "record?user=a&app=b&table=c&id=d")).await;
    record.refused(503, "unavailable");
    postgres.server_mut().restart(mana_dev::Shutdown::Fast).await.unwrap();
    it.acquainted().await;
}

#[tokio::test]
async fn a_replica_without_an_admin_port_is_told_of() {
    let postgres = mana_dev::TemporaryPostgres::start(std::path::Path::new(".dev"), vec![]).await.unwrap();
    let settings = |replica, _: &str| match replica {
        0 => [("ADMIN_PORT", "0"), ("ADMIN_TOKEN", TOKEN)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        _ => vec![],
    };
    let cluster = Cluster::start_each(&postgres.server().admin_url(), 2, settings).await;
    let it = Administered { admin: vec![cluster.nodes[0].admin_url()], cluster };
    eventually("it is told of", async || {
        let shown = it.get(0, "cluster").await;
        let problem = shown["problem"].as_str().unwrap_or_default().to_owned();
        names(&shown["replicas"]) == ["replica-1"] && problem.starts_with("replica-2 cannot be queried")
    })
    .await;
}
