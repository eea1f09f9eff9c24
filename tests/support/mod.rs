//! What the tests of the whole server share: a cluster of real processes over a real PostgreSQL, and a plain
//! HTTP client for it.
//!
//! Everything that must outlive a single test runs on one runtime of its own.

#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of this")]

mod exchange;
pub mod live;
pub mod proxy;
pub mod silent;

pub use exchange::*;

use mana_dev::{Credits, Issuer, Replica, ReplicaOptions, Services, SigningKey, TEST_DATABASE_URL, TemporaryPostgres};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use uuid::Uuid;

/// How long anything that must happen may take.
pub const TIMEOUT: Duration = Duration::from_secs(30);
pub const SERVICE_KEY: &str = "test-service-key";
/// Set, every cluster of a test has its logs in so many buckets.
pub const TEST_BUCKETS: &str = "TEST_BUCKETS";
/// Where an initial sync begins.
pub const BEGINNING: &str = "1970-01-01T00:00:00.000Z";

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())
}

/// Runs something on the runtime that outlives the test.
async fn outlive<T: Send + 'static, W: Future<Output = T>>(work: impl FnOnce() -> W + Send + 'static) -> T {
    tokio::task::spawn_blocking(|| runtime().block_on(work())).await.unwrap()
}

/// Where an issuer publishes a key, for replicas that a test starts by itself: none is ready without.
pub fn jwks_url() -> String {
    static ISSUER: OnceLock<Issuer> = OnceLock::new();
    let start = || runtime().block_on(Issuer::start(anywhere(), &[SigningKey::generate().unwrap()])).unwrap();
    // On a thread of its own: this one may be in the middle of a test's runtime.
    ISSUER.get_or_init(|| std::thread::spawn(start).join().unwrap()).jwks_url()
}

/// Set to `replica`, it has the replicas of every cluster run as the role of `deploy/grants.sql`.
const TEST_ROLE: &str = "TEST_ROLE";
const GRANTS: &str = include_str!("../../deploy/grants.sql");
/// The role, made for all databases of a server at once, by one of the tests that need it.
const MAKE_ROLE: &str = "
do $$ begin
    create role mana_sync_replica login;
exception when duplicate_object or unique_violation then
end $$";

/// The same URL, as the role of replicas.
pub fn as_replica(url: &str) -> String {
    url.replace("postgres://postgres@", "postgres://mana_sync_replica@")
}

/// What replicas are given of these settings: with their role, if they are to have it.
fn with_role(settings: Vec<(String, String)>) -> Vec<(String, String)> {
    let in_role = |(name, value): (String, String)| {
        let value = if name.starts_with("DATABASE_") { as_replica(&value) } else { value };
        (name, value)
    };
    if is_least_privileged() { settings.into_iter().map(in_role).collect() } else { settings }
}

/// Whether replicas run as the role of `deploy/grants.sql`.
pub fn is_least_privileged() -> bool {
    match std::env::var(TEST_ROLE).as_deref() {
        Ok("replica") => true,
        Ok(other) => panic!("{TEST_ROLE} may be \"replica\", and is {other:?}"),
        Err(_) => false,
    }
}

async fn grant(database_url: &str) {
    let pool = PgPool::connect(database_url).await.unwrap();
    for statement in [MAKE_ROLE, GRANTS] {
        sqlx::raw_sql(statement).execute(&pool).await.unwrap();
    }
    pool.close().await;
}

fn anywhere() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// The URL of the server that tests make their databases on: the one `make test` started, or our own.
async fn admin_url() -> String {
    static OWN: OnceCell<TemporaryPostgres> = OnceCell::const_new();
    if let Ok(url) = std::env::var(TEST_DATABASE_URL) {
        return url;
    }
    let own =
        OWN.get_or_init(|| outlive(|| async { TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap() }));
    own.await.server().admin_url()
}

/// Makes an empty database and says where it is.
pub async fn create_database() -> String {
    create_database_on(&admin_url().await).await
}

/// The same on a given server, and on its workers if it is the coordinator of a Citus cluster.
pub async fn create_database_on(admin: &str) -> String {
    let name = format!("t_{}", Uuid::new_v4().simple());
    let is_coordinator = std::env::var(TEST_DATABASE_URL).is_ok_and(|coordinator| coordinator == admin);
    if let (true, Ok(workers)) = (is_coordinator, std::env::var(mana_dev::TEST_CITUS_WORKERS)) {
        return mana_dev::citus::create_database(admin, &workers, &name).await.unwrap();
    }
    let pool = PgPool::connect(admin).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}"))).execute(&pool).await.unwrap();
    pool.close().await;
    let mut url: url::Url = admin.parse().unwrap();
    url.set_path(&name);
    url.to_string()
}

/// Distributes the logs of a database over buckets; again, if they are.
pub async fn distribute(database_url: &str, buckets: &str) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
    let done = command.args(["distribute", "--buckets", buckets]).env("DATABASE_URL", database_url).output();
    let done = done.await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A pool that keeps no connection: each test has a runtime of its own, and a connection goes with the runtime
