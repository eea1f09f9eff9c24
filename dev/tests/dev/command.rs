//! `mana-dev` as people use it: one process to start, one to stop, nothing left behind.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _, process::ExitStatusExt as _},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use mana_dev::wait::until;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio_postgres::NoTls;

const EXE: &str = env!("CARGO_BIN_EXE_mana-dev");
pub const LIMIT: Duration = Duration::from_secs(60);

/// Open to the user that PostgreSQL runs under when the tests run as root.
pub fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// The first of a few free neighbouring ports; no two tests get the same ones.
fn ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + u16::try_from(std::process::id() % 500).unwrap() * 20;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) * 4 % 10_000;
        if (port..port + 4).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return port;
        }
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(EXE);
    // Its own process group, so that this test does not get its signals.
    command.args(arguments).stdin(Stdio::null()).process_group(0);
    command
}

/// A `mana-dev up` that has printed its guide.
pub struct Dev {
    process: Child,
    guide: String,
    port: u16,
}

impl Dev {
    pub fn start(folder: &Path, more: &[&str]) -> Self {
        let port = ports();
        let number = port.to_string();
        let mut process = command(&["up", "--replicas", "2", "--port", &number, "--data-dir"])
            .arg(folder)
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut guide = String::new();
        for line in lines.by_ref().map_while(Result::ok) {
            guide.push_str(&line);
            guide.push('\n');
            if line.starts_with("Ctrl-C") {
                break;
            }
        }
        // Keep reading, so that the pipe never fills up.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, guide, port }
    }

    /// The text next to this name in the guide: the address of something that runs.
    pub fn address(&self, what: &str) -> &str {
        self.after(what).split_whitespace().next().unwrap()
    }

    fn replicas(&self) -> Vec<i32> {
        let lines = self.guide.lines();
        lines.filter_map(|line| line.split_once("  process ")?.1.trim().parse().ok()).collect()
    }

    /// Replicas and the postmaster.
    fn children(&self) -> Vec<i32> {
        let data = self.after("data in ");
        let file = fs::read_to_string(Path::new(data).join("postmaster.pid")).unwrap();
        let postmaster = file.lines().next().unwrap().parse().unwrap();
        [self.replicas(), vec![postmaster]].concat()
    }

    pub fn after(&self, what: &str) -> &str {
        let found = self.guide.split_once(what).map(|(_, rest)| rest);
        found.and_then(|rest| rest.lines().next()).unwrap_or_else(|| panic!("{}", self.guide))
    }

    fn database(&self) -> &str {
        let word = |word: &&str| word.starts_with("postgres://");
        self.guide.split_whitespace().find(word).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        send(self.process.id().cast_signed(), signal);
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let ended = until(LIMIT, async || self.process.try_wait().unwrap()).await;
        ended.expect("it stops")
    }

