//! Keeps a replica of the local cluster running until it is time to stop.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use super::signals::Stop;
use mana_dev::{DevError, Replica, ReplicaOptions, say::note};

const RESTART_AFTER: Duration = Duration::from_secs(1);
const TERMINATE_WITHIN: Duration = Duration::from_secs(10);
/// How long a replica stays down after somebody killed it to see what happens.
const KILLED_FOR: Duration = Duration::from_secs(5);
/// This many deaths within this time are no accident.
const DEATHS: usize = 5;
const WITHIN: Duration = Duration::from_secs(30);

/// A replica's state, for everything but its supervisor.
#[derive(Debug, Default)]
pub struct Supervised {
    runs: AtomicBool,
    kill: Notify,
}

impl Supervised {
    /// True if its process exists; it may not be ready yet.
    pub fn runs(&self) -> bool {
        self.runs.load(Ordering::Relaxed)
    }

    /// Kills it; it is restarted after a few seconds. Does nothing if it isn't running.
    pub fn kill(&self) {
        self.kill.notify_waiters();
    }
}

/// Ends without an error once it was asked to and the replica is gone.
pub async fn supervise(
    mut replica: Replica,
    options: ReplicaOptions,
    stop: Stop,
    seen: &Supervised,
) -> Result<(), DevError> {
    let mut deaths = VecDeque::new();
    loop {
        seen.runs.store(true, Ordering::Relaxed);
        let ended = tokio::select! {
            status = replica.ended() => Some(status),
            () = seen.kill.notified() => {
                replica.kill().await;
                None
            }
            () = stop.soft.cancelled() => {
                end(&replica, &stop).await;
                return Ok(());
            }
        };
        seen.runs.store(false, Ordering::Relaxed);
        if stop.soft.is_cancelled() {
            return Ok(());
        }
        let away = match ended {
            Some(status) => {
                deaths.push_back(Instant::now());
                deaths.retain(|death| death.elapsed() < WITHIN);
                if deaths.len() >= DEATHS {
                    return Err(DevError::KeepsDying { who: options.name, times: DEATHS, within: WITHIN });
                }
                note(format_args!("[{}] ended ({status}); restarting it", options.name));
                RESTART_AFTER
            }
            None => {
                note(format_args!("[{}] was killed on request; restarting it in {KILLED_FOR:?}", options.name));
                KILLED_FOR
            }
        };
        tokio::select! {
            () = sleep(away) => {}
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
        let outcome = supervise(replica, options, Stop::default(), &Supervised::default()).await;
        assert!(matches!(outcome, Err(DevError::KeepsDying { .. })), "{outcome:?}");
    }
}