/// that it was opened on.
fn open_pool(url: &str) -> PgPool {
    let options = PgPoolOptions::new().max_connections(8).after_release(|_, _| Box::pin(async { Ok(false) }));
    options.connect_lazy(url).unwrap()
}

/// One replica, and its port, which stays ours while the process is not there.
#[derive(Debug)]
pub struct Node {
    pub process: Replica,
    options: ReplicaOptions,
    _port: Socket,
}

impl Node {
    fn start(services: &Services, number: u16, log: PathBuf) -> Node {
        // Bound and never listening: nobody else is given this port, and SO_REUSEPORT lets the replica have it.
        let port = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        port.set_reuse_port(true).unwrap();
        port.bind(&anywhere().into()).unwrap();
        let own = port.local_addr().unwrap().as_socket().unwrap().port();
        let mut env = services.env();
        env.push(("PORT".into(), own.to_string()));
        env.push(("REPLICA_ID".into(), format!("replica-{number}")));
        env.extend(services.extra.iter().cloned());
        let env = with_role(env);
        let options = ReplicaOptions {
            exe: env!("CARGO_BIN_EXE_mana-sync").into(),
            name: format!("replica {number}"),
            env,
            log: Some(log),
            base_url: format!("http://127.0.0.1:{own}"),
        };
        Node { process: Replica::spawn(options.clone()).unwrap(), options, _port: port }
    }

    /// Waits until it is ready; with an issuer that a test has given it, which may be of no use, until it serves.
    async fn started(&self) {
        match self.options.env.iter().filter(|(name, _)| name == "JWKS_URL").count() {
            1 => self.process.wait_ready(TIMEOUT).await.unwrap(),
            _ => eventually("it serves", async || self.log().contains("\"serving\"")).await,
        }
    }

    /// Starts the process again, on the same port.
    pub async fn restart(&mut self) {
        self.respawn();
        self.process.wait_ready(TIMEOUT).await.unwrap();
    }

    /// The same, without waiting for it: what it needs may be away.
    pub fn respawn(&mut self) {
        self.process = Replica::spawn(self.options.clone()).unwrap();
    }

    /// All that it has logged, in all its lives.
    pub fn log(&self) -> String {
        let log = self.options.log.as_ref().expect("every replica of a test logs to a file");
        String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned()
    }

    pub fn url(&self) -> &str {
        self.process.base_url()
    }
}

/// Replicas over a database of their own, with the services that they ask.
#[derive(Debug)]
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub issuer: Arc<Issuer>,
    pub credits: Arc<Credits>,
    pub key: SigningKey,
    pub database_url: String,
    pub pool: PgPool,
    pub http: reqwest::Client,
    _logs: tempfile::TempDir,
}

impl Cluster {
    pub async fn start(replicas: u16) -> Cluster {
        Cluster::start_with(replicas, &[]).await
    }

    /// A cluster with other settings than the defaults.
    pub async fn start_with(replicas: u16, settings: &[(&str, &str)]) -> Cluster {
        Cluster::start_on(&admin_url().await, replicas, settings).await
    }

    /// A cluster over a PostgreSQL of the test's own, which it may stop.
    pub async fn start_on(admin_url: &str, replicas: u16, settings: &[(&str, &str)]) -> Cluster {
        let settings: Vec<(String, String)> =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Cluster::start_each(admin_url, replicas, move |_, _| settings.clone()).await
    }

    /// A cluster whose replicas have settings of their own: `each` is given the replica, from 0, and the URL of the
    /// database, and its settings win over all others.
    pub async fn start_each(
        admin_url: &str,
        replicas: u16,
        each: impl Fn(usize, &str) -> Vec<(String, String)> + Send + 'static,
    ) -> Cluster {
        let admin_url = admin_url.to_owned();
        outlive(move || Cluster::start_here(admin_url, replicas, each)).await
    }

    /// A cluster of one replica over a database that is there.
    pub async fn start_over(database_url: &str) -> Cluster {
        let database_url = database_url.to_owned();
        outlive(move || Cluster::start_on_database(database_url, 1, |_, _| vec![])).await
    }

    /// Replicas over a database that is there, with these settings.
    pub async fn start_over_with(database_url: &str, replicas: u16, settings: Vec<(String, String)>) -> Cluster {
        let database_url = database_url.to_owned();
        outlive(move || Cluster::start_on_database(database_url, replicas, move |_, _| settings.clone())).await
    }

    async fn start_here(
        admin_url: String,
        replicas: u16,
        each: impl Fn(usize, &str) -> Vec<(String, String)>,
    ) -> Cluster {
        Cluster::start_on_database(create_database_on(&admin_url).await, replicas, each).await
    }

