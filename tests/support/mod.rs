//! Shared by the tests of the whole server: a cluster of real processes over a real PostgreSQL, and a plain HTTP client
//! for it.
//!
//! Everything that must outlive a single test runs on a runtime of its own.

#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of this")]

mod cluster;
pub mod cut;
mod database;
mod exchange;
pub mod live;
pub mod proxy;
pub mod silent;

pub use cluster::*;
pub use database::*;
pub use exchange::*;

use mana_dev::{Credits, Issuer, Replica, ReplicaOptions, Services, SigningKey, TEST_DATABASE_URL, TemporaryPostgres};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use uuid::Uuid;

/// Maximum time for anything that must happen.
pub const TIMEOUT: Duration = Duration::from_secs(90);
/// How long [`eventually`] waits: it says that something happens, not how soon, and several suites share the machine.
pub const EVENTUALLY: Duration = Duration::from_secs(60);
pub const SERVICE_KEY: &str = "test-service-key";
/// If set, replicas run this program, one that was built for release, perhaps, instead of the one built with the tests.
pub const TEST_MANA_SYNC: &str = "TEST_MANA_SYNC";
/// If set, every test cluster has its logs in this many buckets.
pub const TEST_BUCKETS: &str = "TEST_BUCKETS";
/// The cursor at which an initial sync begins.
pub const BEGINNING: &str = "1970-01-01T00:00:00.000Z";

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())
}

/// Runs a future on the runtime that outlives the test.
async fn outlive<T: Send + 'static, W: Future<Output = T>>(work: impl FnOnce() -> W + Send + 'static) -> T {
    tokio::task::spawn_blocking(|| runtime().block_on(work())).await.unwrap()
}

/// The URL of an issuer's key, for replicas that a test starts by itself: without one, none becomes ready.
pub fn jwks_url() -> String {
    static ISSUER: OnceLock<Issuer> = OnceLock::new();
    let start = || runtime().block_on(Issuer::start(anywhere(), &[SigningKey::generate().unwrap()])).unwrap();
    // On a thread of its own: this one may be inside a test's runtime.
    ISSUER.get_or_init(|| std::thread::spawn(start).join().unwrap()).jwks_url()
}

fn anywhere() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A caller.
#[derive(Clone, Debug)]
pub struct User {
    pub id: String,
    pub token: String,
}

/// Sends a request; returns status and JSON body. A body that is not JSON fails the test.
pub async fn answer(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status} with {text:?}: {error}"));
    (status, json)
}

/// The cluster of three replicas shared by the tests of one binary, each test with users of its own.
pub async fn shared() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED.get_or_init(|| Cluster::start(3)).await
}

/// Repeats the check until it is true; fails the test with `what` if it never is.
pub async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let asked = mana_dev::wait::until(EVENTUALLY, async || ask().await.then_some(())).await;
    assert!(asked.is_some(), "not within {EVENTUALLY:?}: {what}");
}

/// Waits for something that must happen within `limit`, as long as a busy machine may take for it; see [`assert_soon`].
pub async fn soon<T>(cluster: &Cluster, limit: Duration, what: &str, happening: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let happened = tokio::time::timeout(TIMEOUT, happening).await;
    let happened = happened.unwrap_or_else(|_| panic!("not within {TIMEOUT:?}: {what}"));
    assert_soon(cluster, limit, what, begun.elapsed()).await;
    happened
}

/// Asserts that something took less than `limit`, or no more beyond that than a busy machine may take; see [`slack`].
pub async fn assert_soon(cluster: &Cluster, limit: Duration, what: &str, took: Duration) {
    if took >= limit {
        let limit = limit + slack(cluster).await;
        assert!(took < limit, "{what}: only after {took:?}, and not within {limit:?}");
    }
}

/// How much longer something may take because this machine is busy with other things: what twenty connections to the
/// database take that are as slow as the slowest of twenty is now. That is a fraction of a second if it is idle.
pub async fn slack(cluster: &Cluster) -> Duration {
    const CONNECTIONS: u32 = 20;
    let mut slowest = Duration::ZERO;
    for _ in 0..CONNECTIONS {
        let begun = Instant::now();
        // The time counts, even if the test has stopped the database.
        let _ = sqlx::query("select 1").execute(&cluster.pool).await;
        slowest = slowest.max(begun.elapsed());
    }
    slowest * CONNECTIONS
}

/// An update of one field.
pub fn update(table: &str, id: &str, field: &str, value: impl Into<Value>, at: &str) -> Value {
    serde_json::json!({ "table": table, "id": id, "op": "update", "fields": { field: { "value": value.into(), "updatedAt": at } } })
}

/// An insert whose fields were written at `at`.
pub fn insert(table: &str, id: &str, title: &str, at: &str) -> Value {
    serde_json::json!({ "table": table, "id": id, "op": "insert", "data": { "title": title, "createdAt": at, "updatedAt": at } })
}

/// Returns the ids of an answer's changes, in order.
pub fn ids(answer: &Value) -> Vec<&str> {
    answer["serverChanges"].as_array().unwrap().iter().map(|change| change["id"].as_str().unwrap()).collect()
}
