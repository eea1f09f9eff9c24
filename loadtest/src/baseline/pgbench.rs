//! Runs pgbench with a push as its own statement: what this PostgreSQL can do for pushes with nothing in front of it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::time::Duration;

use tokio::process::Command;

/// One push with the minimum that a statement can do for it: take the head of one log, store the rows.
///
/// The server's own statement (`store/push_statements.rs`) writes the very same columns, but stores many pushes at once
/// and also looks for retries; compared with that, the server would look better than compared with this.
pub const PUSH: &str = include_str!("../../baseline/push.sql");

/// The planner settings of the server's own connections (`store/connections.rs`): planning must not slow the baseline
/// down.
const PLANS: &str = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c jit=off";

/// The reasons why pgbench gave no result.
#[derive(Debug, thiserror::Error)]
pub enum PgbenchError {
    #[error("cannot run {}", program.display())]
    Run {
        program: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("pgbench ended with {status}: {output}")]
    Failed { status: ExitStatus, output: String },
    #[error("pgbench did not print its rate: {output}")]
    Unreadable { output: String },
    #[error("cannot write the script {}", path.display())]
    Script {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// A run of pgbench.
#[derive(Clone, Debug)]
pub struct Pgbench<'a> {
    /// The folder with PostgreSQL's programs.
    pub pg_bin: &'a Path,
    pub database_url: &'a str,
    pub clients: usize,
    /// The folder for the script.
    pub folder: &'a Path,
}

impl Pgbench<'_> {
    /// Pushes of this many changes for this long; returns transactions per second. Each client has `users` logs of its
    /// own.
    pub async fn pushes(&self, changes: usize, users: usize, length: Duration) -> Result<f64, PgbenchError> {
        let script = self.folder.join(format!("push-{changes}.pgbench"));
        let write = |source| PgbenchError::Script { path: script.clone(), source };
        std::fs::write(&script, push_script(changes, users)).map_err(write)?;
        let program = self.pg_bin.join("pgbench");
        let output = Command::new(&program)
            .args(["--no-vacuum", "--protocol=prepared", "--jobs=1"])
            .arg(format!("--client={}", self.clients))
            .arg(format!("--time={}", length.as_secs().max(1)))
            .arg("--file")
            .arg(&script)
            .arg(self.database_url)
            .env("PGOPTIONS", PLANS)
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|source| PgbenchError::Run { program, source })?;
        rate(&output)
    }
}

fn rate(output: &Output) -> Result<f64, PgbenchError> {
    let text = String::from_utf8_lossy(&output.stdout);
    let whole = || format!("{text}{}", String::from_utf8_lossy(&output.stderr)).trim().to_owned();
    if !output.status.success() {
        return Err(PgbenchError::Failed { status: output.status, output: whole() });
    }
    let line = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| PgbenchError::Unreadable { output: whole() })
}

/// [`PUSH`] with values instead of parameters: the same sizes as [`crate::engine::push_body`] pushes, ids that begin
/// with the time as the server's do, and users of the client's own.
fn push_script(changes: usize, users: usize) -> String {
    let list = |item: &dyn Fn(usize) -> String| {
        let items: Vec<String> = (0..changes).map(item).collect();
        format!("array[{}]", items.join(","))
    };
    // pgbench takes text after a colon for a variable.
    let constant = |text: &str| format!("E'{}'", text.replace(':', r"\u003a"));
    let id = |index: usize| {
        format!(
            "(lpad(to_hex((date_part('epoch', clock_timestamp()) * 1000)::bigint), 12, '0') || \
             substr(md5(:number::bigint::text || '{index}'), 1, 20))::uuid"
        )
    };
    let data = constant(r#"{"devDependencies.typescript":"^5.5.3"}"#);
    let stamps = constant(r#"{"devDependencies.typescript":"2024-07-05T16:01:06.000Z"}"#);
    let values = [
        "md5(:user::bigint::text)::uuid".to_owned(),
        "md5('u' || :user::bigint::text)::uuid".to_owned(),
        "('bench-user-' || :user::bigint::text)".to_owned(),
        "'bench'".to_owned(),
        format!("{changes}::bigint"),
        "('device-' || :user::bigint::text)".to_owned(),
        list(&id),
        list(&|_| "'packages'".to_owned()),
        list(&|index| format!("('device/{index}/' || :number::bigint::text)")),
        list(&|_| "'update'".to_owned()),
        list(&|_| data.clone()),
        list(&|_| stamps.clone()),
        list(&|_| "null".to_owned()),
    ];
    let mut script = String::new();
    let _ = writeln!(script, "\\set user :client_id * {users} + random(1, {users})");
    let _ = writeln!(script, "\\set number random(1000000000, 9999999999)");
    let mut statement = PUSH.trim().to_owned();
    // From the last, so that $1 does not match the start of $13.
    for (index, value) in values.iter().enumerate().rev() {
        statement = statement.replace(&format!("${}", index + 1), value);
    }
    script + &statement + ";\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the table and columns of each insert in a statement.
    fn writes(sql: &str) -> Vec<Vec<&str>> {
        let inserts = sql.split("insert into ").skip(1).map(|insert| insert.split_once(')').unwrap().0);
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        inserts.map(|insert| insert.split(|c| !is_name(c)).filter(|name| !name.is_empty()).collect()).collect()
    }

    #[test]
    fn it_writes_what_the_servers_statement_writes() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/store/push_statements.rs");
        let source = std::fs::read_to_string(path).unwrap();
        let (_, rows) = source.split_once("macro_rules! push_text").unwrap();
        let (_, heads) = source.split_once("macro_rules! take_heads").unwrap();
        let (ours, rows, heads) = (writes(PUSH), writes(rows), writes(heads));
        assert_eq!((ours[0].as_slice(), ours[1].as_slice()), (heads[0].as_slice(), rows[0].as_slice()));
        assert_eq!((ours.len(), ours[0][0], ours[1][0]), (2, "sync_heads", "sync_changes"));
    }

    #[test]
    fn every_parameter_has_a_value() {
        for changes in [1, 10] {
            let script = push_script(changes, 100);
            assert!(!script.contains('$'), "{script}");
            assert_eq!(script.matches("to_hex").count(), changes);
        }
    }
}
