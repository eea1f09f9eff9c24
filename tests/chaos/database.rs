//! Faults of the database itself: its disk fills up, its clock goes back, its other clients get in the way.

use crate::epilogue::SOON;
use crate::probe::{Pushing, brings_all, pushes, stream};
use crate::suite::alone;
use crate::support::*;
use futures_util::future::join_all;
use mana_dev::{Postgres, PostgresOptions, Shutdown, TemporaryPostgres, default_folder};
use nix::unistd::geteuid;
use reqwest::Method;
use sqlx::{Connection, PgConnection};
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Maximum delay of a change that arrives at once.
const AT_ONCE: Duration = Duration::from_secs(1);

async fn postgres() -> TemporaryPostgres {
    TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap()
}

async fn sql(url: &str, statement: &'static str) -> u64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(statement).execute(&mut connection).await.unwrap().rows_affected()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_goes_back_by_an_hour_does_not_turn_the_log_around() {
    let _alone = alone().await;
    let cluster = &Cluster::start(2).await;
    let user = cluster.user();
    let store = async |id: &str, replica| live::store(cluster, replica, &user, "phone", &[("tasks", id)]).await;
    let before = store("before", 0).await;
    // As if the stored changes had been stored an hour later than now.
    for table in [
        "update sync_changes set created_at = created_at + interval '1 hour'",
        "update sync_heads set head = head + interval '1 hour', previous = previous + interval '1 hour'",
    ] {
        assert_eq!(sql(&cluster.database_url, table).await, 1);
    }
    let mut streams = [stream(cluster, 0, &user).await, stream(cluster, 1, &user).await];
    let mut socket = live::socket(cluster, 1, &user, None, None).await;
    let mut last = before;
    for (number, id) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let cursor = store(id, number % 2).await;
        assert!(cursor > last, "{cursor} after {last}");
        last = cursor;
        soon(cluster, AT_ONCE, "at once", live::woken(&mut socket)).await;
    }
    for stream in &mut streams {
        assert_eq!(soon(cluster, SOON, "all of it", stream.until("d")).await, ["before", "a", "b", "c", "d"]);
    }
    let pages = cluster.pull_all(&user, live::APP, "tasks", BEGINNING, None).await;
    assert_eq!(ids_of(&pages), ["before", "a", "b", "c", "d"]);
    assert_eq!(until(&pages[0]), last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_of_somebody_else_that_is_stuck_shows_and_holds_nobody_up() {
    let _alone = alone().await;
    let postgres = postgres().await;
    let cluster = &Cluster::start_on(&postgres.server().admin_url(), 2, &[]).await;
    let user = cluster.user();
    let mut socket = live::socket(cluster, 1, &user, None, None).await;
    let mut stuck = PgConnection::connect(&cluster.database_url).await.unwrap();
    sqlx::raw_sql("listen anything").execute(&mut stuck).await.unwrap();
    sqlx::raw_sql("begin; select 1").execute(&mut stuck).await.unwrap();
    let usage = async || live::metric(cluster, 0, "mana_sync_notification_queue_usage_ratio").await;
    sql(&cluster.database_url, "select pg_notify('elsewhere', repeat('x', 7000) || n) from generate_series(1, 2000) n")
        .await;
    eventually("operators see the queue fill", async || usage().await > 0.0).await;
    println!("the queue is filled to {}", usage().await);
    for n in 0..20 {
        assert!(pushes(cluster, n % 2, &user, &format!("{n}")).await);
        soon(cluster, AT_ONCE, "at once", live::woken(&mut socket)).await;
    }
    // A replica can still LISTEN again meanwhile.
    sql(&cluster.database_url, crate::fault::TERMINATE_LISTENERS).await;
    assert!(pushes(cluster, 0, &user, "after").await);
    soon(cluster, SOON, "it is told", live::woken(&mut socket)).await;
    sqlx::raw_sql("commit").execute(&mut stuck).await.unwrap();
    stuck.close().await.unwrap();
    eventually("operators see it empty", async || {
        sql(&cluster.database_url, "notify elsewhere").await;
        usage().await == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_pool_is_exhausted_requests_are_refused_early_and_afterwards_all_is_well() {
    let _alone = alone().await;
    let own = [("DATABASE_POOL_SIZE", "4"), ("DATABASE_ACQUIRE_TIMEOUT_MS", "500")];
    let settings = [&AS_IN_PRODUCTION[..], &own].concat();
    let postgres = postgres().await;
    let cluster = &Cluster::start_on(&postgres.server().admin_url(), 1, &settings).await;
    let users: Vec<User> = (0..40).map(|_| cluster.user()).collect();
    assert!(pushes(cluster, 0, &users[0], "before").await);
    let mut locking = PgConnection::connect(&cluster.database_url).await.unwrap();
    sqlx::raw_sql("begin; lock table sync_changes in access exclusive mode").execute(&mut locking).await.unwrap();
    let pulling = users.iter().map(|user| refused_after(cluster, user, Method::GET));
    let pushing = users.iter().take(10).map(|user| refused_after(cluster, user, Method::POST));
    let (pulls, pushed) = tokio::join!(join_all(pulling), join_all(pushing));
    // Requests that have a connection, as many as the pool has, wait for the lock for as long as a statement may run.
    let limit = 2 * AT_ONCE + slack(cluster).await;
    let early = pulls.iter().filter(|after| **after < limit).count();
    println!("{early} of {} pulls were refused early, the last push after {:?}", users.len(), pushed.iter().max());
    assert!(early >= users.len() - 4, "{pulls:?}");
    assert_eq!(cluster.get("/health/live").await.status, 200);
    sqlx::raw_sql("rollback").execute(&mut locking).await.unwrap();
    let back = Instant::now();
    for user in &users {
        eventually("pushes are stored", async || pushes(cluster, 0, user, "after").await).await;
    }
    println!("{} users were served {:?} after the pool was free again", users.len(), back.elapsed());
    assert_soon(cluster, SOON, "all are served", back.elapsed()).await;
}

/// Returns how long a refusal took, which must be a 503 with Retry-After.
async fn refused_after(cluster: &Cluster, user: &User, method: Method) -> Duration {
    let begin = Instant::now();
    let path = match method {
        Method::GET => format!("/sync/{}/pull?collection=tasks&since={BEGINNING}", live::APP),
        _ => format!("/sync/{}", live::APP),
    };
    let body = serde_json::json!({ "clientId": "d", "since": live::NO_DELTA,
        "changes": [insert("tasks", "during", "T", "2024-01-01T10:00:00.000Z")] });
    let request = cluster.request(user, method, &path).header("Content-Type", "application/json");
    let answer = request.body(body.to_string()).send().await.unwrap();
    assert!(answer.status() == 503 && answer.headers().contains_key("retry-after"), "{path}: {answer:?}");
    begin.elapsed()
}

/// A small in-memory file system. Dropping it unmounts it.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(megabytes: u32) -> SmallDisk {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=0755"), "tmpfs"]).arg(folder.path());
        assert!(mount.status().unwrap().success(), "a small file system cannot be mounted");
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        SmallDisk { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes until the disk is full.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::create(&path).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 64 << 10]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "mounts a small file system, as root: make chaos"]
async fn a_full_disk_costs_refusals_while_it_is_full_and_nothing_else() {
    assert!(geteuid().is_root(), "this test mounts a small file system: run it as root, or leave it out");
    let _alone = alone().await;
    let disk = SmallDisk::mount(160);
    let settings = [("max_wal_size", "48MB"), ("min_wal_size", "32MB")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let options = PostgresOptions {
        data_dir: disk.path().join("postgres"),
        port: None,
        settings,
        environment: vec![],
        durable: false,
    };
    let account = mana_dev::place::Account::for_postgres().unwrap();
    let binaries = mana_dev::Binaries::locate(&default_folder(), account).await.unwrap();
    let mut postgres = Postgres::start_with(binaries, options).await.unwrap();
    let cluster = Arc::new(Cluster::start_on(&postgres.admin_url(), 2, &[]).await);
    let user = cluster.user();
    let mut stream = stream(&cluster, 1, &user).await;
    let pushing = Pushing::start(&cluster, &user, 4);
    eventually("devices push", async || cluster.stored(&user).await > 50).await;

    let filler = disk.fill();
    // A large change needs space at once; a small one may still fit into existing pages.
    let large = serde_json::json!({ "clientId": "large", "since": live::NO_DELTA,
        "changes": [update("tasks", "large", "text", noise(6 << 20), "2024-01-01T10:00:00.000Z")] });
    let refused = async || {
        let request = cluster.request(&user, Method::POST, &format!("/sync/{}", live::APP));
        let request = request.header("Content-Type", "application/json").body(large.to_string());
        let Ok(answer) = request.send().await else { return false };
        assert!(answer.status() == 503 && answer.headers().contains_key("retry-after"), "{answer:?}");
        true
    };
    eventually("a large push is refused", refused).await;
    println!("with a full disk: {}", refusal_of(&cluster));
    tokio::time::sleep(2 * AT_ONCE).await;

    std::fs::remove_file(filler).unwrap();
    // PostgreSQL may have stopped, as it does when it cannot write its WAL; in that case an operator restarts it.
    postgres.restart(Shutdown::Fast).await.unwrap();
    let back = Instant::now();
    for replica in 0..2 {
        eventually("pushes are stored", async || pushes(&cluster, replica, &user, &format!("after-{replica}")).await)
            .await;
    }
    println!("pushes worked {:?} after there was room again", back.elapsed());
    assert_soon(&cluster, SOON, "pushes work", back.elapsed()).await;
    let mut acknowledged = pushing.end().await;
    acknowledged.extend(["after-0".to_owned(), "after-1".to_owned()]);
    soon(&cluster, SOON, "the stream brings everything", brings_all(&mut stream, &acknowledged)).await;
    assert_eq!(cluster.stored(&user).await as usize, acknowledged.len());
}

/// Text that does not compress.
fn noise(bytes: usize) -> String {
    (0..bytes / 16).map(|_| format!("{:016x}", rand::random::<u64>())).collect()
}

/// The last refusal that a replica has logged.
fn refusal_of(cluster: &Cluster) -> String {
    let log = cluster.nodes[0].log();
    log.lines().rev().find(|line| line.contains("a request was refused")).unwrap_or("nothing was logged").to_owned()
}
