//! Our own PostgreSQL starts, stops, crashes and restarts on request.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use mana_dev::{DevError, Postgres, PostgresOptions, Shutdown, TemporaryPostgres, postgres::DataTemplate};
use tokio_postgres::NoTls;

/// Open to the user that PostgreSQL runs under when the tests run as root.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn options(folder: &Path) -> PostgresOptions {
    PostgresOptions {
        data_dir: folder.join("postgres"),
        port: None,
        settings: vec![("shared_buffers".into(), "16MB".into())],
        environment: vec![],
        durable: false,
    }
}

async fn run(url: &str, statement: &str) -> Result<Option<i32>, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client.query_opt(statement, &[]).await?.map(|row| row.get(0)))
}

fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn it_keeps_its_port_and_data_when_stopped_killed_and_restarted() {
    let folder = folder();
    let mut postgres = Postgres::start(options(folder.path())).await.unwrap();
    let url = postgres.create_database("odd \"name\"").await;
    url.expect("names are quoted");
    let url = postgres.create_database("one").await.unwrap();
    assert!(postgres.create_database("one").await.is_err());
    run(&url, "create table t as select 7").await.unwrap();
    let first = postgres.pid();

    postgres.restart(Shutdown::Fast).await.unwrap();
    assert!(!runs(first) && postgres.pid() != first);
    assert_eq!(run(&url, "select * from t").await.unwrap(), Some(7));

    postgres.kill().await.unwrap();
    assert!(run(&url, "select * from t").await.is_err());
    postgres.restart(Shutdown::Fast).await.unwrap();
    assert_eq!(run(&url, "select * from t").await.unwrap(), Some(7));

    postgres.drop_database("one").await.unwrap();
    assert!(!postgres.has_database("one").await.unwrap());
    let last = postgres.pid();
    postgres.stop(Shutdown::Smart).await.unwrap();
    assert!(!runs(last));
}

#[tokio::test]
async fn a_second_server_in_one_folder_is_refused_and_the_first_is_unharmed() {
    let folder = folder();
    let first = Postgres::start(options(folder.path())).await.unwrap();
    let second = Postgres::start(options(folder.path())).await;
    assert!(matches!(second, Err(DevError::InUse { .. })), "{second:?}");
    assert_eq!(run(&first.admin_url(), "select 1").await.unwrap(), Some(1));
    let pid = first.pid();
    drop(first);
    assert!(!runs(pid), "dropping it waits until it is gone");
    Postgres::start(options(folder.path())).await.unwrap();
}

#[tokio::test]
async fn the_end_of_the_log_says_why_it_does_not_start() {
    let folder = folder();
    let mut options = options(folder.path());
    options.settings = vec![("max_connections".into(), "many".into())];
    let error = Postgres::start(options).await.unwrap_err().to_string();
    assert!(error.contains("max_connections"), "{error}");
}

#[tokio::test]
async fn what_is_no_data_folder_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    fs::create_dir(&options.data_dir).unwrap();
    let precious = options.data_dir.join("precious");
    fs::write(&precious, "").unwrap();
    let error = Postgres::start(options).await.unwrap_err();
    assert!(matches!(error, DevError::DataDirectory { .. }), "{error}");
    assert!(precious.exists());
}

/// If root's PostgreSQL can't access the folder, the data goes elsewhere, and is found there again.
#[tokio::test]
async fn a_private_folder_is_no_obstacle() {
    let private = tempfile::tempdir().unwrap();
    let first = Postgres::start(options(private.path())).await.unwrap();
    first.create_database("kept").await.unwrap();
    let data = first.data_dir().to_owned();
    first.stop(Shutdown::Fast).await.unwrap();
    let second = Postgres::start(options(private.path())).await.unwrap();
    assert_eq!(second.data_dir(), data);
    assert!(second.has_database("kept").await.unwrap());
    second.stop(Shutdown::Immediate).await.unwrap();
    if !data.starts_with(private.path()) {
        fs::remove_dir_all(data.parent().unwrap()).unwrap();
    }
}

/// A test's thread ends long before the process does: servers must not depend on it.
#[test]
fn a_server_outlives_the_thread_that_started_it() {
    let start = || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let postgres = runtime.block_on(TemporaryPostgres::start(Path::new(".dev"), Vec::new()));
        postgres.unwrap()
    };
    let postgres = std::thread::spawn(start).join().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let answer = runtime.block_on(run(&postgres.server().admin_url(), "select 1"));
    assert_eq!(answer.unwrap(), Some(1));
    let data = postgres.server().data_dir().to_owned();
    assert!(data.exists());
    drop(postgres);
    assert!(!data.exists());
}

#[tokio::test]
async fn temporary_servers_copy_a_template_and_leave_it_alone() {
    let identity = async |server: &TemporaryPostgres| {
        let (client, connection) = tokio_postgres::connect(&server.server().admin_url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        let row = client.query_one("select system_identifier from pg_control_system()", &[]).await.unwrap();
        row.get::<_, i64>(0)
    };
    let cache = Path::new(".dev");
    let template = DataTemplate::make(cache).await.unwrap();
    let start = async |template| TemporaryPostgres::start_from(template, cache, Vec::new()).await.unwrap();
    let (one, other) = (start(Some(template.path())).await, start(Some(template.path())).await);
    one.server().create_database("mine").await.unwrap();
    assert!(!other.server().has_database("mine").await.unwrap());
    assert_eq!(identity(&one).await, identity(&other).await, "only copies are of one initdb");
    drop((one, other));
    let third = start(Some(template.path())).await;
    assert!(!third.server().has_database("mine").await.unwrap());

    // Programs of another version could not use it.
    fs::write(template.path().join("PG_VERSION"), "9\n").unwrap();
    let own = start(Some(template.path())).await;
    assert_ne!(identity(&own).await, identity(&third).await);
    let path = template.path().to_owned();
    drop(template);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_server_that_is_killed_leaves_no_shared_memory_behind() {
    let mut postgres = TemporaryPostgres::start(Path::new(".dev"), Vec::new()).await.unwrap();
    let data = postgres.server().data_dir().to_owned();
    assert!(fs::read_dir(data.join("pg_dynshmem")).unwrap().count() > 0, "the rest of it goes with the folder");
    let noted = fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let id = noted.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap();
    let is_there = || {
        let segments = fs::read_to_string("/proc/sysvipc/shm").unwrap();
        segments.lines().any(|line| line.split_whitespace().nth(1) == Some(id))
    };
    postgres.server_mut().kill().await.unwrap();
    assert!(is_there());
    drop(postgres);
    assert!(!is_there());
}
