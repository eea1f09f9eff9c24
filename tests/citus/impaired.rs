//! A worker that is there but cannot serve: frozen, so that nothing is refused and everything waits; or read-only. Users of
//! the others notice as little of it as of one that is killed.

use crate::BUCKETS;
use crate::cluster::*;
use crate::operators::run;
use crate::readers::Readers;
use crate::silence::signal;
use crate::support::*;
use crate::writers::{Attempt, Writers, assert_stored};
use mana_dev::{Postgres, citus};
use nix::sys::signal::Signal;
use reqwest::StatusCode;
use serde_json::Value;
use std::time::{Duration, Instant};

/// How long the worker is like this, and how long it is watched before.
const IMPAIRED: Duration = Duration::from_secs(20);
const BEFORE: Duration = Duration::from_secs(5);
const TOKEN: &str = "an-admin-token-for-tests";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Impairment {
    Frozen,
    ReadOnly,
}

impl Impairment {
    async fn begin(self, worker: &Postgres) {
        match self {
            Impairment::Frozen => signal(worker, Signal::SIGSTOP),
            Impairment::ReadOnly => read_only(worker, "on").await,
        }
    }

    async fn end(self, worker: &Postgres) {
        match self {
            Impairment::Frozen => signal(worker, Signal::SIGCONT),
            Impairment::ReadOnly => read_only(worker, "off").await,
        }
    }
}

async fn read_only(worker: &Postgres, value: &str) {
    let url = worker.admin_url();
    sql(&url, format!("alter system set default_transaction_read_only = {value}")).await;
    sql(&url, "select pg_reload_conf()").await;
}

/// The time that 99 of 100 pushes of these buckets took at most, of those that were sent in a period; the longest; and
/// their number.
fn percentile(attempts: &[Attempt], buckets: &[usize], (from, to): (Instant, Instant)) -> (Duration, Duration, usize) {
    let chosen = attempts.iter().filter(|a| buckets.contains(&a.bucket) && a.sent >= from && a.sent < to);
    let mut took: Vec<Duration> = chosen.map(|attempt| attempt.took).collect();
    took.sort();
    let last = took.len() - 1;
    (took[last * 99 / 100], took[last], took.len())
}

async fn costs_only_its_users(impairment: Impairment, straight: bool) {
    let mut citus = Citus::start().await;
    distribute(&citus.url, &BUCKETS.to_string()).await;
    let workers = if straight { citus.worker_urls() } else { String::new() };
    let settings = [
        ("READY_GRACE_MS", "0"),
        ("DATABASE_WORKER_URLS", &*workers),
        ("ADMIN_PORT", "0"),
        ("ADMIN_TOKEN", TOKEN),
        // What waits for the worker gives up within the time that it is frozen.
        ("DATABASE_STATEMENT_TIMEOUT_MS", "5000"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let cluster = Cluster::start_over_with(&citus.url, 3, settings.into()).await;
    let users = users_of_all(&cluster, 3);
    let readers = Readers::start(&cluster, &users).await;
    let writers = Writers::start(&cluster, &users);
    let all: Vec<usize> = (0..usize::from(BUCKETS)).collect();
    writers.each(&all, true).await;
    let port = citus.port_of(0).await;
    let (gone, others) = citus.buckets_at(&port).await;
    let began = Instant::now();
    while began.elapsed() < BEFORE {
        writers.each(&all, true).await;
    }

    let impaired = Instant::now();
    impairment.begin(citus::server_at(&mut citus.servers.workers, &port).unwrap()).await;
    writers.each(&gone, false).await;
    let look = admin(&cluster, &format!("user?id={}", users[3 * others[0]].id)).await;
    assert!(look["problem"].is_null() && look["usage"]["changes"].as_i64().unwrap() > 0, "{look}");
    let other = &users[3 * others[0]].id;
    for command in [&["export", "--user", other][..], &["compact", "--user", other]] {
        let (success, said) = run(&citus.url, command).await;
        assert!(success, "{command:?}: {said}");
    }
    let state = admin(&cluster, "cluster").await;
    assert_eq!(state["replicas"].as_array().unwrap().len(), 3, "presence needs no worker: {state}");
    assert!(state["database"]["bytes"].as_i64().unwrap() > 1 << 20, "{state}");
    while impaired.elapsed() < IMPAIRED {
        writers.each(&others, true).await;
        assert_eq!(cluster.get("/health/ready").await.status, StatusCode::OK);
    }
    let until = Instant::now();
    impairment.end(citus::server_at(&mut citus.servers.workers, &port).unwrap()).await;
    let ended = Instant::now();
    writers.each(&all, true).await;
    println!("{impairment:?}, straight to the workers: {straight}; all are served {:?} afterwards", ended.elapsed());

    let attempts = writers.attempts();
    let before = percentile(&attempts, &others, (began, impaired));
    let during = percentile(&attempts, &others, (impaired, until));
    let (_, longest, count) = percentile(&attempts, &gone, (impaired, until));
    println!("others before: p99, longest, pushes: {before:?}; meanwhile: {during:?}; its users: {longest:?}, {count}");
    let refused = attempts.iter().filter(|attempt| !attempt.stored);
    assert!(refused.into_iter().all(|attempt| gone.contains(&attempt.bucket)), "nobody else was refused");
    // On a busy machine one push or another takes long; if any waited for the worker, it would be all of them.
    assert!(during.0 < before.0 * 4 + Duration::from_millis(200), "others waited");
    let written = writers.stop().await;
    assert_stored(&cluster, &written).await;
    readers.assert_read(&written).await;
}

async fn admin(cluster: &Cluster, path: &str) -> Value {
    let url = format!("{}/api/v1/{path}", cluster.nodes[0].admin_url());
    let reply = cluster.http.get(url).bearer_auth(TOKEN).timeout(TIMEOUT).send().await.unwrap();
    assert_eq!(reply.status(), StatusCode::OK);
    reply.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_frozen_worker_costs_only_its_users_through_the_coordinator() {
    costs_only_its_users(Impairment::Frozen, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_frozen_worker_costs_only_its_users_straight_to_the_workers() {
    costs_only_its_users(Impairment::Frozen, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_read_only_worker_costs_only_its_users_through_the_coordinator() {
    costs_only_its_users(Impairment::ReadOnly, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_read_only_worker_costs_only_its_users_straight_to_the_workers() {
    costs_only_its_users(Impairment::ReadOnly, true).await;
}
