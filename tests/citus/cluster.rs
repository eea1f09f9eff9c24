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
        let servers = TemporaryCitus::start(Path::new(".dev")).await.unwrap();
        let name = format!("t_{}", Uuid::new_v4().simple());
        let coordinator = servers.coordinator.server().admin_url();
        let url = citus::create_database(&coordinator, &servers.worker_urls(), &name).await.unwrap();
        Citus { servers, url }
    }

    /// The URLs of the database on the workers, as in DATABASE_WORKER_URLS.
    pub fn worker_urls(&self) -> String {
        let name = self.url.rsplit('/').next().unwrap();
        let workers = self.servers.workers.iter();
        workers.map(|worker| worker.server().url(name)).collect::<Vec<_>>().join(" ")
    }

    /// Starts replicas that go through the coordinator, or directly to the workers.
    pub async fn replicas(&self, count: u16, straight: bool) -> Cluster {
        let mut settings = vec![("READY_GRACE_MS".to_owned(), "0".to_owned())];
        if straight {
            settings.push(("DATABASE_WORKER_URLS".to_owned(), self.worker_urls()));
        }
        Cluster::start_over_with(&self.url, count, settings).await
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

pub async fn sql(url: &str, statement: impl Into<String>) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let statement = statement.into();
    let done = sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut connection).await;
    done.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

pub async fn text(url: &str, query: impl Into<String>) -> String {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(query.into())).fetch_one(&mut connection).await.unwrap()
}

pub async fn number(url: &str, query: impl Into<String>) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(query.into())).fetch_one(&mut connection).await.unwrap()
}
