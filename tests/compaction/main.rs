//! Trimming a log in place: what stays, what nobody notices, and what operators can query.

#[path = "../support/mod.rs"]
mod support;

mod alone;
mod background;
mod commands;
mod crash;
mod erase;
mod fold;
mod fresh;
mod kept;
mod output;
mod random;
mod retry;
mod rule;

use mana_sync::config::{CompactionConfig, DatabaseConfig, Secret};
use mana_sync::store::compaction::{Compactor, Progress};
use std::process::Output;
use std::time::Duration;
use support::*;

const APP: &str = "todo";
const TABLE: &str = "tasks";
/// Trims regardless of age.
const NOW: &[(&str, &str)] = &[("COMPACT_AFTER_MS", "0")];

/// Runs a command of the binary on the cluster's database.
async fn command(cluster: &Cluster, words: &[&str], settings: &[(&str, &str)]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
    command.args(words).env("DATABASE_URL", &cluster.database_url).envs(settings.iter().copied());
    command.stdin(std::process::Stdio::null()).kill_on_drop(true).output().await.unwrap()
}

/// The same for a command that must succeed. Returns its output.
async fn said(cluster: &Cluster, words: &[&str], settings: &[(&str, &str)]) -> String {
    let output = command(cluster, words, settings).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Trims a user's logs in this process, as the command would.
async fn trim(cluster: &Cluster, user: &User, after: Duration, history_days: u32) -> Progress {
    let database = DatabaseConfig { database_url: Secret::from(&*cluster.database_url), database_listen_url: None };
    let config = CompactionConfig { compact_after_ms: after, history_days, purge_deleted_after_ms: Duration::ZERO };
    let mut compactor = Compactor::of_command(&database, &config).await.unwrap();
    compactor.trim_all(Some(&user.id), None, |_| {}).await.unwrap()
}

/// The process that trims.
#[derive(Clone, Copy, Debug)]
pub enum Trimmer {
    /// This process.
    Here,
    /// A process with this failpoint.
    Failing(&'static str),
}

impl Trimmer {
    pub async fn trim(self, cluster: &Cluster, user: &User, after: Duration) {
        match self {
            Trimmer::Here => drop(trim(cluster, user, after, 30).await),
            Trimmer::Failing(failpoint) => {
                let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
                let millis = after.as_millis().max(1).to_string();
                command.args(["compact", "--user", &user.id]).env_clear().env("DATABASE_URL", &cluster.database_url);
                command.env("COMPACT_AFTER_MS", millis).env("MANA_SYNC_FAILPOINT", failpoint);
                let output = command.output().await.unwrap();
                assert!(output.status.success(), "{output:?}");
            }
        }
    }
}

/// The stored rows of a user in log order: record, operation, and the remaining fields.
async fn rows(cluster: &Cluster, user: &User) -> Vec<(String, String, Vec<String>)> {
    let rows = sqlx::query_as(
        "select record_id, op,
                case op when 'delete' then array['deletedAt'] else array(select jsonb_object_keys(data) order by 1) end
         from sync_changes where user_id = $1 order by created_at",
    );
    rows.bind(&user.id).fetch_all(&cluster.pool).await.unwrap()
}

/// The number of history rows of a user's logs.
async fn history(cluster: &Cluster, user: &User) -> i64 {
    let count = "select count(*) from sync_history t join sync_heads h using (log_id) where h.user_id = $1";
    sqlx::query_scalar(count).bind(&user.id).fetch_one(&cluster.pool).await.unwrap()
}

fn row(record: &str, op: &str, fields: &[&str]) -> (String, String, Vec<String>) {
    (record.to_owned(), op.to_owned(), fields.iter().map(|field| (*field).to_owned()).collect())
}

/// A stamp this many milliseconds after a fixed time.
fn at(millis: i64) -> String {
    iso(1_704_103_200_000 + millis)
}
