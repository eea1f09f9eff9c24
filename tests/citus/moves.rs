//! A bucket is moved to another worker while everybody writes and reads.

use crate::BUCKETS;
use crate::cluster::*;
use crate::support::live::*;
use crate::support::*;
use crate::writers::{Writers, assert_stored};
use std::time::{Duration, Instant};

/// Number of rows, of another user, that the bucket has before it moves; CITUS_MOVED_ROWS for more.
fn rows() -> usize {
    std::env::var("CITUS_MOVED_ROWS").map_or(20_000, |rows| rows.parse().unwrap())
}

/// Fills the bucket through the function that otherwise stores pushes.
async fn fill(url: &str, user: &User) {
    let fill = format!(
        "set client_min_messages = warning; set mana_sync.notify = off;
         select sync_push('{}', 'archive', 'filler', (
             select jsonb_agg(jsonb_build_object('table', 'old', 'id', n || '-' || r, 'op', 'insert',
                              'data', jsonb_build_object('text', repeat(md5(n::text), 20))))
             from generate_series(1, 5000) as r))
         from generate_series(1, {}) as n",
        user.id,
        rows().div_ceil(5000)
    );
    sql(url, fill).await;
}

async fn a_bucket_moves_while_everybody_writes(straight: bool) {
    let citus = Citus::start().await;
    distribute(&citus.url, &BUCKETS.to_string()).await;
    let cluster = citus.replicas(2, straight).await;
    let users = users_of_all(&cluster, 4);
    fill(&citus.url, &users[0]).await;
    let mut stream = Events::open(stream_of(&cluster, 1, &users[0], "collections=todos")).await;
    stream.backlog().await;
    let writers = Writers::start(&cluster, &users);
    let all: Vec<usize> = (0..usize::from(BUCKETS)).collect();
    writers.each(&all, true).await;

    let to = citus.other_port(0).await;
    let begun = Instant::now();
    // The history has no primary key, which Citus needs to replicate deletes from it meanwhile.
    move_bucket(&citus.url, 0, ("127.0.0.1", &to)).await;
    let took = begun.elapsed();
    assert_eq!(citus.port_of(0).await, to);
    writers.each(&all, true).await;

    let attempts = writers.attempts();
    let during = attempts.iter().filter(|attempt| attempt.sent + attempt.took >= begun && attempt.sent <= begun + took);
    let (moved, others): (Vec<_>, Vec<_>) = during.partition(|attempt| attempt.bucket == 0);
    let longest = |of: &[&crate::writers::Attempt]| of.iter().map(|attempt| attempt.took).max().unwrap_or_default();
    println!(
        "straight to the workers: {straight}; moving took {took:?}; pushes of the bucket meanwhile: {}, refused: {}, \
         longest: {:?}; of others: {}, longest: {:?}",
        moved.len(),
        moved.iter().filter(|attempt| !attempt.stored).count(),
        longest(&moved),
        others.len(),
        longest(&others),
    );
    assert!(others.iter().all(|attempt| attempt.stored), "nobody else was refused");
    assert!(longest(&moved) < Duration::from_secs(10), "it never stood still for long");
    let written = writers.stop().await;
    assert_stored(&cluster, &written).await;
    let (_, acknowledged) = written.iter().find(|(user, _)| user.id == users[0].id).unwrap();
    assert_eq!(&stream.until(acknowledged.last().unwrap()).await, acknowledged, "the reader missed nothing");
    let heads = "select count(*) from (
        select created_at <= lag(created_at) over (partition by log_id order by record_id) as falls
        from sync_b00.sync_changes where table_name = 'todos') c where falls";
    assert_eq!(number(&citus.url, heads).await, 0, "positions ascend");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_bucket_moves_while_everybody_writes_through_the_coordinator() {
    a_bucket_moves_while_everybody_writes(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_bucket_moves_while_everybody_writes_straight_to_the_workers() {
    a_bucket_moves_while_everybody_writes(true).await;
}
