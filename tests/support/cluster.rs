//! Runs replicas as processes, with the services they depend on.

use super::database::*;
use super::*;

/// How long the replicas of a test let a request wait. What many requests at once make each other wait for, or other
/// suites all of them, is no overload: a test of these limits sets its own.
const PATIENT: [(&str, &str); 3] =
    [("BILLING_TIMEOUT_MS", "20000"), ("DATABASE_ACQUIRE_TIMEOUT_MS", "20000"), ("QUEUE_TIMEOUT_MS", "20000")];
/// The defaults instead, for faults and attacks after which clients must be served soon.
pub const AS_IN_PRODUCTION: [(&str, &str); 3] =
    [("BILLING_TIMEOUT_MS", ""), ("DATABASE_ACQUIRE_TIMEOUT_MS", ""), ("QUEUE_TIMEOUT_MS", "")];

/// A replica, and its port, which stays reserved while the process is down.
#[derive(Debug)]
pub struct Node {
    pub process: Replica,
    options: ReplicaOptions,
    _port: Socket,
}

impl Node {
    fn start(services: &Services, number: u16, log: PathBuf) -> Node {
        // Bound and never listening: nobody else is given this port, and SO_REUSEPORT lets the replica use it.
        let port = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        port.set_reuse_port(true).unwrap();
        port.bind(&anywhere().into()).unwrap();
        let own = port.local_addr().unwrap().as_socket().unwrap().port();
        let mut env = services.env();
        env.push(("PORT".into(), own.to_string()));
        env.push(("REPLICA_ID".into(), format!("replica-{number}")));
        env.extend(PATIENT.map(|(name, value)| (name.to_owned(), value.to_owned())));
        env.extend(services.extra.iter().cloned());
        let env = with_role(env);
        let options = ReplicaOptions {
            exe: std::env::var_os(TEST_MANA_SYNC).unwrap_or_else(|| env!("CARGO_BIN_EXE_mana-sync").into()).into(),
            name: format!("replica {number}"),
            env,
            log: Some(log),
            base_url: format!("http://127.0.0.1:{own}"),
        };
        Node { process: Replica::spawn(options.clone()).unwrap(), options, _port: port }
    }

    /// Waits until it is ready; or only until it serves, if the test has given it an issuer of its own, which may be
    /// unusable.
    async fn started(&self) {
        match self.options.env.iter().filter(|(name, _)| name == "JWKS_URL").count() {
            1 => self.process.wait_ready(TIMEOUT).await.unwrap(),
            _ => eventually("it serves", async || self.log().contains("\"serving\"")).await,
        }
    }

    /// Restarts the process on the same port.
    pub async fn restart(&mut self) {
        self.respawn();
        self.process.wait_ready(TIMEOUT).await.unwrap();
    }

    /// The same, without waiting for it: its dependencies may be away.
    pub fn respawn(&mut self) {
        self.process = Replica::spawn(self.options.clone()).unwrap();
    }

    /// Everything it has logged, in all its runs.
    pub fn log(&self) -> String {
        let log = self.options.log.as_ref().expect("every replica of a test logs to a file");
        String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned()
    }

    pub fn url(&self) -> &str {
        self.process.base_url()
    }

    /// The base URL of its admin port, from its log, as of its last start.
    pub fn admin_url(&self) -> String {
        let log = self.log();
        let line = log.lines().rev().find(|line| line.contains("the admin port is open")).expect("it has one");
        let line: Value = serde_json::from_str(line).unwrap();
        format!("http://{}", line["address"].as_str().unwrap())
    }
}

/// Replicas over a database of their own, with the services they depend on.
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

    /// Starts a cluster with additional settings.
    pub async fn start_with(replicas: u16, settings: &[(&str, &str)]) -> Cluster {
        Cluster::start_on(&admin_url().await, replicas, settings).await
    }

    /// Starts a cluster over the test's own PostgreSQL, which the test may stop.
    pub async fn start_on(admin_url: &str, replicas: u16, settings: &[(&str, &str)]) -> Cluster {
        let settings: Vec<(String, String)> =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Cluster::start_each(admin_url, replicas, move |_, _| settings.clone()).await
    }

    /// Starts a cluster with settings for each replica: `each` gets the replica's index, from 0, and the URL of the
    /// database, and its settings take precedence over all others.
    pub async fn start_each(
        admin_url: &str,
        replicas: u16,
        each: impl Fn(usize, &str) -> Vec<(String, String)> + Send + 'static,
    ) -> Cluster {
        let admin_url = admin_url.to_owned();
        outlive(move || Cluster::start_here(admin_url, replicas, each)).await
    }

    /// Starts a cluster of one replica over an existing database.
    pub async fn start_over(database_url: &str) -> Cluster {
        let database_url = database_url.to_owned();
        outlive(move || Cluster::start_over_here(database_url, 1, |_, _| vec![])).await
    }

    /// Starts replicas over an existing database, with these settings.
    pub async fn start_over_with(database_url: &str, replicas: u16, settings: Vec<(String, String)>) -> Cluster {
        let database_url = database_url.to_owned();
        outlive(move || Cluster::start_over_here(database_url, replicas, move |_, _| settings.clone())).await
    }

    async fn start_here(
        admin_url: String,
        replicas: u16,
        each: impl Fn(usize, &str) -> Vec<(String, String)>,
    ) -> Cluster {
        Cluster::start_on_database(create_prepared_database_on(&admin_url).await, replicas, each).await
    }

    async fn start_over_here(
        database_url: String,
        replicas: u16,
        each: impl Fn(usize, &str) -> Vec<(String, String)>,
    ) -> Cluster {
        prepare(&database_url).await;
        Cluster::start_on_database(database_url, replicas, each).await
    }

    /// Starts over a database that has the schema.
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
            // Each test has its own runtime, and a connection ends with the runtime it was opened on: none is kept that
            // another test could pick up.
            http: reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap(),
            _logs: logs,
        }
    }

    /// The base URL of replica `index`, from 0, wrapping around.
    pub fn url(&self, index: usize) -> &str {
        self.nodes[index % self.nodes.len()].url()
    }

    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.url().to_owned()).collect()
    }

    /// Creates a user who is signed in.
    pub fn user(&self) -> User {
        self.user_named(&format!("user-{}", Uuid::new_v4().simple()))
    }

    pub fn user_named(&self, id: &str) -> User {
        User { id: id.to_owned(), token: self.key.token(id, Duration::from_secs(3600)) }
    }

    /// The number of stored changes of a user.
    pub async fn stored(&self, user: &User) -> i64 {
        let count = sqlx::query_scalar("select count(*) from sync_changes where user_id = $1");
        count.bind(&user.id).fetch_one(&self.pool).await.unwrap()
    }

    /// An authenticated request to replica 0.
    pub fn request(&self, user: &User, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.request_to(0, user, method, path)
    }

    pub fn request_to(&self, index: usize, user: &User, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.url(index));
        self.http.request(method, url).bearer_auth(&user.token).timeout(TIMEOUT)
    }

    /// Pushes to replica 0; returns status and answer.
    pub async fn push(&self, user: &User, app: &str, body: Value) -> (StatusCode, Value) {
        self.push_to(0, user, app, body).await
    }

    pub async fn push_to(&self, index: usize, user: &User, app: &str, body: Value) -> (StatusCode, Value) {
        let request = self.request_to(index, user, Method::POST, &format!("/sync/{app}"));
        answer(request.header("Content-Type", "application/json").body(body.to_string())).await
    }

    /// Pulls from replica 0; returns status and answer.
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
