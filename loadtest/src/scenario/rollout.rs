//! Replaces replicas one by one under load.

use std::process::ExitStatus;
use std::sync::Arc;

use tokio::process::Command;
use tokio::sync::Mutex;

use crate::local::{LocalError, Replica, Surroundings};

/// The reasons why replicas were not replaced.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// A replica could not be replaced.
    #[error("a replica could not be replaced")]
    Local(#[from] LocalError),
    /// The command could not be run.
    #[error("the command {command:?} could not be run")]
    Run {
        /// The command.
        command: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The command failed.
    #[error("the command {command:?} ended with {status}")]
    Command {
        /// The command.
        command: String,
        /// Its exit status.
        status: ExitStatus,
    },
    /// It is not known how to replace the replicas.
    #[error("there is no way to replace the replicas: name a command with --rollout-command, or use --replicas")]
    Unknown,
}

/// Our own replicas, and what is needed to start more.
pub struct Local {
    /// The surroundings of replicas.
    pub at: Surroundings,
    /// The name of their database.
    pub database: String,
    /// The running replicas.
    pub replicas: Mutex<Vec<Replica>>,
}

/// The way replicas are replaced.
#[derive(Clone)]
pub enum Rollout {
    /// Our own replicas, replaced one after the other.
    Local(Arc<Local>),
    /// A command for `sh -c`; the rollout is done when it ends.
    Command(String),
    /// Not known.
    Unknown,
}

impl Rollout {
    /// Replaces every replica: the new one is ready before the old one is told to stop, and has the same address.
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
