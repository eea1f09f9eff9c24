//! A Citus cluster of the test's own, and replicas over it.

use crate::BUCKETS;
use crate::support::*;
use mana_dev::citus::{self, TemporaryCitus};
use mana_sync::protocol::UserKey;
use mana_sync::store::Layout;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::path::Path;
use uuid::Uuid;

/// The servers, and a database on them.
pub struct Citus {
    pub servers: TemporaryCitus,
    pub url: String,
}

impl Citus {
    pub async fn start() -> Citus {
        Citus::with_database(&format!("t_{}", Uuid::new_v4().simple())).await
    }

    /// Starts another cluster with a database of the same name.
    pub async fn start_like(&self) -> Citus {
        Citus::with_database(self.database()).await
    }

    /// Starts a cluster with a worker, the second, whose clock is this many seconds ahead, or behind if negative. Without
    /// libfaketime it is not: the test says so, and tests the rest.
    pub async fn start_with_clock(seconds: i32) -> Citus {
        let clock = citus::clock(seconds);
        if clock.is_none() {
            println!("libfaketime is not installed: all clocks are the same");
        }
        let servers = TemporaryCitus::start_with_clocks(Path::new(".dev"), [None, clock]).await.unwrap();
        Citus::over(servers, &format!("t_{}", Uuid::new_v4().simple())).await
    }

    async fn with_database(name: &str) -> Citus {
        Citus::over(TemporaryCitus::start(Path::new(".dev")).await.unwrap(), name).await
    }

    async fn over(servers: TemporaryCitus, name: &str) -> Citus {
        let coordinator = servers.coordinator.server().admin_url();
        let url = citus::create_database(&coordinator, &servers.worker_urls(), name).await.unwrap();
        Citus { servers, url }
    }

    fn database(&self) -> &str {
        self.url.rsplit('/').next().unwrap()
    }

    /// The URLs of the database on the workers, as in DATABASE_WORKER_URLS.
    pub fn worker_urls(&self) -> String {
        let workers = self.servers.workers.iter();
        workers.map(|worker| worker.server().url(self.database())).collect::<Vec<_>>().join(" ")
    }

    /// Starts replicas that go through the coordinator, or directly to the workers.
    pub async fn replicas(&self, count: u16, straight: bool) -> Cluster {
        let workers = if straight { self.worker_urls() } else { String::new() };
        self.replicas_with(count, &workers).await
    }

    /// Starts replicas with these DATABASE_WORKER_URLS.
    pub async fn replicas_with(&self, count: u16, workers: &str) -> Cluster {
        self.replicas_at(&self.url, count, workers).await
    }

    /// Starts replicas with this DATABASE_URL and these DATABASE_WORKER_URLS.
    pub async fn replicas_at(&self, coordinator: &str, count: u16, workers: &str) -> Cluster {
        let settings = [("READY_GRACE_MS", "0"), ("DATABASE_URL", coordinator), ("DATABASE_WORKER_URLS", workers)];
        let settings = settings.into_iter().chain(AS_IN_PRODUCTION);
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Cluster::start_over_with(&self.url, count, settings.collect()).await
    }

    /// The port of a worker that does not have this bucket.
    pub async fn other_port(&self, bucket: usize) -> String {
        let port = self.port_of(bucket).await;
        let ports = self.servers.workers.iter().map(|worker| worker.server().port().to_string());
        ports.into_iter().find(|other| *other != port).unwrap()
    }

    /// The buckets of the worker with this port, and those of all others, which are some.
    pub async fn buckets_at(&self, port: &str) -> (Vec<usize>, Vec<usize>) {
        let (mut there, mut others) = (Vec::new(), Vec::new());
        for bucket in 0..usize::from(BUCKETS) {
            let list = if self.port_of(bucket).await == port { &mut there } else { &mut others };
            list.push(bucket);
        }
        assert!(!others.is_empty(), "the other worker has buckets as well");
        (there, others)
    }

    /// The port of the worker that has a bucket.
    pub async fn port_of(&self, bucket: usize) -> String {
        port_of(&self.url, bucket).await
    }
}

pub async fn port_of(url: &str, bucket: usize) -> String {
    let port =
        format!("select nodeport::text from citus_shards where table_name = 'sync_b{bucket:02}.sync_heads'::regclass");
    text(url, port).await
}

pub fn bucket_of(user: &User) -> usize {
    Layout::over(BUCKETS).unwrap().bucket_of(UserKey::of(&user.id))
}

/// Creates this many users per bucket, in the order of the buckets.
pub fn users_of_all(cluster: &Cluster, each: usize) -> Vec<User> {
    let of = |bucket: usize| loop {
        let user = cluster.user();
        if bucket_of(&user) == bucket {
            return user;
        }
    };
    (0..usize::from(BUCKETS)).flat_map(|bucket| std::iter::repeat_n(bucket, each)).map(of).collect()
}

/// The number of connections of replicas on which pushes and reads arrive at a server.
pub async fn connected(url: &str) -> i64 {
    let connected = "select count(*) from pg_stat_activity where application_name like 'mana-sync %'
        and application_name <> 'mana-sync workers' and datname = current_database()";
    number(url, connected).await
}

pub async fn sql(url: &str, statement: impl Into<String>) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let statement = statement.into();
    let done = sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut connection).await;
    done.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

/// Moves a bucket to a worker, while replicas serve. Citus refuses it while one creates a day of the history.
pub async fn move_bucket(url: &str, bucket: usize, (host, port): (&str, &str)) {
    let statement = format!("select citus_schema_move('sync_b{bucket:02}', '{host}', {port}, 'force_logical')");
    eventually("the bucket is moved", async || {
        let mut connection = PgConnection::connect(url).await.unwrap();
        match sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut connection).await {
            Ok(_) => true,
            Err(error) if error.to_string().contains("could not acquire the lock required to move") => false,
            Err(error) => panic!("{statement}: {error}"),
        }
    })
    .await;
}

pub async fn text(url: &str, query: impl Into<String>) -> String {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(query.into())).fetch_one(&mut connection).await.unwrap()
}

pub async fn number(url: &str, query: impl Into<String>) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(query.into())).fetch_one(&mut connection).await.unwrap()
}
