//! A pooler's refusals are reported with advice on how to fix them.

use mana_dev::TemporaryPostgres;
use mana_sync::config::Secret;
use mana_sync::db::{Connector, Pool, PoolConfig, Sql};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Raises the error that PgBouncer raises in statement mode, with the same code.
static IN_STATEMENT_MODE: Sql =
    Sql { text: "select sync_refuse('transaction blocks not allowed in statement pooling mode')", types: &[] };
const REFUSE: &str = "
    create function sync_refuse(what text) returns int language plpgsql as $$
    begin
        raise exception using errcode = '08P01', message = what;
    end $$";

/// Refuses the first connection, as PgBouncer refuses startup parameters that it does not track.
async fn refuse_once(listener: TcpListener) {
    let (mut client, _) = listener.accept().await.unwrap();
    let length = client.read_u32().await.unwrap();
    let mut startup = vec![0; length as usize - 4];
    client.read_exact(&mut startup).await.unwrap();
    let fields = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: options\0\0";
    client.write_u8(b'E').await.unwrap();
    client.write_u32(fields.len() as u32 + 4).await.unwrap();
    client.write_all(fields).await.unwrap();
    client.shutdown().await.unwrap();
}

#[tokio::test]
async fn one_that_refuses_the_settings_of_a_session_needs_other_settings_itself() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://somebody@{}/db?sslmode=disable", listener.local_addr().unwrap());
    let connector = Connector::new(&Secret::from(&*url), "test").unwrap();
    let (opened, ()) = tokio::join!(connector.open(), refuse_once(listener));
    let sentence = opened.err().unwrap().sentence();
    assert!(sentence.contains("pooler") && sentence.contains("set DATABASE_PREPARE=false"), "{sentence}");
}

#[tokio::test]
async fn one_that_shares_connections_between_statements_is_of_no_use() {
    let postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let limit = Duration::from_secs(5);
    let config =
        PoolConfig { size: 1, acquire_timeout: limit, statement_timeout: limit, settings: vec![], prepare: false };
    let pool = Pool::new(Connector::new(&Secret::from(&*postgres.server().admin_url()), "test").unwrap(), config);
    let session = Connector::new(&Secret::from(&*postgres.server().admin_url()), "test").unwrap().open().await.unwrap();
    session.batch_execute(REFUSE).await.unwrap();
    let sentence = pool.query(&IN_STATEMENT_MODE, &[]).await.unwrap_err().sentence();
    assert!(sentence.contains("pool_mode must be transaction or session"), "{sentence}");
}
