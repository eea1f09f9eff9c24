//! Replicas that do not answer, have no admin port, or have lost their database.

use super::support::proxy::{self, Mode, Proxy};
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
    let settings = [&AS_IN_PRODUCTION[..], &[("ADMIN_PORT", "0"), ("ADMIN_TOKEN", TOKEN)]].concat();
    let cluster = Cluster::start_on(&postgres.server().admin_url(), 2, &settings).await;
    let admin = cluster.nodes.iter().map(Node::admin_url).collect();
    let it = Administered { cluster, admin };
    it.acquainted().await;
    let user = it.cluster.user();
    let _socket = socket(&it.cluster, 0, &user, None, None).await;
    let description = description::Description::of(&it).await;
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
    description.check("GET record", &record);
    for path in ["cluster", "load", "user?id=alice", "refused-tokens"] {
        let reply = Reply::to(it.request(0, Method::GET, path)).await;
        description.check(&format!("GET {}", path.split('?').next().unwrap()), &reply);
    }
    for (path, body) in [
        ("disconnect", json!({ "userId": user.id })),
        ("refused-tokens", json!({ "tokenId": "lost" })),
        ("settings", json!({ "log": "info" })),
    ] {
        description.check(&format!("POST {path}"), &it.post(0, path, body).await);
    }
    postgres.server_mut().restart(mana_dev::Shutdown::Fast).await.unwrap();
    it.acquainted().await;
}

/// The network drops everything and closes nothing, as while a firewall or the database's machine is down.
#[tokio::test]
async fn a_database_that_says_nothing_keeps_no_operator_waiting() {
    let admin_url: url::Url = support::admin_url().await.parse().unwrap();
    let proxy = Proxy::start(admin_url.socket_addrs(|| None).unwrap()[0]).await;
    let address = proxy.address();
    let each = move |_, url: &str| {
        let url = proxy::through(address, url);
        let settings = [
            ("DATABASE_URL", url.as_str()),
            ("DATABASE_LISTEN_URL", &url),
            ("ADMIN_PORT", "0"),
            ("ADMIN_TOKEN", TOKEN),
        ];
        let settings = settings.into_iter().chain(AS_IN_PRODUCTION);
        settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let cluster = Cluster::start_each(admin_url.as_str(), 2, each).await;
    let admin = cluster.nodes.iter().map(Node::admin_url).collect();
    let it = Administered { cluster, admin };
    it.acquainted().await;
    let user = it.cluster.user();
    // Its connections are open.
    assert!(it.get(0, "cluster").await["database"].is_object() && it.user(0, &user).await["problem"].is_null());
    let in_time = async |path: &str, limit: u64| {
        let request = it.request(0, Method::GET, path).timeout(Duration::from_secs(limit));
        let answer = request.send().await.unwrap_or_else(|error| panic!("{path}: {error}"));
        (answer.status(), serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap())
    };
    proxy.set(Mode::Swallow);
    let (_, shown) = in_time("cluster", 20).await;
    assert_eq!((names(&shown["replicas"])[0].as_str(), &shown["database"]), ("replica-1", &Value::Null), "{shown}");
    assert!(shown["problem"].is_string(), "{shown}");
    let (_, shown) = in_time(&format!("user?id={}", user.id), 40).await;
    assert!(shown["problem"].is_string() && shown["storedInPart"] == true, "{shown}");
    let (status, _) = in_time("record?user=a&app=b&table=c&id=d", 40).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    // The silent connections stay silent: there have to be new ones.
    proxy.set(Mode::Pass);
    eventually("it knows the database and the others again", async || {
        let (_, shown) = in_time("cluster", 20).await;
        shown["database"].is_object() && shown["problem"].is_null() && names(&shown["replicas"]).len() == 2
    })
    .await;
    let shown = it.user(0, &user).await;
    assert!(shown["problem"].is_null() && shown["storedInPart"] == false, "{shown}");
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
