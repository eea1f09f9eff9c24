//! How replicas are told what they belong to: the one place that names the server's settings here.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{DevError, ReplicaOptions, child};

/// The database of the local cluster.
pub const DATABASE: &str = "mana_sync";
/// The key that its credits service knows the replicas by: the default of `MANA_SERVICE_KEY`.
pub const SERVICE_KEY: &str = "dev-service-key";

/// What all replicas of a cluster share.
#[derive(Clone, Debug)]
pub struct Services {
    /// The database, for LISTEN and migrations as well.
    pub database_url: String,
    /// Where the issuer publishes its keys.
    pub jwks_url: String,
    /// The credits service.
    pub credits_url: String,
    /// The key that the credits service knows the replicas by.
    pub service_key: String,
    /// Where all replicas listen; the kernel spreads the connections.
    pub port: u16,
    /// More settings, or other values for those above.
    pub extra: Vec<(String, String)>,
}

impl Services {
    /// Replica `number` (from 1), which alone listens on `own_port` as well.
    pub fn replica(&self, exe: &Path, number: u16, own_port: u16, log: Option<PathBuf>) -> ReplicaOptions {
        let name = format!("replica {number}");
        let own = [("REPLICA_PORT", own_port.to_string()), ("REPLICA_ID", format!("replica-{number}"))];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        ReplicaOptions {
            exe: exe.to_owned(),
            name,
            env: self.env().into_iter().chain(own).collect(),
            log,
            base_url: format!("http://127.0.0.1:{own_port}"),
        }
    }

    /// The settings without those of one replica.
    pub fn env(&self) -> Vec<(String, String)> {
        let shared = [
            ("DATABASE_URL", self.database_url.clone()),
            ("DATABASE_LISTEN_URL", self.database_url.clone()),
            ("JWKS_URL", self.jwks_url.clone()),
            ("MANA_CREDITS_URL", self.credits_url.clone()),
            ("MANA_SERVICE_KEY", self.service_key.clone()),
            ("BIND_ADDRESS", "127.0.0.1".into()),
            ("PORT", self.port.to_string()),
            ("REUSE_PORT", "true".into()),
            // Nothing stands before these replicas that would have to notice that one is leaving.
            ("DRAIN_DELAY_MS", "0".into()),
            ("DRAIN_WINDOW_MS", "500".into()),
        ];
        shared.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(self.extra.iter().cloned()).collect()
    }

    /// Brings the database up to date: `exe migrate`.
    pub async fn migrate(&self, exe: &Path) -> Result<(), DevError> {
        let mut command = Command::new(exe);
        command.arg("migrate").envs(self.env());
        let program = format!("{} migrate", exe.display());
        let finished = child::run(command).await.map_err(DevError::io(format!("run {program}")))?;
        if finished.status.success() {
            return Ok(());
        }
        Err(DevError::Tool { program, status: finished.status, output: finished.output })
    }
}
