//! A replica under a memory limit, its observation, and the users that must not notice.
//!
//! Attackers and the users that are measured share this process. In the long form, where times count, the measured ones
//! have a thread of their own, and the attackers' threads have a low priority: what an attacker spends on sending is spent
//! elsewhere in reality, and is not the replica's.

use crate::support::live::{NO_DELTA, metric};
use crate::support::*;
use serde_json::json;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// Less than the manifests give a replica, in bytes: they add what users may leave unread all together.
pub const MEMORY: u64 = 1 << 30;
/// The multiple of it that may be mapped.
const ADDRESSES: u64 = 4;
/// Settings that differ from the defaults: those of the manifests, and others that make a siege end soon.
const SETTINGS: [(&str, &str); 5] = [
    ("MAX_PUSH_BYTES_IN_FLIGHT", "134217728"),
    ("MAX_CONNECTIONS", "30000"),
    ("WRITE_TIMEOUT_MS", "5000"),
    // The attackers share their threads, and take long to send the largest bodies of several attacks at once.
    ("BODY_TIMEOUT_MS", "20000"),
    ("MAX_USER_APPS", "256"),
];
/// The interval between two pushes of another user.
const PACE: Duration = Duration::from_millis(40);
/// The name of the threads of those who are measured.
const MEASURED: &str = "others";
/// The priority of all other threads here, as `nice` takes it.
const ATTACKERS: &str = "15";

/// True if everything is to run, and times are checked.
pub fn is_long() -> bool {
    std::env::var("SIEGE").is_ok_and(|form| form == "long")
}

/// Returns the number for the long form or the short one.
pub fn many(long: usize, short: usize) -> usize {
    if is_long() { long } else { short }
}

pub struct LimitedReplica {
    pub cluster: Cluster,
    pub pid: u32,
    /// Runs those who are measured. `None` once it ends.
    measured: Option<Runtime>,
}

impl LimitedReplica {
    pub async fn start(settings: &[(&str, &str)]) -> LimitedReplica {
        // In the short form, other suites share the processors: a statement may take several times as long.
        let limits = if is_long() { &AS_IN_PRODUCTION[..] } else { &[("DATABASE_STATEMENT_TIMEOUT_MS", "60000")] };
        let settings = [limits, &SETTINGS, settings].concat();
        let cluster = Cluster::start_with(1, &settings).await;
        let pid = cluster.nodes[0].process.pid();
        // Bounds private writable memory, beyond which allocations fail and the process ends. That includes addresses
        // that the allocator keeps without memory behind them, which a container's limit does not count; therefore it is
        // a multiple, and what is resident is compared with the limit itself.
        let limit = Command::new("prlimit")
            .args(["--pid", &pid.to_string(), &format!("--data={}", ADDRESSES * MEMORY)])
            .status();
        assert!(limit.unwrap().success(), "util-linux has prlimit");
        let measured = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(MEASURED)
            .enable_all()
            .build()
            .unwrap();
        // A thread has its name once it runs.
        measured.spawn(async {}).await.unwrap();
        if is_long() {
            // Once the replica runs, which would inherit it.
            lower_the_attackers_priority();
        }
        LimitedReplica { cluster, pid, measured: Some(measured) }
    }

    /// Resident memory in bytes: the current value, and the peak since the last [`Self::forget_peak`].
    pub fn resident(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("the replica lives");
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux says so");
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid), "5").unwrap();
    }

    pub fn is_alive(&self) -> bool {
        std::fs::metadata(format!("/proc/{}/exe", self.pid)).is_ok()
    }

    pub fn url(&self) -> &str {
        self.cluster.url(0)
    }

    pub async fn metric(&self, name: &str) -> f64 {
        metric(&self.cluster, 0, name).await
    }

    /// Pushes as clients do, with retries while the replica is busy with the remains of an earlier attack.
    pub async fn push(&self, user: &User, body: String) -> Reply {
        let asked = mana_dev::wait::until(EVENTUALLY, async || {
            let reply = self.cluster.push_raw(user, "todo", body.clone()).await;
            if reply.status == 503 {
                println!("| a push has to wait: {} |", reply.refused(503, "busy"));
                return None;
            }
            Some(reply)
        })
        .await;
        asked.expect("the replica is not busy for ever")
    }

    /// Pushes, which must succeed.
    pub async fn store(&self, user: &User, body: String) {
        let reply = self.push(user, body).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
}

