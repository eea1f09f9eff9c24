//! The database goes back to an earlier state under running clients: a base backup is restored, or an asynchronous
//! standby without the last commits is promoted. Nothing stored from then on is missed, even below old cursors.

use crate::support::live::{APP, Events, metric, socket, store, stream_of, woken_until};
use crate::support::*;
use mana_dev::{Binaries, Postgres, PostgresOptions, Shutdown, TemporaryPostgres};
use mana_load::wakeups::Wakeups;
use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const REPLICAS: u16 = 2;
const TABLE: &str = "tasks";
/// A table that has not been announced before.
const FRESH: &str = "notes";
const PAST_HEAD: &str = "mana_sync_cursors_past_head_total";

async fn execute(url: &str, statement: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.unwrap();
}

/// Copies a running server to this folder. `standby`: the copy is to follow that server.
async fn copy_of(primary: &Postgres, folder: &Path, standby: bool) -> PathBuf {
    // The PostgreSQL user needs access.
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let data_dir = folder.join("copy");
    let mut copy = Command::new(primary.binaries().program("pg_basebackup"));
    copy.args(["--no-sync", "--checkpoint=fast", "--wal-method=stream", "-D"]).arg(&data_dir);
    copy.args(["-d", &primary.admin_url()]).args(standby.then_some("--write-recovery-conf"));
    let copied = tokio::task::spawn_blocking(move || copy.output()).await.unwrap().expect("pg_basebackup is needed");
    assert!(copied.status.success(), "{copied:?}");
    data_dir
}

async fn start(binaries: &Binaries, data_dir: PathBuf, port: Option<u16>) -> Postgres {
    let options = PostgresOptions { data_dir, port, settings: vec![], environment: vec![], durable: false };
    Postgres::start_with(binaries.clone(), options).await.unwrap()
}

/// The clients of one user: a laptop that writes, a phone that pulls, a stream and a socket on each replica.
struct Clients {
    user: User,
    streams: Vec<Events>,
    sockets: Vec<Wakeups>,
}

impl Clients {
    async fn connect(cluster: &Cluster) -> Clients {
        let user = cluster.user();
        let (mut streams, mut sockets) = (Vec::new(), Vec::new());
        for replica in 0..usize::from(REPLICAS) {
            let stream = stream_of(cluster, replica, &user, &format!("collections={TABLE}"));
            // Open for the whole test.
            streams.push(Events::open(stream.timeout(Duration::from_secs(600))).await);
            sockets.push(socket(cluster, replica, &user, None, None).await);
        }
        Clients { user, streams, sockets }
    }

    /// Stores a record from the laptop; all streams receive it soon.
    async fn write(&mut self, cluster: &Cluster, id: &str) {
        store(cluster, 0, &self.user, "laptop", &[(TABLE, id)]).await;
        self.have(id).await;
    }

    async fn have(&mut self, id: &str) {
        for stream in &mut self.streams {
            stream.until(id).await;
        }
    }

    /// The phone's cursor after it has pulled everything.
    async fn cursor(&self, cluster: &Cluster) -> String {
        let answer = cluster.pulled(&self.user, APP, TABLE, BEGINNING, Some("phone")).await;
        answer["syncedUntil"].as_str().unwrap().to_owned()
    }
}

/// Moves the newest cursor of a log an hour ahead, like a primary whose clock runs ahead: what the next primary stores
/// lies below the cursors that were given out.
async fn run_ahead(url: &str) {
    execute(url, "update sync_heads set head = head + interval '1 hour'").await;
}