    async fn replica_is_ready(&self, number: u16) -> bool {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://127.0.0.1:{}/health/ready", self.port + number);
        client.get(url).send().await.is_ok_and(|response| response.status() == 200)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// True if it runs. (A zombie that its new parent has not reaped yet doesn't.)
fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

async fn all_end(pids: &[i32]) -> bool {
    let gone = || pids.iter().all(|pid| !runs(*pid));
    until(LIMIT, async || gone().then_some(())).await.is_some()
}

async fn sql(url: &str, statement: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute(statement).await
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn ctrl_c_stops_everything_and_a_second_one_is_refused_while_it_runs() {
    let folder = folder();
    let mut dev = Dev::start(folder.path(), &[]);
    assert_eq!(dev.replicas().len(), 2);
    assert!(dev.replica_is_ready(1).await && dev.replica_is_ready(2).await);
    let children = dev.children();
    assert!(children.iter().all(|pid| runs(*pid)));

    let second = command(&["up", "--data-dir"]).arg(folder.path()).output().unwrap();
    assert!(!second.status.success());
    let told = stderr(&second);
    assert!(told.contains(&format!("in use by process {}", dev.process.id())), "{told}");

    dev.signal(Signal::SIGINT);
    assert!(dev.ended().await.success());
    assert!(!children.iter().any(|pid| runs(*pid)));
}

#[tokio::test]
async fn kill_9_leaves_nothing_behind_and_data_survives_until_reset() {
    let folder = folder();
    let mut dev = Dev::start(folder.path(), &[]);
    sql(dev.database(), "create table kept as select 1").await.unwrap();
    let children = dev.children();
    dev.signal(Signal::SIGKILL);
    assert_eq!(dev.ended().await.signal(), Some(9));
    // At once, while PostgreSQL may still be shutting down.
    let mut again = Dev::start(folder.path(), &[]);
    assert!(all_end(&children).await);
    sql(again.database(), "select * from kept").await.unwrap();

    // The signal that a closed terminal sends.
    let children = again.children();
    again.signal(Signal::SIGHUP);
    assert!(again.ended().await.success());
    assert!(!children.iter().any(|pid| runs(*pid)));

    let mut fresh = Dev::start(folder.path(), &["--reset"]);
    assert!(sql(fresh.database(), "select * from kept").await.is_err());
    fresh.signal(Signal::SIGTERM);
    assert!(fresh.ended().await.success());
}

#[tokio::test]
async fn a_dead_replica_is_started_again_and_a_second_signal_stops_at_once() {
    let folder = folder();
    let mut dev = Dev::start(folder.path(), &[]);
    let first = dev.replicas()[0];
    send(first, Signal::SIGKILL);
    assert!(all_end(&[first]).await);
    let back = until(LIMIT, async || dev.replica_is_ready(1).await.then_some(())).await;
    assert!(back.is_some());

    // Frozen, it can't react to the first signal.
    let (frozen, children) = (dev.replicas()[1], dev.children());
    send(frozen, Signal::SIGSTOP);
    dev.signal(Signal::SIGINT);
    // Once the other replica is gone, the first signal has arrived.
    let other = |dev: &Dev| TcpListener::bind(("127.0.0.1", dev.port + 1)).is_ok();
    assert!(until(LIMIT, async || other(&dev).then_some(())).await.is_some());
    dev.signal(Signal::SIGINT);
    assert!(!dev.ended().await.success());
    assert!(!children.iter().any(|pid| runs(*pid)));
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_flag_that_changes_it() {
    let folder = folder();
    let port = ports();
    let _taken = TcpListener::bind(("127.0.0.1", port + 2)).unwrap();
    let mut dev = command(&["up", "--port", &port.to_string(), "--data-dir"]);
    let told = stderr(&dev.arg(folder.path()).output().unwrap());
    assert!(told.contains(&format!("port {} (replica 2)", port + 2)), "{told}");
    assert!(told.contains("--port"), "{told}");
}

#[tokio::test]
async fn a_replica_that_does_not_start_is_reported_with_what_it_said() {
    let folder = folder();
    // The replicas are `sh serve`: a program written by this test would sometimes be "busy", while
    // a child of another test still has the file open.
    fs::write(folder.path().join("migrate"), "exit 0").unwrap();
    fs::write(folder.path().join("serve"), "echo no way; exit 3").unwrap();
    let mut dev = command(&["up", "--exe", "/bin/sh", "--port", &ports().to_string()]);
    let output = dev.current_dir(folder.path()).output().unwrap();
    let told = stderr(&output);
    assert!(!output.status.success());
    assert!(told.contains("no way") && told.contains("exit status: 3"), "{told}");
}

#[tokio::test]
async fn a_command_gets_a_database_and_its_status_is_the_answer() {
    let script = r#"echo "$TEST_DATABASE_URL"; exit 7"#;
    let output = command(&["with-postgres", "--", "sh", "-c", script]).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    let url = String::from_utf8(output.stdout).unwrap();
    assert!(url.starts_with("postgres://postgres@127.0.0.1:"), "{url}");
    assert!(sql(url.trim(), "select 1").await.is_err(), "it is gone");
}

#[test]
fn a_commands_own_servers_copy_a_data_folder_that_is_made_once() {
    let script = r#"cat "$PG_TEMPLATE/PG_VERSION"; echo "$PG_TEMPLATE""#;
    let output = command(&["with-postgres", "--", "sh", "-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    let (version, path) = printed.trim().split_once('\n').unwrap();
    assert!(version.parse::<u32>().unwrap() >= 14, "{printed}");
    assert!(!Path::new(path).exists(), "it is gone");
}

#[tokio::test]
async fn what_a_command_started_is_stopped_with_it() {
    let script = "sleep 1000 & echo $!; wait";
    let mut process = command(&["with-postgres", "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(process.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let sleeper = line.trim().parse().unwrap();
    assert!(runs(sleeper));
    send(process.id().cast_signed(), Signal::SIGTERM);
    let status = process.wait().unwrap();
    assert!(!status.success());
    assert!(all_end(&[sleeper]).await);
    output.read_to_string(&mut line).unwrap();
}

#[tokio::test]
async fn the_guides_command_for_more_tokens_uses_this_clusters_key() {
    let folder = folder();
    let dev = Dev::start(folder.path(), &[]);
    let line = dev.after("(more: ").trim_end_matches("):").replace("NAME", "carol");
    let printed = Command::new("sh").args(["-c", &line]).output().unwrap();
    assert!(printed.status.success(), "{line}: {printed:?}");
    let token = String::from_utf8(printed.stdout).unwrap();
    let path = "sync/todo/pull?collection=tasks&since=1970-01-01T00:00:00.000Z";
    let url = format!("http://127.0.0.1:{}/{path}", dev.port + 1);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    assert_eq!(client.get(url).bearer_auth(token.trim()).send().await.unwrap().status(), 200);
}

#[test]
fn a_token_alone_is_printed_and_no_key_is_invented() {
    let folder = folder();
    let path = folder.path().join("key.json");
    let token = || command(&["token", "--user", "carol", "--ttl", "1h", "--key"]).arg(&path).output().unwrap();
    let without = token();
    assert!(!without.status.success() && without.stdout.is_empty());
    assert!(String::from_utf8(without.stderr).unwrap().contains("there is no key at"));
    assert!(!path.exists());
    let key = mana_dev::SigningKey::load_or_create(&path).unwrap();
    let printed = String::from_utf8(token().stdout).unwrap();
    assert_eq!(printed.lines().count(), 1);
    let header = |token: &str| token.split('.').next().unwrap().to_owned();
    assert_eq!(header(&printed), header(&key.token("carol", Duration::from_secs(60))));
}

#[test]
fn without_a_server_beside_it_it_says_what_to_build() {
    // A second name for the same file: a program that was just written may be "busy".
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let alone = folder.path().join("mana-dev");
    fs::hard_link(EXE, &alone).unwrap();
    let output = Command::new(&alone).arg("up").current_dir(folder.path()).output().unwrap();
    let told = stderr(&output);
    assert!(!output.status.success());
    assert!(told.contains("there is no server at") && told.contains("--exe"), "{told}");
    assert!(!folder.path().join(".dev").exists(), "nothing is created before it is known to be needed");
}
