//! Configures replicas: the only place here that names the server's settings.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{DevError, ReplicaOptions, child};

/// The database of the local cluster.
pub const DATABASE: &str = "mana_sync";
/// The key that identifies the replicas to its credits service: the default of `MANA_SERVICE_KEY`.
pub const SERVICE_KEY: &str = "dev-service-key";

/// The settings shared by all replicas of a cluster.
#[derive(Clone, Debug)]
pub struct Services {
    /// The database, for LISTEN and migrations as well.
    pub database_url: String,
    /// The URL of the issuer's keys.
    pub jwks_url: String,
    /// The credits service.
    pub credits_url: String,
    /// The key that identifies the replicas to the credits service.
    pub service_key: String,
    /// The port that all replicas listen on; the kernel spreads the connections.
    pub port: u16,
    /// Additional settings; they override those above.
    pub extra: Vec<(String, String)>,
}

impl Services {
    /// Returns the options of replica `number` (from 1), which alone also listens on `own_port`.
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

    /// Returns the settings without those of a single replica.
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
            // There is no balancer that would have to notice that a replica is leaving.
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
