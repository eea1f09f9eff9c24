//! The cluster that faults hit: its own PostgreSQL, three replicas, and a breakable network between them.

use crate::support::proxy::{Mode, Proxy, through};
use crate::support::*;
use mana_dev::{Shutdown, SigningKey, TemporaryPostgres};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};

pub const REPLICAS: usize = 3;
/// Maximum time for one liveness check.
const ATTEMPT: Duration = Duration::from_secs(1);

/// The proxies for one replica's database connections.
#[derive(Debug)]
pub struct Doors {
    /// For the pool and the publisher.
    pub query: Proxy,
    pub listen: Proxy,
}

/// A cluster with the parts that can be broken.
pub struct FaultyCluster {
    pub inner: Cluster,
    pub doors: Vec<Doors>,
    nodes: Vec<Mutex<Node>>,
    urls: Vec<String>,
    postgres: Mutex<TemporaryPostgres>,
    rotated: SigningKey,
    has_rotated: AtomicBool,
}

impl FaultyCluster {
    /// Starts everything. `settings` apply to all replicas.
    pub async fn start(settings: &[(String, String)]) -> FaultyCluster {
        let postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
        let upstream: SocketAddr = (Ipv4Addr::LOCALHOST, postgres.server().port()).into();
        let mut doors = Vec::new();
        for _ in 0..REPLICAS {
            doors.push(Doors { query: Proxy::start(upstream).await, listen: Proxy::start(upstream).await });
        }
        let addresses: Vec<_> = doors.iter().map(|doors| (doors.query.address(), doors.listen.address())).collect();
        let own = settings.to_vec();
        let each = move |index: usize, url: &str| {
            let (query, listen) = addresses[index];
            let fixed = [
                ("DATABASE_URL", through(query, url)),
                ("DATABASE_LISTEN_URL", through(listen, url)),
                // Small values, to make readers page and to exhaust the pool.
                ("PAGE_MAX_CHANGES", "200".into()),
                ("DATABASE_POOL_SIZE", "8".into()),
                ("LOG_FORMAT", "json".into()),
                ("MANA_SYNC_TEST_HOOKS", "1".into()),
            ];
            let fixed = fixed.into_iter().chain(AS_IN_PRODUCTION.map(|(name, value)| (name, value.to_owned())));
            fixed.map(|(name, value)| (name.to_owned(), value)).chain(own.iter().cloned()).collect()
        };
        let mut cluster = Cluster::start_each(&postgres.server().admin_url(), REPLICAS as u16, each).await;
        let urls = cluster.urls();
        let nodes = std::mem::take(&mut cluster.nodes).into_iter().map(Mutex::new).collect();
        FaultyCluster {
            inner: cluster,
            doors,
            nodes,
            urls,
            postgres: Mutex::new(postgres),
            rotated: SigningKey::generate().unwrap(),
            has_rotated: AtomicBool::new(false),
        }
    }

    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Locks a replica: nobody else starts or stops it meanwhile.
    pub async fn node(&self, replica: usize) -> MutexGuard<'_, Node> {
        self.nodes[replica].lock().await
    }

    /// The exit status of a replica that exited without being stopped.
    pub async fn ended(&self, replica: usize) -> Option<std::process::ExitStatus> {
        let node = self.node(replica).await;
        let ended = tokio::time::timeout(Duration::ZERO, node.process.ended()).await;
        ended.ok()
    }

    /// Starts a replica again and waits until it accepts connections, even if its dependencies are away. False if it
    /// never does.
    pub async fn revive(&self, replica: usize) -> bool {
        let mut node = self.node(replica).await;
        node.respawn();
        let url = format!("{}/health/live", node.url());
        let lives = async || {
            let answer = self.inner.http.get(&url).timeout(ATTEMPT).send().await;
            answer.is_ok_and(|answer| answer.status() == 200).then_some(())
        };
        mana_dev::wait::until(TIMEOUT, lives).await.is_some()
    }

    /// Kills a replica with `kill -9`.
    pub async fn kill(&self, replica: usize) {
        self.node(replica).await.process.kill().await;
    }

    pub async fn restart_postgres(&self, mode: Shutdown) {
        self.postgres.lock().await.server_mut().restart(mode).await.unwrap();
    }

    /// Stops PostgreSQL in fast mode, until the next restart.
    pub async fn stop_postgres(&self) {
        let postgres = self.postgres.lock().await;
        kill(Pid::from_raw(postgres.server().pid() as i32), Signal::SIGINT).unwrap();
        postgres.server().ended().await;
    }

    /// Runs a statement, bypassing the proxies. Errors are ignored: the database may be down.
    pub async fn sql(&self, statement: &'static str) {
        let _ = sqlx::query(statement).execute(&self.inner.pool).await;
    }

    /// Has the issuer publish a second key beside the current one.
    pub fn rotate_keys(&self) {
        self.inner.issuer.set_keys(&[self.rotated.clone(), self.inner.key.clone()]);
        self.has_rotated.store(true, Ordering::Relaxed);
    }

    pub fn has_rotated(&self) -> bool {
        self.has_rotated.load(Ordering::Relaxed)
    }

    /// A token signed with the second key.
    pub fn rotated_token(&self, user: &str) -> String {
        self.rotated.token(user, Duration::from_secs(3600))
    }

    /// Restores the network. Connections that it has forgotten stay forgotten.
    pub fn mend_network(&self) {
        for proxy in self.doors.iter().flat_map(|doors| [&doors.query, &doors.listen]) {
            proxy.set(Mode::Pass);
        }
    }

    pub async fn metric(&self, replica: usize, name: &str) -> Option<f64> {
        let url = format!("{}/metrics", self.urls[replica]);
        let text = self.inner.http.get(url).timeout(TIMEOUT).send().await.ok()?.text().await.ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// Resident memory of a replica, in bytes.
    pub async fn memory(&self, replica: usize) -> u64 {
        let pid = self.node(replica).await.process.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
        kilobytes.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0) << 10
    }

    pub async fn log(&self, replica: usize) -> String {
        self.node(replica).await.log()
    }
}
