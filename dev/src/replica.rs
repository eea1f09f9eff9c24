//! A server process of the local cluster, which can be signalled, stopped, killed and frozen.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead as _, BufReader, IsTerminal as _, PipeReader},
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{
    DevError,
    child::{Child, Group},
    say::say,
    stub::lock,
    wait::{tail, until},
};

const READY_PATH: &str = "/health/ready";
const KEPT_LINES: usize = 30;
/// Maximum time to read the output of a replica that has ended.
const READ_LIMIT: Duration = Duration::from_secs(2);
/// Maximum time for its threads to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Options for starting a replica.
#[derive(Clone, Debug)]
pub struct ReplicaOptions {
    /// The program; run as `exe serve`.
    pub exe: PathBuf,
    /// A name for people: `replica 1`.
    pub name: String,
    /// Added to our own environment.
    pub env: Vec<(String, String)>,
    /// The file its output is appended to. `None`: our stdout, each line prefixed with the name.
    pub log: Option<PathBuf>,
    /// The URL that it alone listens on, without a path: `http://127.0.0.1:3051`.
    pub base_url: String,
}

/// A replica. Dropping it kills it.
#[derive(Debug)]
pub struct Replica {
    child: Child,
    output: Output,
    options: ReplicaOptions,
}

/// The source of the last lines of its log.
#[derive(Debug)]
enum Output {
    File(PathBuf),
    /// The last lines, and the thread that reads them from the pipe.
    Lines(Arc<Mutex<VecDeque<String>>>, thread::JoinHandle<()>),
}

impl Replica {
    /// Starts the process. It isn't ready yet: see [`Self::wait_ready`].
    pub fn spawn(options: ReplicaOptions) -> Result<Self, DevError> {
        let start = || {
            let mut command = Command::new(&options.exe);
            command.arg("serve").stdin(Stdio::null());
            // The local issuer's tokens have neither claim; what the shell has set is meant for another server.
            command.env_remove("JWT_ISSUER").env_remove("JWT_AUDIENCE");
            command.envs(options.env.iter().map(|(name, value)| (name, value)));
            let output = direct(&mut command, &options)?;
            let child = Child::spawn(command, Signal::SIGKILL, Group::Own)?;
            Ok((child, output))
        };
        let (child, output) =
            start().map_err(DevError::io(format!("start {} ({})", options.name, options.exe.display())))?;
        Ok(Self { child, output, options })
    }

    /// Polls `/health/ready` until it answers 200.
    pub async fn wait_ready(&self, limit: Duration) -> Result<(), DevError> {
        let client = client()?;
        let url = format!("{}{READY_PATH}", self.options.base_url);
        let answer = until(limit, async || {
            if let Some(status) = self.child.status() {
                return Some(Err(status));
            }
            let response = client.get(&url).send().await.ok()?;
            response.status().is_success().then_some(Ok(()))
        });
        match answer.await {
            Some(Ok(())) => Ok(()),
            Some(Err(status)) => {
                self.all_is_read().await;
                Err(DevError::EndedEarly { who: self.options.name.clone(), status, log: self.log_tail() })
            }
            None => Err(DevError::NotReady { who: self.options.name.clone(), within: limit, log: self.log_tail() }),
        }
    }

    /// Asks it to stop (`SIGTERM`) and waits. After `limit` this is an error, and it still runs.
    pub async fn terminate(&self, limit: Duration) -> Result<ExitStatus, DevError> {
        self.signal(Signal::SIGTERM);
        self.child
            .wait_for(limit)
            .await
            .ok_or_else(|| DevError::NotStopped { who: self.options.name.clone(), within: limit })
    }

    /// Kills it (`kill -9`), and waits until it is gone.
    pub async fn kill(&self) -> ExitStatus {
        self.signal(Signal::SIGKILL);
        self.child.wait().await
    }

