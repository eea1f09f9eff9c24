//! Databases of tests: each of a test's own, and the role that replicas have there.

use super::*;

/// Set to `replica`, it has the replicas of every cluster run as the role of `deploy/grants.sql`.
const TEST_ROLE: &str = "TEST_ROLE";
const GRANTS: &str = include_str!("../../deploy/grants.sql");
/// The role, made for all databases of a server at once, by one of the tests that need it.
const MAKE_ROLE: &str = "
do $$ begin
    create role mana_sync_replica login;
exception when duplicate_object or unique_violation then
end $$";

/// The same URL, as the role of replicas.
pub fn as_replica(url: &str) -> String {
    url.replace("postgres://postgres@", "postgres://mana_sync_replica@")
}

/// What replicas are given of these settings: with their role, if they are to have it.
pub(super) fn with_role(settings: Vec<(String, String)>) -> Vec<(String, String)> {
    let in_role = |(name, value): (String, String)| {
        let value = if name.starts_with("DATABASE_") { as_replica(&value) } else { value };
        (name, value)
    };
    if is_least_privileged() { settings.into_iter().map(in_role).collect() } else { settings }
}

/// Whether replicas run as the role of `deploy/grants.sql`.
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

/// The URL of the server that tests make their databases on: the one `make test` started, or our own.
pub(super) async fn admin_url() -> String {
    static OWN: OnceCell<TemporaryPostgres> = OnceCell::const_new();
    if let Ok(url) = std::env::var(TEST_DATABASE_URL) {
        return url;
    }
    let own =
        OWN.get_or_init(|| outlive(|| async { TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap() }));
    own.await.server().admin_url()
}

/// Makes an empty database and says where it is.
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
    let pool = PgPool::connect(admin).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}"))).execute(&pool).await.unwrap();
    pool.close().await;
    let mut url: url::Url = admin.parse().unwrap();
    url.set_path(&name);
    url.to_string()
}

/// Distributes the logs of a database over buckets; again, if they are.
pub async fn distribute(database_url: &str, buckets: &str) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
    let done = command.args(["distribute", "--buckets", buckets]).env("DATABASE_URL", database_url).output();
    let done = done.await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A pool that keeps no connection: each test has a runtime of its own, and a connection goes with the runtime
/// that it was opened on.
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
