//! A real PgBouncer in transaction mode in front of the database.

use crate::probe::{Pushing, brings_all, push, stream};
use crate::suite::beside_others;
use crate::support::*;
use mana_dev::child::{Child, Group};
use mana_dev::{TemporaryPostgres, free_port, place::Account};
use nix::sys::signal::Signal;
use sqlx::{Connection, PgConnection};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

const MISSING: &str = "this test needs a real PgBouncer: apt-get install pgbouncer, or scripts/bootstrap as root";
/// Number of connections that the pooler shares among all clients.
const SHARED: usize = 5;

/// A pooler that shares connections between transactions. Dropping it stops it.
struct Pooler {
    port: u16,
    process: Mutex<Option<Child>>,
    folder: tempfile::TempDir,
}

impl Pooler {
    async fn start(database_port: u16) -> Pooler {
        let folder = tempfile::tempdir().unwrap();
        // It runs as a user other than root.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let (port, file) = (free_port().unwrap(), folder.path().join("pgbouncer.ini"));
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={database_port} user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = {SHARED}\nmax_client_conn = 300\n"
        );
        std::fs::write(&file, settings).unwrap();
        let pooler = Pooler { port, process: Mutex::default(), folder };
        pooler.launch().await;
        pooler
    }

    /// Starts its process, replacing the running one.
    async fn launch(&self) {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"];
        let program = program.into_iter().find(|program| Path::new(program).exists()).expect(MISSING);
        let mut command = Command::new(program);
        command.arg(self.folder.path().join("pgbouncer.ini"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if Account::for_postgres().unwrap().is_some() {
            command.args(["-u", "nobody"]);
        }
        let before = self.process.lock().unwrap().take();
        if let Some(before) = before {
            before.signal(Signal::SIGKILL);
            before.wait().await;
        }
        *self.process.lock().unwrap() = Some(Child::spawn(command, Signal::SIGKILL, Group::Own).unwrap());
        let accepts = async || tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok();
        eventually("the pooler accepts connections", accepts).await;
    }

    /// The URL that goes through the pooler.
    fn url(&self, url: &str) -> String {
        proxy::through(([127, 0, 0, 1], self.port).into(), url)
    }
}

/// A database with a pooler in front.
async fn pooled() -> (TemporaryPostgres, Pooler) {
    let postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let pooler = Pooler::start(postgres.server().port()).await;
    (postgres, pooler)
}

/// Settings for replicas whose queries go through a pooler while their listeners bypass it.
fn settings(pooler: &Pooler, url: &str, statement_timeout: &str) -> Vec<(String, String)> {
    let settings = [
        ("DATABASE_URL", pooler.url(url)),
        ("DATABASE_LISTEN_URL", url.to_owned()),
        ("DATABASE_PREPARE", "false".to_owned()),
        ("DATABASE_STATEMENT_TIMEOUT_MS", statement_timeout.to_owned()),
    ];
    settings.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_go_through_a_transaction_pooler_and_wake_ups_past_it() {
    let _beside = beside_others().await;
    let (postgres, pooler) = pooled().await;
    let pooler = Arc::new(pooler);
    let through = pooler.clone();
    let each = move |_: usize, url: &str| settings(&through, url, "15000");
    let cluster = Arc::new(Cluster::start_each(&postgres.server().admin_url(), 2, each).await);
    let user = cluster.user();
    let mut streams = [stream(&cluster, 0, &user).await, stream(&cluster, 1, &user).await];
    // More devices than the pooler has connections, each of another user so that they do not wait for each other.
    let others: Vec<User> = (0..4 * SHARED).map(|_| cluster.user()).collect();
    let busy: Vec<Pushing> = others.iter().map(|other| Pushing::start(&cluster, other, 1)).collect();
    let pushing = Pushing::start(&cluster, &user, 4);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let acknowledged = pushing.end().await;
    for stream in &mut streams {
        brings_all(stream, &acknowledged).await;
    }
    let mut total = acknowledged.len();
    for (other, busy) in others.iter().zip(busy) {
        let acknowledged = busy.end().await;
        assert_eq!(cluster.stored(other).await as usize, acknowledged.len());
        total += acknowledged.len();
    }
    for replica in 0..2 {
        assert_eq!(live::metric(&cluster, replica, "mana_sync_pushes_total{outcome=\"failed\"}").await, 0.0);
    }
    println!("{total} pushes went through a transaction pooler, {} of one user", acknowledged.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_is_restarted_is_noticed_by_nobody() {
    const RESTARTS: usize = 3;
    let _beside = beside_others().await;
    let (postgres, pooler) = pooled().await;
    let pooler = Arc::new(pooler);
    let through = pooler.clone();
    let each = move |_: usize, url: &str| settings(&through, url, "15000");
    let cluster = &Cluster::start_each(&postgres.server().admin_url(), 1, each).await;
    let (pushed, restarts) = (&AtomicUsize::new(0), &AtomicUsize::new(0));
    let pushing = futures_util::future::join_all((0..10).map(async |_| {
        let user = cluster.user();
        let mut number = 0;
        while restarts.load(Ordering::Relaxed) < RESTARTS {
            let answer = push(cluster, 0, &user, &format!("{number}")).send().await.expect("an answer");
            assert_eq!(answer.status(), 200);
            number += 1;
            pushed.fetch_add(1, Ordering::Relaxed);
        }
        assert_eq!(cluster.stored(&user).await, number);
    }));
    let restarting = async {
        for _ in 0..RESTARTS {
            let before = pushed.load(Ordering::Relaxed);
            eventually("pushes go on", async || pushed.load(Ordering::Relaxed) > before + 50).await;
            pooler.launch().await;
            restarts.fetch_add(1, Ordering::Relaxed);
        }
    };
    futures_util::future::join(pushing, restarting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_limits_hold_through_a_transaction_pooler_and_stay_with_their_statements() {
    let _beside = beside_others().await;
    let (postgres, pooler) = pooled().await;
    let direct = postgres.server().admin_url();
    let pooler = Arc::new(pooler);
    let through = pooler.clone();
    let each = move |_: usize, url: &str| settings(&through, url, "1000");
    let cluster = Cluster::start_each(&direct, 1, each).await;
    let user = cluster.user();
    let mut locking = PgConnection::connect(&cluster.database_url).await.unwrap();
    let mut transaction = locking.begin().await.unwrap();
    sqlx::query("lock table sync_changes in access exclusive mode").execute(&mut *transaction).await.unwrap();
    let begin = Instant::now();
    let answer = push(&cluster, 0, &user, "blocked").send().await.expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    assert_soon(&cluster, Duration::from_secs(3), "a refusal", begin.elapsed()).await;
    drop(transaction);
    locking.close().await.unwrap();
    assert_eq!(push(&cluster, 0, &user, "blocked").send().await.unwrap().status(), 200);
    // Later users of the shared connections get the database's own limits.
    let url = format!("{}?application_name=other", pooler.url(&cluster.database_url));
    let (client, driver) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let driving = tokio::spawn(driver);
    for _ in 0..SHARED {
        let limit = client.query_typed("select current_setting('statement_timeout')", &[]).await.unwrap();
        assert_eq!(limit[0].get::<_, &str>(0), "0");
    }
    drop(client);
    driving.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_goes_through_a_transaction_pooler_is_not_ready_and_says_why() {
    let _beside = beside_others().await;
    let (postgres, pooler) = pooled().await;
    let database_url = create_database_on(&postgres.server().admin_url()).await;
    let exe = env!("CARGO_BIN_EXE_mana-sync");
    let mut migrate = tokio::process::Command::new(exe);
    assert!(migrate.arg("migrate").env("DATABASE_URL", &database_url).status().await.unwrap().success());
    let folder = tempfile::tempdir().unwrap();
    let port = free_port().unwrap();
    let settings = [
        ("DATABASE_URL", pooler.url(&database_url)),
        ("DATABASE_PREPARE", "false".into()),
        ("BIND_ADDRESS", "127.0.0.1".into()),
        ("PORT", port.to_string()),
        ("READY_GRACE_MS", "0".into()),
    ];
    let replica = mana_dev::Replica::spawn(mana_dev::ReplicaOptions {
        exe: exe.into(),
        name: "replica".into(),
        env: settings.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        log: Some(folder.path().join("log")),
        base_url: format!("http://127.0.0.1:{port}"),
    });
    let replica = replica.unwrap();
    let says = async || replica.log_tail().contains("DATABASE_LISTEN_URL must point to PostgreSQL itself");
    let said = mana_dev::wait::until(TIMEOUT, async || says().await.then_some(())).await;
    assert!(said.is_some(), "{}", replica.log_tail());
    let ready = format!("{}/health/ready", replica.base_url());
    let answer = reqwest::get(ready).await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.text().await.unwrap().contains("the listener is not connected"));
}
