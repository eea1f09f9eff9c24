//! Databases for tests, one for each test, and the role that replicas have there.

use super::*;
use mana_dev::{Postgres, PostgresOptions};
use sqlx::{Connection as _, PgConnection};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// If set to `replica`, the replicas of every cluster run as the role of `deploy/grants.sql`.
const TEST_ROLE: &str = "TEST_ROLE";
const GRANTS: &str = include_str!("../../deploy/grants.sql");
/// Creates the role, for all databases of a server; any of the tests that need it may run it.
const MAKE_ROLE: &str = "
do $$ begin
    create role mana_sync_replica login;
exception when duplicate_object or unique_violation then
end $$";

/// The same URL, with the role of replicas.
pub fn as_replica(url: &str) -> String {
    url.replace("postgres://postgres@", "postgres://mana_sync_replica@")
}

/// The settings for replicas, with their role if they are to have it.
pub(super) fn with_role(settings: Vec<(String, String)>) -> Vec<(String, String)> {
    let in_role = |(name, value): (String, String)| {
        let value = if name.starts_with("DATABASE_") { as_replica(&value) } else { value };
        (name, value)
    };
    if is_least_privileged() { settings.into_iter().map(in_role).collect() } else { settings }
}

/// True if replicas run as the role of `deploy/grants.sql`.
pub fn is_least_privileged() -> bool {
    match std::env::var(TEST_ROLE).as_deref() {
        Ok("replica") => true,
        Ok(other) => panic!("{TEST_ROLE} may be \"replica\", and is {other:?}"),
        Err(_) => false,
    }
}

pub(super) async fn grant(database_url: &str) {
    let pool = PgPool::connect(database_url).await.unwrap();
    for statement in [MAKE_ROLE, GRANTS] {
        sqlx::raw_sql(statement).execute(&pool).await.unwrap();
    }
    pool.close().await;
}

/// The server for test databases, if `make test` has not started one.
static OWN: OnceCell<TemporaryPostgres> = OnceCell::const_new();

/// The URL of the server for test databases: the one `make test` started, or our own.
pub async fn admin_url() -> String {
    if let Ok(url) = std::env::var(TEST_DATABASE_URL) {
        return url;
    }
    let own =
        OWN.get_or_init(|| outlive(|| async { TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap() }));
    own.await.server().admin_url()
}

/// Creates an empty database and returns its URL.
pub async fn create_database() -> String {
    create_database_on(&admin_url().await).await
}

/// The same on a given server, and on its workers if it is the coordinator of a Citus cluster.
pub async fn create_database_on(admin: &str) -> String {
    let name = format!("t_{}", Uuid::new_v4().simple());
    let is_coordinator = std::env::var(TEST_DATABASE_URL).is_ok_and(|coordinator| coordinator == admin);
    if let (true, Ok(workers)) = (is_coordinator, std::env::var(mana_dev::TEST_CITUS_WORKERS)) {
        return mana_dev::citus::create_database(admin, &workers, &name).await.unwrap();
    }
    let mut session = PgConnection::connect(admin).await.unwrap();
    execute(&mut session, format!("create database {name}")).await;
    session.close().await.unwrap();
    url_of(admin, &name)
}

/// The URL of another database on the same server.
fn url_of(admin: &str, name: &str) -> String {
    let mut url: url::Url = admin.parse().unwrap();
    url.set_path(name);
    url.to_string()
}

async fn execute(session: &mut PgConnection, statement: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(session).await.unwrap();
}

/// Creates a database that replicas can use, and returns its URL.
///
/// On the server shared by tests it is a copy of one that was prepared once: most tests take less time than the
/// migrations.
pub(super) async fn create_prepared_database_on(admin: &str) -> String {
    let is_shared = match std::env::var(TEST_DATABASE_URL) {
        Ok(shared) => shared == admin && std::env::var_os(mana_dev::TEST_CITUS_WORKERS).is_none(),
        Err(_) => OWN.get().is_some_and(|own| own.server().admin_url() == admin),
    };
    if !is_shared {
        let url = create_database_on(admin).await;
        prepare(&url).await;
        return url;
    }
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    let template = TEMPLATE.get_or_init(|| prepare_template(admin)).await;
    let name = format!("t_{}", Uuid::new_v4().simple());
    let mut session = PgConnection::connect(admin).await.unwrap();
    execute(&mut session, format!("create database {name} template {template}")).await;
    session.close().await.unwrap();
    url_of(admin, &name)
}