impl Drop for LimitedReplica {
    fn drop(&mut self) {
        // Its tasks have ended, unless a test failed; waiting for them is not allowed here.
        self.measured.take().expect("it is dropped once").shutdown_background();
    }
}

/// Gives a low priority to all threads of this process but those who are measured. Later threads inherit it.
fn lower_the_attackers_priority() {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path());
    let attackers = threads.filter(|thread| {
        // One that has ended meanwhile has no name.
        std::fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim() != MEASURED)
    });
    let attackers = attackers.map(|thread| thread.file_name().unwrap().to_owned());
    let lowered = Command::new("renice").args(["--priority", ATTACKERS, "--pid"]).args(attackers).output().unwrap();
    assert!(lowered.status.success(), "renice: {}", String::from_utf8_lossy(&lowered.stderr));
}

/// The results for other users and the liveness probe while something went on.
#[derive(Debug, Default)]
pub struct Seen {
    pushes: Vec<Duration>,
    live: Vec<Duration>,
    /// Answers that other users must not get.
    pub refused: Vec<String>,
}

impl Seen {
    pub fn pushes(&self) -> usize {
        self.pushes.len()
    }

    /// The median and the 99th percentile of the other users' pushes.
    pub fn push_times(&mut self) -> (Duration, Duration) {
        (quantile(&mut self.pushes, 0.5), quantile(&mut self.pushes, 0.99))
    }

    /// The slowest answer of `/health/live`.
    pub fn slowest_probe(&self) -> Duration {
        self.live.iter().copied().max().unwrap_or_default()
    }
}

fn quantile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    times.get(((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Users who push, and a liveness probe, until told to stop.
pub struct Others {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Others {
    pub fn start(replica: &LimitedReplica) -> Others {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Seen>>::default());
        let runtime = replica.measured.as_ref().expect("it runs while the replica does");
        // Connections of their own, whose tasks are spawned by whoever opens them.
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut tasks = Vec::new();
        for n in 0..4 {
            let user = replica.cluster.user();
            let (url, http) = (format!("{}/sync/todo", replica.url()), http.clone());
            let (stop, seen) = (stop.clone(), seen.clone());
            tasks.push(runtime.spawn(async move {
                for count in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let change = update("t", &format!("{n}-{count}"), "title", "x", "2024-01-01T10:00:00.000Z");
                    let body = json!({ "clientId": "a", "since": NO_DELTA, "changes": [change] });
                    let asked = Instant::now();
                    let answer = http.post(&url).bearer_auth(&user.token).json(&body).timeout(TIMEOUT).send().await;
                    let took = asked.elapsed();
                    let mut seen = seen.lock().await;
                    match answer {
                        Ok(answer) if answer.status() == 200 => seen.pushes.push(took),
                        Ok(answer) => {
                            let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
                            seen.refused.push(format!("a push: {status} {text}"));
                        }
                        Err(error) => seen.refused.push(format!("a push: {error:?}")),
                    }
                    drop(seen);
                    tokio::time::sleep(PACE.saturating_sub(took)).await;
                }
            }));
        }
        // A persistent connection: only the replica's time counts, without handshakes.
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let (url, stopped, noted) = (format!("{}/health/live", replica.url()), stop.clone(), seen.clone());
        tasks.push(runtime.spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let answer = http.get(&url).timeout(TIMEOUT).send().await;
                let took = asked.elapsed();
                let mut seen = noted.lock().await;
                match answer {
                    Ok(answer) if answer.status() == 200 => seen.live.push(took),
                    Ok(answer) => seen.refused.push(format!("a probe: {}", answer.status())),
                    Err(error) => seen.refused.push(format!("a probe: {error:?}")),
                }
                drop(seen);
                tokio::time::sleep(PACE / 2).await;
            }
        }));
        Others { stop, seen, tasks }
    }

    pub async fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        std::mem::take(&mut *self.seen.lock().await)
    }
}
