//! Sockets of a replica that was itself suspended.

use crate::support::live::*;
use crate::support::*;
use nix::sys::signal::Signal;
use std::time::Duration;

#[tokio::test]
async fn a_replica_that_was_frozen_does_not_take_its_clients_for_silent() {
    const PING: Duration = Duration::from_secs(2);
    let cluster = Cluster::start_with(1, &[("WS_PING_MS", "2000")]).await;
    let user = cluster.user();
    let mut quiet = Vec::new();
    for _ in 0..8 {
        quiet.push(socket(&cluster, 0, &user, None, None).await);
    }
    let process = &cluster.nodes[0].process;
    process.signal(Signal::SIGSTOP);
    // No pings are sent during this time, so nobody answers.
    tokio::time::sleep(PING * 4).await;
    process.signal(Signal::SIGCONT);
    store(&cluster, 0, &user, "phone", &[("tasks", "a")]).await;
    for socket in &mut quiet {
        assert_eq!(woken(socket).await, (APP.to_owned(), vec!["tasks".to_owned()]));
    }
    assert_eq!(metric(&cluster, 0, r#"mana_sync_session_closes_total{reason="unresponsive"}"#).await, 0.0);
}