/// Checks what must hold once the database is back without `lost`, which the phone has: `old` is its cursor.
async fn nothing_is_missed(cluster: &Cluster, clients: &mut Clients, old: &str) {
    for replica in 0..usize::from(REPLICAS) {
        let pull = format!("/sync/{}/pull?collection={TABLE}&since={BEGINNING}", APP);
        let pull = || cluster.request_to(replica, &clients.user, Method::GET, &pull).send();
        eventually("it is served again", async || pull().await.is_ok_and(|answer| answer.status() == StatusCode::OK))
            .await;
    }
    // A reader that returns before anything is stored reads from the beginning to the current end of the log.
    for _ in 0..2 {
        let answer = cluster.pulled(&clients.user, APP, TABLE, old, Some("phone")).await;
        assert_eq!(ids(&answer), ["kept"], "{answer}");
        assert!(answer["syncedUntil"].as_str().unwrap() < old, "{answer}");
    }
    // What is stored now has cursors below the old one. Streams that noticed nothing are woken and start over.
    let cursor = store(cluster, 1, &clients.user, "laptop", &[(TABLE, "after"), (FRESH, "too")]).await;
    assert!(*cursor < *old, "{cursor} {old}");
    clients.have("after").await;
    for socket in &mut clients.sockets {
        woken_until(socket, FRESH).await;
    }
    let answer = cluster.pulled(&clients.user, APP, TABLE, old, Some("phone")).await;
    assert_eq!(ids(&answer), ["kept", "after"]);
    // A push from an old cursor is also answered from the beginning, without its own changes.
    let body = json!({ "clientId": "phone", "since": old, "changes": [insert(TABLE, "phone's", "T", "2024-01-01T10:00:00.000Z")] });
    let answer = cluster.pushed(&clients.user, APP, body).await;
    assert_eq!(ids(&answer), ["kept", "after", "too"]);
    let again = store(cluster, 0, &clients.user, "laptop", &[(TABLE, "lost")]).await;
    let answer = cluster.pulled(&clients.user, APP, TABLE, &cursor, None).await;
    assert_eq!(ids(&answer), ["phone's", "lost"], "what was lost is stored when its device sends it again");
    assert!(*again > *cursor);

    assert!(metric(cluster, 0, PAST_HEAD).await >= 4.0, "each such read is counted");
    for (index, node) in cluster.nodes.iter().enumerate() {
        let told = node.log().matches("the database went back to an earlier state").count();
        assert_eq!(told, usize::from(metric(cluster, index, PAST_HEAD).await > 0.0), "once for a user");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_backup_is_restored_under_running_clients() {
    let mut primary = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let cluster = Cluster::start_on(&primary.server().admin_url(), REPLICAS, &[]).await;
    let mut clients = Clients::connect(&cluster).await;
    clients.write(&cluster, "kept").await;
    let folder = tempfile::tempdir().unwrap();
    let backup = copy_of(primary.server(), folder.path(), false).await;
    run_ahead(&cluster.database_url).await;
    clients.write(&cluster, "lost").await;
    let old = clients.cursor(&cluster).await;

    let (port, binaries) = (primary.server().port(), primary.server().binaries().clone());
    primary.server_mut().kill().await.unwrap();
    let restored = start(&binaries, backup, Some(port)).await;
    nothing_is_missed(&cluster, &mut clients, &old).await;
    drop(cluster);
    restored.stop(Shutdown::Immediate).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_promoted_that_lacks_the_last_commits() {
    let mut primary = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let data_dir = copy_of(primary.server(), folder.path(), true).await;
    let standby = start(primary.server().binaries(), data_dir, None).await;
    let (first, second) = (primary.server().port(), standby.port());
    let each = move |_: usize, url: &str| {
        let both = url.replace(&format!(":{first}/"), &format!(":{first},127.0.0.1:{second}/"));
        ["DATABASE_URL", "DATABASE_LISTEN_URL"].map(|name| (name.to_owned(), both.clone())).to_vec()
    };
    let cluster = Cluster::start_each(&primary.server().admin_url(), REPLICAS, each).await;
    let mut clients = Clients::connect(&cluster).await;
    clients.write(&cluster, "kept").await;
    let mut watching = PgConnection::connect(&primary.server().admin_url()).await.unwrap();
    eventually("the standby has it", async || {
        let is_behind = "select count(*) from pg_stat_replication where replay_lsn >= pg_current_wal_insert_lsn()";
        sqlx::query_scalar::<_, i64>(is_behind).fetch_one(&mut watching).await.unwrap() == 1
    })
    .await;
    // Replication is cut: what is committed from here on is lost with the primary.
    execute(&standby.admin_url(), "alter system set primary_conninfo = ''").await;
    execute(&standby.admin_url(), "select pg_reload_conf()").await;
    eventually("nothing is replicated", async || {
        let senders = "select count(*) from pg_stat_replication";
        sqlx::query_scalar::<_, i64>(senders).fetch_one(&mut watching).await.unwrap() == 0
    })
    .await;
    run_ahead(&cluster.database_url).await;
    clients.write(&cluster, "lost").await;
    let old = clients.cursor(&cluster).await;

    primary.server_mut().kill().await.unwrap();
    execute(&standby.admin_url(), "select pg_promote()").await;
    nothing_is_missed(&cluster, &mut clients, &old).await;
    drop(cluster);
    standby.stop(Shutdown::Immediate).await.unwrap();
}

/// Changes without a notification are found by the reconciler, although positions above them were announced before.
#[tokio::test]
async fn what_is_stored_below_what_was_announced_is_found_without_notifications() {
    let cluster = Cluster::start(REPLICAS).await;
    let mut clients = Clients::connect(&cluster).await;
    clients.write(&cluster, "kept").await;
    let head = "select head::text from sync_heads";
    let kept: String = sqlx::query_scalar(head).fetch_one(&cluster.pool).await.unwrap();
    run_ahead(&cluster.database_url).await;
    clients.write(&cluster, "lost").await;
    for socket in &mut clients.sockets {
        woken_until(socket, TABLE).await;
    }
    let go_back = format!(
        "delete from sync_changes where record_id = 'lost'; update sync_heads set head = '{kept}', previous = 'epoch'"
    );
    execute(&cluster.database_url, &go_back).await;
    // Programs' rows are announced only by the reconciler.
    let user = &clients.user.id;
    let insert = format!(
        "insert into sync_changes (app_id, user_id, table_name, record_id, op)
         values ('{APP}', '{user}', '{TABLE}', 'after', 'delete'), ('{APP}', '{user}', '{FRESH}', 'too', 'delete')"
    );
    execute(&cluster.database_url, &insert).await;
    clients.have("after").await;
    for socket in &mut clients.sockets {
        woken_until(socket, FRESH).await;
    }
}

/// Nothing went back: the log's devices start over, and no restore is reported.
#[tokio::test]
async fn a_device_of_an_erased_user_is_no_sign_of_a_restore() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    let counted = async || metric(&cluster, 0, PAST_HEAD).await;
    let is_logged = || cluster.nodes[0].log().contains("the database went back");
    store(&cluster, 0, &user, "laptop", &[(TABLE, "before")]).await;
    let page = cluster.pulled(&user, APP, TABLE, BEGINNING, None).await;
    let old = page["syncedUntil"].as_str().unwrap().to_owned();
    let erase = format!("select sync_erase('{}')", user.id);
    execute(&cluster.database_url, &erase).await;
    assert!(ids(&cluster.pulled(&user, APP, TABLE, &old, None).await).is_empty());
    let push = json!({ "clientId": "laptop", "since": old, "changes": [insert(TABLE, "after", "Milk", "2024-01-01T10:00:00.000Z")] });
    cluster.pushed(&user, APP, push).await;
    assert_eq!(counted().await, 0.0);
    assert!(!is_logged());
    // Once the record of the erasure is gone, it cannot be distinguished from a restore.
    execute(&cluster.database_url, &erase).await;
    execute(&cluster.database_url, "delete from sync_erased").await;
    assert!(ids(&cluster.pulled(&user, APP, TABLE, &old, None).await).is_empty());
    assert_eq!(counted().await, 1.0);
    assert!(cluster.nodes[0].log().contains("or this user was erased more than an hour ago"));
}
