//! Slow statements are waited for even if the server does not reveal which sessions are running: nothing is done twice.

use mana_dev::TemporaryPostgres;
use mana_sync::config::Secret;
use mana_sync::db::{Connector, Pool, PoolConfig, Sql};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::path::Path;
use std::time::Duration;

/// Longer than it takes until the server is asked about a statement, and asked again. Counts its executions.
static SLOW: Sql = Sql { text: "select nextval('begun')::int4 from pg_sleep(3.5)", types: &[] };

/// Runs the slow statement as a role that cannot see what its own sessions do.
async fn slow_statement_of(name: &str, make: &str) {
    let postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let mut admin = PgConnection::connect(&postgres.server().admin_url()).await.unwrap();
    let sequence = "create sequence begun; grant usage on sequence begun to public";
    sqlx::raw_sql(AssertSqlSafe(format!("{make}; {sequence}"))).execute(&mut admin).await.unwrap();
    let limit = Duration::from_secs(10);
    let config =
        PoolConfig { size: 4, acquire_timeout: limit, statement_timeout: limit, settings: vec![], prepare: true };
    let url = format!("postgres://{name}@127.0.0.1:{}/postgres?sslmode=disable", postgres.server().port());
    let pool = Pool::new(Connector::new(&Secret::from(&*url), "test").unwrap(), config);
    let begun: i32 = pool.query(&SLOW, &[]).await.unwrap()[0].get(0);
    assert_eq!(begun, 1, "{make}: it was taken for lost");
}

#[tokio::test]
async fn where_the_server_does_not_keep_track_of_sessions_a_slow_statement_is_no_lost_one() {
    slow_statement_of("blind", "create role blind login; alter role blind set track_activities = off").await;
}

/// Like a temporary role: it acts as another role, to which the server does not show the session's activity.
#[tokio::test]
async fn where_a_role_acts_as_another_a_slow_statement_is_no_lost_one() {
    let make =
        "create role acted; create role actor login noinherit in role acted; alter role actor set role = 'acted'";
    slow_statement_of("actor", make).await;
}
