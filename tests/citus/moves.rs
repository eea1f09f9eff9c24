//! A bucket is moved to another worker while everybody writes and reads.

use crate::BUCKETS;
use crate::cluster::*;
use crate::readers::Readers;
use crate::support::*;
use crate::usage::Usage;
use crate::writers::{Writers, assert_stored};
use std::time::{Duration, Instant};

/// Number of rows of another user that the bucket has before it moves; CITUS_MOVED_ROWS for others. They are about
/// 145 MB with their indexes.
fn rows() -> usize {
    std::env::var("CITUS_MOVED_ROWS").map_or(120_000, |rows| rows.parse().unwrap())
}

/// How far the clock of the server to which the bucket moves is behind.
const BEHIND: i32 = 5;
/// Users of each bucket. Together they keep the machine busy.
const USERS: usize = 8;

/// Fills the bucket with a log that nobody else uses, with values that cannot be compressed.
async fn fill(url: &str, user: &User) {
    let (id, rows) = (&user.id, rows());
    let fill = format!(
        "insert into sync_b00.sync_heads (log_id, user_key, user_id, app_id, head, previous, stored_changes, stored_bytes)
         values (sync_log_id('{id}', 'archive'), sync_user_key('{id}'), '{id}', 'archive',
                 timestamptz '2024-01-01' + {rows} * interval '20 microseconds', 'epoch', {rows}, {rows} * 780);
         insert into sync_b00.sync_changes (id, log_id, user_id, app_id, client_id, table_name, record_id, op, data,
                                            field_timestamps, size, created_at)
         select gen_random_uuid(), sync_log_id('{id}', 'archive'), '{id}', 'archive', 'filler', 'old', n::text, 'insert',
                jsonb_build_object('text', (select string_agg(md5(n || '-' || i), '') from generate_series(1, 24) as i)),
                '{{}}', 780, timestamptz '2024-01-01' + n * interval '20 microseconds'
         from generate_series(1, {rows}) as n"
    );
    sql(url, fill).await;
}

/// To the server whose clock is behind: there, positions must continue after those of the other.
async fn a_bucket_moves_while_everybody_writes(straight: bool) {
    let citus = Citus::start_with_clock(-BEHIND).await;
    distribute(&citus.url, &BUCKETS.to_string()).await;
    let (ahead, behind) = (&citus.servers.workers[0], &citus.servers.workers[1]);
    let to = behind.server().port().to_string();
    if citus.port_of(0).await == to {
        move_bucket(&citus.url, 0, ("127.0.0.1", &ahead.server().port().to_string())).await;
    }
    let cluster = citus.replicas(2, straight).await;
    let users = users_of_all(&cluster, USERS);
    fill(&citus.url, &users[0]).await;
    let size = "select sum(shard_size)::int8 from citus_shards where table_name::text like 'sync_b00.%'";
    let size = number(&citus.url, size).await / 1_000_000;
    let readers = Readers::start(&cluster, &users).await;
    let writers = Writers::start(&cluster, &users);
    let all: Vec<usize> = (0..usize::from(BUCKETS)).collect();
    writers.each(&all, true).await;

    let (begun, before) = (Instant::now(), Usage::now(&citus, &cluster));
    // The history has no primary key, which Citus needs to replicate deletes from it meanwhile.
    move_bucket(&citus.url, 0, ("127.0.0.1", &to)).await;
    let (took, used) = (begun.elapsed(), Usage::now(&citus, &cluster).since(&before));
    assert_eq!(citus.port_of(0).await, to);
    writers.each(&all, true).await;

    let attempts = writers.attempts();
    let during = attempts.iter().filter(|attempt| attempt.sent + attempt.took >= begun && attempt.sent <= begun + took);
    let (moved, others): (Vec<_>, Vec<_>) = during.partition(|attempt| attempt.bucket == 0);
    let longest = |of: &[&crate::writers::Attempt]| of.iter().map(|attempt| attempt.took).max().unwrap_or_default();
    println!(
        "straight to the workers: {straight}; moving {size} MB took {took:.1?} while {:.1} cores were busy; pushes of the bucket meanwhile: {}, refused: {}, \
         longest: {:?}; of others: {}, longest: {:?}",
        used.all().as_secs_f64() / took.as_secs_f64(),
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
    readers.assert_read(&written).await;
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
