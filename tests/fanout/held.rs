//! A transaction in another database of the server has notified and does not end, because its commit waits for a
//! standby that is down. It holds the lock that every NOTIFY needs.

use crate::support::live::*;
use crate::support::*;
use mana_dev::TemporaryPostgres;
use sqlx::{Connection, PgConnection, PgPool};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const REPLICAS: usize = 2;
const FOUND: Duration = Duration::from_secs(5);
/// How long a session of ours waits for any other lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// A transaction that has notified and does not end.
struct Neighbour {
    server: PgPool,
    committing: JoinHandle<()>,
}

impl Neighbour {
    async fn commit(admin_url: &str) -> Neighbour {
        let server = PgPool::connect(admin_url).await.unwrap();
        let mut connection = PgConnection::connect(admin_url).await.unwrap();
        let committing = tokio::spawn(async move {
            sqlx::raw_sql("set synchronous_commit = on").execute(&mut connection).await.unwrap();
            let notifies = "begin; create table neighbours (); notify neighbours; commit";
            sqlx::raw_sql(notifies).execute(&mut connection).await.unwrap();
        });
        let neighbour = Neighbour { server, committing };
        eventually("it waits", async || neighbour.count("wait_event = 'SyncRep'").await == 1).await;
        neighbour
    }

    /// The number of server sessions that match a condition.
    async fn count(&self, condition: &'static str) -> i64 {
        let count = format!("select count(*) from pg_stat_activity where {condition}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(count)).fetch_one(&self.server).await.unwrap()
    }

    /// Ends the replicas' listening connections.
    async fn cut_listeners(&self) {
        let cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like '%listen'";
        sqlx::query(cut).execute(&self.server).await.unwrap();
    }

    async fn end(self) {
        let cancel = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'";
        sqlx::query(cancel).execute(&self.server).await.unwrap();
        self.committing.await.unwrap();
    }
}

#[tokio::test]
async fn somebody_elses_commit_that_notifies_and_does_not_end_holds_up_no_push_and_leaves_no_connections_behind() {
    let settings = [("synchronous_standby_names", "away"), ("synchronous_commit", "local")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let postgres = TemporaryPostgres::start(Path::new(".dev"), settings.into()).await.unwrap();
    let admin = postgres.server().admin_url();
    let cluster = &Cluster::start_on(&admin, REPLICAS as u16, &[("RECONCILE_MS", "200")]).await;
    let user = cluster.user();
    let mut socket = socket(cluster, 1, &user, None, None).await;
    store(cluster, 0, &user, "phone", &[("before", "a")]).await;
    woken_until(&mut socket, "before").await;

    let neighbour = Neighbour::commit(&admin).await;
    for n in 0..4 * REPLICAS {
        let table = format!("held {n}");
        let begun = Instant::now();
        store(cluster, n % REPLICAS, &user, "phone", &[(&table, "a")]).await;
        assert_soon(cluster, LOCK_TIMEOUT / 2, "it waits for no lock", begun.elapsed()).await;
        soon(cluster, FOUND, "what is not notified is found in time", woken_until(&mut socket, &table)).await;
    }
    for replica in 0..REPLICAS {
        eventually("its notifications fail", async || {
            metric(cluster, replica, "mana_sync_publish_failures_total").await >= 3.0
        })
        .await;
    }
    let waiting = neighbour.count("application_name like '%publish' and wait_event_type = 'Lock'").await;
    assert!(waiting <= REPLICAS as i64, "{waiting} connections");

    neighbour.cut_listeners().await;
    for replica in 0..REPLICAS {
        eventually("it listens again", async || {
            metric(cluster, replica, "mana_sync_listener_connects_total").await == 2.0
        })
        .await;
    }
    assert_eq!(cluster.get("/health/ready").await.status, 200);

    neighbour.end().await;
    store(cluster, 0, &user, "phone", &[("after", "a")]).await;
    soon(cluster, FOUND, "in time", woken_until(&mut socket, "after")).await;
}
