//! A coordinator that falls silent while buckets or workers change: pushes that are acknowledged meanwhile are where
//! everybody looks afterwards.

use crate::BUCKETS;
use crate::cluster::*;
use crate::support::proxy::{Mode, Proxy};
use crate::support::*;
use crate::writers::{Writers, assert_stored};
use mana_dev::{Postgres, Shutdown, citus};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// How long the coordinator is frozen: longer than a push waits for a lock, or for an answer that is not overdue.
const FROZEN: Duration = Duration::from_secs(7);

/// Sends a signal to all processes of a server.
pub fn signal(server: &Postgres, signal: Signal) {
    let main = server.pid();
    let children = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children")).unwrap();
    let all = [main].into_iter().chain(children.split_whitespace().map(|child| child.parse().unwrap()));
    for process in all {
        // A process may have ended meanwhile.
        let _ = kill(Pid::from_raw(process as i32), signal);
    }
}

/// Only replicas lose sight of it; the servers still reach each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_bucket_moves_while_replicas_do_not_reach_the_coordinator() {
    let citus = Citus::start().await;
    distribute(&citus.url, &BUCKETS.to_string()).await;
    let coordinator = citus.servers.coordinator.server().port();
    let proxy = Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, coordinator))).await;
    let cluster = citus.replicas_at(&proxy.url(&citus.url), 2, &citus.worker_urls()).await;
    let users = users_of_all(&cluster, 2);
    let all: Vec<usize> = (0..usize::from(BUCKETS)).collect();
    let writers = Writers::start(&cluster, &users);
    for url in citus.worker_urls().split(' ') {
        eventually("it is used", async || connected(url).await > 0).await;
    }
    proxy.set(Mode::Swallow);
    let to = citus.other_port(0).await;
    move_bucket(&citus.url, 0, ("127.0.0.1", &to)).await;
    writers.each(&all, true).await;
    proxy.set(Mode::Pass);
    proxy.cut_silent();
    writers.each(&all, true).await;
    eventually("they are ready again", async || cluster.get("/health/ready").await.status.is_success()).await;
    let refused = writers.attempts().iter().filter(|attempt| !attempt.stored).count();
    println!("{refused} of {} pushes were refused", writers.attempts().len());
    assert_stored(&cluster, &writers.stop().await).await;
}

/// It stops wherever it is in the move, with the locks that it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn the_coordinator_freezes_while_it_moves_a_bucket() {
    let citus = Citus::start().await;
    distribute(&citus.url, &BUCKETS.to_string()).await;
    let cluster = citus.replicas(2, true).await;
    let users = users_of_all(&cluster, 2);
    let all: Vec<usize> = (0..usize::from(BUCKETS)).collect();
    let writers = Writers::start(&cluster, &users);
    for url in citus.worker_urls().split(' ') {
        eventually("it is used", async || connected(url).await > 0).await;
    }
    for after in [100, 700, 1_300, 1_900, 2_500] {
        writers.each(&all, true).await;
        let (from, before) = (citus.other_port(0).await, writers.attempts().len());
        let freezing = async {
            tokio::time::sleep(Duration::from_millis(after)).await;
            signal(citus.servers.coordinator.server(), Signal::SIGSTOP);
            tokio::time::sleep(FROZEN).await;
            signal(citus.servers.coordinator.server(), Signal::SIGCONT);
        };
        tokio::join!(move_bucket(&citus.url, 0, ("127.0.0.1", &from)), freezing);
        let attempts = writers.attempts();
        let during = &attempts[before..];
        for (whose, of_moved) in [("of the bucket", true), ("of others", false)] {
            let theirs = || during.iter().filter(|attempt| (attempt.bucket == 0) == of_moved);
            let slow = theirs().filter(|attempt| attempt.took > Duration::from_secs(1)).count();
            let refused = theirs().filter(|attempt| !attempt.stored).count();
            let longest = theirs().map(|attempt| attempt.took).max().unwrap();
            println!(
                "frozen after {after} ms, {whose}: {} pushes, {refused} refused, {slow} took more than a second, the longest {longest:?}",
                theirs().count(),
            );
        }
        assert_eq!(citus.port_of(0).await, from, "it is moved in the end");
    }
    writers.each(&all, true).await;
    assert_stored(&cluster, &writers.stop().await).await;
}

/// A worker is replaced by its standby while replicas do not reach the coordinator, and cannot know of it. As
/// docs/buckets.md asks, the old one does not accept writes any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_worker_is_replaced_while_replicas_do_not_reach_the_coordinator() {
    let mut citus = Citus::start().await;
    distribute(&citus.url, &BUCKETS.to_string()).await;
    let coordinator = citus.servers.coordinator.server().port();
    let proxy = Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, coordinator))).await;
    let cluster = citus.replicas_at(&proxy.url(&citus.url), 2, &citus.worker_urls()).await;
    let users = users_of_all(&cluster, 2);
    let port = citus.port_of(0).await;
    let (gone, others) = citus.buckets_at(&port).await;
    let writers = Writers::start(&cluster, &users);
    for url in citus.worker_urls().split(' ') {
        eventually("it is used", async || connected(url).await > 0).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let old = citus::server_at(&mut citus.servers.workers, &port).unwrap();
    let settings = citus::settings().into_iter().chain([("hot_standby".to_owned(), "on".to_owned())]).collect();
    let new = standby_of(old, folder.path(), settings).await;
    proxy.set(Mode::Swallow);
    // A server that shuts down in order sends its standby everything first.
    old.end(Shutdown::Fast).await.unwrap();
    writers.each(&gone, false).await;
    sql(&new.admin_url(), "select pg_promote()").await;
    let node = format!("(select nodeid from pg_dist_node where nodeport = {port})");
    sql(&citus.url, format!("select citus_update_node({node}, '127.0.0.1', {}, true)", new.port())).await;
    writers.each(&others, true).await;
    proxy.set(Mode::Pass);
    proxy.cut_silent();
    let all: Vec<usize> = (0..usize::from(BUCKETS)).collect();
    writers.each(&all, true).await;
    assert_stored(&cluster, &writers.stop().await).await;
}