/// Creates the database that is copied, unless it exists: its name contains the build and the number of buckets.
async fn prepare_template(admin: &str) -> String {
    let build = std::fs::metadata(env!("CARGO_BIN_EXE_mana-sync")).unwrap().modified().unwrap();
    let build = build.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let name = format!("template_{build:x}_{}", std::env::var(TEST_BUCKETS).unwrap_or_default());
    let mut session = PgConnection::connect(admin).await.unwrap();
    // Other suites may be about to do the same. The lock ends with the session.
    execute(&mut session, "select pg_advisory_lock(hashtext('template'))".to_owned()).await;
    let exists =
        sqlx::query_scalar::<_, bool>("select exists (select from pg_database where datname = $1)").bind(&name);
    if !exists.fetch_one(&mut session).await.unwrap() {
        let unfinished = format!("{name}_unfinished");
        execute(&mut session, format!("drop database if exists {unfinished} with (force)")).await;
        execute(&mut session, format!("create database {unfinished}")).await;
        prepare(&url_of(admin, &unfinished)).await;
        execute(&mut session, format!("alter database {unfinished} rename to {name}")).await;
    }
    session.close().await.unwrap();
    name
}

/// Creates the schema in a database, and distributes its logs over buckets if tests ask for that.
pub(super) async fn prepare(database_url: &str) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
    let done = command.arg("migrate").env("DATABASE_URL", database_url).output().await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    if let Ok(buckets) = std::env::var(TEST_BUCKETS) {
        distribute(database_url, &buckets).await;
    }
}

/// Distributes the logs of a database over buckets; may be repeated.
pub async fn distribute(database_url: &str, buckets: &str) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
    let done = command.args(["distribute", "--buckets", buckets]).env("DATABASE_URL", database_url).output();
    let done = done.await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A pool that keeps no connections: each test has its own runtime, and a connection ends with the runtime it was
/// opened on.
pub(super) fn open_pool(url: &str) -> PgPool {
    let options = PgPoolOptions::new().max_connections(8).after_release(|_, _| Box::pin(async { Ok(false) }));
    options.connect_lazy(url).unwrap()
}

/// A plain insert as today's services write it: of the todo "plain", by a program that names its actor.
pub fn program_insert(user: &User) -> String {
    format!(
        r#"insert into sync_changes (app_id, table_name, record_id, user_id, op, data, field_meta, client_id, actor)
           values ('todo', 'todos', 'plain', '{}', 'update', '{{"title":"Tea"}}', '{{"title":"2024-01-01T10:05:00.000Z"}}',
                   'runner', '{{"kind":"ai"}}')"#,
        user.id
    )
}

/// Starts a standby of this server in this folder.
pub async fn standby_of(primary: &Postgres, folder: &Path, settings: Vec<(String, String)>) -> Postgres {
    // The PostgreSQL user needs access.
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let data_dir = folder.join("standby");
    let mut copy = Command::new(primary.binaries().program("pg_basebackup"));
    copy.args(["--no-sync", "--write-recovery-conf", "--checkpoint=fast", "-D"]).arg(&data_dir);
    copy.args(["-d", &primary.admin_url()]);
    let copied = tokio::task::spawn_blocking(move || copy.output()).await.unwrap().expect("pg_basebackup is needed");
    assert!(copied.status.success(), "{copied:?}");
    let options = PostgresOptions { data_dir, port: None, settings, environment: vec![], durable: false };
    Postgres::start_with(primary.binaries().clone(), options).await.unwrap()
}

/// Returns SQL that runs a statement on each table of this name: there are several if the logs are distributed. The
/// statement names the table as `%1$s`.
pub fn on_each(table: &str, statement: &str) -> String {
    format!(
        "do $do$
        declare
            one regclass;
        begin
            for one in select oid from pg_class where relname = '{table}' and relkind in ('r', 'p') loop
                execute format('{}', one);
            end loop;
        end $do$",
        statement.replace('\'', "''")
    )
}
