//! Replacing replicas one by one while the load goes on.

use std::process::ExitStatus;
use std::sync::Arc;

use tokio::process::Command;
use tokio::sync::Mutex;

use crate::local::{LocalError, Replica, Surroundings};

/// Why replicas were not replaced.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    #[error("a replica could not be replaced")]
    Local(#[from] LocalError),
    #[error("the command {command:?} could not be run")]
    Run {
        command: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the command {command:?} ended with {status}")]
    Command { command: String, status: ExitStatus },
    #[error("nobody said how to replace the replicas: name a command with --rollout-command, or use --replicas")]
    Unknown,
}

/// Replicas of our own, and what is needed to start more.
pub struct Local {
    pub at: Surroundings,
    pub database: String,
    pub replicas: Mutex<Vec<Replica>>,
}

/// How it is done here.
#[derive(Clone)]
pub enum Rollout {
    Local(Arc<Local>),
    /// Given to `sh -c`; it is done when it ends.
    Command(String),
    Unknown,
}

impl Rollout {
    /// Replaces every replica: the new one is ready before the old one is told to stop, and stands at the same address.
    pub async fn run(&self) -> Result<(), RolloutError> {
        match self {
            Self::Unknown => Err(RolloutError::Unknown),
            Self::Command(command) => run_command(command).await,
            Self::Local(local) => {
                let count = local.replicas.lock().await.len();
                for place in 0..count {
                    let old = {
                        let mut replicas = local.replicas.lock().await;
                        let new = local.at.successor(&replicas[place], &local.database).await?;
                        std::mem::replace(&mut replicas[place], new)
                    };
                    old.stop().await?;
                }
                Ok(())
            }
        }
    }
}

async fn run_command(command: &str) -> Result<(), RolloutError> {
    let ran = Command::new("sh").arg("-c").arg(command).kill_on_drop(true).status().await;
    let status = ran.map_err(|source| RolloutError::Run { command: command.to_owned(), source })?;
    match status.success() {
        true => Ok(()),
        false => Err(RolloutError::Command { command: command.to_owned(), status }),
    }
}