    async fn start_on_database(
        database_url: String,
        replicas: u16,
        each: impl Fn(usize, &str) -> Vec<(String, String)>,
    ) -> Cluster {
        let key = SigningKey::generate().unwrap();
        let issuer = Issuer::start(anywhere(), std::slice::from_ref(&key)).await.unwrap();
        let credits = Credits::start(anywhere(), SERVICE_KEY).await.unwrap();
        let services = Services {
            database_url: database_url.clone(),
            jwks_url: issuer.jwks_url(),
            credits_url: credits.url(),
            service_key: SERVICE_KEY.to_owned(),
            port: 0,
            extra: vec![],
        };
        services.migrate(Path::new(env!("CARGO_BIN_EXE_mana-sync"))).await.unwrap();
        if let Ok(buckets) = std::env::var(TEST_BUCKETS) {
            distribute(&database_url, &buckets).await;
        }
        if is_least_privileged() {
            grant(&database_url).await;
        }
        let logs = tempfile::tempdir().unwrap();
        let log = |number| logs.path().join(format!("replica-{number}.log"));
        let start = |number: u16| {
            let services = Services { extra: each(usize::from(number) - 1, &database_url), ..services.clone() };
            Node::start(&services, number, log(number))
        };
        let nodes: Vec<Node> = (1..=replicas).map(start).collect();
        for node in &nodes {
            node.started().await;
        }
        Cluster {
            nodes,
            issuer: Arc::new(issuer),
            credits: Arc::new(credits),
            key,
            pool: open_pool(&database_url),
            database_url,
            // Each test has a runtime of its own, and a connection goes with the runtime it was opened on: none
            // is kept for another test to stumble over.
            http: reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap(),
            _logs: logs,
        }
    }

    /// The base URL of replica `index`, from 0, round and round.
    pub fn url(&self, index: usize) -> &str {
        self.nodes[index % self.nodes.len()].url()
    }

    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.url().to_owned()).collect()
    }

    /// A user who is signed in.
    pub fn user(&self) -> User {
        self.user_named(&format!("user-{}", Uuid::new_v4().simple()))
    }

    pub fn user_named(&self, id: &str) -> User {
        User { id: id.to_owned(), token: self.key.token(id, Duration::from_secs(3600)) }
    }

    /// How many changes of a user are stored.
    pub async fn stored(&self, user: &User) -> i64 {
        let count = sqlx::query_scalar("select count(*) from sync_changes where user_id = $1");
        count.bind(&user.id).fetch_one(&self.pool).await.unwrap()
    }

    /// A request to replica 0, signed.
    pub fn request(&self, user: &User, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.request_to(0, user, method, path)
    }

    pub fn request_to(&self, index: usize, user: &User, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.url(index));
        self.http.request(method, url).bearer_auth(&user.token).timeout(TIMEOUT)
    }

    /// A push to replica 0: its status and its answer.
    pub async fn push(&self, user: &User, app: &str, body: Value) -> (StatusCode, Value) {
        self.push_to(0, user, app, body).await
    }

    pub async fn push_to(&self, index: usize, user: &User, app: &str, body: Value) -> (StatusCode, Value) {
        let request = self.request_to(index, user, Method::POST, &format!("/sync/{app}"));
        answer(request.header("Content-Type", "application/json").body(body.to_string())).await
    }

    /// A pull from replica 0: its status and its answer.
    pub async fn pull(
        &self,
        user: &User,
        app: &str,
        table: &str,
        since: &str,
        client: Option<&str>,
    ) -> (StatusCode, Value) {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("collection", table)
            .append_pair("since", since)
            .finish();
        let mut request = self.request(user, Method::GET, &format!("/sync/{app}/pull?{query}"));
        if let Some(client) = client {
            request = request.header("X-Client-Id", client);
        }
        answer(request).await
    }
}

/// Who calls.
#[derive(Clone, Debug)]
pub struct User {
    pub id: String,
    pub token: String,
}

/// Sends a request; status and JSON body. A body that is no JSON fails the test.
pub async fn answer(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status} with {text:?}: {error}"));
    (status, json)
}

/// The cluster of three replicas that the tests of one binary share, each with users of its own.
pub async fn shared() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED.get_or_init(|| Cluster::start(3)).await
}

/// Asks until the answer is yes; fails the test with `what` if it never is.
pub async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let asked = mana_dev::wait::until(TIMEOUT, async || ask().await.then_some(())).await;
    assert!(asked.is_some(), "not within {TIMEOUT:?}: {what}");
}

/// An update of one field.
pub fn update(table: &str, id: &str, field: &str, value: impl Into<Value>, at: &str) -> Value {
    serde_json::json!({ "table": table, "id": id, "op": "update", "fields": { field: { "value": value.into(), "updatedAt": at } } })
}

/// An insert whose fields were written at `at`.
pub fn insert(table: &str, id: &str, title: &str, at: &str) -> Value {
    serde_json::json!({ "table": table, "id": id, "op": "insert", "data": { "title": title, "createdAt": at, "updatedAt": at } })
}

/// The ids of an answer's changes, in order.
pub fn ids(answer: &Value) -> Vec<&str> {
    answer["serverChanges"].as_array().unwrap().iter().map(|change| change["id"].as_str().unwrap()).collect()
}