    /// Freezes it: its connections stay open, but nothing answers.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        // The signal is delivered at once; threads on other processors stop a moment later.
        let limit = Instant::now() + STOP_TIMEOUT;
        while !self.is_stopped() && Instant::now() < limit {
            thread::yield_now();
        }
    }

    /// True if all its threads are stopped, or it has ended.
    fn is_stopped(&self) -> bool {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.pid())) else { return true };
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The state follows the name, which may contain anything: proc(5).
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 'Z', 'X']))
        })
    }

    /// Resumes it after [`Self::pause`].
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Waits until it has ended, for any reason.
    pub async fn ended(&self) -> ExitStatus {
        self.child.wait().await
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// The URL that it alone listens on, without a path.
    pub fn base_url(&self) -> &str {
        &self.options.base_url
    }

    /// Waits until the output from before its end has been read, but not for long: its own children may still hold the
    /// pipe.
    async fn all_is_read(&self) {
        if let Output::Lines(_, relaying) = &self.output {
            // The lines so far are better than none.
            let _ = until(READ_LIMIT, async || relaying.is_finished().then_some(())).await;
        }
    }

    /// Returns the last lines of its output.
    pub fn log_tail(&self) -> String {
        match &self.output {
            Output::File(path) => tail(path),
            Output::Lines(lines, _) => Vec::from(lock(lines).clone()).join("\n"),
        }
    }
}

/// Redirects the command's output to the log file, or to a thread that prints it with the name.
fn direct(command: &mut Command, options: &ReplicaOptions) -> io::Result<Output> {
    if let Some(path) = &options.log {
        let log = File::options().create(true).append(true).open(path)?;
        command.stdout(log.try_clone()?).stderr(log);
        return Ok(Output::File(path.clone()));
    }
    // What it writes appears on our terminal; it sees a pipe.
    if io::stdout().is_terminal() {
        command.env("CLICOLOR_FORCE", "1");
    }
    let (reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let lines = Arc::new(Mutex::new(VecDeque::new()));
    let kept = Arc::clone(&lines);
    let prefix = format!("[{}]", options.name);
    let relaying = thread::Builder::new().name("replica-log".into()).spawn(move || relay(reader, &prefix, &kept))?;
    Ok(Output::Lines(lines, relaying))
}

/// Ends with the replica, which closes the pipe. Keeps reading even if nobody reads our output any more: a full pipe
/// would freeze the replica.
fn relay(reader: PipeReader, prefix: &str, kept: &Mutex<VecDeque<String>>) {
    for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        say(format_args!("{prefix} {line}"));
        let mut kept = lock(kept);
        kept.push_back(line);
        if kept.len() > KEPT_LINES {
            kept.pop_front();
        }
    }
}

/// For our own loopback addresses only: no proxy, no certificates.
fn client() -> Result<reqwest::Client, DevError> {
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .timeout(Duration::from_secs(2))
        .build()
        .map_err(DevError::HttpClient)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// Starts a process that isn't our server: bash, which first reads the script named by BASH_ENV.
    fn spawn(folder: &Path, script: &str) -> Replica {
        let path = folder.join("script");
        fs::write(&path, script).unwrap();
        Replica::spawn(ReplicaOptions {
            exe: "/bin/bash".into(),
            name: "replica 1".into(),
            env: vec![("BASH_ENV".into(), path.to_str().unwrap().into())],
            log: Some(folder.join("log")),
            base_url: "http://127.0.0.1:1".into(),
        })
        .unwrap()
    }

    const STUBBORN: &str = "trap 'echo bye; exit 5' TERM; echo hello; while :; do sleep 0.02; done";

    async fn says(replica: &Replica, word: &str) -> bool {
        let said = async || replica.log_tail().contains(word).then_some(());
        until(LIMIT, said).await.is_some()
    }

    #[tokio::test]
    async fn it_is_asked_to_stop_and_answers_with_its_status() {
        let folder = tempfile::tempdir().unwrap();
        let replica = spawn(folder.path(), STUBBORN);
        assert!(says(&replica, "hello").await);
        replica.pause();
        let frozen = replica.terminate(Duration::from_millis(50)).await;
        assert!(matches!(frozen, Err(DevError::NotStopped { .. })), "{frozen:?}");
        replica.resume();
        assert_eq!(replica.ended().await.code(), Some(5));
        assert!(says(&replica, "bye").await);
        // The pid may belong to another process by now.
        replica.signal(Signal::SIGKILL);
    }

    #[tokio::test]
    async fn one_that_ends_before_it_is_ready_is_reported_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let replica = spawn(folder.path(), "echo no way; exit 3");
        let error = replica.wait_ready(LIMIT).await.unwrap_err().to_string();
        assert!(error.contains("no way") && error.contains("exit status: 3"), "{error}");
    }

    #[tokio::test]
    async fn killed_is_gone_at_once_whatever_it_does() {
        let folder = tempfile::tempdir().unwrap();
        let replica = spawn(folder.path(), STUBBORN);
        replica.pause();
        assert!(replica.kill().await.code().is_none());
    }
}
