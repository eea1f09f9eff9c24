//! The text that `mana-dev up` prints: what runs where, and commands to paste.

use std::{
    env,
    fmt::{self, Display},
    fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::{SecondsFormat, Utc};

use mana_dev::{Binaries, DevError, SigningKey};

const USERS: [&str; 2] = ["alice", "bob"];
/// The key that `mana-dev token` reads if none is named.
const DEFAULT_KEY: &str = ".dev/issuer-key.json";
const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The facts about the cluster.
#[derive(Debug)]
pub struct Guide {
    /// `mana-dev` itself.
    pub program: PathBuf,
    pub port: u16,
    /// Base URL and process id of each replica.
    pub replicas: Vec<(String, u32)>,
    /// The console of the first replica, and the token it asks for.
    pub console: Option<String>,
    pub admin_token: String,
    /// The URL of the playground.
    pub playground: Option<String>,
    pub binaries: Binaries,
    pub data_dir: PathBuf,
    /// The issuer's private key.
    pub key: PathBuf,
    pub database_url: String,
    pub jwks_url: String,
    pub credits_url: String,
    pub tokens: Vec<Token>,
}

#[derive(Debug)]
pub struct Token {
    user: &'static str,
    token: String,
    file: PathBuf,
}

/// Creates the tokens of the two users, and writes each to a file for the commands to read.
pub fn tokens(key: &SigningKey, folder: &Path) -> Result<Vec<Token>, DevError> {
    let make = |user| {
        let token = key.token(user, TTL);
        let file = folder.join(format!("{user}.token"));
        let action = format!("write {}", file.display());
        fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&file)
            .and_then(|mut open| writeln!(open, "{token}"))
            .map_err(DevError::io(action))?;
        Ok(Token { user, token, file })
    };
    USERS.into_iter().map(make).collect()
}

impl Guide {
    /// Returns the base URL of replica `number`, or of the last one if there are fewer.
    fn replica(&self, number: usize) -> (usize, &str) {
        let number = number.min(self.replicas.len());
        (number, &self.replicas[number - 1].0)
    }

    fn what_runs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |what: &str, url: &str, note: &str| {
            let text = format!("  {what:<16} {url:<46} {note}");
            writeln!(f, "{}", text.trim_end())
        };
        let all = format!("http://127.0.0.1:{}", self.port);
        line("all replicas", &all, "the kernel picks one for each connection")?;
        for (index, (url, pid)) in self.replicas.iter().enumerate() {
            let name = format!("replica {}", index + 1);
            line(&name, url, &format!("process {pid}"))?;
        }
        if let Some(console) = &self.console {
            line("console", console, &format!("log in with {}", self.admin_token))?;
        }
        if let Some(playground) = &self.playground {
            line("page to try it", playground, "two devices side by side")?;
        }
        let postgres = format!("PostgreSQL {}", self.binaries.major());
        let data = format!("data in {}", self.data_dir.display());
        line(&postgres, &self.database_url, &data)?;
        line("token issuer", &self.jwks_url, "")?;
        line("credits service", &self.credits_url, "everybody is active")
    }

    fn what_to_try(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.tokens.first().map(|token| shell(&token.file)).unwrap_or_default();
        let bearer = format!("-H \"Authorization: Bearer $(cat {token})\"");
        let program = shell(&from_here(&self.program));
        let (number, url) = self.replica(3);
        let socket = url.replacen("http", "ws", 1);
        writeln!(f, "# A WebSocket on replica {number}: is notified when there is something to pull.")?;
        writeln!(f, "{program} listen --url {socket}/ws/todo --token \"$(cat {token})\"\n")?;
        let (number, url) = self.replica(2);
        writeln!(f, "# A stream on replica {number}: receives the changes themselves.")?;
        writeln!(f, "curl -N {bearer} '{url}/sync/todo/stream?collections=tasks'\n")?;
        let (number, url) = self.replica(1);
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        writeln!(f, "# A push to replica {number}: shows up in both.")?;
        writeln!(f, "curl {bearer} -H 'Content-Type: application/json' {url}/sync/todo -d '{{")?;
        writeln!(f, "  \"clientId\": \"my-shell\", \"since\": \"\", \"changes\": [{{")?;
        writeln!(f, "    \"table\": \"tasks\", \"id\": \"'$(date +%s)'\", \"op\": \"insert\",")?;
        writeln!(f, "    \"data\": {{\"title\": \"Milk\", \"updatedAt\": \"{now}\"}} }}] }}'\n")?;
        self.replay(f)?;
        writeln!(f, "# The stored changes.")?;
        writeln!(
            f,
            "{} {} -c 'select created_at, user_id, table_name, record_id, op from sync_changes \
             order by created_at desc limit 10'",
            shell(&self.psql()),
            self.database_url,
        )
    }

    /// The load generator's replay, if this is a checkout.
    fn replay(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !Path::new("loadtest/data").is_dir() {
            return Ok(());
        }
        let targets: Vec<&str> = self.replicas.iter().map(|(url, _)| url.as_str()).collect();
        let key = shell(&from_here(&self.key));
        writeln!(f, "# Replays two real edit histories with dozens of devices that compare their records (a minute).")?;
        writeln!(f, "cargo run -p mana-load -- replay loadtest/data/*.jsonl.gz --key {key} \\")?;
        writeln!(f, "  --targets {} --database-url {}\n", targets.join(","), self.database_url)
    }

    /// `psql` by name if the shell finds it, else the one that came with the server.
    fn psql(&self) -> PathBuf {
        let path = env::var_os("PATH").unwrap_or_default();
        let own = self.binaries.program("psql");
        let found = env::split_paths(&path).any(|folder| is_program(&folder.join("psql")));
        if found || !is_program(&own) { "psql".into() } else { own }
    }
}

impl Display for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.replicas.len();
        let plural = if count == 1 { "replica" } else { "replicas" };
        writeln!(f, "\nmana-sync runs here with {count} {plural}.\n")?;
        self.what_runs(f)?;
        let program = shell(&from_here(&self.program));
        let key = from_here(&self.key);
        let key = if key == Path::new(DEFAULT_KEY) { String::new() } else { format!(" --key {}", shell(&key)) };
        writeln!(f, "\nTwo users, for 24 hours (more: {program} token --user NAME{key}):\n")?;
        for Token { user, token, .. } in &self.tokens {
            writeln!(f, "{user}: {token}\n")?;
        }
        writeln!(f, "Paste each of these into its own terminal, in this folder:\n")?;
        self.what_to_try(f)?;
        writeln!(f, "\nCtrl-C stops everything. The data is kept; --reset drops it.")
    }
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Shortens a path below the working directory.
fn from_here(path: &Path) -> PathBuf {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).to_owned()
}

/// Quotes a path for a shell.
fn shell(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::shell;

    #[test]
    fn odd_paths_are_quoted() {
        assert_eq!(shell(Path::new(".dev/alice.token")), ".dev/alice.token");
        assert_eq!(shell(Path::new("/my dir/it's")), r"'/my dir/it'\''s'");
    }
}
