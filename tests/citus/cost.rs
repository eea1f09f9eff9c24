//! What a push costs, by process: in batches and alone.
//!
//! `TEST_MANA_SYNC` names the program of the replica: one that was built for release.

use crate::BUCKETS;
use crate::cluster::*;
use crate::support::*;
use crate::usage::Usage;
use crate::writers::{Writers, assert_stored};
use std::time::{Duration, Instant};

/// How long each is measured; CITUS_COST_SECONDS for longer.
fn period() -> Duration {
    let seconds = std::env::var("CITUS_COST_SECONDS").map_or(5, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

/// The calls of the function that stores pushes, on all workers.
async fn statements(citus: &Citus) -> i64 {
    let mut all = 0;
    for url in citus.worker_urls().split(' ') {
        let calls =
            "select coalesce(sum(calls), 0)::int8 from pg_stat_user_functions where funcname = 'sync_push_many'";
        all += number(url, calls).await;
    }
    all
}

/// Has this many users of one bucket push all the time. Prints, and returns, the processor time of a push.
async fn measure(citus: &Citus, cluster: &Cluster, name: &str, clients: usize) -> Duration {
    let users: Vec<User> = (0..).map(|_| cluster.user()).filter(|user| bucket_of(user) == 0).take(clients).collect();
    let writers = Writers::start(cluster, &users);
    // Each user has a log from here on.
    writers.each(&[0], true).await;
    eventually("everybody has pushed", async || writers.attempts().len() >= 3 * clients).await;
    let (begun, before, calls) = (Instant::now(), Usage::now(citus, cluster), statements(citus).await);
    let pushes = writers.attempts().len();
    tokio::time::sleep(period()).await;
    let (used, pushes) = (Usage::now(citus, cluster).since(&before), writers.attempts().len() - pushes);
    let took = begun.elapsed();
    assert_stored(cluster, &writers.stop().await).await;
    // What is used without pushes is not theirs.
    let (begun, before) = (Instant::now(), Usage::now(citus, cluster));
    tokio::time::sleep(period()).await;
    let used = used.without(&Usage::now(citus, cluster).since(&before).per(begun.elapsed()), took);
    // A session reports its calls when it is idle, or every second.
    let batch = pushes as f64 / (statements(citus).await - calls).max(1) as f64;
    let port = citus.port_of(0).await;
    let each = |time: Duration| time / u32::try_from(pushes).unwrap();
    let micros = |time: Duration| each(time).as_micros();
    let mut at = [0; 2];
    for (worker, time) in citus.servers.workers.iter().zip(used.workers) {
        at[usize::from(worker.server().port().to_string() != port)] = micros(time);
    }
    println!(
        "{name}, {clients} clients: {pushes} pushes in {took:.1?}, {batch:.1} in a statement; each {} µs at the \
         coordinator, {} µs at the worker of the bucket, {} µs at the other, {} µs at the replica",
        micros(used.coordinator),
        at[0],
        at[1],
        micros(used.replicas)
    );
    each(used.all())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_push_in_a_batch_costs_a_fraction_of_one_alone() {
    let citus = Citus::start().await;
    for url in citus.worker_urls().split(' ') {
        sql(url, "alter system set track_functions = 'pl'").await;
        sql(url, "select pg_reload_conf()").await;
    }
    distribute(&citus.url, &BUCKETS.to_string()).await;
    for (name, straight) in [("straight to the worker", true), ("through the coordinator", false)] {
        let cluster = citus.replicas(1, straight).await;
        if straight {
            let urls = citus.worker_urls();
            let port = citus.port_of(0).await;
            let url = urls.split(' ').find(|url| mana_dev::citus::port(url) == port).unwrap();
            let writers = Writers::start(&cluster, &users_of_all(&cluster, 1));
            eventually("it is used", async || connected(url).await > 0).await;
            writers.stop().await;
        }
        let together = measure(&citus, &cluster, name, 128).await;
        let alone = measure(&citus, &cluster, name, 1).await;
        assert!(together * 3 < alone, "{name}: {together:?} in batches, {alone:?} alone");
    }
}
