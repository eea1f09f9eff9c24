//! Keeps one replica of the local cluster running until it is time to stop.

use std::{collections::VecDeque, time::Duration};

use tokio::time::{Instant, sleep};

use super::signals::Stop;
use mana_dev::{DevError, Replica, ReplicaOptions, say::note};

const RESTART_AFTER: Duration = Duration::from_secs(1);
const TERMINATE_WITHIN: Duration = Duration::from_secs(10);
/// So many deaths within so long are no accident.
const DEATHS: usize = 5;
const WITHIN: Duration = Duration::from_secs(30);

/// Ends without an error when it was asked to and the replica is gone.
pub async fn supervise(mut replica: Replica, options: ReplicaOptions, stop: Stop) -> Result<(), DevError> {
    let mut deaths = VecDeque::new();
    loop {
        let status = tokio::select! {
            status = replica.ended() => status,
            () = stop.soft.cancelled() => {
                end(&replica, &stop).await;
                return Ok(());
            }
        };
        if stop.soft.is_cancelled() {
            return Ok(());
        }
        deaths.push_back(Instant::now());
        deaths.retain(|death| death.elapsed() < WITHIN);
        if deaths.len() >= DEATHS {
            return Err(DevError::KeepsDying { who: options.name, times: DEATHS, within: WITHIN });
        }
        note(format_args!("[{}] ended ({status}); starting it again", options.name));
        tokio::select! {
            () = sleep(RESTART_AFTER) => {}
            () = stop.soft.cancelled() => return Ok(()),
        }
        replica = Replica::spawn(options.clone())?;
    }
}

async fn end(replica: &Replica, stop: &Stop) {
    let stubborn = tokio::select! {
        stopped = replica.terminate(TERMINATE_WITHIN) => stopped.err(),
        () = stop.hard.cancelled() => {
            replica.kill().await;
            None
        }
    };
    if let Some(error) = stubborn {
        note(format_args!("{error}: killing it"));
        replica.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_replica_that_keeps_dying_is_given_up() {
        let options = ReplicaOptions {
            exe: "/bin/false".into(),
            name: "replica 1".into(),
            env: Vec::new(),
            log: None,
            base_url: "http://127.0.0.1:1".into(),
        };
        let replica = Replica::spawn(options.clone()).unwrap();
        let outcome = supervise(replica, options, Stop::default()).await;
        assert!(matches!(outcome, Err(DevError::KeepsDying { .. })), "{outcome:?}");
    }
}
