//! The primary dies and a standby takes over: two real PostgreSQL servers with synchronous replication, both hosts in
//! the URLs.

use crate::epilogue::SOON;
use crate::probe::{Pushing, brings_all, pushes, stream};
use crate::suite::beside_others;
use crate::support::*;
use mana_dev::{Postgres, TemporaryPostgres};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const REPLICAS: usize = 2;
/// How long there is no primary.
const INTERREGNUM: Duration = Duration::from_secs(2);

async fn execute(server: &str, statement: &'static str) {
    let mut connection = PgConnection::connect(server).await.unwrap();
    sqlx::query(statement).execute(&mut connection).await.unwrap();
}

/// Starts a standby of this server in this folder, and waits until it has caught up and commits wait for it.
async fn synchronous_standby_of(primary: &Postgres, folder: &Path) -> Postgres {
    let standby = standby_of(primary, folder, vec![]).await;
    execute(&primary.admin_url(), "alter system set synchronous_standby_names = '*'").await;
    execute(&primary.admin_url(), "select pg_reload_conf()").await;
    let mut connection = PgConnection::connect(&primary.admin_url()).await.unwrap();
    let is_waited_for = async || {
        let count = "select count(*) from pg_stat_replication where sync_state = 'sync'";
        let count: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap();
        count == 1
    };
    eventually("the standby is synchronous", is_waited_for).await;
    standby
}

/// The URL with both servers in it.
fn both(url: &str, primary: &Postgres, standby: &Postgres) -> String {
    let (primary, standby) = (primary.port(), standby.port());
    url.replace(&format!(":{primary}/"), &format!(":{primary},127.0.0.1:{standby}/"))
}

async fn listen(cluster: &Cluster, replica: usize) -> bool {
    live::metric(cluster, replica, "mana_sync_listener_up").await == 1.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_everything_goes_on_with_the_new_primary_and_nobody_has_to_reconnect() {
    let _beside = beside_others().await;
    let mut primary = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let standby = synchronous_standby_of(primary.server(), folder.path()).await;
    let (first, second) = (primary.server().port(), standby.port());
    let each = move |_: usize, url: &str| {
        let both = url.replace(&format!(":{first}/"), &format!(":{first},127.0.0.1:{second}/"));
        let urls = ["DATABASE_URL", "DATABASE_LISTEN_URL"].map(|name| (name.to_owned(), both.clone()));
        urls.into_iter().chain(AS_IN_PRODUCTION.map(|(name, value)| (name.to_owned(), value.to_owned()))).collect()
    };
    let cluster = Arc::new(Cluster::start_each(&primary.server().admin_url(), REPLICAS as u16, each).await);
    let user = cluster.user();
    let mut streams = Vec::new();
    let mut sockets = Vec::new();
    for replica in 0..REPLICAS {
        streams.push(stream(&cluster, replica, &user).await);
        sockets.push(live::socket(&cluster, replica, &user, None, None).await);
    }
    let pushing = Pushing::start(&cluster, &user, 4);
    eventually("devices push", async || cluster.stored(&user).await > 100).await;

    primary.server_mut().kill().await.unwrap();
    tokio::time::sleep(INTERREGNUM).await;
    execute(&standby.admin_url(), "select pg_promote()").await;
    let promoted = Instant::now();
    for replica in 0..REPLICAS {
        eventually("pushes are stored", async || pushes(&cluster, replica, &user, &format!("after-{replica}")).await)
            .await;
        println!("replica {replica} stored pushes {:?} after the promotion", promoted.elapsed());
        eventually("the listener is back", async || listen(&cluster, replica).await).await;
        println!("replica {replica} listened {:?} after the promotion", promoted.elapsed());
    }
    assert_soon(&cluster, SOON, "all works", promoted.elapsed()).await;

    let mut acknowledged = pushing.end().await;
    acknowledged.extend((0..REPLICAS).map(|replica| format!("after-{replica}")));
    for stream in &mut streams {
        soon(&cluster, SOON, "streams bring everything", brings_all(stream, &acknowledged)).await;
    }
    assert!(pushes(&cluster, 0, &user, "last").await);
    for socket in &mut sockets {
        soon(&cluster, SOON, "devices are woken", live::woken(socket)).await;
    }
    let url = both(&cluster.database_url, primary.server(), &standby);
    stored_are(&url.replace(&format!("127.0.0.1:{first},"), ""), &user, &acknowledged).await;
    let migrated = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
    let migrated = { migrated }.arg("migrate").env("DATABASE_URL", &url).output().await.unwrap();
    assert!(migrated.status.success(), "{migrated:?}");
}

/// This database contains what was acknowledged, once (G1).
async fn stored_are(url: &str, user: &User, acknowledged: &BTreeSet<String>) {
    let pool = PgPoolOptions::new().connect(url).await.unwrap();
    let select = format!("select record_id from sync_changes where user_id = '{}'", user.id);
    let stored: Vec<String> = sqlx::query_scalar(AssertSqlSafe(select)).fetch_all(&pool).await.unwrap();
    let once: BTreeSet<String> = stored.iter().filter(|id| *id != "last").cloned().collect();
    assert_eq!((once.len() + 1, &once), (stored.len(), acknowledged));
    println!("{} pushes were acknowledged, and are stored once", acknowledged.len());
}
